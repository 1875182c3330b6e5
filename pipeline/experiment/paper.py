"""The paper's numbers (ConformalSAM, tables 1 to 6): mIoU in per cent on its val sets, as published.

Student SegFormer-B5, annotator SEEM. Columns have the names of the published splits (`conformalsam splits verify`).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import NamedTuple

from pipeline.sources.published import KNOWN, fingerprint

VOC = ("voc/92", "voc/183", "voc/366", "voc/732", "voc/1464")
VOC_AUGMENTED = ("voc/1_16", "voc/1_8", "voc/1_4", "voc/1_2")
VOC_U2PL = ("voc/u2pl_1_16", "voc/u2pl_1_8", "voc/u2pl_1_4", "voc/u2pl_1_2")
ADE = ("ade20k/1_128", "ade20k/1_64", "ade20k/1_32", "ade20k/1_16", "ade20k/1_8")

# row, splits, and the numbers of the first splits; a row of Table 6 has the splits 92 and 732
ROWS: tuple[tuple[str, tuple[str, ...], tuple[float, ...]], ...] = (
    ("Label-only", VOC, (50.65, 63.62, 70.76, 75.44, 77.01)),
    ("SEEM", VOC, (42.00, 41.90, 42.37, 44.99)),
    ("Semi-Baseline", VOC, (52.89, 69.35, 72.37, 74.22)),
    ("SEEM + SR", VOC, (65.94, 70.67, 70.52, 71.89)),
    ("SEEM + CP", VOC, (78.09, 78.23, 78.32, 79.10)),
    ("AllSpark", VOC, (76.07, 78.41, 79.77, 80.75, 82.12)),
    ("ConformalSAM (AllSpark)", VOC, (80.69, 81.29, 81.33, 82.69, 83.44)),
    ("ConformalSAM", VOC, (81.21, 82.22, 81.84, 83.52, 83.85)),
    ("Label-only", VOC_AUGMENTED, (72.01, 73.20, 76.62, 77.61)),
    ("AllSpark", VOC_AUGMENTED, (78.32, 79.98, 80.42, 81.14)),
    ("ConformalSAM (AllSpark)", VOC_AUGMENTED, (80.24, 80.41, 80.04, 79.98)),
    ("ConformalSAM", VOC_AUGMENTED, (80.09, 80.93, 81.04, 81.43)),
    ("AllSpark", VOC_U2PL, (81.56, 82.04, 80.92, 81.13)),
    ("ConformalSAM (AllSpark)", VOC_U2PL, (82.34, 83.31, 81.36, 80.57)),
    ("ConformalSAM", VOC_U2PL, (83.40, 83.75, 82.14, 81.98)),
    ("Label-only", ADE, (13.77, 18.83, 24.77, 28.76, 32.67)),
    ("SEEM", ADE[1:], (20.53, 21.01, 21.45, 22.03)),
    ("AllSpark", ADE, (16.17, 23.03, 26.42, 28.40, 32.10)),
    ("ConformalSAM (AllSpark)", ADE, (24.10, 27.26, 31.40, 32.12, 32.67)),
    ("ConformalSAM", ADE, (26.21, 30.02, 33.33, 34.64, 36.25)),
    *(
        (f"{variant}-{alpha}", ("voc/92", "voc/732"), numbers)
        for variant, by_alpha in {
            "pixel": {"0.1": (74.31, 75.95), "0.05": (78.09, 79.10), "0.01": (68.01, 54.04)},
            "image": {"0.1": (75.99, 77.47), "0.05": (75.54, 76.27), "0.01": (44.59, 44.10)},
            "kmeans": {"0.1": (69.36, 78.23), "0.05": (69.13, 77.02), "0.01": (44.16, 38.71)},
            "genann": {"0.1": (75.41, 77.25), "0.05": (73.72, 75.88), "0.01": (46.80, 43.44)},
        }.items()
        for alpha, numbers in by_alpha.items()
    ),
)
NUMBERS: Mapping[str, Mapping[str, float]] = {
    split: {row: numbers[splits.index(split)] for row, splits, numbers in ROWS if split in splits[: len(numbers)]}
    for split in (*VOC, *VOC_AUGMENTED, *VOC_U2PL, *ADE)
}
SHOWN_WITH_OTHER_DATA = {"3": "voc/1_16", "4": "ade20k/1_64"}


class Column(NamedTuple):
    """A column of the paper's numbers.

    numbers: row -> mIoU in per cent
    """

    split: str
    is_ours: bool
    """Whether the run has the labeled images of this split."""
    numbers: Mapping[str, float]


def column_beside(table: str, labeled_ids: Iterable[str]) -> Column:
    """The paper's column for a table: that of the run's split, or, on other data, a column with the same rows."""
    own = fingerprint(labeled_ids)
    for split in KNOWN:
        if split.fingerprint == own and split.name in NUMBERS:
            return Column(split.name, True, NUMBERS[split.name])
    shown = SHOWN_WITH_OTHER_DATA.get(table, "voc/92")
    return Column(shown, False, NUMBERS[shown])
