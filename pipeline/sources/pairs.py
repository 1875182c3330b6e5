"""Checks that the lists of labeled and of unlabeled images belong to the same split, so that no image is left out."""

from __future__ import annotations

import logging
from collections.abc import Collection, Mapping
from typing import NamedTuple

from pipeline.settings import SplitSettings
from pipeline.sources.published import KNOWN, Split, fingerprint

log = logging.getLogger(__name__)


class LeftOut(NamedTuple):
    """Counts of the training images that are in neither list, and of all training images."""

    num_left_out: int
    num_training: int


def pair_problems(splits: SplitSettings, ids: Mapping[str, Collection[str]], known: Collection[str]) -> list[str]:
    """A message if the two lists leave training images out; [] if they do not, or if only one list is given.

    Two lists of different splits can look right, but together they leave images out.

    ids:   ids in the lists that the settings or the layout name, by name of the list
    known: ids of all images
    """
    if splits.labeled is None or splits.unlabeled is None or splits.partial:
        return []
    labeled, unlabeled = set(ids["labeled"]), set(ids["unlabeled"])
    of_labeled = fingerprint(labeled)
    split = next((s for s in KNOWN if s.num_unlabeled and s.fingerprint == of_labeled), None)
    counts = [_left_out_of_train(ids, labeled | unlabeled), _left_out_of_split(split, labeled | unlabeled)]
    left_out = max((count for count in counts if count is not None), default=None)
    if left_out is None:
        in_no_list = set(known).difference(labeled, unlabeled, ids.get("val", ()))
        if in_no_list:
            log.info("%d images are in no list and are not used, e.g. %s", len(in_no_list), min(in_no_list))
        return []
    if left_out.num_left_out <= 0:
        return []
    published = f": the published split {split.name}, {split.num_unlabeled} others" if split is not None else ""
    return [
        f"{left_out.num_left_out} of the {left_out.num_training} training images are neither in data.splits.labeled "
        f"({splits.labeled}, {len(labeled)} images{published}) nor in data.splits.unlabeled ({splits.unlabeled}, "
        f"{len(unlabeled)} images); use both lists of one split, or remove data.splits.unlabeled (all other images are "
        "then unlabeled), or set data.splits.partial: true to leave images out"
    ]


def _left_out_of_train(ids: Mapping[str, Collection[str]], listed: Collection[str]) -> LeftOut | None:
    """Compared with the list of all training images, if there is one."""
    if "train" not in ids:
        return None
    train = set(ids["train"])
    return LeftOut(len(train.difference(listed, ids.get("val", ()))), len(train))


def _left_out_of_split(split: Split | None, listed: Collection[str]) -> LeftOut | None:
    """Compared with the number of images of the published split, if the labeled images are one."""
    if split is None:
        return None
    num_training = split.num_labeled + split.num_unlabeled
    return LeftOut(num_training - len(listed), num_training)
