"""Items of a data set, read in worker processes whose errors and deaths end a command with their reason."""

from __future__ import annotations

import contextlib
import logging
import pickle
import shutil
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch.utils.data import DataLoader, Dataset

from pipeline.errors import TrainingError, UserError, first_line

log = logging.getLogger(__name__)

SHARED_MEMORY = Path("/dev/shm")  # nosec B108: only its free space is read
PREFETCHED = 2  # batches of each worker
BYTES_OF_SEMAPHORES = 2**17  # of each worker: some pages of shared memory, also for pipes
SECONDS_TO_WAIT = 600  # for one batch; a worker that finds no shared memory would be waited for without end
OF_WORKERS = ("DataLoader worker", "DataLoader timed out", "shared memory", "torch_shm")  # in torch's messages


def loaded(
    items: Dataset[Any], batches: Iterable[list[Any]], bytes_per_batch: int, workers: int, pin_memory: bool = False
) -> Iterator[list[Any]]:
    """Batches of items in order, read ahead by worker processes.

    A worker passes its tensors on in shared memory. In a container that is often too small, and torch then waits
    without end, so the workers pass them on through pipes if there is not enough. If there is none, this process reads.

    batches:         keys of the items of each batch
    bytes_per_batch: upper bound of the size of the tensors of a batch
    raises:          the error for users that reading an item raised; TrainingError if a worker dies
    """
    if workers > 0 and not has_room(workers * BYTES_OF_SEMAPHORES):
        log.info("%s is full, so images are read in one process, which is slower", SHARED_MEMORY)
        workers = 0
    needed = (PREFETCHED * workers + 1) * bytes_per_batch
    through_pipes = workers > 0 and not has_room(needed)
    if through_pipes:
        log.info(
            "%s has no room for %.1f MB of images, so %d workers pass them on through pipes, which is slower; in a "
            "container, raise it: docker run --shm-size=%dm",
            SHARED_MEMORY, needed / 1e6, workers, needed // 10**6 + 1,
        )  # fmt: skip
    return _loaded(items, batches, workers, pin_memory, through_pipes)


def _loaded(
    items: Dataset[Any], batches: Iterable[list[Any]], workers: int, pin_memory: bool, through_pipes: bool
) -> Iterator[list[Any]]:
    checked = ItemsOrErrors(items)
    # A generator of its own, because iterating a loader must not draw from torch's global generator.
    loader: DataLoader[Any] = DataLoader(
        AsBytes(checked) if through_pipes else checked,
        batch_sampler=batches,
        num_workers=workers,
        generator=torch.Generator(),
        collate_fn=list,  # images have different sizes
        pin_memory=pin_memory and not through_pipes,
        timeout=SECONDS_TO_WAIT if workers else 0,
    )
    for batch in loader:
        read = [pickle.loads(item) for item in batch] if through_pipes else batch  # nosec B301: of our own workers
        for item in read:
            if isinstance(item, UserError):
                raise item
        yield read


def has_room(num_bytes: int, folder: Path = SHARED_MEMORY) -> bool:
    """Whether so many bytes are free in a file system; True if it does not exist."""
    try:
        return shutil.disk_usage(folder).free >= num_bytes
    except OSError:  # shared memory is no file system on macOS
        return True


@dataclass(frozen=True)
class ItemsOrErrors(Dataset[Any]):
    """The items of a data set, or in place of an item the user's error that reading it raised.

    A loader whose worker raises an exception puts the worker's traceback into the message.
    """

    items: Dataset[Any]

    def __getitem__(self, key: Any) -> Any:
        try:
            return self.items[key]
        except UserError as error:
            return error


@dataclass(frozen=True)
class AsBytes(Dataset[bytes]):
    """The items of a data set as bytes, of which nothing is passed on in shared memory."""

    items: Dataset[Any]

    def __getitem__(self, key: Any) -> bytes:
        return pickle.dumps(self.items[key])


@contextlib.contextmanager
def explained_deaths(setting: str) -> Iterator[None]:
    """Context in which the death of a worker is a TrainingError. torch reports it wherever the main process is.

    setting: the setting or option with the number of workers
    """
    try:
        yield
    except RuntimeError as error:
        if not any(words in str(error) for words in OF_WORKERS):
            raise
        raise TrainingError(
            f"a process that reads images has ended or does not answer ({first_line(error).strip()}), for example "
            f"because memory ran out; lower {setting}, or set it to 0, and run the same command again: finished work "
            "is kept"
        ) from None
