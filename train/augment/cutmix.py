"""CutMix: a box of each view shows its partner's pixels."""

from __future__ import annotations

import math
import random
from collections.abc import Sequence
from typing import NamedTuple

from torch import Tensor

AREA = (0.02, 0.4)  # of the box, in parts of the view's; this and the aspect as in UniMatch
ASPECT = (0.3, 1 / 0.3)  # height / width of the box


class Box(NamedTuple):
    """A rectangle of pixels."""

    top: int
    left: int
    height: int
    width: int


def draw_box(rng: random.Random, side: int, probability: float = 0.5) -> Box | None:
    """A box inside a view of `side` x `side`, with the probability; else None.

    The area is uniform. Aspect and corner are drawn again until the box fits, the area is not: else large boxes, which
    fit less often, would be rarer than the law says.
    """
    if rng.random() >= probability:
        return None
    area = rng.uniform(*AREA) * side**2
    while True:
        aspect = rng.uniform(*ASPECT)
        height, width = int(math.sqrt(area * aspect)), int(math.sqrt(area / aspect))
        box = Box(rng.randrange(side), rng.randrange(side), height, width)
        if box.top + box.height <= side and box.left + box.width <= side:
            return box


def partners(num: int) -> list[int]:
    """For each of `num` views the one it takes pixels from: neighbours swap, an odd last one takes the first's."""
    swapped = [place ^ 1 for place in range(num)]
    return [place if place < num else 0 for place in swapped]


def cutmix(tensors: Sequence[Tensor], boxes: Sequence[Box | None], partner: Sequence[int]) -> list[Tensor]:
    """New tensors in which each view's box shows its partner's pixels, as the partner was before.

    tensors: [B, ..., H, W] of any type: images, targets, confidences of the same views
    boxes:   None leaves a view as it is
    """
    return [_pasted(tensor, boxes, partner) for tensor in tensors]


def _pasted(tensor: Tensor, boxes: Sequence[Box | None], partner: Sequence[int]) -> Tensor:
    mixed = tensor.clone()
    for view, (box, other) in enumerate(zip(boxes, partner, strict=True)):
        if box is not None:
            window = (..., slice(box.top, box.top + box.height), slice(box.left, box.left + box.width))
            mixed[view][window] = tensor[other][window]
    return mixed
