"""Weights on disk, as Hugging Face's `LlamaForCausalLM` (with QK-norm `Qwen3ForCausalLM`) reads them."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from dualm.config import ModelConfig
from dualm.errors import UserError
from dualm.model import size

ARCHITECTURES = {False: ("LlamaForCausalLM", "llama"), True: ("Qwen3ForCausalLM", "qwen3")}  # by qk_norm

# Our name of what both configurations hold → Hugging Face's.
KEYS = {
    "layers": "num_hidden_layers",
    "hidden": "hidden_size",
    "heads": "num_attention_heads",
    "kv_heads": "num_key_value_heads",
    "ffn": "intermediate_size",
    "context": "max_position_embeddings",
    "vocab": "vocab_size",
    "norm_eps": "rms_norm_eps",
}
# What the network is, beyond its sizes. Read back, another value is refused; an absent key means the value here.
FIXED = {"hidden_act": "silu", "attention_bias": False, "mlp_bias": False, "tie_word_embeddings": False}


def hf_config(model: ModelConfig) -> dict[str, Any]:
    """The `config.json` of a Hugging Face Llama or Qwen3 with these sizes."""
    architecture, model_type = ARCHITECTURES[model.qk_norm]
    return {
        "architectures": [architecture],
        "model_type": model_type,
        **{theirs: getattr(model, ours) for ours, theirs in KEYS.items()},
        "num_key_value_heads": size.kv_heads(model),
        "head_dim": size.head_dim(model),
        **FIXED,
        "rope_theta": model.rope_theta,  # where transformers < 5 looks
        "rope_parameters": {"rope_type": "default", "rope_theta": model.rope_theta},
        "pad_token_id": 0,
        "bos_token_id": 1,
        "eos_token_id": 2,
        "torch_dtype": "float32",
        "dtype": "float32",
    }


def model_config(config: Mapping[str, Any], source: str) -> ModelConfig:
    """The sizes in a Hugging Face configuration; `source` names it in errors.

    Raises:
        UserError: not a Llama or Qwen3 that this network can be.
    """
    types = {model_type: qk_norm for qk_norm, (_, model_type) in ARCHITECTURES.items()}
    model_type = config.get("model_type")
    if model_type not in types:
        raise UserError(f"{source}: model_type: got {model_type!r}, expected {' or '.join(types)}")
    for key, value in FIXED.items():
        if config.get(key, value) != value:
            raise UserError(f"{source}: {key}: got {config[key]!r}, expected {value!r}")
    rope = config.get("rope_parameters") or config.get("rope_scaling") or {}
    if rope.get("rope_type", rope.get("type", "default")) != "default":
        raise UserError(f"{source}: rope_type: got {rope!r}, expected 'default'")
    try:
        sizes = {ours: config[theirs] for ours, theirs in KEYS.items()}
        theta = rope["rope_theta"] if "rope_theta" in rope else config["rope_theta"]
    except KeyError as error:
        raise UserError(f"{source}: {error.args[0]} is missing") from None
    for ours, value in {**sizes, "rope_theta": theta}.items():
        if not isinstance(value, int | float):
            raise UserError(f"{source}: {KEYS.get(ours, ours)}: got {value!r}, expected a number")
    model = ModelConfig(**sizes, rope_theta=theta, qk_norm=types[model_type])
    if config.get("head_dim", size.head_dim(model)) != size.head_dim(model):
        expected = f"hidden_size / num_attention_heads = {size.head_dim(model)}"
        raise UserError(f"{source}: head_dim: got {config['head_dim']!r}, expected {expected}")
    return model


def save(folder: str | Path, state_dict: Mapping[str, Tensor], model: ModelConfig) -> None:
    """Write `model.safetensors` (float32) and `config.json` into `folder`, made if need be."""
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    tensors = {name: tensor.detach().to("cpu", torch.float32).contiguous() for name, tensor in state_dict.items()}
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    (folder / "config.json").write_text(json.dumps(hf_config(model), indent=2) + "\n")


def load(folder: str | Path) -> tuple[ModelConfig, dict[str, Tensor]]:
    """Read what `save` wrote, or any Llama or Qwen3 in one file: (sizes, tensors by name, on the host).

    What a configuration doesn't say (attention backend, checkpointing) has its default.

    Raises:
        UserError: a file is missing or unreadable, or the weights don't fit the configuration.
    """
    folder = Path(folder)
    for path in (folder / "config.json", folder / "model.safetensors"):
        if not path.is_file():
            raise UserError(f"{path}: no such file")
    try:
        config = json.loads((folder / "config.json").read_text())
    except ValueError as error:
        raise UserError(f"{folder / 'config.json'}: not readable as JSON: {error}") from None
    if not isinstance(config, dict):
        raise UserError(f"{folder / 'config.json'}: expected an object, got {type(config).__name__}")
    model = model_config(config, str(folder / "config.json"))
    try:
        tensors = load_file(folder / "model.safetensors")
    except SafetensorError as error:
        raise UserError(f"{folder / 'model.safetensors'}: not readable as safetensors: {error}") from None
    _check_shapes(tensors, model, str(folder / "model.safetensors"))
    return model, tensors


def _check_shapes(tensors: Mapping[str, Tensor], model: ModelConfig, source: str) -> None:
    expected = size.shapes(model)
    for name in [*expected, *tensors]:
        got, want = tensors[name].shape if name in tensors else None, expected.get(name)
        if got is None or want is None or tuple(got) != want:
            found = "missing" if got is None else list(got)
            raise UserError(f"{source}: {name}: got {found}, expected {list(want) if want else 'no such tensor'}")
