"""Chooses the variant, alpha and rule of a run's labels: from the settings, by held-out images, or by a probe.

A probe compares several candidates: `ranked_candidates` lists them from the best on, and `labeler` makes the labels of
one of them.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

import calib
from pipeline.calibration.precision import guarantee_sentence, guaranteed_labels
from pipeline.calibration.rows import candidates
from pipeline.errors import ConfigError, StoreError
from pipeline.run import Run
from pipeline.settings import Settings

log = logging.getLogger(__name__)

Facts = Mapping[str, Any]


class Choice(NamedTuple):
    """The chosen variant, alphas and rule.

    alphas:                  the chosen alpha first, then the other alphas that are labeled, too
    is_automatic:            chosen by rule auto or probe
    labels_alone_are_better: a probe found that training on the labeled images alone is better; the pseudo-labels are
                             made all the same, for inspection
    """

    variant: str
    alphas: list[float]
    rule: str
    is_automatic: bool
    labels_alone_are_better: bool = False


def choose(settings: Settings, calibrated: Facts) -> Choice:
    """The variant, alphas and rule of the settings; under rule auto and probe, the best ones.

    With a guarantee, the labels are among those that have it.

    calibrated: receipt of calibrate
    raises:     StoreError under rule probe if this calibration has no probe; ConfigError if the probe's rule is unknown
                or, under rule auto, no pixel of a held-out image has a class
    """
    calibrate = settings.calibrate
    more_alphas = [calibrate.alpha, *calibrate.alphas] if calibrate.alphas else []
    rule = settings.pseudolabel.rule
    if settings.pseudolabel.guarantee is not None:
        best = guaranteed_labels(calibrated)
        alphas = list(dict.fromkeys([best.alpha, *more_alphas]))
        return Choice(best.variant, alphas, best.rule, settings.pseudolabel.is_automatic)
    if rule == "probe":
        return _probed(settings, calibrated, more_alphas)
    if rule != "auto":
        return Choice(calibrate.variant, list(dict.fromkeys([calibrate.alpha, *more_alphas])), rule, is_automatic=False)
    best, _ = _best(settings, calibrated["held_out"])
    return Choice(best.variant, list(dict.fromkeys([best.alpha, *more_alphas])), best.rule, is_automatic=True)


def _probed(settings: Settings, calibrated: Facts, more_alphas: list[float]) -> Choice:
    """The choice of the probe's receipt."""
    run = Run(settings)
    facts = run.receipt("probe")
    if facts["fingerprint"] != calibrated["fingerprint"]:
        raise StoreError(
            f"{run.folder.receipt('probe')} was made from another calibration than that of "
            f"{run.folder.receipt('calibrate')}; run {run.command('probe', rerun='probe')}"
        )
    chosen = facts["chosen"]
    if chosen["labels"] == "none":
        best, _ = _best(settings, calibrated["held_out"])
        alphas = list(dict.fromkeys([best.alpha, *more_alphas]))
        return Choice(best.variant, alphas, best.rule, is_automatic=True, labels_alone_are_better=True)
    rule = calib.RAW if chosen["labels"] == "raw" else chosen["rule"]
    try:
        calib.find_rule(rule)
    except calib.UnknownNameError as error:
        command = run.command("probe", rerun="probe")
        raise ConfigError(f"{run.folder.receipt('probe')} has {error}; run {command}") from None
    variant = settings.calibrate.variant if chosen["variant"] is None else chosen["variant"]
    alpha = settings.calibrate.alpha if chosen["alpha"] is None else chosen["alpha"]
    return Choice(variant, list(dict.fromkeys([alpha, *more_alphas])), rule, is_automatic=True)


def _best(settings: Settings, held_out: Facts | None) -> tuple[calib.Candidate, bool]:
    """The best candidate, and whether it reaches the target precision; rule raw if no image can be held out."""
    if held_out is None:
        nan = float("nan")
        raw = calib.Candidate(settings.calibrate.variant, settings.calibrate.alpha, calib.RAW, nan, nan, 1.0)
        return raw, settings.pseudolabel.target_precision is None
    ranked, is_reached = rank_candidates(settings, held_out)
    return ranked[0], is_reached


def rank_candidates(settings: Settings, held_out: Facts) -> tuple[list[calib.Candidate], bool]:
    """All candidates from the best on, and whether the best reaches `pseudolabel.target_precision`.

    held_out: of the receipt of calibrate
    raises:   ConfigError if no pixel of a held-out image has a class
    """
    pseudolabel = settings.pseudolabel
    try:
        return calib.rank(candidates(held_out, pseudolabel.precision_of), pseudolabel.target_precision)
    except ValueError as error:
        raise ConfigError(f"pseudolabel.rule auto: {error} of the held-out images; label more images") from None


def ranked_candidates(settings: Settings) -> list[calib.Candidate]:
    """The candidates of a calibrated run, from the best on; [] with a single labeled image or group.

    raises: StoreError if the run is not calibrated
    """
    held_out = Run(settings).receipt("calibrate")["held_out"]
    return [] if held_out is None else rank_candidates(settings, held_out)[0]


Labeler = Callable[[calib.Planes], npt.NDArray[np.float32]]


def labeler(settings: Settings, candidate: calib.Candidate) -> Labeler:
    """A function that labels an image of a calibrated run with a candidate: planes -> float32 [H, W], NaN = abstain.

    The thresholds are those from all labeled images.

    raises: StoreError if the run is not calibrated; ConfigError if its thresholds are class-wise, because these need
            the maps of all classes
    """
    store = Run(settings).open_calibration()
    background = store.state["background"]
    uncalibrated = "accept" if settings.calibrate.uncalibrated == "accept" else "abstain"
    if store.is_class_wise and candidate.rule != calib.RAW:
        raise ConfigError(
            f"{settings.name} has class-wise thresholds, which need the maps of all classes, but only planes are "
            "read here; set calibrate.class_thresholds: pooled"
        )
    if candidate.rule == calib.RAW:
        q_hat = np.ones(store.grid, np.float32)
    else:
        q_hat = store.q_hat(candidate.alpha, candidate.variant)
    return lambda planes: calib.label_pixels(planes, q_hat, candidate.rule, background, uncalibrated)  # type: ignore[arg-type]


def log_choice(settings: Settings, calibrated: Facts, choice: Choice) -> None:
    """Log the choice of rule auto or probe, or the guarantee; warn if a target is missed, or nothing can be chosen."""
    sentence = guarantee_sentence(calibrated, choice.variant)
    if sentence is not None:
        log.info("pseudolabel: %s", sentence)
    if not choice.is_automatic or sentence is not None:
        return
    rule, held_out = settings.pseudolabel.rule, calibrated["held_out"]
    chosen = f"variant {choice.variant}, alpha {choice.alphas[0]:g}, rule {choice.rule}"
    if rule == "probe":
        log.info("pseudolabel: rule probe chooses %s", chosen)
        if choice.labels_alone_are_better:
            log.warning(
                "pseudolabel: the probe found that training on the labeled images alone is better; these labels are "
                "those of rule auto. To train without them, set stage1={labels: none} or preset=label-only"
            )
        return
    if held_out is None:
        log.warning(
            "pseudolabel: a single labeled image (or group) cannot be held out, so labels cannot be compared, and rule "
            "auto chooses raw, the annotator's own argmax; label more images, or set pseudolabel.rule"
        )
        return
    (best, *_), is_reached = rank_candidates(settings, held_out)
    log.info(
        "pseudolabel: rule auto chooses %s, which has the largest held-out mIoU of labels of %d candidates%s: %.1f, "
        "keep rate %.3f",
        chosen, len(candidates(held_out)), _target_text(settings), 100 * best.miou, best.keep_rate,
    )  # fmt: skip
    if not is_reached:
        log.warning(
            "pseudolabel: NO LABELS REACH target_precision %g (%s) on held-out images; the most precise ones are "
            "chosen, with precision %.3f. Add larger alphas to calibrate.alphas: they keep fewer labels of higher "
            "precision",
            settings.pseudolabel.target_precision, settings.pseudolabel.precision_of, best.precision,
        )  # fmt: skip


def _target_text(settings: Settings) -> str:
    target = settings.pseudolabel.target_precision
    return "" if target is None else f" with a precision ({settings.pseudolabel.precision_of}) of {target:g} or more"
