"""How right the labels of an experiment are, by the masks of unlabeled images where there are any.

Nothing trains on these masks or chooses by them: they are opened after the labels were made.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from typing import Any

import numpy as np
import numpy.typing as npt

from pipeline.datasets import evenly_spaced, read_mask, resize_nearest
from pipeline.report.audit import AuditCounts, count_labels, mean_iou, summarise, total
from pipeline.run import Run
from pipeline.sources import truth_path
from pipeline.store import DONE

log = logging.getLogger(__name__)

MAX_IMAGES = 1000  # more would hardly change the numbers, as in the report's audit


def label_quality(run: Run) -> dict[str, Any] | None:
    """Precision, keep rate and mIoU of the labels of a run and of the annotator's own argmax.

    Of `miou` only the kept pixels count; in `miou_all` a pixel without a label is one that was missed.
    returns: None if no unlabeled image has a mask
    """
    labels, data = run.open_labels(), run.settings.data
    truths = [truth_path(sample, data) for sample in run.samples().of("unlabeled")]
    places = [i for i, mask in enumerate(truths) if mask is not None and labels.status[i] == DONE]
    chosen = evenly_spaced(places, MAX_IMAGES)
    if not chosen:
        return None
    names = data.class_names

    def counts() -> Iterator[AuditCounts]:
        for place in chosen:
            mask = truths[place]
            assert mask is not None
            truth = resize_nearest(read_mask(mask, data), data.grid)
            yield count_labels(truth, labels.raw_argmax(place), labels.label(place), len(names))

    counted = total(counts(), len(names))
    shares = summarise(counted, names)
    pixels = counted.raw.sum(axis=1)
    return {
        "num_images": len(chosen),
        "calibrated": {
            "precision": shares["kept"]["precision"],
            "keep_rate": shares["kept"]["keep_rate"],
            "miou": shares["kept"]["miou"],
            "miou_all": missing_miou(counted.kept, pixels),
        },
        "raw": {
            "precision": shares["raw"]["pixel_accuracy"],
            "keep_rate": 1.0,
            "miou": shares["raw"]["miou"],
            "miou_all": shares["raw"]["miou"],
        },
    }


def missing_miou(kept: npt.NDArray[np.int64], pixels: npt.NDArray[np.int64]) -> float | None:
    """mIoU in which pixels without a label are missed ones.

    kept:   int64 [K, K], labeled pixels, rows = true class, columns = label
    pixels: int64 [K], all pixels of each true class
    """
    right = np.diag(kept).astype(np.float64)
    union = pixels + kept.sum(axis=0) - right
    return mean_iou(np.divide(right, union, out=np.full(len(pixels), np.nan), where=union > 0))
