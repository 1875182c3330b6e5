"""Masks and labels in the fixed views: the targets of the cached features."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from train.augment import Geometry, target_view
from train.data import pseudo_label_to_target


def view_targets(target: npt.NDArray[np.uint8], geometries: Sequence[Geometry], crop: int) -> Tensor:
    """A mask in each view of its image: uint8 [H, W], class index or IGNORE_INDEX -> uint8 [V, crop, crop]."""
    whole = torch.from_numpy(np.array(target, order="C"))
    return torch.stack([target_view(whole, geometry, crop) for geometry in geometries])


def label_targets(
    label: npt.NDArray[np.floating[Any]], size: Sequence[int], geometries: Sequence[Geometry], crop: int
) -> Tensor:
    """A label on the grid in each view of its image, which has `size` (H, W).

    label:   float [h, w], class index, NaN = abstain
    returns: uint8 [V, crop, crop], class index or IGNORE_INDEX
    """
    return view_targets(pseudo_label_to_target(label, size), geometries, crop)
