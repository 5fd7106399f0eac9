"""Weights on disk, as Hugging Face's `LlamaForCausalLM` (with QK-norm `Qwen3ForCausalLM`) reads them.

With time conditioning or a head that is not linear the network is neither. Its configuration has a type that Hugging Face doesn't know, so that
nothing there loads it as if it were.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor

from dualm.config import ModelConfig
from dualm.errors import UserError
from dualm.model import size
from dualm.model.head import HEADS

CONFIG, WHOLE, INDEX = "config.json", "model.safetensors", "model.safetensors.index.json"
EMBEDDING, HEAD = "model.embed_tokens.weight", "lm_head.weight"
ARCHITECTURES = {False: ("LlamaForCausalLM", "llama"), True: ("Qwen3ForCausalLM", "qwen3")}  # by qk_norm
OWN = "dualm"  # the type of a network that is no Llama

# Our name of what both configurations hold → Hugging Face's.
KEYS = {
    "layers": "num_hidden_layers",
    "hidden": "hidden_size",
    "heads": "num_attention_heads",
    "kv_heads": "num_key_value_heads",
    "head_dim": "head_dim",
    "ffn": "intermediate_size",
    "context": "max_position_embeddings",
    "vocab": "vocab_size",
    "norm_eps": "rms_norm_eps",
}
BEYOND_LLAMA = {"time_conditioning": 0, "head": "linear"}  # what makes a network of type OWN, at a Llama's values
OURS = ("qk_norm", *BEYOND_LLAMA)  # also in a configuration of type OWN
OPTIONAL = ("num_key_value_heads", "head_dim")  # absent or null: follows from the others
OLDEST_ROPE_THETA = 10_000.0  # of the first Llamas, whose configurations don't name it
# What the network is, beyond its sizes. Read back, another value is refused; an absent key means the value here.
FIXED = {"hidden_act": "silu", "attention_bias": False, "mlp_bias": False, "use_sliding_window": False}


def beyond_llama(model: ModelConfig) -> str | None:
    """Why this network is neither Llama nor Qwen3, for an error: key, value, what was expected; None if it is one."""
    for name, plain in BEYOND_LLAMA.items():
        if (value := getattr(model, name)) != plain:
            return f"{name}: got {value}, expected {plain}"
    return None


def hf_config(model: ModelConfig, about: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """The `config.json` of a Hugging Face Llama or Qwen3 with these sizes; of our own type if it is `beyond_llama`.

    `about` is what else dualm's readers know of it, under the key "dualm", which Hugging Face ignores:
    whether outputs are `shifted` in masked diffusion, and the hash of its `tokenizer`.
    """
    architecture, model_type = ARCHITECTURES[model.qk_norm]
    kind = {"architectures": [architecture], "model_type": model_type}
    if beyond_llama(model):
        kind = {"model_type": OWN, **{name: getattr(model, name) for name in OURS}}
    return {
        **kind,
        **{theirs: getattr(model, ours) for ours, theirs in KEYS.items()},
        "num_key_value_heads": size.kv_heads(model),
        "head_dim": size.head_dim(model),
        **FIXED,
        "tie_word_embeddings": False,
        "rope_theta": model.rope_theta,  # where transformers < 5 looks
        "rope_parameters": {"rope_type": "default", "rope_theta": model.rope_theta},
        "pad_token_id": 0,
        "bos_token_id": 1,
        "eos_token_id": 2,
        "torch_dtype": "float32",
        "dtype": "float32",
        **({"dualm": dict(about)} if about else {}),
    }


def model_config(config: Mapping[str, Any], source: str) -> ModelConfig:
    """The sizes in a Hugging Face configuration, or in our own; `source` names it in errors.

    Raises:
        UserError: not a Llama or Qwen3 that this network can be.
    """
    types: dict[str, dict[str, Any]] = {
        model_type: {"qk_norm": qk_norm} for qk_norm, (_, model_type) in ARCHITECTURES.items()
    }
    types[OWN] = {}  # says it itself
    model_type = config.get("model_type")
    if model_type not in types:
        raise UserError(f"{source}: model_type: got {model_type!r}, expected {' or '.join(types)}")
    for key, value in FIXED.items():
        if config.get(key, value) != value:
            raise UserError(f"{source}: {key}: got {config[key]!r}, expected {value!r}")
    rope = config.get("rope_parameters") or config.get("rope_scaling") or {}
    if rope.get("rope_type", rope.get("type", "default")) != "default":
        raise UserError(f"{source}: rope_type: got {rope!r}, expected 'default'")
    theta = rope.get("rope_theta", config.get("rope_theta", OLDEST_ROPE_THETA))
    known = dict.fromkeys(OPTIONAL) | {"head": "linear"} | dict(config) | {"rope_theta": theta}
    values = types[model_type]
    own = {name: name for name in OURS} if model_type == OWN else {}
    for ours, theirs in {**KEYS, "rope_theta": "rope_theta", **own}.items():
        if theirs not in known:
            raise UserError(f"{source}: {theirs} is missing")
        if theirs == "head":
            HEADS.choose(str(known[theirs]), f"{source}: head")
        elif not isinstance(known[theirs], int | float) and not (known[theirs] is None and theirs in OPTIONAL):
            raise UserError(f"{source}: {theirs}: got {known[theirs]!r}, expected a number")
        values[ours] = known[theirs]
    return ModelConfig(**values)


def save(
    folder: str | Path, state_dict: Mapping[str, Tensor], model: ModelConfig, about: Mapping[str, Any] | None = None
) -> None:
    """Write `model.safetensors` (float32) and `config.json` into `folder`, made if need be; `about` as in `hf_config`."""
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    tensors = {name: tensor.detach().to("cpu", torch.float32).contiguous() for name, tensor in state_dict.items()}
    save_file(tensors, folder / WHOLE, metadata={"format": "pt"})
    (folder / CONFIG).write_text(json.dumps(hf_config(model, about), indent=2) + "\n")


def load(folder: str | Path) -> tuple[ModelConfig, dict[str, Tensor]]:
    """Read what `save` wrote, or any Llama or Qwen3: (sizes, tensors by name, float32 on the host).

    The weights may lie in several files under an index. A tied head becomes a copy of the embedding. What a
    configuration doesn't say (attention backend, checkpointing) has its default.

    Raises:
        UserError: a file is missing or unreadable, or the weights don't fit the configuration.
    """
    folder = Path(folder)
    config = read_config(folder)
    model = model_config(config, str(folder / CONFIG))
    found = {name: tensor for path in _weight_files(folder) for name, tensor in _read(path).items()}
    tensors = {name: tensor.float() for name, tensor in _completed(found, config).items()}
    _check_shapes({name: tensor.shape for name, tensor in tensors.items()}, model, str(folder / WHOLE))
    if config.get("tie_word_embeddings"):
        tensors[HEAD] = tensors[HEAD].clone()
    return model, tensors


def check(folder: Path) -> None:
    """Refuse what `load` would; reads names and shapes, not the weights. Raises UserError."""
    config = read_config(folder)
    shapes = {name: shape for path in _weight_files(folder) for name, shape in _read_shapes(path).items()}
    _check_shapes(_completed(shapes, config), model_config(config, str(folder / CONFIG)), str(folder / WHOLE))


def _completed(tensors: dict[str, Any], config: Mapping[str, Any]) -> dict[str, Any]:
    """Tensors, or their shapes, with a tied head, and without what follows from the configuration."""
    kept = {name: value for name, value in tensors.items() if not name.endswith("rotary_emb.inv_freq")}
    return kept | ({HEAD: kept[EMBEDDING]} if config.get("tie_word_embeddings") and EMBEDDING in kept else {})


def read_config(folder: Path) -> dict[str, Any]:
    """The `config.json` of `folder`. Raises UserError if it is missing or no JSON object."""
    return _read_json(folder / CONFIG)


def _weight_files(folder: Path) -> list[Path]:
    """The one file of weights in `folder`, or those that its index names."""
    if (folder / WHOLE).is_file() or not (folder / INDEX).is_file():
        return [folder / WHOLE]
    names = _read_json(folder / INDEX).get("weight_map")
    if not isinstance(names, dict):
        raise UserError(f"{folder / INDEX}: weight_map: got {names!r}, expected an object of file names")
    return [folder / name for name in sorted(set(names.values()))]


def _read(path: Path) -> dict[str, Tensor]:
    with _readable(path):
        return load_file(path)


def _read_shapes(path: Path) -> dict[str, list[int]]:
    with _readable(path), safe_open(path, "pt") as file:
        return {name: file.get_slice(name).get_shape() for name in file.keys()}  # noqa: SIM118 (not a dict)


@contextmanager
def _readable(path: Path) -> Iterator[None]:
    if not path.is_file():
        raise UserError(f"{path}: no such file")
    try:
        yield
    except SafetensorError as error:
        raise UserError(f"{path}: not readable as safetensors: {error}") from None


def _read_json(path: Path) -> dict[str, Any]:
    if not path.is_file():
        raise UserError(f"{path}: no such file")
    try:
        content = json.loads(path.read_text())
    except ValueError as error:
        raise UserError(f"{path}: not readable as JSON: {error}") from None
    if not isinstance(content, dict):
        raise UserError(f"{path}: expected an object, got {type(content).__name__}")
    return content


def _check_shapes(shapes: Mapping[str, Sequence[int]], model: ModelConfig, source: str) -> None:
    expected = size.shapes(model)
    for name in [*expected, *shapes]:
        got, want = shapes.get(name), expected.get(name)
        if got is None or want is None or tuple(got) != want:
            found = "missing" if got is None else list(got)
            raise UserError(f"{source}: {name}: got {found}, expected {list(want) if want else 'no such tensor'}")
