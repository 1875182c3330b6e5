"""The training objective of a batch: the images, targets and weight of each loss term.

The two stages and all recipes differ only in the objective that they build from a batch.
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
from train.losses import (
    num_with_class,
    num_with_set,
    summed_cross_entropy,
    summed_partial_loss,
    true_class_probabilities,
)
from train.machine.processes import gathered, summed
from train.views import Views


class Term(NamedTuple):
    """One loss term: `weight` times the sum of the cross-entropies of its images' pixels, divided by `num_pixels`."""

    name: Literal["labeled", "unlabeled"]
    images: Tensor  # uint8 [B, 3, H, W]
    targets: Tensor  # uint8 [B, H, W], class index or IGNORE_INDEX
    rows: Sequence[int]
    """Rows of the images among all views of the whole batch, for dropout (`Views.rows`)."""
    num_pixels: Tensor  # int64 []
    weight: float = 1.0
    channel_masks: Sequence[Tensor] | None = None  # float [B, D, 1, 1] for each feature map


class SetTerm(NamedTuple):
    """The loss of prediction sets: `weight` times the sum of their partial-label losses, divided by their number."""

    sets: Tensor  # uint8 [B, bytes, H, W] of the images of the objective's last term, 0 where a pixel has no set
    weight: float


class Objective(NamedTuple):
    """The weighted sum of loss terms that a step minimises."""

    terms: Sequence[Term]
    confident: Tensor | None = None
    """float32 [] in [0, 1], fraction of the unlabeled images' real pixels whose online pseudo-label is confident."""
    extra: Mapping[str, Any] = MappingProxyType({})
    """Arguments of the network besides the images and the channel masks."""
    is_pooled: bool = False
    """Whether the loss is one mean over the pixels of all terms together, instead of a mean per term."""
    hard: HardPixels | None = None
    """Selection of the hard pixels of the first term, the labeled one. None: all pixels that have a class count."""
    sets: SetTerm | None = None
    """Loss of the pixels of the last term's images that have a prediction set instead of a class."""

    def images(self) -> Tensor:
        """The images of all terms, one after the other: uint8 [B, 3, H, W] RGB. The network takes them in one pass."""
        return torch.cat([term.images for term in self.terms])

    def targets(self) -> Tensor:
        """The targets of `images`: uint8 [B, H, W], class index or IGNORE_INDEX."""
        return torch.cat([term.targets for term in self.terms])

    def rows(self) -> list[int]:
        """The rows of `images`, for dropout."""
        return [row for term in self.terms for row in term.rows]

    def weights(self) -> list[float]:
        """The weights of the losses of `term_losses`."""
        return [term.weight for term in self.terms] + ([] if self.sets is None else [self.sets.weight])

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
    """The loss term of view number `view` of some images; by default the mean over their pixels that have a class.

    images:  uint8 [B, 3, H, W] RGB
    targets: uint8 [B, H, W], class index or IGNORE_INDEX
    more:    further fields of Term
    """
    return Term(name, images, targets, views.rows(view), **{"num_pixels": num_with_class(targets), **more})


def num_pixels(objectives: Sequence[Objective]) -> Tensor:
    """The divisor of each loss, counted over the objectives of all micro-batches of a step: int64 [T].

    The sets, which come last, have their own mean, also if the terms are pooled.
    """
    counts = torch.stack([torch.stack([term.num_pixels for term in one.terms]) for one in objectives]).sum(dim=0)
    # contiguous, because the all-reduce over the processes is done in place
    counts = counts.sum().expand_as(counts).contiguous() if objectives[0].is_pooled else counts
    num_sets = [num_with_set(one.sets.sets) for one in objectives if one.sets is not None]
    return torch.cat([counts, torch.stack(num_sets).sum()[None]]) if num_sets else counts


def hard_objective(objective: Objective, logits: Tensor) -> Objective:
    """The objective without its easy labeled pixels; easy and hard are decided over the pixels of all processes.

    logits: float [B, K, h, w] of the objective's images, which must be all images of this process
    """
    if objective.hard is None:
        return objective
    first, *others = objective.terms
    probabilities = true_class_probabilities(logits[: len(first.images)], first.targets)
    num_others = len(logits) - len(first.images)  # processes may have different numbers of labeled images
    everyone = gathered(functional.pad(probabilities, (0, 0, 0, 0, 0, num_others), value=torch.inf))
    # This comparison treats NaN as hard, so that the loss becomes NaN and training stops.
    targets = first.targets.masked_fill(probabilities > hardness_limit(everyone, objective.hard), IGNORE_INDEX)
    return objective._replace(terms=[first._replace(targets=targets, num_pixels=num_with_class(targets)), *others])


def term_losses(objective: Objective, logits: Tensor, num_pixels: Tensor) -> Tensor:
    """The loss of each term and then of the sets, if there are any, without its weight: float32 [T].

    The loss is 0 for a term without pixels.

    logits:     float [B, K, h, w] of the objective's images
    num_pixels: int64 [T], divisors of the terms and of the sets over the whole step
    """
    sums = list(torch.split(summed_cross_entropy(logits, objective.targets()), objective.sizes()))
    if objective.sets is not None:
        sets = objective.sets.sets
        sums.append(summed_partial_loss(logits[len(logits) - len(sets) :], sets))
    return torch.stack([one.sum() for one in sums]) / num_pixels.clamp(min=1)


def step_losses(objective: Objective, logits: Tensor, num_pixels_of_step: Tensor) -> Tensor:
    """The losses of `term_losses`, over the hard pixels alone if the objective has `hard`: float32 [T].

    All processes must call it, because hard pixels are compared over all of them.

    logits:             float [B, K, h, w] of the objective's images
    num_pixels_of_step: int64 [T], divisors of the terms over the whole step
    """
    if objective.hard is None:
        return term_losses(objective, logits, num_pixels_of_step)
    hard = hard_objective(objective, logits.detach())
    return term_losses(hard, logits, summed(num_pixels([hard])))
