"""The README.md of an exported model: what it is, how it was trained, how to read it in each mode."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dualm import config
from dualm.config import Recipe
from dualm.evaluation import readings
from dualm.language_model import LanguageModel
from dualm.model import size
from dualm.plan.budget import Budget
from dualm.plan.mixture import alpha_schedule
from dualm.runs import is_validation, read_metrics

VERSIONS = ("torch", "deepspeed", "tokenizers")


@dataclass(frozen=True)
class History:
    """What the run directory around a checkpoint tells of it; None where there is no telling."""

    recipe: Recipe | None = None
    validation: dict[str, Any] | None = None  # row of metrics.jsonl
    environment: dict[str, Any] | None = None

    @classmethod
    def of(cls, checkpoint: Path) -> History:
        """Of the checkpoint folder `<run>/checkpoints/step-<n>`; of any other folder there is none."""
        run, name = checkpoint.resolve().parent.parent, checkpoint.resolve().name
        if not name.startswith("step-") or not (run / "recipe.yaml").is_file():
            return cls()
        step = int(name.removeprefix("step-"))
        validated = [row for row in read_metrics(run) if is_validation(row) and row["step"] <= step]
        environment = run / "environment.json"
        return cls(
            recipe=config.load(run / "recipe.yaml"),
            validation=validated[-1] if validated else None,
            environment=json.loads(environment.read_text()) if environment.is_file() else None,
        )


def model_card(name: str, loaded: LanguageModel, history: History) -> str:
    """The card in Markdown. Parts of which `history` knows nothing are left out."""
    parts = [FRONT_MATTER, f"# {name}", _introduction(loaded)]
    if history.recipe:
        parts += ["## Training", _training(history.recipe)]
    if history.validation:
        parts += ["## Validation", _validation(history.validation)]
    parts += ["## Use", _use(name, loaded.shifted)]
    if history.environment:
        parts += ["## Made with", _made_with(history.environment)]
    if history.recipe:
        parts += ["## Recipe", f"```yaml\n{config.dump(history.recipe).rstrip()}\n```"]
    return "\n\n".join(parts) + "\n"


FRONT_MATTER = """\
---
library_name: transformers
pipeline_tag: text-generation
tags:
- dualm
- autoregressive
- masked-diffusion
---"""


def _introduction(loaded: LanguageModel) -> str:
    model = loaded.model.config
    kind = "Qwen3 (Llama with QK-norm)" if model.qk_norm else "Llama"
    predicts = "token i+1 in both modes" if loaded.shifted else "token i+1 causally and token i bidirectionally"
    return (
        "One transformer that reads as an autoregressive and as a masked diffusion language model, trained with dualm. "
        f"The output at position i predicts {predicts}.\n\n"
        f"{size.parameter_count(model):,} parameters of type {kind}: {model.layers} layers of width {model.hidden}, "
        f"{model.heads} heads of {size.head_dim(model)} ({size.kv_heads(model)} for keys and values), "
        f"{model.vocab:,} tokens, context {model.context}."
    )


def _training(recipe: Recipe) -> str:
    budget, objective = Budget.of(recipe), recipe.objective
    alpha = alpha_schedule(objective.alpha, budget.repetitions, budget.steps).mean()
    rows = {
        "data": " ".join([recipe.data.source, *map(str, recipe.data.train)]),
        "unique tokens": f"{budget.unique_tokens:,}",
        "repetitions R": f"{budget.repetitions:,}",
        "steps": f"{budget.steps:,} of {budget.batch:,} sequences of {budget.context:,} tokens",
        "AR ratio alpha": f"{alpha:.6g} of the sequences autoregressive, the rest masked diffusion",
        "with a bidirectional prefix": f"{objective.prefix_fraction:.6g} of the autoregressive ones",
        "masked diffusion": f"time {objective.time}, draws {objective.draws}, weighting {objective.weighting}, masks {objective.mask_count}",
        "optimizer": f"{recipe.optimizer.name}, learning rate {recipe.optimizer.lr:g}, {recipe.schedule.name}",
        "started from": recipe.model.init_from,
    }
    return _table(("what", "value"), [(key, value) for key, value in rows.items() if value])


def _validation(row: dict[str, Any]) -> str:
    lines = [
        (text, f"{row[metric]:.3f}", f"{row[metric + '_se']:.3f}", f"{row[bits]:.3f}")
        for metric, text, bits in readings.table(row)
    ]
    table = _table(("reading", "nats/token", "± s.e.", "bits/byte"), lines)
    return f"After step {row['step']:,}, {row['tokens']:,} tokens.\n\n{table}"


def _made_with(environment: dict[str, Any]) -> str:
    versions = [f"{name} {environment['versions'][name]}" for name in VERSIONS if name in environment["versions"]]
    commit = [f"dualm at commit {environment['commit']}"] if environment["commit"] else []
    processes = f"world size {environment['world_size']} on {environment['machine']}"
    return ", ".join([*commit, f"Python {environment['python']}", *versions, processes]) + "."


def _use(name: str, shifted: bool) -> str:
    shift = "[0, position - 1]  # outputs are shifted" if shifted else "[0, position]"
    return USE.replace("NAME", name).replace("[OUTPUT]", shift)


def _table(head: tuple[str, ...], rows: list[tuple[str, ...]]) -> str:
    lines = [head, ("---",) * len(head), *rows]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)


USE = """\
Autoregressively, with `transformers` alone. The tokenizer begins every text with `<s>`:

```python
from transformers import AutoModelForCausalLM, AutoTokenizer

tokenizer = AutoTokenizer.from_pretrained("NAME")
model = AutoModelForCausalLM.from_pretrained("NAME")
inputs = tokenizer("The old sea", return_tensors="pt")
print(tokenizer.decode(model.generate(**inputs, max_new_tokens=40)[0], skip_special_tokens=True))
```

Bidirectionally, with the small class in `modeling_dualm.py`. Special tokens in a text are plain text to the tokenizer,
unless it is asked for them:

```python
from transformers import AutoModelForMaskedLM, AutoTokenizer

tokenizer = AutoTokenizer.from_pretrained("NAME")
model = AutoModelForMaskedLM.from_pretrained("NAME", trust_remote_code=True)
inputs = tokenizer("The old<mask> sang.", return_tensors="pt", split_special_tokens=False)
position = inputs.input_ids[0].tolist().index(tokenizer.mask_token_id)
logits = model(inputs.input_ids, attention_mask=inputs.attention_mask).logits[OUTPUT]
logits[tokenizer.mask_token_id] = float("-inf")  # never predicted
print(tokenizer.decode(logits.argmax()))
```

Likelihoods, diffusion sampling and infilling, with dualm:

```python
import dualm

model = dualm.load("NAME")
model.score([("The old sea", " sang.")], mode="pll")  # ar, prefix, mc, chain, pll, pll_mixed, exact
model.generate(["The old sea"], mode="ar")
model.infill("The old <mask:2> sang.")
```"""
