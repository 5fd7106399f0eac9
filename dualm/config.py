"""The recipe: everything that defines a run.

    dataclass defaults  <  YAML (with `base: other.yaml`)  <  key=value on the command line

Unknown keys and wrong types are refused with the key's name. Help and bounds stand beside each key; `dualm keys` prints
them, with the choices that the registries of other modules hold. What one key cannot know of another (batch sizes that
don't divide, say) is checked in `check`.
"""

from __future__ import annotations

import difflib
import itertools
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field, fields
from functools import cache
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from dualm.errors import UserError
from dualm.keys import Key, described, key


@dataclass
class RunConfig:
    dir: str = key("runs/default", "the folder of everything the run writes")
    seed: int = key(0, "decides every random draw of the run", ge=0)


@dataclass
class DataConfig:
    source: str = key("embedded", "where documents come from")
    train: list[Any] = key(
        [],
        "files, globs, or one Hugging Face data set (path or hub name); or sources with weights of their own, "
        "{files, weight, repetitions, name, valid}",
    )
    valid: list[str] = key([], "files for validation; empty: valid_fraction of the documents are held out")
    valid_fraction: float = key(0.05, "share of the documents held out for validation", gt=0, lt=1)
    format: str = key(
        "packed", "what a window is: packed documents, a document a row, or a pair of prompt and response"
    )
    supervise_prompt: bool = key(False, "pairs: mask and predict the prompt like the response", shards=False)
    random_length: float = key(
        0.0,
        "share of micro-batches whose windows are cut into pieces of one random length",
        shards=False,
        ge=0,
        le=1,
    )
    field: str = key("text", "jsonl, parquet, huggingface: the field that holds the text")
    prompt_field: str = key("prompt", "pairs from jsonl, parquet, huggingface: the field of the prompt")
    response_field: str = key("response", "pairs from jsonl, parquet, huggingface: the field of the response")
    separator: str = key("||", "pairs from text: what stands between prompt and response on a line")
    documents: str = key("file", "text: what a document is")
    subset: str | None = key(None, "huggingface: configuration name")
    split: str = key("train", "huggingface: split to train on")
    valid_split: str | None = key(None, "huggingface: split to validate on")
    streaming: bool = key(False, "huggingface: stream instead of downloading first", shards=False)
    tokenizer: str = key(
        "bpe", "bpe (trained here, model.vocab tokens), bytes, chars, or the path of a tokenizer.json or folder"
    )
    tokenizer_split: str = key("gpt2", "bpe trained here: GPT-2's words, or words in NFC with each digit by itself")
    shard_tokens: int = key(100_000_000, "tokens per shard file", shards=False, gt=0)
    dir: str | None = key(None, "folder of the prepared shards; default prepared/<source>-<fingerprint>", shards=False)
    document_end: bool = key(True, "write </s> behind each document, so that the model learns where it ends")
    tokens: int | None = key(
        None, "the token budget T; default train.steps * train.global_batch * model.context", shards=False, gt=0
    )
    repetitions: int = key(1, "R: T is spent on T/R unique tokens, each seen R times", shards=False, gt=0)
    unit: str = key(
        "chunks",
        "what the T/R unique tokens of packed data are a random subset of: documents, long ones in chunks; whole documents; "
        "or windows of the stream",
        shards=False,
    )
    chunk: int | None = key(
        None,
        "chunks: a longer document counts as pieces of so many tokens; default 4 * model.context",
        shards=False,
        gt=0,
    )
    recut: bool = key(
        True,
        "packed: shuffle the units and cut the windows anew in every epoch; false: the same windows in a new order",
        shards=False,
    )
    keep_in_document: bool = key(True, "keep attention inside documents", shards=False)


@dataclass
class ModelConfig:
    layers: int = key(6, "transformer blocks", gt=0)
    hidden: int = key(384, "width of the residual stream", gt=0)
    heads: int = key(6, "attention heads", gt=0)
    kv_heads: int | None = key(None, "heads of keys and values (grouped-query attention); default model.heads", gt=0)
    head_dim: int | None = key(None, "width of one head; default model.hidden / model.heads", gt=0)
    ffn: int = key(1024, "width of SwiGLU", gt=0)
    context: int = key(256, "L: positions the network sees", ge=2)
    vocab: int = key(4096, "rows of the embedding and of the head", gt=0)
    rope_theta: float = key(160_000.0, "base of the rotary position embedding", gt=0)
    norm_eps: float = key(1e-6, "epsilon of RMSNorm", gt=0)
    qk_norm: bool = key(False, "RMSNorm on queries and keys (a Qwen3 instead of a Llama)")
    head: str = key("linear", "linear (a Llama's), or mlp: linear, GELU, linear with a bias")
    init: str = key(
        "small", "standard deviation of matrices: sqrt(2 / 5h); small_by_depth: less in vocabulary and later blocks"
    )
    dropout: float = key(0.0, "dropout of what attention and SwiGLU add to the residual stream", ge=0, lt=1)
    time_conditioning: int = key(
        0, "width of an embedding of the mask rate that modulates every norm (adaLN); 0: none", ge=0
    )
    attention: str = key("auto", "attention backend; auto: the fastest there is")
    init_from: str | None = key(None, "start from this folder: a Llama- or Qwen3-type checkpoint, or a dualm export")
    checkpointing: bool = key(False, "recompute each block's activations in the backward pass")


@dataclass
class ObjectiveConfig:
    alpha: Any = key(0.5, "AR ratio: a number in [0, 1], auto, or [[progress, alpha], ...] joined by straight lines")
    prefix_fraction: float = key(0.0, "share of the AR windows trained with a prefix mask", ge=0, le=1)
    ar_weight: float = key(1.0, "weight of the AR loss (the paper's formula: 1; its released code: 2)", gt=0)
    ar: str = key("autoregressive", "objective of the AR windows")
    md: str = key("masked_diffusion", "objective of the other windows")
    input_mask: float = key(0.15, "masked_input: share of the inputs that are masked", ge=0, le=1)
    mir_weight: float = key(0.4, "mir: weight of the loss on masked inputs, which is added to the clean one", ge=0)
    mir_rates: list[float] = key([0.0, 0.5], "mir: smallest and largest share of masked inputs, one draw a window")
    time: str = key("uniform", "density of the mask rate t")
    draws: str = key("stratified", "how its quantiles are drawn: over the whole global batch, or one by one")
    time_mean: float = key(0.5, "bell: mean of the Gaussian before it is truncated to [time_min, 1]")
    time_std: float = key(0.2, "bell: its standard deviation", gt=0)
    time_min: float = key(1e-3, "bell: the smallest t", gt=0, lt=1)
    time_beta: list[float] = key([2.0, 2.0], "beta: its two parameters")
    time_power: float = key(2.0, "polynomial: t = u ** power", gt=0)
    time_noise: list[float] = key([1e-3, 20.0], "geometric: smallest and largest total noise")
    time_sigma: list[float] = key([0.0, 10.0], "linear_sigma: smallest and largest total noise")
    time_steps: int = key(
        0, "T: train the discrete-time bound of T steps instead of the continuous-time one; 0: continuous", ge=0
    )
    time_floor: float | None = key(
        None, "learned: nats per masked token that cannot be learned; default: those of the best bin"
    )
    time_refresh: int = key(100, "learned: steps between two updates of the density", gt=0)
    mask_count: str = key(
        "exact",
        "how many tokens are masked at rate t: ceil(N t) of N maskable, each with probability t, or L t rounded at random",
    )
    mask_first: bool = key(False, "whether position 0 of a window may be masked, which no shifted output predicts")
    supervise_last: bool = key(False, "MD, shifted: the last output predicts the token after the inputs, masked or not")
    weighting: str = key("elbo", "weight of a masked token: 1/t, 1/E[t], or 1/(t q(t)), the NELBO under any density q")
    rate_floor: float = key(0.0, "f: the weight of a masked token is made of the rate (1 - f) rate + f", ge=0, lt=1)
    mean_over: str = key(
        "maskable", "what the loss of an MD window is divided by: its maskable inputs, or all L of them"
    )
    hide_prompt: float = key(
        0.0, "MD on pairs: share of windows whose prompt is masked whole, for guidance", ge=0, le=1
    )
    shifted: bool = key(True, "outputs predict the next position (MNTP); false: their own (plain MDM)")
    z_loss: float = key(0.0, "coefficient of the squared log-partition, e.g. 1e-4", ge=0)


@dataclass
class OptimizerConfig:
    name: str = key("adamw", "adamw, or muon for hidden matrices with adamw for the rest")
    lr: float = key(1e-3, "peak learning rate", gt=0)
    betas: list[float] = key([0.9, 0.95], "Adam's decay rates of the two moments")
    eps: float = key(1e-8, "Adam's epsilon", gt=0)
    weight_decay: float = key(0.1, "decoupled weight decay of the matrices", ge=0)
    decay_gains: bool = key(False, "whether gains of norms and biases decay as well")
    momentum: float = key(0.95, "muon: momentum", ge=0, lt=1)
    ema: float = key(0.0, "decay of the moving average of the weights that is validated and saved; 0: none", ge=0, lt=1)
    clip: float = key(1.0, "largest gradient norm; 0: no clipping. With muon: of the adamw half", ge=0)


@dataclass
class ScheduleConfig:
    name: str = key("trapezoid", "shape of the learning rate over training; trapezoid: warmup-stable-decay")
    warmup: float = key(0.02, "length of the warmup: below 1 a fraction of the steps, otherwise steps", ge=0)
    warmup_min: int = key(0, "steps that the warmup has at least", ge=0)
    cooldown: float = key(0.3, "trapezoid: length of the cooldown, given like the warmup", ge=0)
    final: float = key(0.0, "learning rate at the end, as a fraction of the peak", ge=0, le=1)


@dataclass
class TrainConfig:
    steps: int | None = key(None, "optimizer steps; default: as many as data.tokens and data.repetitions give", gt=0)
    global_batch: int = key(32, "sequences per optimizer step", gt=0)
    micro_batch: int = key(8, "sequences per forward pass of one rank", gt=0)
    zero_stage: int = key(1, "DeepSpeed ZeRO stage; one process runs stage 0, with the same numbers", ge=0, le=3)
    precision: str = key("fp32", "fp32, or bf16: autocast over fp32 masters")
    compile: bool = key(False, "torch.compile every block")
    log_every: int = key(10, "steps between two rows of training metrics", gt=0)
    prefetch: int = key(8, "micro-batches made ahead", gt=0)
    max_skipped: int = key(10, "steps in a row with a non-finite gradient before the run gives up", gt=0)


@dataclass
class ValidateConfig:
    every: int = key(250, "steps between two validations; 0: only at the end", ge=0)
    windows: int = key(256, "validation windows per reading, the same ones each time", gt=0)
    batch: int = key(16, "windows per forward pass", gt=0)
    sample_tokens: int = key(64, "length of the text samples written beside; 0: none", ge=0)


@dataclass
class CheckpointConfig:
    every: int = key(1000, "steps between two periodic checkpoints; 0: none", ge=0)
    exponential: bool = key(False, "keep checkpoints after steps 1, 2, 4, 8, ... as well")
    before_cooldown: bool = key(True, "keep the checkpoint before the cooldown of the learning rate")
    keep: int = key(2, "newest periodic checkpoints that are kept", gt=0)


@dataclass
class Recipe:
    run: RunConfig = field(default_factory=RunConfig)
    data: DataConfig = field(default_factory=DataConfig)
    model: ModelConfig = field(default_factory=ModelConfig)
    objective: ObjectiveConfig = field(default_factory=ObjectiveConfig)
    optimizer: OptimizerConfig = field(default_factory=OptimizerConfig)
    schedule: ScheduleConfig = field(default_factory=ScheduleConfig)
    train: TrainConfig = field(default_factory=TrainConfig)
    validate: ValidateConfig = field(default_factory=ValidateConfig)
    checkpoint: CheckpointConfig = field(default_factory=CheckpointConfig)


@cache
def keys() -> dict[str, Key]:
    """Every key of the recipe by its dotted name."""
    return dict(described(Recipe()))


def load(path: str | Path | None, overrides: Sequence[str] = ()) -> Recipe:
    """Read a recipe file (None: nothing but the defaults), apply `key=value` overrides, check it.

    Raises:
        UserError: unknown key, wrong type, unreadable file or a value outside its range.
    """
    files = _layers(Path(path), ()) if path is not None else []
    layers = [*files, *_override_layers(overrides)]
    for source, layer in layers:
        _rename(layer, source)
        _check_names(layer, source)
    recipe = OmegaConf.to_object(_merged(layers))
    assert isinstance(recipe, Recipe)
    check(recipe)
    return recipe


def dump(recipe: Recipe) -> str:
    """The resolved recipe as YAML; `load` reads it back to an equal recipe."""
    return OmegaConf.to_yaml(OmegaConf.structured(recipe))


def flatten(recipe: Recipe) -> dict[str, Any]:
    """`{"model.layers": 6, ...}`: every key of the recipe by its dotted name."""
    return {
        f"{section}.{key}": value for section, values in vars(recipe).items() for key, value in vars(values).items()
    }


def _layers(path: Path, seen: tuple[Path, ...]) -> list[tuple[str, DictConfig]]:
    """The YAML files of a recipe, outermost base first."""
    if path.resolve() in seen:
        raise UserError(f"{path}: base refers back to itself")
    try:
        layer = OmegaConf.load(path)
    except FileNotFoundError:
        raise UserError(f"{path}: no such recipe") from None
    except Exception as error:  # the YAML library raises many kinds
        raise UserError(f"{path}: not readable as YAML: {' '.join(str(error).split())}") from None
    if not isinstance(layer, DictConfig):
        raise UserError(f"{path}: a recipe is a mapping of sections, got {type(layer).__name__}")
    base = layer.pop("base", None)
    below = _layers(path.parent / base, (*seen, path.resolve())) if base else []
    return [*below, (str(path), layer)]


def _override_layers(overrides: Sequence[str]) -> list[tuple[str, DictConfig]]:
    for item in overrides:
        if "=" not in item:
            raise UserError(f"{item}: expected key=value, such as train.steps=100")
    return [(item, OmegaConf.from_dotlist([item])) for item in overrides]


def _check_names(layer: DictConfig, source: str) -> None:
    known, sections = list(keys()), [section.name for section in fields(Recipe)]
    for section, values in layer.items():
        if section not in sections or not isinstance(values, DictConfig):
            raise UserError(f"{source}: unknown section '{section}', expected one of {', '.join(sections)}")
        for last in values:
            name = f"{section}.{last}"
            if name not in known:
                near = difflib.get_close_matches(name, known, 1) or difflib.get_close_matches(str(last), known, 1, 0.3)
                raise UserError(f"{source}: unknown key '{name}'" + (f", did you mean '{near[0]}'?" if near else ""))


@cache
def _defaults() -> DictConfig:
    return OmegaConf.structured(Recipe)


def _merged(layers: Sequence[tuple[str, DictConfig]]) -> Any:
    """The layers over the defaults. Raises UserError that names the first layer with a value of a wrong type."""
    try:
        return OmegaConf.merge(_defaults(), *(layer for _, layer in layers))
    except OmegaConfBaseException as error:
        if len(layers) > 1:
            _merged(layers[:-1])
        raise UserError(f"{layers[-1][0]}: {error.full_key or 'recipe'}: {str(error).splitlines()[0]}") from None


RENAMED = {"schedule.warmup_least": "schedule.warmup_min"}  # keys of older recipes
RENAMED_CHOICES = {("objective.time", "cosine"): "cosine_md4"}  # values of older recipes


def _rename(layer: DictConfig, source: str) -> None:
    """Give the layer's keys and choices their names of today, and say once that an older one is there."""
    for old, new in RENAMED.items():
        section, _, name = old.partition(".")
        if isinstance(layer.get(section), DictConfig) and name in layer[section]:
            _say_renamed(source, old, new)
            OmegaConf.update(layer, new, layer[section].pop(name))
    for (dotted, old), new in RENAMED_CHOICES.items():
        section, _, name = dotted.partition(".")
        if isinstance(layer.get(section), DictConfig) and layer[section].get(name) == old:
            _say_renamed(source, f"{dotted}: {old}", new)
            layer[section][name] = new


@cache
def _say_renamed(source: str, old: str, new: str) -> None:
    print(f"{source}: {old} is called {new} now", file=sys.stderr)


def check(recipe: Recipe) -> None:
    """Refuse values outside their range. Raises UserError naming key, value and what was expected."""
    flat = flatten(recipe)
    for name, one in keys().items():
        _expect(flat[name] is None or one.bounds.hold(flat[name]), name, flat[name], str(one.bounds))
    _check_alpha(recipe.objective.alpha)

    model, data, train = recipe.model, recipe.data, recipe.train
    _expect(model.vocab > 16, "model.vocab", model.vocab, "more than the 16 reserved ids")
    heads = ("2 * model.heads", 2 * model.heads) if model.head_dim is None else ("model.heads", model.heads)
    _expect(model.hidden % heads[1] == 0, "model.hidden", model.hidden, f"a multiple of {heads[0]} = {heads[1]}")
    _expect((model.head_dim or 2) % 2 == 0, "model.head_dim", model.head_dim, "an even number")
    _expect(
        model.heads % (model.kv_heads or model.heads) == 0,
        "model.kv_heads",
        model.kv_heads,
        f"a divisor of model.heads = {model.heads}",
    )
    _expect(bool(data.separator), "data.separator", data.separator, "at least one character")
    _expect(train.steps is not None or data.tokens is not None, "train.steps", None, "train.steps or data.tokens")
    _expect(
        train.global_batch % train.micro_batch == 0,
        "train.global_batch",
        train.global_batch,
        f"a multiple of train.micro_batch = {train.micro_batch}",
    )
    _expect(len(recipe.optimizer.betas) == 2, "optimizer.betas", recipe.optimizer.betas, "two numbers")
    for name, value, expected in (("unit", data.unit, "chunks"), ("document_end", data.document_end, True)):
        _expect(
            data.format == "packed" or value == expected,
            f"data.{name}",
            value,
            f"{expected} with data.format: {data.format}",
        )
    random = data.random_length
    _expect(not (random and data.format == "pairs"), "data.random_length", random, "0 with data.format: pairs")
    objective = recipe.objective
    bounds = f"a number between objective.time_min = {objective.time_min} and 1"
    _expect(objective.time_min <= objective.time_mean <= 1, "objective.time_mean", objective.time_mean, bounds)
    for name in ("objective.time_beta", "objective.time_noise"):
        _expect(len(flat[name]) == 2 and min(flat[name]) > 0, name, flat[name], "two numbers above 0")
    sigma = objective.time_sigma
    _expect(len(sigma) == 2 and min(sigma) >= 0, "objective.time_sigma", sigma, "two numbers, 0 or above")
    for name in ("objective.time_noise", "objective.time_sigma"):
        _expect(flat[name][0] < flat[name][1], name, flat[name], "the smallest noise, then the largest")
    independent = not objective.time_steps or objective.mask_count == "bernoulli"
    wanted = f"bernoulli with objective.time_steps = {objective.time_steps}: its bound masks tokens independently"
    _expect(independent, "objective.mask_count", objective.mask_count, wanted)
    rates = objective.mir_rates
    rising = len(rates) == 2 and 0 <= rates[0] <= rates[1] <= 1
    _expect(rising, "objective.mir_rates", rates, "the smallest share in [0, 1], then the largest")
    last = objective.supervise_last
    _expect(objective.shifted or not last, "objective.supervise_last", last, "false with objective.shifted: false")


def _check_alpha(alpha: Any) -> None:
    def is_share(value: Any) -> bool:
        return isinstance(value, int | float) and not isinstance(value, bool) and 0 <= value <= 1

    expected = "a number in [0, 1], auto, or [[progress, alpha], ...] with progress rising from 0 to 1"
    if isinstance(alpha, list):
        pairs = all(isinstance(knot, list) and len(knot) == 2 and all(map(is_share, knot)) for knot in alpha)
        rising = pairs and alpha and all(a[0] < b[0] for a, b in itertools.pairwise(alpha))
        _expect(bool(rising), "objective.alpha", alpha, expected)
    else:
        _expect(alpha == "auto" or is_share(alpha), "objective.alpha", alpha, expected)


def _expect(condition: bool, key: str, value: Any, expected: str) -> None:
    if not condition:
        raise UserError(f"{key}: got {value!r}, expected {expected}")
