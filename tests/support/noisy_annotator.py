"""An annotator for tests: maps that depend on the image alone, with ties and sharp steps, slow or faulty on request."""

import time
import zlib
from collections.abc import Sequence
from typing import Any

import numpy as np


class NoisyAnnotator:
    """Random maps seeded by each image's content; `bad_red` fails images whose first pixel has that red value.

    log: file with a line for each image that was annotated
    """

    without_prompt: Sequence[str] = ()

    def __init__(
        self, space: str, stride: int, seconds: float, bad_red: int | None, decimals: int, log: str | None = None
    ):
        self.name, self.fingerprint, self.space = "noisy", f"noisy {space} {stride} {decimals}", space
        self.stride, self.seconds, self.bad_red, self.decimals, self.log = stride, seconds, bad_red, decimals, log

    def prepare(self, class_prompts: Sequence[Sequence[str]]) -> None:
        self.num_classes = len(class_prompts)

    def __call__(self, images: np.ndarray) -> np.ndarray:
        time.sleep(self.seconds * len(images))
        return np.stack([self._maps(image) for image in images])

    def _maps(self, image: np.ndarray) -> np.ndarray:
        if self.bad_red is not None and image[0, 0, 0] == self.bad_red:
            raise RuntimeError("cannot digest this image")
        digest = zlib.crc32(image.tobytes())
        if self.log is not None:
            with open(self.log, "a") as file:
                file.write(f"{digest}\n")
        rng = np.random.default_rng(digest)
        height, width = image.shape[0] // self.stride, image.shape[1] // self.stride
        maps = rng.random((self.num_classes, height, width))
        if self.space == "logits":
            return (6 * maps - 3).round(self.decimals).astype(np.float32)
        return (maps / maps.sum(axis=0)).round(self.decimals).astype(np.float32)


def build(
    space: str = "logits",
    stride: int = 2,
    seconds: float = 0.0,
    bad_red: int | None = None,
    decimals: int = 1,
    log: str | None = None,
) -> Any:
    return NoisyAnnotator(space, stride, seconds, bad_red, decimals, log)
