"""Units of images: images that are not independent of each other, such as the frames of a video, form one unit.

Whatever is said about new images rests on independent observations. Frames of a video, slices of a patient and tiles of
a scene are not independent, but videos, patients and scenes may be. All functions that divide or resample images take
the unit of each image, and never divide a unit. Without units each image is its own: `each_alone`.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

Units = npt.NDArray[np.int64]
"""int64 [L], the unit of each image: 0, 1, ... in the order in which they first appear."""


def each_alone(num_images: int) -> Units:
    """Each image is its own unit."""
    return np.arange(num_images)


def number_units(names: Sequence[Any]) -> Units:
    """The unit of each image, from a name of it for each image; equal names are one unit. names: hashable, [L]"""
    number: dict[Any, int] = {}
    return np.array([number.setdefault(name, len(number)) for name in names], np.int64)


def num_units(unit_of_image: npt.NDArray[np.integer]) -> int:
    """Number of units. unit_of_image: integer [L], of all images or of some of them"""
    return len(np.unique(unit_of_image))


def assign_folds(unit_of_image: npt.NDArray[np.integer], folds: int) -> npt.NDArray[np.int64]:
    """The fold of each image. All images of a unit are in one fold, and folds have similar numbers of images.

    The largest unit is assigned first, each to the fold with the fewest images so far (longest processing time first:
    Graham 1969, "Bounds on multiprocessing timing anomalies"); ties go to the earlier unit and to the earlier fold. If
    each image is its own unit, image i is in fold i mod folds.

    unit_of_image: integer [L]
    returns:       int64 [L], in 0..folds - 1; every fold has an image
    raises:        ValueError unless 2 <= folds <= number of units
    """
    _, first, unit, size = np.unique(unit_of_image, return_index=True, return_inverse=True, return_counts=True)
    if not 2 <= folds <= len(size):
        raise ValueError(f"folds must be between 2 and the number of units ({len(size)}), got {folds}")
    fold_of_unit, filled = np.empty(len(size), np.int64), np.zeros(folds, np.int64)
    for one in np.lexsort((first, -size)):
        fold_of_unit[one] = filled.argmin()
        filled[fold_of_unit[one]] += size[one]
    return fold_of_unit[unit]


def bootstrap_weights(
    unit_of_image: npt.NDArray[np.integer], num_resamples: int, rng: np.random.Generator
) -> npt.NDArray[np.float64]:
    """How often each image is drawn in each bootstrap sample of the units: float64 [num_resamples, L].

    Units are drawn with replacement, as many as there are, with all their images (the cluster bootstrap: Davison and
    Hinkley 1997, "Bootstrap Methods and their Application", section 3.8; of units that are drawn whole, nothing is
    resampled inside).
    """
    units, unit = np.unique(unit_of_image, return_inverse=True)
    drawn = rng.multinomial(len(units), np.full(len(units), 1 / len(units)), size=num_resamples)
    weights: npt.NDArray[np.float64] = np.take(drawn.astype(np.float64), unit, axis=1)
    return weights


def sums_of_units(values: npt.NDArray[Any], unit_of_image: npt.NDArray[np.integer]) -> npt.NDArray[Any]:
    """Sums over the images of each unit, units in ascending order: [L, ...] -> [U, ...] of the same dtype."""
    units, unit = np.unique(unit_of_image, return_inverse=True)
    total = np.zeros((len(units), *values.shape[1:]), values.dtype)
    np.add.at(total, unit, values)
    return total
