"""The DeepSpeed engine of a recipe; no other module knows DeepSpeed's configuration."""

from __future__ import annotations

from typing import Any

import torch

from dualm.config import Recipe
from dualm.model.precision import PRECISIONS
from dualm.model.transformer import Transformer
from dualm.training.cost import accumulation_steps
from dualm.training.distributed import World
from dualm.training.optimizers import OPTIMIZERS


def used_stage(recipe: Recipe, world_size: int, written: int | None = None) -> int:
    """The ZeRO stage to run: the recipe's; 0 in one process, where there is nothing to share out.

    The numbers are the same; ZeRO's flat copies of gradients and weights only cost time and memory there. A checkpoint `written` at another
    stage is gone on with at that one, since a stage's state is read by that stage only.
    """
    return recipe.train.zero_stage if world_size > 1 or written == recipe.train.zero_stage else 0


def deepspeed_config(recipe: Recipe, world_size: int, zero_stage: int) -> dict[str, Any]:
    train = recipe.train
    optimizer = OPTIMIZERS.choose(recipe.optimizer.name)
    engine_clips = zero_stage > 0 and not optimizer.clips  # at stage 0 every optimizer clips itself
    return {
        "train_batch_size": train.global_batch,
        "train_micro_batch_size_per_gpu": train.micro_batch,
        "gradient_accumulation_steps": accumulation_steps(recipe, world_size),
        "gradient_clipping": recipe.optimizer.clip if engine_clips else 0.0,
        "zero_allow_untested_optimizer": True,
        "zero_optimization": {"stage": zero_stage, "reduce_scatter": optimizer.reduce_scatter},
        # fp32 masters under autocast, gradients reduced in fp32: the same scheme at every stage.
        "torch_autocast": {
            "enabled": PRECISIONS[train.precision].dtype != "float32",
            "dtype": PRECISIONS[train.precision].dtype,
            "lower_precision_safe_modules": [],
        },
        "steps_per_print": None,
    }


def build_engine(recipe: Recipe, model: Transformer, world: World, zero_stage: int) -> Any:
    """Wrap `model` for training. The engine's `module` is the model, its forward the model's."""
    import deepspeed

    build = OPTIMIZERS.choose(recipe.optimizer.name).build
    model.to(world.device)
    optimizer = build(model.named_parameters(), recipe.optimizer, zero_stage)
    config = deepspeed_config(recipe, world.size, zero_stage)
    engine, *_ = deepspeed.initialize(model=model, optimizer=optimizer, config=config, dist_init_required=False)
    if zero_stage == 0 and world.size == 1:
        engine.enable_backward_allreduce = False  # it would copy all gradients to reduce them over one process
    return engine


def whole_weights(engine: Any, world: World) -> dict[str, torch.Tensor]:
    """The model's parameters by name, in CPU memory of rank 0; empty elsewhere. All ranks must call it."""
    import deepspeed

    weights = {}
    for name, parameter in engine.module.named_parameters():
        with deepspeed.zero.GatheredParameters([parameter], enabled=engine.zero_optimization_stage() == 3):
            if world.is_first:
                weights[name] = parameter.detach().cpu().clone()
    return weights


def logged_gradient_norm(engine: Any) -> float | None:
    """The gradient norm of the last step, before clipping (with Muon: of embedding and head)."""
    norm = getattr(engine.client_optimizer, "logged_norm", engine.get_global_grad_norm())
    return None if norm is None else float(norm)
