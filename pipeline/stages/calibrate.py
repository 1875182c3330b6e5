"""calibrate: scores of the labeled images, thresholds from them, and held-out estimates of the labels they give."""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

import calib
from calib.curves import image_curves
from pipeline.calibration.class_fractions import fractions_sentence
from pipeline.calibration.cross_fitting import Calibrated, fit_and_judge, labeled_maps
from pipeline.calibration.label_choice import rank_candidates
from pipeline.calibration.precision import guarantee_facts, guarantee_sentence, guaranteed_labels
from pipeline.calibration.rows import find_row
from pipeline.calibration.runner_up import runner_up_facts
from pipeline.calibration.strips import refuse_missing_device, strips_of
from pipeline.calibration.verdict import verdict
from pipeline.dask_tasks import run_tasks
from pipeline.datasets import Sample, SampleIndex, resize_nearest
from pipeline.dependencies import tracked_guarantee
from pipeline.errors import ConfigError, StoreError
from pipeline.progress import Progress
from pipeline.receipt import fingerprint
from pipeline.run import Run
from pipeline.settings import CalibrateSettings, DataSettings, Settings
from pipeline.store import (
    DONE,
    FAILED,
    CalibrationStore,
    Handle,
    ProbabilityStore,
    open_calibration,
    open_probabilities,
    repair_command,
    restore_lost_facts,
    resume_or_create,
    store_state,
)

log = logging.getLogger(__name__)

VERSION = 7  # raise it when the same maps and masks would give other thresholds, or another store

SHOWN = {"keep_rate": "keep rate", "miou": "mIoU of labels"}
NUMBERS = {"min": np.min, "median": np.median, "mean": np.mean, "max": np.max}


def calibrate(settings: Settings) -> dict[str, Any]:
    """Write `calibration.zarr`; returns the facts of the receipt.

    raises: StoreError without maps of these settings; ConfigError without the GPU of `compute.device`, if an alpha
            cannot be guaranteed, or if no threshold has the precision of `pseudolabel.guarantee`;
            DatasetError if a mask has changed since prepare
    """
    start = time.monotonic()
    refuse_missing_device(settings.compute)
    run = Run(settings)
    probabilities, index = run.open_probabilities(), run.samples("calibrate")
    labeled = index.of("labeled")
    store = _open(settings, probabilities, labeled)
    _score_images(settings, store, probabilities, index, labeled)
    calibrated = _write_thresholds(settings, store, probabilities)
    facts = _facts(settings, store, calibrated) | {"guarantee": _guarantee(settings, store, calibrated)}
    miou = {labels: samples for one in calibrated.values() for labels, samples in one.miou.items()}
    facts["runner_up"] = runner_up_facts(settings, facts["held_out"], miou)
    _log_held_out(settings, facts)
    store.finish()
    return facts | {"store": store_state(store.path), "seconds": round(time.monotonic() - start, 1)}


def _open(settings: Settings, probabilities: ProbabilityStore, labeled: Sequence[Sample]) -> CalibrationStore:
    run, data = Run(settings), settings.data
    path = run.folder.calibration
    tested_rules = [calib.find_variant(variant).rule for variant in settings.guaranteed_variants]
    facts = {
        "fingerprint": fingerprint(
            {
                "version": VERSION,
                "probabilities": probabilities.fingerprint,
                "settings": settings.calibrate.tracked(),
                "alphas": settings.alphas,
                "variants": settings.variants,
                "background": data.background_index,
                "mask_values": data.mask_values,
                "masks": [[sample.id, sample.mask_digest] for sample in labeled],
                **({"groups": [sample.group for sample in labeled]} if any(sample.group for sample in labeled) else {}),
                **tracked_guarantee(settings),
            }
        ),
        "class_names": data.class_names,
        "grid": data.grid,
        "background": data.background_index,
        "probabilities": probabilities.fingerprint,
        "alpha": settings.calibrate.alpha,
        "alphas": settings.alphas,
        "variant": settings.calibrate.variant,
        "variants": settings.variants,
        "rules": list(calib.calibrated_rules()),
        **({"tested_rules": tested_rules} if tested_rules else {}),
        "class_thresholds": settings.calibrate.class_thresholds,
        "quantile": settings.calibrate.quantile,
    }
    restore_lost_facts(path, "calibration", lambda: facts, labeled, lambda: run.begin("calibrate"))
    run.begin("calibrate")
    resume_or_create(path, "calibration", facts, labeled)
    return open_calibration(path, writable=True)


class ScoreJob(NamedTuple):
    """One labeled image, the index of its maps (position) and the index of its scores (index).

    reader: `SampleIndex.reader`
    device: of `strips_of`
    """

    probabilities: Handle
    position: int
    calibration: Handle
    index: int
    reader: SampleIndex
    sample: Sample
    data: DataSettings
    device: str


def score_image(job: ScoreJob) -> tuple[int, calib.Observed]:
    """Write score, mask, planes and curves of one image on the grid; returns its index, and what is observed of it."""
    reader = open_probabilities(job.probabilities).probabilities(job.position)
    mask = resize_nearest(job.reader.mask(job.sample, job.data), job.data.grid)
    score = np.empty(mask.shape, np.float32)
    planes = []
    background = job.data.background_index
    for strip in strips_of(reader, background, job.device, mask=mask):
        score[strip.rows] = strip.score
        planes.append(strip.planes)
    whole = calib.stack_planes(planes)
    named = {name: plane for name, plane in whole._asdict().items() if plane is not None}
    store = open_calibration(job.calibration, writable=True)
    if store.tested_rules:
        named["label_curves"] = image_curves(whole, mask, store.tested_rules, background)
    store.write_image(job.index, {"score": score, "truth": mask, **named})
    return job.index, calib.observe(whole, background, job.data.num_classes)


def _score_images(
    settings: Settings,
    store: CalibrationStore,
    probabilities: ProbabilityStore,
    index: SampleIndex,
    labeled: Sequence[Sample],
) -> None:
    position = {sample_id: i for i, sample_id in enumerate(probabilities.sample_ids)}
    annotated, reader = probabilities.status, index.reader
    jobs = []
    for i in np.flatnonzero(store.status != DONE):
        sample = labeled[i]
        if annotated[position[sample.id]] != DONE:
            store.mark(int(i), FAILED)
            continue
        places = probabilities.handle, position[sample.id], store.handle, int(i)
        jobs.append(ScoreJob(*places, reader, sample, settings.data, settings.compute.device))
    progress = Progress(log, "calibrate", len(labeled), "images", done=len(labeled) - len(jobs))

    def on_done(finished: tuple[int, calib.Observed]) -> None:
        store.write_observed(*finished)
        store.mark(finished[0], DONE)
        progress.advance()

    run_tasks(score_image, jobs, settings.compute, on_done)
    if not (store.status == DONE).any():
        raise StoreError(
            f"{probabilities.path} has no maps of any labeled image; fix the images listed as failed in annotate.json, "
            f"then run {repair_command(probabilities.path, 'probabilities')}"
        )


def _write_thresholds(
    settings: Settings, store: CalibrationStore, probabilities: ProbabilityStore
) -> dict[str, Calibrated]:
    """Write the thresholds of every variant from all images; returns them by variant, with held-out estimates."""
    judged = {variant: settings.judged_alphas(variant) for variant in settings.variants}
    policy = settings.calibrate.uncalibrated
    try:
        calibrated = fit_and_judge(settings, settings.alphas, policy, store, probabilities, judged)
    except calib.CalibrationError as error:
        raise ConfigError(f"calibrate.alpha {', '.join(map(str, settings.alphas))}: {error}") from None
    for variant, one in calibrated.items():
        thresholds, own = one.thresholds, settings.of_variant(variant).calibrate
        if thresholds.fallen_back:
            log.info(
                "calibrate: %d of %d locations have fewer than %d valid scores and take the threshold of their %s",
                thresholds.fallen_back, thresholds.region.size, own.n_min, own.fallback,
            )  # fmt: skip
        if variant == settings.calibrate.variant:
            store.write_folds(one.fold)
        store.write_thresholds(variant, thresholds)
        store.write_held_out_keep_rates(variant, one.labeled)
    return calibrated


def _guarantee(
    settings: Settings, store: CalibrationStore, calibrated: Mapping[str, Calibrated]
) -> dict[str, Any] | None:
    thresholds = {variant: one.thresholds for variant, one in calibrated.items()}
    return guarantee_facts(settings, thresholds, labeled_maps(settings, store))


def _facts(settings: Settings, store: CalibrationStore, calibrated: dict[str, Calibrated]) -> dict[str, Any]:
    """Facts of the run's variant, and those of the other variants."""
    own = calibrated[settings.calibrate.variant]
    by_variant = {variant: _variant_facts(settings, store, variant, one) for variant, one in calibrated.items()}
    held_out = own.held_out()
    if held_out is not None:
        held_out["rows"] = [row for one in calibrated.values() for row in one.rows or []]
    return {
        "fingerprint": store.fingerprint,
        **{name: store.state[name] for name in ("alpha", "variant", "class_thresholds", "quantile")},
        "alphas": store.alphas,
        "num_labeled": int((store.status == DONE).sum()),
        **by_variant.pop(settings.calibrate.variant),
        "beside": by_variant,
        "held_out": held_out,
    }


def _variant_facts(settings: Settings, store: CalibrationStore, variant: str, calibrated: Calibrated) -> dict[str, Any]:
    n_valid = store.images_behind(variant)
    return {
        "num_valid": {"min": int(n_valid.min()), "max": int(n_valid.max())},
        "never_labeled_fraction": float((n_valid == 0).mean()),
        "thresholds": [_threshold_facts(settings, store, variant, alpha, n_valid) for alpha in store.alphas],
        "fallen_back": calibrated.thresholds.fallen_back,
    }


def _threshold_facts(
    settings: Settings, store: CalibrationStore, variant: str, alpha: float, n_valid: npt.NDArray[np.int32]
) -> dict[str, Any]:
    q_hat = store.q_hat(alpha, variant)
    finite, uncalibrated = q_hat[np.isfinite(q_hat)], np.isposinf(q_hat)
    if uncalibrated.any() and _is_in_settings(settings.calibrate, variant, alpha):
        fewest = int(n_valid[uncalibrated].min())
        log.warning(
            "calibrate: %.1f %% of the thresholds have too few labeled images (down to %d) for alpha %g; the smallest "
            "alpha that fits all of them is %g. They are handled by calibrate.uncalibrated: %s",
            100 * uncalibrated.mean(), fewest, alpha, calib.smallest_alpha(max(fewest, 1)),
            settings.calibrate.uncalibrated,
        )  # fmt: skip
    return {
        "alpha": alpha,
        "q_hat": {name: float(f(finite)) for name, f in NUMBERS.items()} if finite.size else None,
        "uncalibrated_fraction": float(uncalibrated.mean()),
    }


def _is_in_settings(settings: CalibrateSettings, variant: str, alpha: float) -> bool:
    """Whether the settings list this variant and alpha; rule auto tries others, too."""
    return variant == settings.variant and alpha in (settings.alpha, *(settings.alphas or ()))


def _log_held_out(settings: Settings, facts: dict[str, Any]) -> None:
    """Log the held-out estimates of the labels that pseudolabel will make, and of the annotator's own argmax."""
    held_out = facts["held_out"]
    if held_out is None:
        return
    for alpha in dict.fromkeys(row["alpha"] for row in held_out["rows"] if row["coverage"] is None):
        if alpha in (settings.calibrate.alpha, *(settings.calibrate.alphas or ())):
            log.warning(
                "calibrate: at alpha %g the folds have too few images to estimate the quality of the final labels; "
                "raise calibrate.folds or alpha",
                alpha,
            )
    variant, alpha, rule = settings.calibrate.variant, settings.calibrate.alpha, settings.pseudolabel.rule
    if facts["guarantee"] is not None:
        variant, alpha, rule = guaranteed_labels(facts)[:3]
        log.info("calibrate: %s", guarantee_sentence(facts, variant))
    elif settings.pseudolabel.is_automatic and held_out["raw"]["precision"] is not None:
        variant, alpha, rule = rank_candidates(settings, held_out)[0][0][:3]
    row = find_row(held_out, variant, alpha, rule) or held_out["rows"][0]
    _log_row(row)
    fractions = fractions_sentence(row["fractions_per_class"])
    if fractions is not None:
        log.info("calibrate: held-out labels by class (masks of the same images): %s", fractions)
    sentence = verdict(held_out, row["variant"], row["alpha"], row["rule"])
    if sentence is not None:
        log.info("calibrate: %s", sentence)


def _log_row(row: dict[str, Any]) -> None:
    for name in ("coverage", "precision", "keep_rate", "miou"):
        if row[name] is not None:
            log.info(
                "calibrate: held-out %s at variant %s, alpha %g%s: %.3f (95 %% interval %.3f to %.3f)%s",
                SHOWN.get(name, name), row["variant"], row["alpha"],
                "" if name == "coverage" else f", rule {row['rule']}",
                *(row[name][end] for end in ("value", "low", "high")),
                f", target {row['target']:g}" if name == "coverage" and row["target"] is not None else "",
            )  # fmt: skip
