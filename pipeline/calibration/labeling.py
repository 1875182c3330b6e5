"""Labels of one unlabeled image, strip by strip: the task that pseudolabel runs in parallel."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Literal, NamedTuple

import numpy as np
import numpy.typing as npt

import calib
from pipeline.calibration.strips import strips_of
from pipeline.store import OUTCOMES, Handle, LabelStore, open_calibration, open_labels, open_probabilities


class LabelJob(NamedTuple):
    """One unlabeled image: the index of its maps (position) and of its labels (image).

    probabilities: None = the planes in the label store are used
    device:        of `strips_of`
    """

    probabilities: Handle | None
    position: int
    calibration: Handle
    labels: Handle
    image: int
    variant: str
    alphas: list[float]
    rule: str
    accept_uncalibrated: bool
    keep_sets: bool
    device: str


class LabeledImage(NamedTuple):
    """Counts of pixels of one image.

    image:        index of its labels
    outcomes:     int32 [len(OUTCOMES)], by outcome
    class_pixels: int32 [K], labeled pixels by class
    abstained:    int32 [K + 1], pixels without a label by the size of their set; None if sets are not kept
    """

    image: int
    observed: calib.Observed
    outcomes: npt.NDArray[np.int32]
    class_pixels: npt.NDArray[np.int32]
    abstained: npt.NDArray[np.int32] | None


def label_image(job: LabelJob) -> LabeledImage:
    """Label one image on the grid, strip by strip, and write its labels, planes and, if asked for, sets."""
    store = open_labels(job.labels, writable=True)
    calibration = open_calibration(job.calibration)
    thresholds = [calibration.q_hat(alpha, job.variant) for alpha in job.alphas]
    strips = [
        label_strip(planes, maps, [q_hat[..., rows, :] for q_hat in thresholds], job, store.state["background"])
        for rows, planes, maps in _strips(job, store, calibration.is_class_wise or job.keep_sets)
    ]
    labels = np.concatenate([strip.labels for strip in strips], axis=1)
    planes = calib.stack_planes([strip.planes for strip in strips])
    sets = np.concatenate([strip.sets for strip in strips if strip.sets is not None], 1) if job.keep_sets else None
    store.write(job.image, labels, None if job.probabilities is None else planes, sets)
    outcomes = [sum(getattr(strip.counts, name) for strip in strips) for name in OUTCOMES]
    kept = labels[0][~np.isnan(labels[0])].astype(np.intp)
    num_classes = len(store.class_names)
    class_pixels = np.bincount(kept, minlength=num_classes).astype(np.int32)
    abstained = None if sets is None else calib.abstained_by_size(sets, labels[0], num_classes).astype(np.int32)
    observed = calib.observe(planes, store.state["background"], num_classes)
    return LabeledImage(job.image, observed, np.array(outcomes, np.int32), class_pixels, abstained)


def _strips(
    job: LabelJob, store: LabelStore, needs_maps: bool
) -> Iterator[tuple[slice, calib.Planes, npt.NDArray[np.float32] | None]]:
    """Rows, planes and maps of the image's strips; without maps, one strip with the planes in the store."""
    if job.probabilities is None:
        yield slice(None), store.planes(job.image), None
        return
    reader = open_probabilities(job.probabilities).probabilities(job.position)
    for strip in strips_of(reader, store.state["background"], job.device, needs_maps=needs_maps):
        yield strip.rows, strip.planes, strip.maps


class LabeledStrip(NamedTuple):
    """Labels of the pixels of a strip.

    labels: float32 [A, rows, W], NaN = abstain
    counts: of the labels at the first alpha
    sets:   uint8 [bytes, rows, W], prediction sets at the first alpha (`calib.pack_sets`); None if they are not kept
    """

    planes: calib.Planes
    labels: npt.NDArray[np.float32]
    counts: calib.LabelCounts
    sets: npt.NDArray[np.uint8] | None


def label_strip(
    planes: calib.Planes,
    maps: npt.NDArray[np.float32] | None,
    thresholds: Sequence[npt.NDArray[np.float32]],
    job: LabelJob,
    background: int | None,
) -> LabeledStrip:
    """Label the pixels of a strip at every threshold.

    planes:     each [rows, W]
    maps:       float32 [K, rows, W], in [0, 1]; needed by class-wise thresholds and sets only
    thresholds: one per alpha, float32 [rows, W] or, class-wise, [K, rows, W]
    background: index of the background class, if there is one
    """
    uncalibrated: Literal["accept", "abstain"] = "accept" if job.accept_uncalibrated else "abstain"
    sets, labels, counts = None, [], []
    if job.keep_sets:
        assert maps is not None, "prediction sets need the maps"
        sets = calib.pack_sets(calib.prediction_sets(maps, thresholds[0], uncalibrated))
    if job.rule == calib.RAW:  # independent of the thresholds: every class is in every set
        thresholds = [np.ones(planes.best_foreground.shape, np.float32) for _ in thresholds]
    for q_hat in thresholds:
        if q_hat.ndim == 2:
            label = calib.label_pixels(planes, q_hat, job.rule, background, uncalibrated)
            counts.append(calib.summarise_labels(planes, q_hat, label, background))
        else:
            assert maps is not None, "class-wise thresholds need the maps"
            of_class = calib.class_wise_sets(maps, q_hat, background, uncalibrated)
            label = calib.label_class_wise(of_class, planes, job.rule, background, uncalibrated)
            counts.append(calib.summarise_labels(of_class.planes, of_class.threshold, label, background))
        labels.append(label)
    return LabeledStrip(planes, np.stack(labels), counts[0], sets)
