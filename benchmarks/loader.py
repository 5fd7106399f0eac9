"""Does making batches keep up with the model? Sequences per second of both, at L = 1024.

    python -m benchmarks.loader
    python -m benchmarks.loader --device cuda --layers 12 --hidden 768 --heads 12 --ffn 2048 --batch 32

A is `TrainingBatches.micro_batch` on one thread (order, objective, masks, tensors; the tokens lie in memory). B is a
training step of the model (forward, backward, AdamW). Printed: sequences per second of each and the ratio A / B; the
loader runs on a thread of its own, so a ratio above 1 means that the model need not wait. `of 256` are micro-batches
of a global batch of that many.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable
from contextlib import nullcontext

import torch

from benchmarks import synthetic
from dualm.config import ModelConfig, OptimizerConfig
from dualm.model.transformer import Transformer
from dualm.plan.batches import TrainingBatches
from dualm.training.optimizers import adamw

DOCUMENT = 500  # tokens, about


def seconds(action: Callable[[int], object], repeats: int) -> float:
    """Median time of `action(i)`; the first call warms up."""
    times = []
    for i in range(repeats + 1):
        before = time.perf_counter()
        action(i)
        times.append(time.perf_counter() - before)
    return statistics.median(times[1:])


def loader(objective: str, model: ModelConfig, batch: int, per_step: int, steps: int) -> TrainingBatches:
    recipe = synthetic.recipe(model, synthetic.OBJECTIVES[objective], per_step * batch, batch, steps)
    return synthetic.training_batches(recipe, DOCUMENT)


def model_step(objective: str, model: ModelConfig, batch: int, device: torch.device) -> Callable[[int], object]:
    """A training step in float32 on the CPU, in bf16 on a GPU."""
    network = Transformer(model).to(device)
    optimizer = adamw(network.named_parameters(), OptimizerConfig(), zero_stage=1)
    made = synthetic.batch(objective, model, batch, DOCUMENT).to(device)

    def step(_: int) -> None:
        optimizer.zero_grad()
        with torch.autocast("cuda", torch.bfloat16) if device.type == "cuda" else nullcontext():
            losses = network(*made.arguments)
        losses.nll.mean().backward()
        optimizer.step()
        if device.type == "cuda":
            torch.cuda.synchronize()

    return step


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name, default in (("layers", 4), ("hidden", 192), ("heads", 4), ("ffn", 512), ("vocab", 4096), ("batch", 4)):
        parser.add_argument(f"--{name}", type=int, default=default)
    parser.add_argument("--length", type=int, default=1024)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--repeats", type=int, default=5)
    a = parser.parse_args()
    model = ModelConfig(layers=a.layers, hidden=a.hidden, heads=a.heads, ffn=a.ffn, context=a.length, vocab=a.vocab)
    print(f"L {a.length}, micro-batches of {a.batch}, {a.device}, {torch.get_num_threads()} threads, {model}")
    for objective in ("autoregressive", "masked_diffusion"):
        step = seconds(model_step(objective, model, a.batch, torch.device(a.device)), a.repeats)
        for per_step in (1, 16, 256):
            batches = loader(objective, model, a.batch, per_step, steps=-(-(a.repeats + 1) // per_step))
            source = batches.for_rank(0, 1, 0)
            made = seconds(lambda _: next(source), a.repeats)  # noqa: B023
            print(
                f"{objective}, of {per_step:<4} loader {a.batch / made:10,.0f}/s   model {a.batch / step:10,.2f}/s   "
                f"ratio {step / made:8,.1f}",
                flush=True,
            )


if __name__ == "__main__":
    main()
