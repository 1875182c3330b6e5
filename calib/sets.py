"""Prediction sets as masks and as bits, and the pixels whose set can teach a student although they have no label."""

from __future__ import annotations

from typing import Literal

import numpy as np
import numpy.typing as npt

BITS = 8  # classes of a byte


def closed(q_hat: npt.NDArray[np.float32], uncalibrated: Literal["abstain", "accept"]) -> npt.NDArray[np.float32]:
    """Thresholds in which, with "abstain", +inf is replaced by NaN, at which no class is in the set."""
    return np.where(q_hat == np.inf, np.float32(np.nan), q_hat) if uncalibrated == "abstain" else q_hat


def prediction_sets(
    probabilities: npt.NDArray[np.float32],
    q_hat: npt.NDArray[np.float32],
    uncalibrated: Literal["abstain", "accept"],
) -> npt.NDArray[np.bool_]:
    """The prediction sets { j : 1 - P_j <= q_j } (paper Eq. 3, 4): bool [K, H, W], whether a class is in the set.

    probabilities: float32 [K, H, W] in [0, 1]
    q_hat:         float32 [H, W] or, class-wise, [K, H, W]; +inf = uncalibrated, NaN = no threshold: not in the set
    uncalibrated:  whether a class at +inf is in the set: "accept": it is, "abstain": it is not
    """
    sets: npt.NDArray[np.bool_] = 1 - probabilities <= closed(q_hat, uncalibrated)
    return sets


def num_bytes(num_classes: int) -> int:
    """Number of bytes of a set of so many classes."""
    return -(-num_classes // BITS)


def pack_sets(sets: npt.NDArray[np.bool_]) -> npt.NDArray[np.uint8]:
    """Sets as bits: uint8 [num_bytes(K), H, W]; class c is bit c % 8 (the lowest is bit 0) of byte c // 8.

    sets: bool [K, H, W]
    """
    return np.packbits(sets, axis=0, bitorder="little")


def unpack_sets(bits: npt.NDArray[np.uint8], num_classes: int) -> npt.NDArray[np.bool_]:
    """The inverse of `pack_sets`: bool [num_classes, H, W]. bits: uint8 [num_bytes(num_classes), H, W]"""
    return np.unpackbits(bits, axis=0, count=num_classes, bitorder="little").view(np.bool_)


def packed_sizes(bits: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]:
    """Number of classes in each set: uint8 [H, W]. bits: uint8 [num_bytes(K), H, W], K <= 255"""
    sizes: npt.NDArray[np.uint8] = np.bitwise_count(bits).sum(axis=0, dtype=np.uint8)
    return sizes


def abstained_by_size(
    bits: npt.NDArray[np.uint8], label: npt.NDArray[np.float32], num_classes: int
) -> npt.NDArray[np.int64]:
    """Number of pixels without a label, by the size of their set: int64 [num_classes + 1], of sizes 0 to K.

    bits:  uint8 [num_bytes(K), H, W]
    label: float32 [H, W], NaN = no label
    """
    return np.bincount(packed_sizes(bits)[np.isnan(label)], minlength=num_classes + 1)


def teaching_sets(
    bits: npt.NDArray[np.uint8], label: npt.NDArray[np.float32], num_classes: int
) -> npt.NDArray[np.uint8]:
    """The sets of the pixels that have no label and a set of 2 to K - 1 classes: uint8 as `bits`, 0 at other pixels.

    A set of all classes excludes none, so it teaches nothing; neither does an empty one.

    bits:  uint8 [num_bytes(K), H, W]
    label: float32 [H, W], NaN = no label
    """
    sizes = packed_sizes(bits)
    return bits * (np.isnan(label) & (sizes >= 2) & (sizes < num_classes))
