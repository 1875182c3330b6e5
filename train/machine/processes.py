"""Several processes that share every batch: who this one is, and sums over all of them."""

from __future__ import annotations

import logging
import os
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import NamedTuple

import torch
from torch import Tensor
from torch import distributed as dist

from pipeline.errors import TrainingError


class World(NamedTuple):
    """This process and how many there are; one alone is number 0 of 1."""

    rank: int
    size: int

    @property
    def is_main(self) -> bool:
        """Whether this process writes files and logs."""
        return self.rank == 0


def world() -> World:
    if not (dist.is_available() and dist.is_initialized()):
        return World(0, 1)
    return World(dist.get_rank(), dist.get_world_size())


@contextmanager
def process_group(device: str) -> Iterator[World]:
    """Join the processes that torchrun started (it sets WORLD_SIZE, ...); alone, do nothing.

    Over gloo on CPU, over nccl on GPUs, where each process takes the card of its number on this machine. All but the
    first log warnings only, so that the log reads as that of one process.
    device: `train.device`
    raises: TrainingError if there are fewer cards than processes, or the setting names one card for all
    """
    if int(os.environ.get("WORLD_SIZE", "1")) == 1:
        yield world()
        return
    card = own_card(device, int(os.environ["LOCAL_RANK"]), torch.cuda.device_count())
    if card is not None:
        torch.cuda.set_device(card)
    # of two ways to write the strides of a depth-wise kernel, whose second axis is 1: the memory is the same
    warnings.filterwarnings("ignore", "Grad strides do not match bucket view strides")
    dist.init_process_group("gloo" if card is None else "nccl", device_id=card)
    try:
        if not world().is_main:
            logging.getLogger().setLevel(logging.WARNING)
        yield world()
    finally:
        dist.destroy_process_group()


def own_card(device: str, local_rank: int, num_cards: int) -> torch.device | None:
    """The GPU of one of several processes; None on CPU. TrainingError if it would have to share one."""
    if device == "cpu" or num_cards == 0:
        return None
    if device.startswith("cuda:"):
        raise TrainingError(
            f"train.device is {device}, one card for all of train.processes; set device: auto, and choose cards with "
            "CUDA_VISIBLE_DEVICES"
        )
    if local_rank >= num_cards:
        raise TrainingError(
            f"process {local_rank + 1} finds only {num_cards} CUDA devices on this machine, and each needs one of its "
            f"own; set train.processes: {num_cards}"
        )
    return torch.device("cuda", local_rank)


def summed(tensor: Tensor) -> Tensor:
    """The sum of every process's tensor, in place; alone, the tensor as it is."""
    if world().size > 1:
        dist.all_reduce(tensor)
    return tensor


def gathered(tensor: Tensor) -> Tensor:
    """[B, ...] of every process, one after the other by rank; alone, the tensor as it is. Shapes must be the same."""
    if world().size == 1:
        return tensor
    parts = [torch.empty_like(tensor, memory_format=torch.contiguous_format) for _ in range(world().size)]
    dist.all_gather(parts, tensor.contiguous())
    return torch.cat(parts)


def wait_for_all() -> None:
    """Return when every process has come here."""
    if world().size > 1:
        dist.barrier()
