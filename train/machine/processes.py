"""Processes that divide every batch among them: rank, number of processes, all-reduce and all-gather."""

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
    """The rank of this process and the number of processes; a single process has rank 0 of 1."""

    rank: int
    size: int

    @property
    def is_main(self) -> bool:
        """Whether this process writes files and logs."""
        return self.rank == 0


def world() -> World:
    """The rank of this process and the number of processes."""
    if not (dist.is_available() and dist.is_initialized()):
        return World(0, 1)
    return World(dist.get_rank(), dist.get_world_size())


@contextmanager
def process_group(device: str) -> Iterator[World]:
    """Context in which this process belongs to the group that `launch` or torchrun started; alone, it does nothing.

    The processes communicate by gloo on CPUs and by nccl on GPUs, where each process takes the GPU of its local rank.
    Processes other than the first only log warnings, so that the log reads as that of one process.

    device: `train.device`
    raises: TrainingError if there are fewer GPUs than processes, or the setting names one GPU for all of them
    """
    if int(os.environ.get("WORLD_SIZE", "1")) == 1:
        yield world()
        return
    gpu = own_gpu(device, int(os.environ["LOCAL_RANK"]), torch.cuda.device_count())
    if gpu is not None:
        torch.cuda.set_device(gpu)
    # Harmless: the second axis of a depth-wise kernel has length 1, so two sets of strides describe the same memory.
    warnings.filterwarnings("ignore", "Grad strides do not match bucket view strides")
    dist.init_process_group("gloo" if gpu is None else "nccl", device_id=gpu)
    try:
        if not world().is_main:
            logging.getLogger().setLevel(logging.WARNING)
        yield world()
    finally:
        dist.destroy_process_group()


def own_gpu(device: str, local_rank: int, num_gpus: int) -> torch.device | None:
    """The GPU of this process; None on a CPU.

    raises: TrainingError if two processes would have to use one GPU
    """
    if device == "cpu" or num_gpus == 0:
        return None
    if device.startswith("cuda:"):
        raise TrainingError(
            f"train.device is {device}, one GPU for all of train.processes; set train.device: auto, and choose the "
            "GPUs with the environment variable CUDA_VISIBLE_DEVICES"
        )
    if local_rank >= num_gpus:
        raise TrainingError(
            f"each process needs its own GPU, but process {local_rank + 1} finds only {num_gpus} CUDA devices on this "
            f"machine; set train.processes: {num_gpus}"
        )
    return torch.device("cuda", local_rank)


def summed(tensor: Tensor) -> Tensor:
    """All-reduce: the sum of the tensors of all processes, in place; of a single process, the tensor itself."""
    if world().size > 1:
        dist.all_reduce(tensor)
    return tensor


def gathered(tensor: Tensor) -> Tensor:
    """All-gather: the tensors [B, ...] of all processes, concatenated by rank; of a single process, the tensor itself.

    All processes must give the same shape.
    """
    if world().size == 1:
        return tensor
    tensors = [torch.empty_like(tensor, memory_format=torch.contiguous_format) for _ in range(world().size)]
    dist.all_gather(tensors, tensor.contiguous())
    return torch.cat(tensors)


def wait_for_all() -> None:
    """Return when every process has called this function."""
    if world().size > 1:
        dist.barrier()
