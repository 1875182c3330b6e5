"""Quality of an experiment's labels, measured with the masks of unlabeled images that have one.

No training and no choice uses these masks: they are read after the labels are finished.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from typing import Any

import numpy as np
import numpy.typing as npt

from pipeline.datasets import evenly_spaced, resize_nearest
from pipeline.report.audit import AuditCounts, count_labels, mean_iou, summarise, total
from pipeline.run import Run
from pipeline.sources import TrueMasks, truth_path
from pipeline.store import DONE

log = logging.getLogger(__name__)

MAX_IMAGES = 1000  # as in the report's audit; more images hardly change the numbers


def label_quality(run: Run) -> dict[str, Any] | None:
    """Precision, keep rate and mIoU of a run's labels (`calibrated`) and of the annotator's argmax (`raw`).

    `miou` counts labeled pixels only; in `miou_all` a pixel without a label counts as missed.

    returns: None if no unlabeled image has a mask
    raises:  DatasetError for a mask that `prepare` would refuse as that of a labeled image
    """
    labels, data, samples = run.open_labels(), run.settings.data, run.samples()
    unlabeled = samples.of("unlabeled")
    masks = [truth_path(sample, data) for sample in unlabeled]
    is_done = labels.status == DONE
    indices = [i for i, mask in enumerate(masks) if mask is not None and is_done[i]]
    chosen = evenly_spaced(indices, MAX_IMAGES)
    if not chosen:
        return None
    names, true_masks = data.class_names, TrueMasks.like_labeled(samples, data)

    def counts() -> Iterator[AuditCounts]:
        for i in chosen:
            mask = masks[i]
            assert mask is not None
            truth = resize_nearest(true_masks.read(mask, unlabeled[i]), data.grid)
            yield count_labels(truth, labels.raw_argmax(i), labels.label(i), len(names))

    counted = total(counts(), len(names))
    measures = summarise(counted, names)
    pixels = counted.raw.sum(axis=1)
    return {
        "num_images": len(chosen),
        "calibrated": {
            "precision": measures["kept"]["precision"],
            "keep_rate": measures["kept"]["keep_rate"],
            "miou": measures["kept"]["miou"],
            "miou_all": missing_miou(counted.kept, pixels),
        },
        "raw": {
            "precision": measures["raw"]["pixel_accuracy"],
            "keep_rate": 1.0,
            "miou": measures["raw"]["miou"],
            "miou_all": measures["raw"]["miou"],
        },
    }


def missing_miou(kept: npt.NDArray[np.int64], pixels: npt.NDArray[np.int64]) -> float | None:
    """mIoU in [0, 1] in which pixels without a label count as missed; None if no pixel has a true class.

    kept:   int64 [K, K], labeled pixels, rows = true class, columns = label
    pixels: int64 [K], all pixels of each true class
    """
    right = np.diag(kept).astype(np.float64)
    union = pixels + kept.sum(axis=0) - right
    return mean_iou(np.divide(right, union, out=np.full(len(pixels), np.nan), where=union > 0))
