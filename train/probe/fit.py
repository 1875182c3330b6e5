"""One small student: a decoder trained on cached features, and judged on labeled images that it has not seen."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from train.data import Draw, Passes
from train.losses import num_with_class, summed_cross_entropy, upsampled
from train.measure.metrics import class_areas, confusion_matrix
from train.probe.decoder import PyramidDecoder
from train.probe.features import Shapes, unflattened
from train.schedule import poly_lr_factor

POWER = 0.9  # of the learning rate's decay
WEIGHT_DECAY = 0.01


@dataclass(frozen=True)
class Examples:
    """Images of one kind in their fixed views.

    features: float16 [V, L] of each image
    targets:  uint8 [V, crop, crop] of each image, class index or IGNORE_INDEX
    """

    features: Sequence[npt.NDArray[np.float16]]
    targets: Sequence[Tensor]

    def of(self, images: Sequence[int]) -> Examples:
        """Those of some of the images."""
        return Examples([self.features[i] for i in images], [self.targets[i] for i in images])

    def batch(self, draws: Sequence[Draw], key: str) -> tuple[npt.NDArray[np.float16], Tensor]:
        """float16 [B, L] and uint8 [B, crop, crop]: one view of each drawn image, a pure function of key and draw."""
        places = [(draw.image, _drawn_view(key, draw, len(self.targets[draw.image]))) for draw in draws]
        features = np.stack([self.features[image][view] for image, view in places])
        return features, torch.stack([self.targets[image][view] for image, view in places])


def _drawn_view(key: str, draw: Draw, num: int) -> int:
    return random.Random(f"{key}/{draw.epoch}/{draw.image}").randrange(num)


class Group(NamedTuple):
    """What a part of every batch is drawn from, how many views, and the weight of their loss."""

    examples: Examples
    size: int
    weight: float
    order: Passes


@dataclass(frozen=True)
class Recipe:
    """How a decoder is trained. batch_size: views in a step, half of them unlabeled if there are such."""

    steps: int
    batch_size: int
    lr: float
    seed: int

    def groups(self, labeled: Examples, unlabeled: Examples | None, weight: float) -> list[Group]:
        """The labeled part of every batch and, if there is something to learn from it, the unlabeled one.

        All arms with an unlabeled part draw the same images and views, so that only what teaches them differs.
        """
        num_unlabeled = self.batch_size // 2 if unlabeled is not None else 0
        groups = [Group(labeled, self.batch_size - num_unlabeled, 1.0, self._order(labeled, "labeled"))]
        if unlabeled is not None:
            groups.append(Group(unlabeled, num_unlabeled, weight, self._order(unlabeled, "unlabeled")))
        return groups

    def _order(self, examples: Examples, name: str) -> Passes:
        num = len(examples.targets)
        return Passes(num, num, f"{self.seed}/probe/{name}")


def trained_decoder(
    num_classes: int,
    shapes: Shapes,
    groups: Sequence[Group],
    recipe: Recipe,
    device: torch.device,
    on_step: Callable[[], None],
) -> PyramidDecoder:
    """A decoder that has learnt; every arm starts from the same weights.

    shapes:  of the maps of a view
    on_step: told of every finished step
    """
    torch.manual_seed(recipe.seed)  # of weights and dropout
    decoder = PyramidDecoder([width for _, _, width in shapes], num_classes).to(device).train()
    optimizer = torch.optim.AdamW(decoder.parameters(), lr=recipe.lr, weight_decay=WEIGHT_DECAY)
    for step in range(recipe.steps):
        for group in optimizer.param_groups:
            group["lr"] = recipe.lr * poly_lr_factor(step, recipe.steps, POWER)
        optimizer.zero_grad()
        batch_loss(decoder, shapes, groups, step, device).backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        on_step()
    return decoder.eval()


def batch_loss(
    decoder: PyramidDecoder, shapes: Shapes, groups: Sequence[Group], step: int, device: torch.device
) -> Tensor:
    """float32 []: the weighted sum of the groups' mean cross-entropies over the pixels with a class (paper Eq. 2)."""
    parts = [
        group.examples.batch(group.order.draws(step * group.size, group.size), group.order.key) for group in groups
    ]
    targets = torch.cat([part for _, part in parts]).to(device)
    features = unflattened(np.concatenate([rows for rows, _ in parts]), shapes)
    sums = summed_cross_entropy(decoder([map_.to(device) for map_ in features]), targets)
    sizes = [group.size for group in groups]
    losses = [
        group.weight * part.sum() / num_with_class(target).clamp(min=1)
        for group, part, target in zip(groups, torch.split(sums, sizes), torch.split(targets, sizes), strict=True)
    ]
    return torch.stack(losses).sum()


@torch.no_grad()
def judged_areas(
    decoder: PyramidDecoder, maps: Sequence[Tensor], mask: npt.NDArray[np.uint8], device: torch.device
) -> npt.NDArray[np.int64]:
    """int64 [3, K], `class_areas` of what a decoder in evaluation mode makes of a whole image.

    maps: float32 [1, D, h, w] each; mask: uint8 [H, W], class index or IGNORE_INDEX
    """
    logits = decoder([map_.to(device) for map_ in maps])
    prediction = upsampled(logits, mask.shape).argmax(dim=1)[0]
    target = torch.from_numpy(np.array(mask)).to(device)
    areas: npt.NDArray[np.int64] = class_areas(confusion_matrix(prediction, target, logits.shape[1])).cpu().numpy()
    return areas
