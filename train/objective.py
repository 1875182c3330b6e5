"""The training objective of a batch: images, targets and weights of each loss term.

Both stages, and every recipe, differ only in the objective that they make of a batch.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional

from pipeline.datasets import IGNORE_INDEX
from train.hard_pixels import HardPixels, hardness_limit
from train.losses import num_with_class, summed_cross_entropy, true_class_probabilities
from train.machine.processes import gathered, summed
from train.views import Views


class Term(NamedTuple):
    """One loss term: `weight` times the sum of the cross-entropies of its images' pixels over `num_pixels`."""

    name: Literal["labeled", "unlabeled"]
    images: Tensor  # uint8 [B, 3, H, W]
    targets: Tensor  # uint8 [B, H, W], class index or IGNORE_INDEX
    rows: Sequence[int]
    """Places of the images among all views of the whole batch: dropout is drawn by place."""
    num_pixels: Tensor  # int64 []
    weight: float = 1.0
    channel_masks: Sequence[Tensor] | None = None  # float [B, D, 1, 1] for each feature map


class Objective(NamedTuple):
    """The weighted sum of loss terms that a step minimises."""

    terms: Sequence[Term]
    confident: Tensor | None = None
    """float32 [], share of the unlabeled images' real pixels whose online pseudo-label is confident."""
    extra: Mapping[str, Any] = MappingProxyType({})
    """Arguments of the network besides images and channel masks."""
    is_pooled: bool = False
    """Whether the terms share one mean over the pixels of all of them."""
    hard: HardPixels | None = None
    """Which pixels of the labeled term, the first one, count. Default: all that have a class."""

    def images(self) -> Tensor:
        """uint8 [B, 3, H, W], all terms one after the other: one pass of the network."""
        return torch.cat([term.images for term in self.terms])

    def targets(self) -> Tensor:
        """uint8 [B, H, W], of `images`."""
        return torch.cat([term.targets for term in self.terms])

    def rows(self) -> list[int]:
        """Places of `images`."""
        return [row for term in self.terms for row in term.rows]

    def sizes(self) -> list[int]:
        """Number of images of each term."""
        return [len(term.images) for term in self.terms]

    def arguments(self) -> dict[str, Any]:
        """Arguments of the network besides the images."""
        masks = [term.channel_masks for term in self.terms if term.channel_masks is not None]
        if not masks:
            return dict(self.extra)
        ones = [mask.new_ones((1, *mask.shape[1:])) for mask in masks[0]]
        by_term = [
            term.channel_masks or [one.expand(len(term.images), -1, -1, -1) for one in ones] for term in self.terms
        ]
        return {**self.extra, "channel_masks": [torch.cat(level) for level in zip(*by_term, strict=True)]}


def term(
    name: Literal["labeled", "unlabeled"], views: Views, images: Tensor, targets: Tensor, view: int = 0, **more: Any
) -> Term:
    """The term of some images' view number `view`; by default the mean over their pixels that have a class."""
    return Term(name, images, targets, views.rows(view), **{"num_pixels": num_with_class(targets), **more})


def num_pixels(objectives: Sequence[Objective]) -> Tensor:
    """int64 [T]: the divisor of each term, counted over the objectives of all micro-batches of a step."""
    counts = torch.stack([torch.stack([term.num_pixels for term in one.terms]) for one in objectives]).sum(dim=0)
    # contiguous: processes add it up in place
    return counts.sum().expand_as(counts).contiguous() if objectives[0].is_pooled else counts


def hard_objective(objective: Objective, logits: Tensor) -> Objective:
    """The objective without the labeled pixels that are easy among those of every process.

    logits: float [B, K, h, w] of the objective's images, which are all of this process's
    """
    if objective.hard is None:
        return objective
    first, *others = objective.terms
    probabilities = true_class_probabilities(logits[: len(first.images)], first.targets)
    num_others = len(logits) - len(first.images)  # processes may have different numbers of labeled images
    everyone = gathered(functional.pad(probabilities, (0, 0, 0, 0, 0, num_others), value=torch.inf))
    # written so that NaN counts as hard: the loss must show it
    targets = first.targets.masked_fill(probabilities > hardness_limit(everyone, objective.hard), IGNORE_INDEX)
    return objective._replace(terms=[first._replace(targets=targets, num_pixels=num_with_class(targets)), *others])


def term_losses(objective: Objective, logits: Tensor, num_pixels: Tensor) -> Tensor:
    """float32 [T]: each term's sum of cross-entropies over the pixels of the whole step; 0 if those are none.

    logits: float [B, K, h, w] of the objective's images
    """
    sums = torch.split(summed_cross_entropy(logits, objective.targets()), objective.sizes())
    return torch.stack([one.sum() for one in sums]) / num_pixels.clamp(min=1)


def step_losses(objective: Objective, logits: Tensor, num_pixels_of_step: Tensor) -> Tensor:
    """float32 [T]: as `term_losses`, with the hard pixels alone if the objective has `hard`; all processes call it.

    logits: float [B, K, h, w] of the objective's images
    """
    if objective.hard is None:
        return term_losses(objective, logits, num_pixels_of_step)
    hard = hard_objective(objective, logits.detach())
    return term_losses(hard, logits, summed(num_pixels([hard])))
