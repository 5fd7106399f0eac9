"""A trained model as a folder that `transformers` loads: `dualm export`.

    model.safetensors config.json generation_config.json    LlamaForCausalLM, or Qwen3ForCausalLM with QK-norm
    tokenizer.json tokenizer_config.json                    text → `<s>` and our ids
    modeling_dualm.py                                       bidirectional reading, with trust_remote_code
    README.md                                               the model card

The folder is also one that `dualm.load` and `model.init_from` take.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

from safetensors import SafetensorError

from dualm import files
from dualm.data.tokenizer import BOS, EOS, MASK, PAD, RESERVED, RESERVED_TOKENS, UNK
from dualm.errors import UserError
from dualm.interop.model_card import History, model_card
from dualm.language_model import LanguageModel
from dualm.model import weights
from dualm.model.weights import CONFIG

MODELING = Path(__file__).with_name("modeling_dualm.py")
MASKED_CLASS = {False: "DualmLlamaForMaskedLM", True: "DualmQwen3ForMaskedLM"}  # by qk_norm
START = {"SpecialToken": {"id": RESERVED_TOKENS[BOS], "type_id": 0}}
FIRST, SECOND = ({"Sequence": {"id": name, "type_id": id}} for id, name in enumerate("AB"))
POST_PROCESSOR = {
    "type": "TemplateProcessing",
    "single": [START, FIRST],
    "pair": [START, FIRST, SECOND],
    "special_tokens": {
        RESERVED_TOKENS[BOS]: {"id": RESERVED_TOKENS[BOS], "ids": [BOS], "tokens": [RESERVED_TOKENS[BOS]]}
    },
}
NEVER_GENERATED = [id for id in range(RESERVED) if id not in (EOS, UNK)]


def export(run: str | Path, to: str | Path) -> Path:
    """Write the model of `run` (a run directory, a checkpoint or another export) to the new folder `to`.

    Returns:
        The folder. It appears when it is complete, or not at all.

    Raises:
        UserError: `to` is there and not empty, or can't be written; a model with time conditioning or another head than a
            linear one; or what `LanguageModel.load` refuses.
    """
    folder = Path(to).expanduser()
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise UserError(f"--to: {folder} exists and is not an empty folder, expected a new one")
    loaded = LanguageModel.load(run, device="cpu")
    if reason := weights.beyond_llama(loaded.model.config):
        raise UserError(f"{loaded.folder}: model.{reason}: transformers has no such network")
    try:
        with files.whole_folder(folder.resolve()) as partial:
            _write(partial, loaded)
            (partial / "README.md").write_text(model_card(folder.name, loaded, History.of(loaded.folder)))
    except (OSError, SafetensorError) as error:
        raise UserError(f"--to: cannot write {folder}: {getattr(error, 'strerror', None) or error}") from None
    return folder


def _write(folder: Path, loaded: LanguageModel) -> None:
    config = loaded.model.config
    about = {"shifted": loaded.shifted, "tokenizer": loaded.tokenizer.hash}
    weights.save(folder, loaded.model.state_dict(), config, about)
    masked = {"AutoModelForMaskedLM": f"{MODELING.stem}.{MASKED_CLASS[config.qk_norm]}"}
    files.write_json(folder / CONFIG, weights.hf_config(config, about) | {"auto_map": masked})
    shutil.copyfile(MODELING, folder / MODELING.name)
    loaded.tokenizer.save(folder / "tokenizer.json")
    definition = json.loads((folder / "tokenizer.json").read_text(encoding="utf-8"))
    files.write_json(folder / "tokenizer.json", definition | {"post_processor": POST_PROCESSOR})
    files.write_json(folder / "tokenizer_config.json", tokenizer_config(definition, config.context))
    files.write_json(folder / "generation_config.json", generation_config())


def tokenizer_config(definition: dict[str, Any], context: int) -> dict[str, Any]:
    """The `tokenizer_config.json` beside a tokenizer.json of this `definition`."""
    known = {token["content"] for token in definition["added_tokens"]}
    names = {"pad_token": PAD, "bos_token": BOS, "eos_token": EOS, "mask_token": MASK, "unk_token": UNK}
    return {
        "tokenizer_class": "PreTrainedTokenizerFast",
        **{name: RESERVED_TOKENS[id] for name, id in names.items() if RESERVED_TOKENS[id] in known},
        "split_special_tokens": True,  # "<s>" in a text is three characters
        "clean_up_tokenization_spaces": False,
        "model_max_length": context,
        "padding_side": "left",  # what generation needs
        "model_input_names": ["input_ids", "attention_mask"],  # transformers < 5 would add a third
    }


def generation_config() -> dict[str, Any]:
    """The `generation_config.json`: stop at `</s>`, and make no other reserved token but `<unk>`."""
    return {"pad_token_id": PAD, "bos_token_id": BOS, "eos_token_id": EOS, "suppress_tokens": NEVER_GENERATED}
