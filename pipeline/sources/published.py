"""Fingerprints of the published splits that papers use.

This project contains only the fingerprints, not the lists. Get the lists from the projects that publish them;
`conformalsam splits verify` checks them.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from typing import NamedTuple

ADE_TRAIN_IMAGES = 20_210


class Split(NamedTuple):
    """A published split."""

    name: str
    num_labeled: int
    fingerprint: str
    """Fingerprint of the labeled images, see `fingerprint`."""
    num_unlabeled: int = 0
    union: str | None = None
    """Fingerprint of the labeled and the unlabeled images together; None if it is unknown."""


VOC_TRAIN_AUG = "5b12fb32d8de"
ADE_TRAIN = "c677006e451b"

# 1_16 etc. are the augmented splits of VOC, u2pl_* those of U2PL (a dagger in papers). There are two splits 1_32 of
# ADE20K: 20210/32 = 631.56 images are 632 in most lists and 631 in UniMatch-V2's.
KNOWN = tuple(
    Split(*row)
    for row in (
        ("voc/92", 92, "84057fcd0e49", 10490, VOC_TRAIN_AUG),
        ("voc/183", 183, "4e6f730e249c", 10399, VOC_TRAIN_AUG),
        ("voc/366", 366, "2a4c7848b107", 10216, VOC_TRAIN_AUG),
        ("voc/732", 732, "9b3141cdf7af", 9850, VOC_TRAIN_AUG),
        ("voc/1464", 1464, "6ed871ae2d09", 9118, VOC_TRAIN_AUG),
        ("voc/1_16", 662, "09539463e519", 9920, VOC_TRAIN_AUG),
        ("voc/1_8", 1323, "31380de848f8", 9259, VOC_TRAIN_AUG),
        ("voc/1_4", 2646, "668265d63ac1", 7936, VOC_TRAIN_AUG),
        ("voc/1_2", 5291, "dad2c9830b36", 5291, VOC_TRAIN_AUG),
        ("voc/u2pl_1_16", 662, "653d572358f4", 9920, VOC_TRAIN_AUG),
        ("voc/u2pl_1_8", 1323, "1811c30334ec", 9259, VOC_TRAIN_AUG),
        ("voc/u2pl_1_4", 2646, "27e75f389f70", 7936, VOC_TRAIN_AUG),
        ("voc/u2pl_1_2", 5291, "9d551940f78f", 5291, VOC_TRAIN_AUG),
        ("voc/train_aug", 10582, VOC_TRAIN_AUG),
        ("voc/val", 1449, "93298139809d"),
        ("ade20k/1_128", 158, "8149a74bb22e", 20052, ADE_TRAIN),
        ("ade20k/1_64", 316, "73c19328dfe0", 19894, ADE_TRAIN),
        ("ade20k/1_32", 632, "63bc2e025739", 19578, ADE_TRAIN),
        ("ade20k/unimatch_v2_1_32", 631, "df06046f0918", 19579, ADE_TRAIN),
        ("ade20k/1_16", 1263, "864f60639cf5", 18947, ADE_TRAIN),
        ("ade20k/1_8", 2526, "833a67749da7", 17684, ADE_TRAIN),
        ("ade20k/train", ADE_TRAIN_IMAGES, ADE_TRAIN),
        ("cityscapes/1_30", 100, "b05d40f35c87", 2875),
        ("cityscapes/1_16", 186, "e095fb48b9c5", 2789),
        ("cityscapes/1_8", 372, "098ae10cf16f", 2603),
        ("cityscapes/1_4", 744, "baccbe3344d1", 2231),
        ("cityscapes/1_2", 1488, "2856ca235fb1", 1487),
        ("coco/1_512", 232, "ad938871015a", 118055),
        ("coco/1_256", 463, "21d7bcdd2b37", 117824),
        ("coco/1_128", 925, "544b5acde056", 117362),
        ("coco/1_64", 1849, "7c7e2024e25d", 116438),
        ("coco/1_32", 3697, "6592db92ecaa", 114590),
    )
)


def fingerprint(stems: Iterable[str]) -> str:
    """First 12 hex digits of the SHA-1 of the sorted image stems, joined by newlines."""
    return hashlib.sha1("\n".join(sorted(stems)).encode(), usedforsecurity=False).hexdigest()[:12]
