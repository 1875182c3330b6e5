"""Quality of an experiment's labels, measured with the masks of unlabeled images that have one.

No training and no choice uses these masks: they are read after the labels are finished.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np
import numpy.typing as npt

import calib
from pipeline.datasets import IGNORE_INDEX, evenly_spaced, resize_nearest
from pipeline.report.audit import count_labels, mean_iou, summarise, total
from pipeline.run import Run
from pipeline.sources import TrueMasks
from pipeline.store import DONE, LabelStore

log = logging.getLogger(__name__)

MAX_IMAGES = 1000  # as in the report's audit; more images hardly change the numbers


def label_quality(run: Run) -> dict[str, Any] | None:
    """Precision, keep rate and mIoU of a run's labels (`calibrated`) and of the annotator's argmax (`raw`).

    `miou` counts labeled pixels only; in `miou_all` a pixel without a label counts as missed. `sets` is `set_quality`,
    None if the labels have no prediction sets.

    returns: None if no unlabeled image has a mask
    raises:  DatasetError for a mask that `prepare` would refuse as that of a labeled image
    """
    labels, data, samples = run.open_labels(), run.settings.data, run.samples()
    unlabeled = samples.of("unlabeled")
    true_masks = TrueMasks.like_labeled(samples, data)
    masks = [true_masks.path(sample) for sample in unlabeled]
    is_done = labels.status == DONE
    indices = [i for i, mask in enumerate(masks) if mask is not None and is_done[i]]
    chosen = evenly_spaced(indices, MAX_IMAGES)
    if not chosen:
        return None
    names = data.class_names

    def truths() -> Iterator[tuple[int, npt.NDArray[np.uint8]]]:
        for i in chosen:
            mask = masks[i]
            assert mask is not None
            yield i, resize_nearest(true_masks.read(mask, unlabeled[i]), data.grid)

    of_images = (count_labels(truth, labels.raw_argmax(i), labels.label(i), len(names)) for i, truth in truths())
    counted = total(of_images, len(names))
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
        "sets": set_quality(labels, truths(), data.background_index) if labels.has_sets else None,
    }


def set_quality(
    labels: LabelStore, truths: Iterable[tuple[int, npt.NDArray[np.uint8]]], background: int | None
) -> dict[str, float | None]:
    """Quality of the sets that teach (`calib.teaching_sets`).

    truths:  index of an image, and its true mask on the grid: uint8 [H, W], class index or IGNORE_INDEX
    returns: `right`, the fraction of the sets that hold the true class; `pixels` and `foreground`, their fraction of
             all pixels and of those of a foreground class, void pixels left out; None for a fraction of no pixels
    """
    num_classes = len(labels.class_names)
    counts = np.zeros(5, np.int64)
    for i, truth in truths:
        bits = calib.teaching_sets(labels.sets(i), labels.label(i), num_classes)
        valid, teaches = truth != IGNORE_INDEX, bits.any(axis=0)
        known = np.where(valid, truth, 0).astype(np.intp)
        is_right = np.take_along_axis(calib.unpack_sets(bits, num_classes), known[np.newaxis], axis=0)[0]
        is_foreground = valid & (truth != background)
        masks = (valid & is_right, valid & teaches, valid, is_foreground & teaches, is_foreground)
        counts += [np.count_nonzero(mask) for mask in masks]
    right, taught, pixels, taught_foreground, foreground = counts.tolist()
    fractions = {"right": (right, taught), "pixels": (taught, pixels), "foreground": (taught_foreground, foreground)}
    return {name: part / whole if whole else None for name, (part, whole) in fractions.items()}


def missing_miou(kept: npt.NDArray[np.int64], pixels: npt.NDArray[np.int64]) -> float | None:
    """mIoU in [0, 1] in which pixels without a label count as missed; None if no pixel has a true class.

    kept:   int64 [K, K], labeled pixels, rows = true class, columns = label
    pixels: int64 [K], all pixels of each true class
    """
    right = np.diag(kept).astype(np.float64)
    union = pixels + kept.sum(axis=0) - right
    return mean_iou(np.divide(right, union, out=np.full(len(pixels), np.nan), where=union > 0))
