"""pseudolabel: calibrated labels of the unlabeled images, NaN where no class is probable enough (paper Eq. 4)."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from pipeline.calibration.class_fractions import fractions_of, fractions_sentence
from pipeline.calibration.label_choice import Choice, choose, log_choice
from pipeline.calibration.labeling import LabeledImage, LabelJob, label_image
from pipeline.calibration.precision import guarantee_sentence
from pipeline.calibration.runner_up import runner_up_sentence
from pipeline.calibration.shift import shift_facts, shift_sentence
from pipeline.calibration.strips import refuse_missing_device
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
    SharedLabels,
    has_planes,
    keep_planes,
    open_labels,
    restore_lost_facts,
    resume_or_create,
    store_state,
)

log = logging.getLogger(__name__)

VERSION = 7  # raise it when the same maps and thresholds would give other labels, or another store


def pseudolabel(settings: Settings) -> dict[str, Any]:
    """Write `labels.zarr`, resuming where an earlier call stopped; returns the facts of the receipt.

    raises: StoreError without maps and thresholds of these settings; ConfigError for an impossible rule or alpha,
            and without the GPU of `compute.device`
    """
    start = time.monotonic()
    refuse_missing_device(settings.compute)
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
    shared = None if settings.labels is None else SharedLabels.behind(store, settings.labels)
    if shared is not None:
        shared.fetch(store)
    _label_images(settings, choice, store, calibration, annotated, shared)
    shift = shift_facts(calibration, store, index, settings.seed)
    if shift is not None:
        log.log(logging.WARNING if shift["is_shift"] else logging.INFO, "pseudolabel: %s", shift_sentence(shift))
    store.finish(relabel=False)
    if shared is not None:
        shared.finish(store)
    _log_sets(store)
    facts = _facts(store, choice) | {"verdict": sentence, "shift": shift, "store": store_state(store.path)}
    fractions = fractions_sentence(fractions_of(facts["pixels_per_class"], calibrated["held_out"]))
    if fractions is not None:
        log.info("pseudolabel: labels by class (masks of the labeled images): %s", fractions)
    facts |= {"guarantee": guarantee_sentence(calibrated, choice.variant), "runner_up": runner_up}
    return facts | {"seconds": round(time.monotonic() - start, 1)}


def _open(
    settings: Settings, choice: Choice, calibration: CalibrationStore, annotated: str, unlabeled: Sequence[Sample]
) -> LabelStore:
    data = settings.data
    sets = {"keep_sets": True} if settings.pseudolabel.keep_sets else {}
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
        **sets,
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
        **sets,
    }
    run = Run(settings)
    path = run.folder.labels
    restore_lost_facts(path, "labels", lambda: facts, unlabeled, lambda: run.begin("pseudolabel"))
    is_resumed = store_state(path).get("fingerprint") == facts["fingerprint"] and not store_state(path)["complete"]
    needs_maps = _needs_maps(settings, calibration)
    is_relabeled = not is_resumed and not needs_maps and has_planes(path, facts["planes"])
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
    elif needs_maps:
        what = "class-wise thresholds" if calibration.is_class_wise else "prediction sets"
        log.info("pseudolabel: %s need the probability maps of all classes", what)
    return store


def _needs_maps(settings: Settings, calibration: CalibrationStore) -> bool:
    """Whether the labels need the probabilities of all classes, which the planes in a label store are not."""
    return calibration.is_class_wise or settings.pseudolabel.keep_sets


def _label_images(
    settings: Settings,
    choice: Choice,
    store: LabelStore,
    calibration: CalibrationStore,
    annotated: Mapping[str, Any],
    shared: SharedLabels | None,
) -> None:
    jobs = []
    for i, path, position in _pending(settings, store, _needs_maps(settings, calibration), annotated):
        jobs.append(
            LabelJob(
                probabilities=path,
                position=position,
                calibration=calibration.handle,
                labels=store.handle,
                image=i,
                variant=choice.variant,
                alphas=choice.alphas,
                rule=choice.rule,
                accept_uncalibrated=settings.calibrate.uncalibrated == "accept",
                keep_sets=settings.pseudolabel.keep_sets,
                device=settings.compute.device,
            )
        )
    num_images = len(store.sample_ids)
    progress = Progress(log, "pseudolabel", num_images, "images", done=num_images - len(jobs))

    def on_done(labeled: LabeledImage) -> None:
        store.write_counts(labeled.image, labeled.outcomes, labeled.class_pixels, labeled.abstained)
        store.write_observed(labeled.image, labeled.observed)
        store.mark(labeled.image, DONE)
        if shared is not None:
            shared.add(store, labeled.image)
        progress.advance()

    run_tasks(label_image, jobs, settings.compute, on_done)
    if shared is not None:
        shared.send(store)


def _pending(
    settings: Settings, store: LabelStore, needs_maps: bool, annotated: Mapping[str, Any]
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
        elif not needs_maps and is_own[i] and store.has_planes(i):
            yield i, None, -1
        else:
            for_maps.append(i)
    if for_maps:
        probabilities = Run(settings).open_probabilities()
        position = {sample_id: i for i, sample_id in enumerate(probabilities.sample_ids)}
        for i in for_maps:
            yield i, probabilities.handle, position[ids[i]]


def _log_sets(store: LabelStore) -> None:
    """Log how many pixels of a store with sets can teach by their set."""
    if not store.has_sets:
        return
    done = store.status == DONE
    teaching, pixels = store.teaching_pixels[done].sum(), store.outcome_pixels[done, OUTCOMES.index("pixels")].sum()
    if teaching:
        log.info(
            "pseudolabel: %.1f %% of the pixels have no label, but a set of 2 to %d classes, which stage1.set_loss can "
            "use", 100 * teaching / pixels, len(store.class_names) - 1,
        )  # fmt: skip
    else:
        log.warning(
            "pseudolabel: no set can teach: every pixel without a label has a set of no class, of one or of all. Rule "
            "%s labels most pixels whose set has several classes; rule singleton labels none of them",
            store.rule,
        )


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
        "teaching_pixels": int(store.teaching_pixels[done].sum()) if store.has_sets else None,
    }
