"""One small student: a decoder trained on cached features, and evaluated on labeled images it was not trained on."""

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
from train.optimizers import AdamW
from train.probe.decoder import PyramidDecoder
from train.probe.features import Shapes, unflattened
from train.schedule import poly_lr_factor

POWER = 0.9  # of the polynomial decay of the learning rate
WEIGHT_DECAY = 0.01


@dataclass(frozen=True)
class Examples:
    """Labeled or unlabeled images in their fixed views.

    features: float16 [V, L] per image
    targets:  uint8 [V, crop, crop] per image, class index or IGNORE_INDEX
    """

    features: Sequence[npt.NDArray[np.float16]]
    targets: Sequence[Tensor]

    def of(self, images: Sequence[int]) -> Examples:
        """The examples of some of the images, by their numbers."""
        return Examples([self.features[i] for i in images], [self.targets[i] for i in images])

    def batch(self, draws: Sequence[Draw], key: str) -> tuple[npt.NDArray[np.float16], Tensor]:
        """One random view of each drawn image, a pure function of key and draw.

        returns: features, float16 [B, L], and targets, uint8 [B, crop, crop]
        """
        views = [(draw.image, _drawn_view(key, draw, len(self.targets[draw.image]))) for draw in draws]
        features = np.stack([self.features[image][view] for image, view in views])
        return features, torch.stack([self.targets[image][view] for image, view in views])


def _drawn_view(key: str, draw: Draw, num: int) -> int:
    return random.Random(f"{key}/{draw.epoch}/{draw.image}").randrange(num)


class Group(NamedTuple):
    """The labeled or the unlabeled images of every batch."""

    examples: Examples
    size: int
    """Number of views in a batch."""
    weight: float
    """Weight of their loss."""
    order: Passes
    """Order in which the images are drawn."""


@dataclass(frozen=True)
class Recipe:
    """How a decoder is trained.

    batch_size: views per step; half of them are unlabeled, except in the arm without labels
    """

    steps: int
    batch_size: int
    lr: float
    seed: int

    def groups(self, labeled: Examples, unlabeled: Examples | None, weight: float) -> list[Group]:
        """The labeled group of every batch and, unless `unlabeled` is None, the unlabeled group.

        All arms with an unlabeled group draw the same images and views, so that they differ in their labels only.
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
    """Train a decoder and return it in evaluation mode; every arm starts from the same weights.

    shapes:  of the feature maps of a view
    on_step: called after every step
    """
    torch.manual_seed(recipe.seed)  # for weights and dropout
    decoder = PyramidDecoder([width for _, _, width in shapes], num_classes).to(device).train()
    optimizer = AdamW(decoder.parameters(), lr=recipe.lr, weight_decay=WEIGHT_DECAY)
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
    """The loss of a step: the weighted sum over the groups of the mean cross-entropy of their pixels with a class.

    As in paper Eq. 2.

    returns: float32 []
    """
    batches = [
        group.examples.batch(group.order.draws(step * group.size, group.size), group.order.key) for group in groups
    ]
    targets = torch.cat([targets for _, targets in batches]).to(device)
    features = unflattened(np.concatenate([rows for rows, _ in batches]), shapes)
    sums = summed_cross_entropy(decoder([map_.to(device) for map_ in features]), targets)
    sizes = [group.size for group in groups]
    losses = [
        group.weight * group_sums.sum() / num_with_class(target).clamp(min=1)
        for group, group_sums, target in zip(groups, torch.split(sums, sizes), torch.split(targets, sizes), strict=True)
    ]
    return torch.stack(losses).sum()


@torch.no_grad()
def judged_areas(
    decoder: PyramidDecoder, maps: Sequence[Tensor], mask: npt.NDArray[np.uint8], device: torch.device
) -> npt.NDArray[np.int64]:
    """`class_areas` of the predictions of a decoder in evaluation mode for a whole image: int64 [3, K].

    maps: feature maps of the image, float32 [1, D, h, w] each
    mask: uint8 [H, W], class index or IGNORE_INDEX
    """
    logits = decoder([map_.to(device) for map_ in maps])
    prediction = upsampled(logits, mask.shape).argmax(dim=1)[0]
    target = torch.from_numpy(np.array(mask)).to(device)
    areas: npt.NDArray[np.int64] = class_areas(confusion_matrix(prediction, target, logits.shape[1])).cpu().numpy()
    return areas
