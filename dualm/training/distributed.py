"""The process group: start it under any launcher, agree on what happens next, end it."""

from __future__ import annotations

import os
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, TypeVar

import torch

from dualm.errors import UserError

Result = TypeVar("Result")


@dataclass(frozen=True)
class World:
    rank: int
    size: int
    local_rank: int
    device: torch.device

    @property
    def is_first(self) -> bool:
        return self.rank == 0


@contextmanager
def world() -> Iterator[World]:
    """Join the group that `deepspeed` or `torchrun` describes; without a launcher, a group of one."""
    device_type = "cuda" if torch.cuda.is_available() else "cpu"
    os.environ.setdefault("DS_ACCELERATOR", device_type)
    alone = {"RANK": "0", "WORLD_SIZE": "1", "LOCAL_RANK": "0", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": _free_port()}
    if "RANK" not in os.environ:
        os.environ.update(alone)
    import deepspeed
    from deepspeed.utils import logger

    logger.setLevel("ERROR")
    if device_type == "cpu":
        # An optional shared-memory collective that would be compiled at every start; training needs none.
        deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False
    local_rank = int(os.environ["LOCAL_RANK"])
    device = torch.device(device_type, local_rank) if device_type == "cuda" else torch.device("cpu")
    if device_type == "cuda":
        torch.cuda.set_device(device)
    deepspeed.init_distributed("nccl" if device_type == "cuda" else "gloo", verbose=False)
    yield World(torch.distributed.get_rank(), torch.distributed.get_world_size(), local_rank, device)
    # Not in a `finally`: after an error a barrier would wait for ranks that have already gone.
    torch.distributed.barrier()
    torch.distributed.destroy_process_group()


def on_first_rank(world: World, action: Callable[[], Result]) -> Result:
    """Run `action` on rank 0 and give every rank its result, or its UserError."""
    outcome: list[Any] = [None, None]
    if world.is_first:
        try:
            outcome[0] = action()
        except UserError as error:
            outcome[1] = error
    torch.distributed.broadcast_object_list(outcome, device=world.device)
    if outcome[1] is not None:
        raise outcome[1]
    return outcome[0]


def any_rank(world: World, flag: bool) -> bool:
    value = torch.tensor(int(flag), device=world.device)
    torch.distributed.all_reduce(value, torch.distributed.ReduceOp.MAX)
    return bool(value.item())


def _free_port() -> str:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return str(probe.getsockname()[1])
