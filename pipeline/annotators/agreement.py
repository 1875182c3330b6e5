"""Compares the argmax of maps with masks: a class map that names wrong channels shows in a few labeled images.

Pixels of one image are not independent, so images are counted, not pixels; of images in groups (`data.groups`), groups
are counted like images. An image *shows* a class if at least 2 % of
its labeled pixels have it, and the annotator *finds* the class there if it gives the class to at least 5 % of those
pixels. Classes without a prompt or channel cannot be found and are left out. Each of three rules refuses with a
probability of at most 1 % an annotator that is sound in its sense, if the images are independent:

never    A class is found in none of the n images that show it, and n is at least log2(K / 1 %) for K classes. Sound:
         every class is found in at least half of the images that show it, so that n misses have a probability of at
         most 2^-n, which is at most 1 % / K.
swapped  Most images that show a are labeled b rather than a, and most that show b are labeled a rather than b, each by
         a sign test at 1 % / number of pairs; and b has at least twice as many pixels of a as a has, and vice versa.
         Sound: for each pair, one of the two directions is right in at least half of the images.
worse    The mean recall of the classes that an image shows is on average below 1 / their number, which one class
         everywhere has, and is below it in most images by a sign test at 1 %. Sound: as good as one class in at least
         half of the images. (Accuracy by pixels would refuse sound annotators of rare classes.)

With fewer than 16 images nothing is refused: the signs are warnings.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from itertools import combinations
from typing import Any, Literal, NamedTuple

import numpy as np
import numpy.typing as npt

from pipeline.datasets import IGNORE_INDEX, resize_nearest

SHOWN = 0.02  # of the labeled pixels of an image
FOUND = 0.05  # of the pixels of a class in an image
MOST_REFUSED = 0.01  # probability that a rule refuses a sound annotator
MUCH = 2  # times as many pixels have the wrong class as the right one
MIN_IMAGES = 16  # to refuse an annotator
MIN_MISSES = 3  # images; fewer misses of a class are not even logged
MOST_NAMED = 3  # classes that the pixels of a class are labeled with, in a message

Counts = npt.NDArray[np.int64]
Level = Literal["error", "warning"]


class Doubt(NamedTuple):
    """A sign of a wrong class map. error: sound annotators hardly ever show it; warning: too few images to be sure."""

    level: Level
    text: str


def confusion(truth: npt.NDArray[np.uint8], maps: npt.NDArray[Any]) -> Counts:
    """int64 [K, K], pixels of one image that have a true class: rows = true class, columns = class of the largest map.

    truth: uint8 [H, W], class index, IGNORE_INDEX = void; resized to the maps
    maps:  [K, h, w], logits or probabilities, also as they are stored
    """
    num_classes = len(maps)
    mask = resize_nearest(truth, maps.shape[-2:])
    is_valid = mask != IGNORE_INDEX
    cells = mask[is_valid].astype(np.int64) * num_classes + maps.argmax(axis=0)[is_valid]
    return np.bincount(cells, minlength=num_classes**2).reshape(num_classes, num_classes)


def shown_classes(pixels: Counts) -> npt.NDArray[np.bool_]:
    """bool [..., K]: whether an image shows a class. pixels: int64 [..., K], pixels by true class"""
    return (pixels > 0) & (_fraction(pixels, pixels.sum(axis=-1, keepdims=True)) >= SHOWN)


def num_needed(num_classes: int) -> int:
    """Number of images that must show a class before every rule can refuse an annotator of that many classes."""
    return math.ceil(math.log2(max(num_classes, _num_pairs(num_classes), 1) / MOST_REFUSED))


def doubts(confusions: Counts, names: Sequence[str], left_out: Sequence[str] = (), noun: str = "image") -> list[Doubt]:
    """Signs of a wrong class map, errors first.

    confusions: int64 [N, K, K], of N labeled images, as `confusion` returns them; or sums over each of N groups
    names:      names of the K classes
    left_out:   names of the classes without a prompt or channel
    noun:       what the N are, for the messages
    """
    classes = [k for k, name in enumerate(names) if name not in left_out]
    found = [
        *_never_found(confusions, names, classes, noun),
        *_swapped(confusions, names, classes, noun),
        *_worse_than_one_class(confusions, classes, noun),
    ]
    if len(confusions) < MIN_IMAGES:
        found = [doubt._replace(level="warning") for doubt in found]
    return sorted(found, key=lambda doubt: doubt.level)


def _never_found(confusions: Counts, names: Sequence[str], classes: Sequence[int], noun: str) -> Iterator[Doubt]:
    pixels = confusions.sum(axis=2)
    shown = shown_classes(pixels)
    enough = math.ceil(math.log2(max(len(classes), 1) / MOST_REFUSED))
    for k in classes:
        shows = confusions[shown[:, k], k]  # [n, K]
        is_found = _fraction(shows[:, k], pixels[shown[:, k], k]) >= FOUND
        if is_found.any() or len(shows) < MIN_MISSES:
            continue
        level: Level = "error" if len(shows) >= enough else "warning"
        yield Doubt(
            level,
            f"{names[k]} is found in none of the {len(shows)} labeled {noun}s that show it "
            f"(its pixels are labeled {_labeled_with(shows.sum(axis=0), names)})",
        )


def _swapped(confusions: Counts, names: Sequence[str], classes: Sequence[int], noun: str) -> Iterator[Doubt]:
    shown = shown_classes(confusions.sum(axis=2))
    most = MOST_REFUSED / max(_num_pairs(len(classes)), 1)
    for a, b in combinations(classes, 2):
        directions = [_direction(confusions[shown[:, true], true], true, other) for true, other in ((a, b), (b, a))]
        if not all(one.is_much for one in directions):
            continue
        is_sure = all(sign_test(one.num_wrong, one.num_decided) <= most for one in directions)
        is_complete = all(one.num_wrong == one.num_decided >= MIN_MISSES for one in directions)
        if is_sure or is_complete:
            counts = " and ".join(f"in {one.num_wrong} of {one.num_decided} {noun}s" for one in directions)
            yield Doubt(
                "error" if is_sure else "warning",
                f"{names[a]} and {names[b]} look swapped (pixels of each are mostly labeled as the other, {counts})",
            )


class Direction(NamedTuple):
    """Images in which the pixels of a class are labeled with it or with another class, in different numbers."""

    num_wrong: int
    num_decided: int
    is_much: bool


def _direction(rows: Counts, true: int, other: int) -> Direction:
    """rows: int64 [n, K], pixels of the class `true` by predicted class, in the images that show it"""
    right, wrong = rows[:, true], rows[:, other]
    is_much = bool(wrong.sum() > 0 and wrong.sum() >= MUCH * right.sum())
    return Direction(int((wrong > right).sum()), int((wrong != right).sum()), is_much)


def _worse_than_one_class(confusions: Counts, classes: Sequence[int], noun: str) -> Iterator[Doubt]:
    pixels = confusions.sum(axis=2)
    shown = shown_classes(pixels)[:, classes]
    right = np.diagonal(confusions, axis1=1, axis2=2)[:, classes]
    recall = np.where(shown, _fraction(right, pixels[:, classes]), 0)
    number = shown.sum(axis=1)
    has_several = number > 1
    mean_recall = recall[has_several].sum(axis=1) / number[has_several]
    one_class = 1 / number[has_several]
    gain = np.round(mean_recall - one_class, 9)  # one class everywhere has a gain of exactly 0
    num_worse, num_decided = int((gain < 0).sum()), int((gain != 0).sum())
    if num_decided and gain.mean() < 0 and sign_test(num_worse, num_decided) <= MOST_REFUSED:
        yield Doubt(
            "error",
            f"the argmax is worse than one class for all pixels in {num_worse} of {num_decided} labeled {noun}s "
            f"(mean recall of the classes in each {mean_recall.mean():.2f}, of one class {one_class.mean():.2f})",
        )


def sign_test(num_wrong: int, num: int) -> float:
    """Probability that `num` fair coins show heads at least `num_wrong` times."""
    return float(sum(math.comb(num, k) for k in range(num_wrong, num + 1)) / 2**num)


def _fraction(part: Counts, whole: Counts) -> npt.NDArray[np.float64]:
    """`part` / `whole`, 0 where `whole` is 0."""
    return part / np.maximum(whole, 1)


def _num_pairs(num_classes: int) -> int:
    return num_classes * (num_classes - 1) // 2


def _labeled_with(row: Counts, names: Sequence[str]) -> str:
    """The most frequent predictions of the pixels of a class. row: int64 [K]"""
    most = [k for k in np.argsort(-row, kind="stable")[:MOST_NAMED] if row[k]]
    return ", ".join(f"{names[k]} {100 * row[k] / row.sum():.0f} %" for k in most)
