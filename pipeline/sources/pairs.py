"""Do a list of labeled and a list of unlabeled images belong together, or are training images lost between them?"""

from __future__ import annotations

import logging
from collections.abc import Collection, Mapping
from typing import NamedTuple

from pipeline.settings import SplitSettings
from pipeline.sources.published import KNOWN, Split, fingerprint

log = logging.getLogger(__name__)


class Loss(NamedTuple):
    """Training images that are in neither list."""

    num_lost: int
    num_training: int


def pair_problems(splits: SplitSettings, ids: Mapping[str, Collection[str]], known: Collection[str]) -> list[str]:
    """What is wrong with two lists that leave training images out; nothing where only one of them is given.

    Lists of two different splits look right, but whatever only the other splits' lists hold takes no part.

    ids:   of the lists that the settings or the layout name
    known: ids of all images
    """
    if splits.labeled is None or splits.unlabeled is None or splits.partial:
        return []
    labeled, unlabeled = set(ids["labeled"]), set(ids["unlabeled"])
    split = next((one for one in KNOWN if one.num_unlabeled and one.fingerprint == fingerprint(labeled)), None)
    losses = [_of_train(ids, labeled | unlabeled), _of_published(split, labeled | unlabeled)]
    loss = max((one for one in losses if one is not None), default=None)
    if loss is None:
        without = set(known).difference(labeled, unlabeled, ids.get("val", ()))
        if without:
            log.info("%d images are in no list and take no part, e.g. %s", len(without), min(without))
        return []
    if loss.num_lost <= 0:
        return []
    published = f": the published split {split.name}, {split.num_unlabeled} others" if split is not None else ""
    return [
        f"{loss.num_lost} of the {loss.num_training} training images are neither in data.splits.labeled "
        f"({splits.labeled}, {len(labeled)} images{published}) nor in data.splits.unlabeled ({splits.unlabeled}, "
        f"{len(unlabeled)} images); take both lists from one split, or remove data.splits.unlabeled (the others are "
        "unlabeled then), or set data.splits.partial: true to leave images out"
    ]


def _of_train(ids: Mapping[str, Collection[str]], given: Collection[str]) -> Loss | None:
    if "train" not in ids:
        return None
    train = set(ids["train"])
    return Loss(len(train.difference(given, ids.get("val", ()))), len(train))


def _of_published(split: Split | None, given: Collection[str]) -> Loss | None:
    if split is None:
        return None
    num_training = split.num_labeled + split.num_unlabeled
    return Loss(num_training - len(given), num_training)
