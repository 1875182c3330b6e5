"""A torch network on its device: the device of a setting, autocast, and batches that fit into memory."""

from __future__ import annotations

import logging
from collections.abc import Callable

import numpy as np
import torch

from pipeline.annotators.contract import Images, Maps
from pipeline.errors import AnnotatorError

log = logging.getLogger(__name__)

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


class FittingBatches:
    """Calls a network on batches that fit into memory: a batch is halved whenever memory runs out.

    section: section of the settings of the annotator, and sizes: its settings that make the network's input smaller
    """

    def __init__(self, section: str, sizes: str):
        self.section, self.sizes = section, sizes
        self.limit: int | None = None  # number of images, set when memory runs out

    def maps(self, annotate: Callable[[Images], Maps], images: Images) -> Maps:
        """uint8 [B, H, W, 3] -> float32 [B, K, h, w]; AnnotatorError if a single image does not fit into memory."""
        batches: list[Maps] = []
        while (done := sum(map(len, batches))) < len(images):
            size = min(self.limit or len(images), len(images) - done)
            try:
                batches.append(annotate(images[done : done + size]))
            except RuntimeError as error:
                self._halve(size, error)
        return np.concatenate(batches)

    def _halve(self, size: int, error: RuntimeError) -> None:
        """Halve the batch if memory ran out; raise any other error again."""
        if not _is_out_of_memory(error):
            raise error
        if size == 1:
            raise AnnotatorError(
                f"memory runs out with a single image; set a smaller data.grid or {self.section}.{self.sizes}, "
                f"{self.section}.precision: bfloat16, or {self.section}.device: cpu"
            ) from None
        self.limit = size // 2
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
        log.warning("annotate: a batch of %d images does not fit into memory; now using %d", size, self.limit)


def _is_out_of_memory(error: RuntimeError) -> bool:
    """CUDA raises OutOfMemoryError; the CPU allocator raises a RuntimeError with a message."""
    return isinstance(error, torch.OutOfMemoryError) or "not enough memory" in str(error)


def checked_device(name: str, section: str) -> str:
    """Torch's name of the device of a setting `device`; AnnotatorError for a CUDA device that does not exist."""
    if name == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    number = int(name.partition(":")[2] or 0)
    if name != "cpu" and number >= torch.cuda.device_count():
        raise AnnotatorError(
            f"{section}.device is {name}, but torch finds {torch.cuda.device_count()} CUDA devices; set "
            f"{section}.device to auto or cpu"
        )
    return name
