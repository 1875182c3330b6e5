"""Weights of a mean of probabilities: those with the smallest mean log-loss. Arrays in, arrays out."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

SMALLEST = 1e-6  # replaces a probability of 0, whose loss is infinite
TOLERANCE = 1e-6  # nats above the smallest log-loss
MOST_STEPS = 5000

Floats = npt.NDArray[np.floating]


def mean_maps(maps: npt.NDArray[np.float32], weights: Sequence[float]) -> npt.NDArray[np.float32]:
    """Weighted mean of probabilities, float32 [K, h, w] in [0, 1].

    maps:    float32 [M, K, h, w] in [0, 1]
    weights: M numbers of at least 0, which are divided by their sum
    """
    fractions = np.asarray(weights, np.float64) / sum(weights)
    mean = np.tensordot(fractions.astype(np.float32), maps, axes=1)
    return np.minimum(mean, 1)  # float32 weights may sum to 1 plus one rounding error


def completed(maps: npt.NDArray[np.float32], has_class: npt.NDArray[np.bool_]) -> npt.NDArray[np.float32]:
    """Maps in which a member without a class has the mean of the other members for it, and shares the rest.

    The member's own classes are multiplied by the probability that the pixel has none of the classes that it lacks. A
    class that no member has keeps probability 0.

    maps:      float32 [M, K, h, w] in [0, 1], 0 for a class that a member does not have; not changed
    has_class: bool [M, K]
    returns:   float32 [M, K, h, w] in [0, 1]; the sum over the classes is at most that of `maps` or 1
    """
    if has_class.all():
        return maps
    number = np.maximum(has_class.sum(axis=0), 1)
    of_others = np.where(has_class[..., None, None], maps, 0).sum(axis=0) / number[:, None, None]  # [K, h, w]
    filled = []
    for own, has_one in zip(maps, has_class, strict=True):
        missing = of_others[~has_one]
        missing = missing / np.maximum(missing.sum(axis=0), 1)
        whole = np.empty_like(own)
        whole[has_one] = own[has_one] * (1 - missing.sum(axis=0))
        whole[~has_one] = missing
        filled.append(whole)
    clipped: npt.NDArray[np.float32] = np.clip(np.stack(filled), 0, 1).astype(np.float32, copy=False)
    return clipped


def log_loss(probabilities: Floats, importance: Floats, weights: Sequence[float] | Floats) -> float:
    """Weighted mean of -log P(true class), in nats, where P is the mean of the members' probabilities.

    probabilities: float [M, N] in [0, 1], of the true class of each pixel by member; SMALLEST replaces smaller ones
    importance:    float [N] of at least 0, with the sum 1
    weights:       float [M] of at least 0, with the sum 1
    """
    mean = np.asarray(weights) @ np.maximum(probabilities, SMALLEST)
    return float(-np.log(mean) @ importance)


def fitted_weights(probabilities: Floats, importance: Floats) -> npt.NDArray[np.float64]:
    """The weights with the smallest `log_loss`, within TOLERANCE of it; float64 [M] of at least 0, with the sum 1.

    Expectation maximisation from equal weights: no step raises the loss. It is at most log(max gain) above the smallest
    one, where the gain of a member is the mean of its probabilities divided by those of the mean (Cover 1984, An
    algorithm for maximizing expected log investment return).

    probabilities, importance: as for `log_loss`
    """
    given = np.maximum(np.asarray(probabilities, np.float64), SMALLEST)
    weights = np.full(len(given), 1 / len(given))
    for _ in range(MOST_STEPS):
        gain = (given / (weights @ given)) @ importance
        if np.log(gain.max()) <= TOLERANCE:
            break
        weights = weights * gain
        weights /= weights.sum()
    return weights
