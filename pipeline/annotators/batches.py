"""A torch network on its device: the device of a setting, autocast, and batches that fit into memory."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import TypeVar

import numpy as np
import torch

from pipeline.annotators.contract import Images, Maps
from pipeline.errors import AnnotatorError

log = logging.getLogger(__name__)

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}

Result = TypeVar("Result")


class FittingParts:
    """Calls a function on parts of a list that fit into memory: they are halved whenever memory runs out.

    items: what the list consists of, for the log: "images"
    limit: largest number of items of a part; None: all
    """

    def __init__(self, items: str, limit: int | None = None):
        self.items, self.limit = items, limit

    def results(self, call: Callable[[slice], Result], length: int) -> list[Result]:
        """What `call` returns for each part of a list of `length` items, in order.

        call:   gets the slice of the list that is the part
        raises: what `call` raises; RuntimeError if memory runs out with a part of one item
        """
        results: list[Result] = []
        done = 0
        while done < length:
            size = min(self.limit or length, length - done)
            try:
                results.append(call(slice(done, done + size)))
            except RuntimeError as error:
                if size == 1 or not is_out_of_memory(error):
                    raise
            else:
                done += size
                continue
            self._halve(size)  # after `except`, because the error keeps the tensors of the part
        return results

    def _halve(self, size: int) -> None:
        self.limit = size // 2
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
        log.warning("annotate: a batch of %d %s does not fit into memory; now using %d", size, self.items, self.limit)


class FittingBatches:
    """Calls a network on batches of images that fit into memory.

    section: section of the settings of the annotator, and sizes: its settings that make the network's input smaller
    """

    def __init__(self, section: str, sizes: str):
        self.section, self.sizes = section, sizes
        self.parts = FittingParts("images")

    def maps(self, annotate: Callable[[Images], Maps], images: Images) -> Maps:
        """uint8 [B, H, W, 3] -> float32 [B, K, h, w]; AnnotatorError if a single image does not fit into memory."""
        try:
            return np.concatenate(self.parts.results(lambda part: annotate(images[part]), len(images)))
        except RuntimeError as error:
            if not is_out_of_memory(error):
                raise
        raise AnnotatorError(
            f"memory runs out with a single image; set a smaller data.grid or {self.section}.{self.sizes}, "
            f"{self.section}.precision: bfloat16, or {self.section}.device: cpu"
        )


def is_out_of_memory(error: RuntimeError) -> bool:
    """CUDA raises OutOfMemoryError; the CPU allocator raises a RuntimeError with a message."""
    return isinstance(error, torch.OutOfMemoryError) or "not enough memory" in str(error)
