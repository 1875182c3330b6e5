"""pseudolabel: calibrated labels of the unlabeled images, NaN where no class is probable enough (paper Eq. 4)."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

import calib
from pipeline.calibration.label_choice import Choice, choose, log_choice
from pipeline.calibration.precision import guarantee_sentence
from pipeline.calibration.runner_up import runner_up_sentence
from pipeline.calibration.shift import shift_facts, shift_sentence
from pipeline.calibration.verdict import verdict
from pipeline.dask_tasks import run_tasks
from pipeline.datasets import Sample
from pipeline.progress import Progress
from pipeline.receipt import fingerprint
from pipeline.run import Run
from pipeline.settings import Settings
from pipeline.store import (
    DONE,
    FAILED,
    OUTCOMES,
    CalibrationStore,
    Handle,
    LabelStore,
    has_planes,
    keep_planes,
    open_calibration,
    open_labels,
    open_probabilities,
    restore_lost_facts,
    resume_or_create,
    store_state,
)

log = logging.getLogger(__name__)

VERSION = 4  # raise it when the same maps and thresholds would give other labels


def pseudolabel(settings: Settings) -> dict[str, Any]:
    """Write `labels.zarr`, resuming where an earlier call stopped; returns the facts of the receipt.

    raises: StoreError without maps and thresholds of these settings; ConfigError for an impossible rule or alpha
    """
    start = time.monotonic()
    run = Run(settings)
    calibrated, annotated = run.receipt("calibrate"), run.receipt("annotate")
    calibration = run.open_calibration()
    index = run.samples()
    unlabeled = index.of("unlabeled")
    choice = choose(settings, calibrated)
    log_choice(settings, calibrated, choice)
    runner_up = runner_up_sentence(settings, calibrated)
    if runner_up is not None:
        log.info("pseudolabel: %s", runner_up)
    sentence = verdict(calibrated["held_out"], choice.variant, choice.alphas[0], choice.rule)
    if sentence is not None:
        log.info("pseudolabel: %s", sentence)
    if not run.has_receipt("probe"):
        log.info(
            "pseudolabel: it is not known whether a student is better with these labels than with the labeled images "
            "alone; small students show it in minutes: %s",
            run.tool("probe"),
        )
    store = _open(settings, choice, calibration, annotated["fingerprint"], unlabeled)
    _label_images(settings, choice, store, calibration, annotated)
    shift = shift_facts(calibration, store, index, settings.seed)
    if shift is not None:
        log.log(logging.WARNING if shift["is_shift"] else logging.INFO, "pseudolabel: %s", shift_sentence(shift))
    store.finish(relabel=False)
    facts = _facts(store, choice) | {"verdict": sentence, "shift": shift, "store": store_state(store.path)}
    facts |= {"guarantee": guarantee_sentence(calibrated, choice.variant), "runner_up": runner_up}
    return facts | {"seconds": round(time.monotonic() - start, 1)}


def _open(
    settings: Settings, choice: Choice, calibration: CalibrationStore, annotated: str, unlabeled: Sequence[Sample]
) -> LabelStore:
    data = settings.data
    planes = {
        "version": VERSION,
        "probabilities": annotated,
        "background": data.background_index,
        "samples": [sample.id for sample in unlabeled],
    }
    made_by = {
        "planes": planes,
        "calibration": calibration.fingerprint,
        "alphas": choice.alphas,
        "rule": choice.rule,
        "variant": choice.variant,
        "uncalibrated": settings.calibrate.uncalibrated,
    }
    facts = {
        "fingerprint": fingerprint(made_by),
        "planes": fingerprint(planes),
        "calibration": calibration.fingerprint,
        "probabilities": annotated,
        "relabel": False,
        "class_names": data.class_names,
        "grid": data.grid,
        "background": data.background_index,
        "alpha": choice.alphas[0],
        "alphas": choice.alphas,
        "rule": choice.rule,
        "variant": choice.variant,
    }
    run = Run(settings)
    path = run.folder.labels
    restore_lost_facts(path, "labels", lambda: facts, unlabeled, lambda: run.begin("pseudolabel"))
    is_resumed = store_state(path).get("fingerprint") == facts["fingerprint"] and not store_state(path)["complete"]
    is_relabeled = not is_resumed and not calibration.is_class_wise and has_planes(path, facts["planes"])
    if not is_resumed and not is_relabeled:
        run.open_probabilities()  # a missing cache is refused before existing labels are replaced
    run.begin("pseudolabel")
    if is_relabeled:
        keep_planes(path, facts)
    else:
        resume_or_create(path, "labels", facts, unlabeled)
    store = open_labels(path, writable=True)
    if store.state["relabel"]:
        log.info("pseudolabel: using the planes in %s; the probability maps are not read", path)
    elif calibration.is_class_wise:
        log.info("pseudolabel: class-wise thresholds need the probability maps of all classes")
    return store


class LabelJob(NamedTuple):
    """One unlabeled image, the index of its maps (position) and of its labels (index).

    probabilities: None = the planes in the label store are used
    """

    probabilities: Handle | None
    position: int
    calibration: Handle
    labels: Handle
    index: int
    variant: str
    alphas: list[float]
    rule: str
    accept_uncalibrated: bool


class LabeledImage(NamedTuple):
    """Pixels of one image by outcome, int32 [len(OUTCOMES)], and labeled pixels by class, int32 [K]."""

    index: int
    observed: calib.Observed
    outcomes: npt.NDArray[np.int32]
    class_pixels: npt.NDArray[np.int32]


def label_image(job: LabelJob) -> LabeledImage:
    """Label one image on the grid, strip by strip, and write its labels and planes."""
    store = open_labels(job.labels, writable=True)
    calibration = open_calibration(job.calibration)
    thresholds = [calibration.q_hat(alpha, job.variant) for alpha in job.alphas]
    if job.rule == calib.RAW:  # independent of the thresholds: every class is in every set
        thresholds = [np.ones(calibration.grid, np.float32) for _ in job.alphas]
    strips = [
        label_strip(planes, maps, [q_hat[..., rows, :] for q_hat in thresholds], job, store.state["background"])
        for rows, planes, maps in _strips(job, store)
    ]
    labels = np.concatenate([strip.labels for strip in strips], axis=1)
    planes = calib.stack_planes([strip.planes for strip in strips])
    store.write(job.index, labels, None if job.probabilities is None else planes)
    outcomes = [sum(getattr(strip.counts, name) for strip in strips) for name in OUTCOMES]
    kept = labels[0][~np.isnan(labels[0])].astype(np.intp)
    class_pixels = np.bincount(kept, minlength=len(store.class_names))
    observed = calib.observe(planes, store.state["background"], len(store.class_names))
    return LabeledImage(job.index, observed, np.array(outcomes, np.int32), class_pixels.astype(np.int32))


def _strips(job: LabelJob, store: LabelStore) -> Iterator[tuple[slice, calib.Planes, npt.NDArray[np.float32] | None]]:
    """Rows, planes and maps of the image's strips; without maps, one strip with the planes in the store."""
    if job.probabilities is None:
        yield slice(None), store.planes(job.index), None
        return
    for rows, maps in open_probabilities(job.probabilities).probabilities(job.position).strips():
        yield rows, calib.class_planes(maps, store.state["background"]), maps


class LabeledStrip(NamedTuple):
    """labels: float32 [A, rows, W], NaN = abstain; counts: of the labels at the first alpha."""

    planes: calib.Planes
    labels: npt.NDArray[np.float32]
    counts: calib.LabelCounts


def label_strip(
    planes: calib.Planes,
    maps: npt.NDArray[np.float32] | None,
    thresholds: Sequence[npt.NDArray[np.float32]],
    job: LabelJob,
    background: int | None,
) -> LabeledStrip:
    """Label the pixels of a strip at every threshold.

    planes:     each [rows, W]
    maps:       float32 [K, rows, W], in [0, 1]; needed by class-wise thresholds only
    thresholds: one per alpha, float32 [rows, W] or, class-wise, [K, rows, W]
    background: index of the background class, if there is one
    """
    uncalibrated = "accept" if job.accept_uncalibrated else "abstain"
    labels, counts = [], []
    for q_hat in thresholds:
        if q_hat.ndim == 2:
            label = calib.label_pixels(planes, q_hat, job.rule, background, uncalibrated)  # type: ignore[arg-type]
            counts.append(calib.summarise_labels(planes, q_hat, label, background))
        else:
            sets = calib.class_wise_sets(maps, q_hat, background, uncalibrated)  # type: ignore[arg-type]
            label = calib.label_class_wise(sets, planes, job.rule, background, uncalibrated)  # type: ignore[arg-type]
            counts.append(calib.summarise_labels(sets.planes, sets.threshold, label, background))
        labels.append(label)
    return LabeledStrip(planes, np.stack(labels), counts[0])


def _label_images(
    settings: Settings, choice: Choice, store: LabelStore, calibration: CalibrationStore, annotated: Mapping[str, Any]
) -> None:
    jobs = []
    for i, path, position in _pending(settings, store, calibration.is_class_wise, annotated):
        jobs.append(
            LabelJob(
                probabilities=path,
                position=position,
                calibration=calibration.handle,
                labels=store.handle,
                index=i,
                variant=choice.variant,
                alphas=choice.alphas,
                rule=choice.rule,
                accept_uncalibrated=settings.calibrate.uncalibrated == "accept",
            )
        )
    num_images = len(store.sample_ids)
    progress = Progress(log, "pseudolabel", num_images, "images", done=num_images - len(jobs))

    def on_done(image: LabeledImage) -> None:
        store.write_counts(image.index, image.outcomes, image.class_pixels)
        store.write_observed(image.index, image.observed)
        store.mark(image.index, DONE)
        progress.advance()

    run_tasks(label_image, jobs, settings.compute, on_done)


def _pending(
    settings: Settings, store: LabelStore, is_class_wise: bool, annotated: Mapping[str, Any]
) -> Iterator[tuple[int, Handle | None, int]]:
    """Images without labels: index, store of their maps (None: the planes are used), and index of the maps there.

    Planes exist in a store that is labeled again, and for an image that lost only its labels. The maps are opened only
    if other images need them, because the cache may be deleted. Images that annotate failed on are marked as failed.
    """
    ids = store.sample_ids
    for_maps, is_own = [], store.is_own
    for i in np.flatnonzero(store.status != DONE).tolist():
        if ids[i] in annotated["failed"]:
            store.mark(i, FAILED)
        elif not is_class_wise and is_own[i] and store.has_planes(i):
            yield i, None, -1
        else:
            for_maps.append(i)
    if for_maps:
        probabilities = Run(settings).open_probabilities()
        position = {sample_id: i for i, sample_id in enumerate(probabilities.sample_ids)}
        for i in for_maps:
            yield i, probabilities.handle, position[ids[i]]


def _facts(store: LabelStore, choice: Choice) -> dict[str, Any]:
    outcomes, class_pixels = store.outcome_pixels, store.class_pixels
    done = store.status == DONE
    totals = dict(zip(OUTCOMES, outcomes[done].sum(axis=0, dtype=np.int64).tolist(), strict=True))
    keep_rates = outcomes[done, OUTCOMES.index("kept")] / outcomes[done, OUTCOMES.index("pixels")]
    return {
        "fingerprint": store.fingerprint,
        "alpha": choice.alphas[0],
        "alphas": choice.alphas,
        "rule": choice.rule,
        "variant": choice.variant,
        "labels_alone_are_better": choice.labels_alone_are_better,
        "is_automatic": choice.is_automatic,
        "num_images": int(done.sum()),
        "num_failed": int((store.status == FAILED).sum()),
        "pixels": totals,
        "keep_rate": totals["kept"] / max(totals["pixels"], 1),
        "keep_rate_deciles": np.quantile(keep_rates, np.linspace(0, 1, 11)).tolist() if done.any() else [],
        "pixels_per_class": dict(zip(store.class_names, class_pixels[done].sum(axis=0).tolist(), strict=True)),
    }
