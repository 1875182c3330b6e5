"""What the rules need of a probability map: a few planes, in which the classes are reduced (paper Eq. 4).

The prediction set of a pixel contains class j if 1 - P_j <= q. So it contains a foreground class if and only if it
contains the most probable foreground class. Three probabilities per pixel (best and second-best foreground class,
background) determine the label of every rule at every threshold.
"""

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from calib.compiled import compiled

TILE = 32768  # locations processed together, so that what is computed from them stays in the cache
PIXELS = 2048  # the same in a compiled loop over classes and pixels


class Planes(NamedTuple):
    """What the rules need of a probability map; every plane is [H, W].

    best_foreground: uint8, most probable foreground class, the lowest index among equals
    p_foreground:    float32 in [0, 1], its probability
    p_second:        float32 in [0, 1], second largest probability of a foreground class; NaN if there is only one
                     foreground class (a probability of 0 would be in the set at q = 1)
    p_background:    float32 in [0, 1], probability of the background; None without a background class
    """

    best_foreground: npt.NDArray[np.uint8]
    p_foreground: npt.NDArray[np.float32]
    p_second: npt.NDArray[np.float32]
    p_background: npt.NDArray[np.float32] | None

    def of(self, chosen: slice | npt.NDArray[np.bool_]) -> "Planes":
        """The planes of some of the rows, or of some of the pixels. chosen: rows, or bool [H, W]"""
        return Planes(*(None if plane is None else plane[chosen] for plane in self))  # type: ignore[arg-type]


def class_planes(probabilities: npt.NDArray[np.float32], background: int | None) -> Planes:
    """Reduce a probability map to the planes that the rules need, in one pass over the classes.

    Classes are ordered by P and not by 1 - P, because 1 - P rounds different small probabilities to the same float32.

    probabilities: float32 [K, H, W] in [0, 1], K <= 255, with at least one foreground class
    background:    index of the background class, None if there is none
    raises:        ValueError if a probability is NaN or +inf, which is an error of the annotator
    """
    num_classes, height, width = probabilities.shape
    foreground = np.array([index for index in range(num_classes) if index != background], np.uint8)
    flat = np.ascontiguousarray(probabilities).reshape(num_classes, height * width)
    best = np.empty(height * width, dtype=np.uint8)
    first, second = np.empty((2, height * width), dtype=np.float32)
    is_broken = _reduce(flat, foreground, best, first, second)
    p_background = None if background is None else flat[background].astype(np.float32).reshape(height, width)
    if is_broken or (p_background is not None and not (p_background < np.inf).all()):
        # -inf is allowed: it marks a class that is not in the prediction set
        num_broken = np.count_nonzero(~(flat < np.inf).all(axis=0))
        raise ValueError(f"the probabilities are NaN or infinite at {num_broken} of {flat.shape[1]} pixels")
    shape = height, width
    return Planes(best.reshape(shape), first.reshape(shape), second.reshape(shape), p_background)


def row_tiles(shape: tuple[int, ...]) -> Iterator[slice]:
    """The rows of a map in slices of about TILE pixels, top to bottom. shape: H and W"""
    height, width = shape
    step = max(1, TILE // width)
    return (slice(start, min(start + step, height)) for start in range(0, height, step))


def stack_planes(strips: Sequence[Planes]) -> Planes:
    """The planes of a map from those of its strips of rows, [h, W] each, top to bottom."""
    best, first, second = (np.concatenate(planes) for planes in list(zip(*strips, strict=True))[:3])
    background = [strip.p_background for strip in strips if strip.p_background is not None]
    return Planes(best, first, second, np.concatenate(background) if background else None)


def most_probable(planes: Planes, background: int | None) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.float32]]:
    """The most probable class, uint8 [H, W], the lowest index among equals; and its probability, float32 [H, W].

    planes:     from `class_planes`
    background: index of the background class, None if there is none
    """
    if planes.p_background is None or background is None:
        return planes.best_foreground, planes.p_foreground
    background_wins = background_is_best(planes, background)
    best = np.where(background_wins, np.uint8(background), planes.best_foreground)
    return best, np.maximum(planes.p_foreground, planes.p_background)


def background_is_best(planes: Planes, background: int | None) -> npt.NDArray[np.bool_]:
    """Whether the background is the most probable class, bool [H, W]; of equal classes the lowest index is."""
    if planes.p_background is None or background is None:
        return np.zeros(planes.p_foreground.shape, dtype=np.bool_)
    ahead = planes.p_background > planes.p_foreground
    ahead |= (planes.p_background == planes.p_foreground) & (background < planes.best_foreground)
    return ahead


FlatPlanes = tuple[npt.NDArray[np.uint8], npt.NDArray[np.float32], npt.NDArray[np.float32], npt.NDArray[np.float32]]


def flat_planes(planes: Planes) -> FlatPlanes:
    """The planes as compiled loops take them: [P] each, and zeros for the background if there is none."""
    p_background = np.zeros_like(planes.p_second) if planes.p_background is None else planes.p_background
    return planes.best_foreground.ravel(), planes.p_foreground.ravel(), planes.p_second.ravel(), p_background.ravel()


@compiled
def _reduce(
    flat: npt.NDArray[np.float32],
    foreground: npt.NDArray[np.uint8],
    best: npt.NDArray[np.uint8],
    first: npt.NDArray[np.float32],
    second: npt.NDArray[np.float32],
) -> bool:
    """Fill best, first and second [P] from flat [K, P]; returns whether a probability is NaN or +inf."""
    is_broken = False
    best_of = np.empty(PIXELS, np.int32)  # as wide as a probability, so that one instruction chooses among many of both
    for start in range(0, flat.shape[1], PIXELS):
        stop = min(start + PIXELS, flat.shape[1])
        first_of, second_of = first[start:stop], second[start:stop]
        first_of[:], second_of[:], best_of[:] = -np.inf, -np.inf if len(foreground) > 1 else np.nan, foreground[0]
        for index in foreground:
            row, candidate = flat[index, start:stop], np.int32(index)
            for i in range(len(row)):
                best_of[i] = candidate if row[i] > first_of[i] else best_of[i]
                is_broken |= not row[i] < np.inf
            for i in range(len(row)):
                value, largest, next_largest = row[i], first_of[i], second_of[i]
                first_of[i] = value if value > largest else largest
                lower = largest if value > largest else value
                second_of[i] = lower if lower > next_largest else next_largest
        best[start:stop] = best_of[: stop - start]
    return is_broken
