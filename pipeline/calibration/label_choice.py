"""Which labels a run makes: the variant, alpha and rule of its settings, or those that held-out images or a probe name.

Whatever else wants to label as a run could (a probe that tries several candidates) asks here: `ranked_candidates` says
which there are, from the best on, and `labeler` makes the labels of one of them.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

import calib
from pipeline.calibration.cross_fitting import candidates
from pipeline.errors import ConfigError, StoreError
from pipeline.run import Run
from pipeline.settings import Settings

log = logging.getLogger(__name__)

Facts = Mapping[str, Any]


class Choice(NamedTuple):
    """What the labels are made with.

    alphas:                  the chosen one first, then those labeled beside it
    labels_alone_are_better: as a probe found; the pseudo-labels are made all the same, to be looked at
    """

    variant: str
    alphas: list[float]
    rule: str
    is_automatic: bool
    labels_alone_are_better: bool = False


def choose(settings: Settings, calibrated: Facts) -> Choice:
    """The variant, alphas and rule of the settings or, under rule auto and probe, those that were found best.

    calibrated: receipt of calibrate
    raises:     StoreError under rule probe if there is no probe of this calibration
    """
    calibrate = settings.calibrate
    wanted = [calibrate.alpha, *calibrate.alphas] if calibrate.alphas else []
    rule = settings.pseudolabel.rule
    if rule == "probe":
        return _probed(settings, calibrated, wanted)
    if rule != "auto":
        return Choice(calibrate.variant, list(dict.fromkeys([calibrate.alpha, *wanted])), rule, is_automatic=False)
    best, _ = _best(settings, calibrated["held_out"])
    return Choice(best.variant, list(dict.fromkeys([best.alpha, *wanted])), best.rule, is_automatic=True)


def _probed(settings: Settings, calibrated: Facts, wanted: list[float]) -> Choice:
    run = Run(settings)
    facts = run.receipt("probe")
    if facts["fingerprint"] != calibrated["fingerprint"]:
        raise StoreError(
            f"{run.folder.receipt('probe')} is about another calibration than {run.folder.receipt('calibrate')}; run "
            f"{run.command('probe', rerun='probe')}"
        )
    chosen = facts["chosen"]
    if chosen["labels"] == "none":
        best, _ = _best(settings, calibrated["held_out"])
        alphas = list(dict.fromkeys([best.alpha, *wanted]))
        return Choice(best.variant, alphas, best.rule, is_automatic=True, labels_alone_are_better=True)
    rule = calib.RAW if chosen["labels"] == "raw" else chosen["rule"]
    try:
        calib.find_rule(rule)
    except calib.UnknownNameError as error:
        again = run.command("probe", rerun="probe")
        raise ConfigError(f"{run.folder.receipt('probe')} has {error}; run {again}") from None
    variant = settings.calibrate.variant if chosen["variant"] is None else chosen["variant"]
    alpha = settings.calibrate.alpha if chosen["alpha"] is None else chosen["alpha"]
    return Choice(variant, list(dict.fromkeys([alpha, *wanted])), rule, is_automatic=True)


def _best(settings: Settings, held_out: Facts | None) -> tuple[calib.Candidate, bool]:
    """The best candidate, and whether it reaches the target precision; rule raw where no image can be held out."""
    if held_out is None:
        unknown = float("nan")
        raw = calib.Candidate(settings.calibrate.variant, settings.calibrate.alpha, calib.RAW, unknown, unknown, 1.0)
        return raw, settings.pseudolabel.target_precision is None
    ranked, is_reached = rank_candidates(settings, held_out)
    return ranked[0], is_reached


def rank_candidates(settings: Settings, held_out: Facts) -> tuple[list[calib.Candidate], bool]:
    """All candidates from the best on, and whether the best reaches `pseudolabel.target_precision`.

    raises: ConfigError if no pixel of a held-out image has a class
    """
    chosen = settings.pseudolabel
    try:
        return calib.rank(candidates(held_out, chosen.precision_of), chosen.target_precision)
    except ValueError as error:
        raise ConfigError(f"pseudolabel.rule auto: {error} of the held-out images; label more images") from None


def ranked_candidates(settings: Settings) -> list[calib.Candidate]:
    """The same of a calibrated run, from its receipt; [] if a single labeled image is all there is to judge by."""
    held_out = Run(settings).receipt("calibrate")["held_out"]
    return [] if held_out is None else rank_candidates(settings, held_out)[0]


Labeler = Callable[[calib.Planes], npt.NDArray[np.float32]]


def labeler(settings: Settings, candidate: calib.Candidate) -> Labeler:
    """What labels an image of a calibrated run by a candidate: its planes -> float32 [H, W], NaN = abstain.

    The thresholds are those of all labeled images. Class-wise thresholds need the maps of all classes, not planes.
    raises: StoreError if the run is not calibrated; ConfigError if its thresholds are class-wise
    """
    store = Run(settings).open_calibration()
    background = store.state["background"]
    uncalibrated = "accept" if settings.calibrate.uncalibrated == "accept" else "abstain"
    if store.is_class_wise and candidate.rule != calib.RAW:
        raise ConfigError(
            f"{settings.name} has class-wise thresholds, and planes cannot answer for them; set "
            "calibrate.class_thresholds: pooled"
        )
    if candidate.rule == calib.RAW:
        q_hat = np.ones(store.grid, np.float32)
    else:
        q_hat = store.q_hat(candidate.alpha, candidate.variant)
    return lambda planes: calib.label_pixels(planes, q_hat, candidate.rule, background, uncalibrated)  # type: ignore[arg-type]


def log_choice(settings: Settings, calibrated: Facts, choice: Choice) -> None:
    """What rule auto or probe took, and loudly if that is not what was asked for."""
    if not choice.is_automatic:
        return
    rule, held_out = settings.pseudolabel.rule, calibrated["held_out"]
    took = f"variant {choice.variant}, alpha {choice.alphas[0]:g}, rule {choice.rule}"
    if rule == "probe":
        log.info("pseudolabel: rule probe takes %s", took)
        if choice.labels_alone_are_better:
            log.warning(
                "pseudolabel: the probe found that a student learns more from the labeled images alone; these labels "
                "are those of rule auto. Train without them: stage1={labels: none}, or preset=label-only"
            )
        return
    if held_out is None:
        log.warning(
            "pseudolabel: a single labeled image cannot be held out, so nothing speaks for calibration and rule auto "
            "takes raw, the annotator's own argmax; label more images, or name a rule"
        )
        return
    best, is_reached = _best(settings, held_out)
    log.info(
        "pseudolabel: rule auto takes %s, of %d candidates the largest held-out mIoU of labels%s: %.1f, keep rate %.3f",
        took, len(candidates(held_out)), _under(settings), 100 * best.miou, best.keep_rate,
    )  # fmt: skip
    if not is_reached:
        log.warning(
            "pseudolabel: NO LABELS REACH target_precision %g (%s) on held-out images; the most precise ones are "
            "taken, with %.3f. Larger calibrate.alphas keep fewer and better labels",
            settings.pseudolabel.target_precision, settings.pseudolabel.precision_of, best.precision,
        )  # fmt: skip


def _under(settings: Settings) -> str:
    target = settings.pseudolabel.target_precision
    return "" if target is None else f" with a precision ({settings.pseudolabel.precision_of}) of {target:g} or more"
