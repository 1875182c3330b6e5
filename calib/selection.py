"""Which images to label next: those whose labels lack most, unlike each other and unlike the labeled ones.

An image is worth labeling for the pixels that have no label or a doubtful one. mIoU gives every class the same weight,
so a pixel of a rare class counts more. Images that resemble each other teach the same, so a set is chosen in which
every doubtful image has one that resembles it: facility location, weighted by doubt, among the most doubtful images
(filtered active submodular selection: Wei, Iyer and Bilmes 2015, "Submodularity in data subset selection and active
learning", ICML). The greedy choice has at least 1 - 1/e of the largest possible value (Nemhauser, Wolsey and Fisher
1978).

Images that were chosen are no random sample. Thresholds that they help to compute are not exchangeable with other
images, so the guarantees of conformal prediction do not hold for them.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from calib.planes import Planes, most_probable

BLOCKS = 4  # an image's appearance is the mean colour of 4 x 4 blocks
CANDIDATES = 3  # for each image to choose: the most doubtful images, among which the choice is made
MAX_FOR_SCALE = 2000  # images whose distances are compared to find a typical one

Floats = npt.NDArray[np.float64]


class Doubt(NamedTuple):
    """Pixels of one image by their most probable class.

    pixels:    int64 [K], all of them
    unlabeled: int64 [K], those without a label
    doubt:     float64 [K], sum of 1 - P(most probable class) over the pixels with a label: how many of these labels are
               wrong, if the probabilities are right
    """

    pixels: npt.NDArray[np.int64]
    unlabeled: npt.NDArray[np.int64]
    doubt: Floats


def count_doubt(label: npt.NDArray[np.float32], planes: Planes, background: int | None, num_classes: int) -> Doubt:
    """Count the pixels of an image whose label is missing or doubtful.

    label:      float32 [H, W], class index, NaN = abstain
    planes:     of the image, from `class_planes`
    background: index of the background class, None if there is none
    """
    best, probability = (plane.ravel() for plane in most_probable(planes, background))
    abstains = np.isnan(label).ravel()
    doubt = np.where(abstains, 0.0, 1.0 - probability.astype(np.float64))
    return Doubt(
        np.bincount(best, minlength=num_classes),
        np.bincount(best[abstains], minlength=num_classes),
        np.bincount(best, weights=doubt, minlength=num_classes).astype(np.float64),
    )


def expected_gain(images: Sequence[Doubt]) -> Floats:
    """float64 [N]: about how much mIoU, as a fraction, the labels of all images lack because of each image.

    The doubtful pixels of a class are divided by the area of that class in all images. One image's area is added to it,
    so that a class that is hardly ever found does not decide alone.
    """
    pixels = np.stack([image.pixels for image in images])
    doubt = np.stack([image.unlabeled + image.doubt for image in images])
    area = pixels.sum(axis=0) + pixels.sum(axis=1).mean()
    gain: Floats = (doubt / area).mean(axis=1)
    return gain


def features(image: npt.NDArray[np.uint8], pixels: npt.NDArray[np.integer]) -> tuple[Floats, Floats]:
    """What an image shows and how it looks.

    image:   uint8 [H, W, 3], at least BLOCKS pixels high and wide
    pixels:  integer [K], pixels by most probable class
    returns: float64 [K], square roots of the fractions of the classes, whose Euclidean distance is Hellinger's up to a
             factor; float64 [BLOCKS^2 * 3] in [0, 1], mean colours of the blocks of the image
    """
    rows, columns = (np.linspace(0, side, BLOCKS + 1).astype(int)[:-1] for side in image.shape[:2])
    sums = np.add.reduceat(np.add.reduceat(image.astype(np.float64), rows, axis=0), columns, axis=1)
    sizes = [np.diff([*starts, side]) for starts, side in zip((rows, columns), image.shape[:2], strict=True)]
    means = sums / np.outer(*sizes)[..., np.newaxis] / 255
    return np.sqrt(pixels / max(1, pixels.sum())), means.ravel()


class Choice(NamedTuple):
    """Chosen images, in the order of the choice.

    images:     int64 [M], indices
    represents: int64 [M], number of images that resemble no other chosen or labeled image more; itself is one
    """

    images: npt.NDArray[np.int64]
    represents: npt.NDArray[np.int64]


def choose_images(gain: Floats, images: Sequence[Floats], labeled: Sequence[Floats], count: int) -> Choice:
    """Choose images such that doubtful images resemble a chosen or a labeled one.

    The choice is made among the images of the largest gain, CANDIDATES for each one to choose. It maximises the sum
    over all images of gain times the similarity to the most similar image that is chosen or labeled, greedily.
    Similarity is exp(-d), with d the squared distance, relative to its median, averaged over the kinds of features.

    gain:    float64 [N], of images without a mask
    images:  for each kind of features float64 [N, D]
    labeled: the same kinds, float64 [L, D], of images with a mask; L may be 0
    count:   number of images to choose; all are chosen if there are fewer
    """
    candidates = np.sort(np.argsort(-gain, kind="stable")[: CANDIDATES * count])
    similar = _similarity(images, [kind[candidates] for kind in images])  # [N, M]
    known = _similarity(images, labeled).max(axis=1, initial=0.0)
    nearest, best = np.full(len(gain), -1), known.copy()
    chosen: list[int] = []
    for _ in range(min(count, len(candidates))):
        value = gain @ np.maximum(similar - best[:, np.newaxis], 0)
        value[chosen] = -1
        one = int(value.argmax())
        is_nearer = similar[:, one] > best
        nearest[is_nearer], best[is_nearer] = len(chosen), similar[is_nearer, one]
        chosen.append(one)
    represents = np.bincount(nearest[nearest >= 0], minlength=len(chosen))
    return Choice(candidates[chosen], represents)


def _similarity(images: Sequence[Floats], others: Sequence[Floats]) -> Floats:
    """float64 [N, M] in (0, 1] of N images and M others, both as kinds of features."""
    distance = np.zeros((len(images[0]), len(others[0])))
    for kind, of_others in zip(images, others, strict=True):
        distance += _squared_distance(kind, of_others) / _typical_distance(kind)
    similarity: Floats = np.exp(-distance / len(images))
    return similarity


def _typical_distance(kind: Floats) -> float:
    """Median of the squared distances between at most MAX_FOR_SCALE of the images; 1 if they are all alike."""
    some = kind[:: -(-len(kind) // MAX_FOR_SCALE)]
    between = _squared_distance(some, some)[np.triu_indices(len(some), 1)]
    return float(np.median(between)) or 1.0 if between.size else 1.0


def _squared_distance(first: Floats, second: Floats) -> Floats:
    """float64 [N, M] of [N, D] and [M, D]."""
    distance: Floats = (first**2).sum(axis=1)[:, None] + (second**2).sum(axis=1) - 2 * first @ second.T
    return np.maximum(distance, 0)
