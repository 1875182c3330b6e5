"""CutMix: a box of each view is filled with the pixels of another view, its partner."""

from __future__ import annotations

import math
import random
from collections.abc import Sequence
from typing import NamedTuple

from torch import Tensor

AREA = (0.02, 0.4)  # range of the box's area, as a fraction of the view's; as in UniMatch
ASPECT = (0.3, 1 / 0.3)  # range of the box's height / width; as in UniMatch


class Box(NamedTuple):
    """A rectangle of a view, in pixels."""

    top: int
    left: int
    height: int
    width: int


def draw_box(rng: random.Random, side: int, probability: float = 0.5) -> Box | None:
    """With the given probability a random box inside a view of `side` x `side` pixels; otherwise None.

    The area is uniform in AREA. If the box does not fit into the view, its aspect and corner are drawn again but not
    its area, because large boxes fit less often and would otherwise be too rare.
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
    """The partner of each of `num` views: views 0 and 1, 2 and 3, ... are partners; an odd last one takes view 0."""
    neighbours = [view ^ 1 for view in range(num)]
    return [view if view < num else 0 for view in neighbours]


def cutmix(tensors: Sequence[Tensor], boxes: Sequence[Box | None], partner: Sequence[int]) -> list[Tensor]:
    """New tensors in which the box of each view has the pixels of its partner, as they were before mixing.

    tensors: [B, ..., H, W] each, of any type: images, targets, confidence masks of the same views
    boxes:   one per view; None leaves the view unchanged
    partner: one per view, as `partners` returns them
    """
    return [_pasted(tensor, boxes, partner) for tensor in tensors]


def _pasted(tensor: Tensor, boxes: Sequence[Box | None], partner: Sequence[int]) -> Tensor:
    mixed = tensor.clone()
    for view, (box, other) in enumerate(zip(boxes, partner, strict=True)):
        if box is not None:
            window = (..., slice(box.top, box.top + box.height), slice(box.left, box.left + box.width))
            mixed[view][window] = tensor[other][window]
    return mixed
