"""The page: from receipts, arrays and pictures to HTML."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jinja2
import numpy as np
import numpy.typing as npt
import yaml
from markupsafe import Markup

import calib
from pipeline.calibration.guarantee import exact_percent, guarantee_of
from pipeline.calibration.rows import of_variant
from pipeline.calibration.shift import shift_sentence
from pipeline.drawing import STYLE_FOLDER
from pipeline.palette import class_colours, css
from pipeline.progress import clock
from pipeline.report import figures
from pipeline.report.estimates import DECILES_SHOWN, held_out_estimates, wrong_fraction
from pipeline.report.examples import Example
from pipeline.report.headline import headline
from pipeline.report.imported import ImportChange
from pipeline.report.mistakes import Mistakes
from pipeline.report.next_steps import next_steps
from pipeline.report.probe import probe_rows
from pipeline.report.students import student_columns
from pipeline.run import Run

Facts = Mapping[str, Any]
DASH = "–"


class Content(NamedTuple):
    """All that the page shows.

    background:  class index; None if there is no background class
    receipts:    by stage; those of the training stages may be missing
    audit:       `audit.summarise` with `num_images`, `num_with_mask`, `num_unreadable`; None if no image has a mask
    audit_limit: maximum number of images in an audit
    q_hat:       float32 [H, W] or class-wise [K, H, W], thresholds at the alpha of the labels
    keep_rates:  float64 [N] in [0, 1], of each image that has labels
    examples:    of unlabeled images, the one with the lowest keep rate first
    worst:       of held-out labeled images, the one in which the most pixels are labeled wrong first
    against_baseline: mIoU of the student minus that of the baseline, with value, low and high; None without one
    imported:    what the last import of masks changed; None without one
    mistakes:    on held-out labeled images; None if none can be held out
    run:         for the commands of what to do next
    gallery:     section with a slider for alpha; None if it is switched off
    """

    name: str
    class_names: Sequence[str]
    background: int | None
    receipts: Mapping[str, Facts]
    audit: Facts | None
    audit_limit: int
    q_hat: npt.NDArray[np.float32]
    keep_rates: npt.NDArray[np.float64]
    examples: Sequence[Example]
    worst: Sequence[Example]
    mistakes: Mistakes | None
    imported: ImportChange | None
    against_baseline: Facts | None
    run: Run
    gallery: Markup | None


class ContentWithoutLabels(NamedTuple):
    """All that the page of a run without an annotator shows; fields as in `Content`."""

    name: str
    class_names: Sequence[str]
    background: int | None
    receipts: Mapping[str, Facts]
    examples: Sequence[Example]
    against_baseline: Facts | None
    run: Run


def render(content: Content) -> str:
    """The page as HTML that needs no other file."""
    return _filled("template.html", content, **_calibration(content))


def render_without_labels(content: ContentWithoutLabels) -> str:
    """The page of a run without an annotator, as HTML that needs no other file."""
    return _filled(
        "without_labels.html",
        content,
        headline=headline(content.receipts, None, None),
        steps=next_steps(content.run, content.receipts, None, None),
    )


def _filled(template: str, content: Content | ContentWithoutLabels, **more: Any) -> str:
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader([Path(__file__).parent, STYLE_FOLDER]),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= FILTERS
    colours = class_colours(len(content.class_names), content.background)
    return environment.get_template(template).render(
        content._asdict(),
        colours={name: css(colour) for name, colour in zip(content.class_names, colours, strict=True)},
        stages=stage_lines(content.receipts),
        students=content.receipts.get("evaluate", {}).get("students", {}),
        student_columns=student_columns(content.receipts, figures.STAGE_NAMES),
        stage_names=figures.STAGE_NAMES,
        probe_rows=probe_rows(content.receipts),
        training_warnings=training_warnings(content.receipts),
        annotator_warnings=warnings_of(content.receipts, "annotate", "Annotator"),
        without_prompt=content.receipts.get("annotate", {}).get("without_prompt", []),
        all_pixels=sum(content.receipts["prepare"]["labeled_pixels_per_class"].values()),
        loss_chart=figures.learning_curves(content.receipts, "loss", 1, "loss", "Training loss"),
        miou_chart=figures.learning_curves(content.receipts, "miou", 100, "mIoU, %", "mIoU on the val images"),
        **more,
    )


def _calibration(content: Content) -> dict[str, Any]:
    """Variables of the template for thresholds and labels: guarantee, held-out estimates, figures."""
    receipts = content.receipts
    labels = receipts["pseudolabel"]
    calibrated = of_variant(receipts["calibrate"], labels["variant"])
    is_class_wise = content.q_hat.ndim == 3
    guarantee = guarantee_of(calibrated, labels["alpha"])
    estimates = held_out_estimates(calibrated, labels, content.audit)
    rows = figures.outcomes(labels, content.background is not None, is_class_wise)
    return {
        "calibrated": calibrated,
        "guarantee": guarantee,
        "held_out": estimates,
        "headline": headline(receipts, estimates, content.audit),
        "steps": next_steps(content.run, receipts, estimates, content.worst[0].id if content.worst else None),
        "shift": shift_sentence(labels["shift"]),
        "has_threshold_per_location": calib.find_variant(labels["variant"]).by_location,
        "deciles_shown": DECILES_SHOWN,
        "is_class_wise": is_class_wise,
        "thresholds": next(facts for facts in calibrated["thresholds"] if facts["alpha"] == labels["alpha"]),
        "class_thresholds": figures.class_thresholds(content.q_hat, content.class_names),
        "audit_wrong": audit_wrong(content.audit),
        "outcomes": rows,
        "outcome_bar": figures.outcome_bar(rows),
        "threshold_map": figures.threshold_map(content.q_hat),
        "threshold_histogram": figures.threshold_histogram(content.q_hat),
        "keep_rate_histogram": figures.keep_rate_histogram(content.keep_rates),
        "trust_chart": figures.trust_chart(estimates, content.audit, guarantee),
        "coverage_chart": figures.coverage_chart(estimates, guarantee),
    }


def audit_wrong(audit: Facts | None) -> float | None:
    """Fraction of all pixels of the audited images that are labeled wrong; None without an audit."""
    return wrong_fraction(audit["kept"]["precision"], audit["kept"]["keep_rate"]) if audit else None


class StageLine(NamedTuple):
    """One finished stage.

    result:   its result, in words
    seconds:  None if unknown
    settings: by section; those of earlier stages, which its receipt has too, are left out
    """

    name: str
    result: str
    seconds: float | None
    receipt: Facts
    settings: Facts


def stage_lines(receipts: Mapping[str, Facts]) -> list[StageLine]:
    """The finished stages, in the order of the workflow."""
    lines, shown = [], dict[str, Any]()
    for stage, describe in RESULTS.items():
        if stage not in receipts:
            continue
        receipt = receipts[stage]
        own = {name: value for name, value in receipt["settings"].items() if shown.get(name) != value}
        shown |= own
        lines.append(StageLine(stage, describe(receipt), receipt.get("seconds"), receipt, own))
    return lines


def _prepared(facts: Facts) -> str:
    count = facts["num_samples"]
    labeled, unlabeled, val = (number(count[split]) for split in ("labeled", "unlabeled", "val"))
    return f"{labeled} labeled, {unlabeled} unlabeled, {val} val images"


def _annotated(facts: Facts) -> str:
    size = " × ".join(str(length) for length in facts["maps"][1:])
    maps = f"{facts['annotator']}: {number(facts['num_done'])} maps of {size} ({facts['dtype']})"
    return f"{maps}, {facts['megabytes']:.0f} MB" + _failures(len(facts["failed"]))


def _calibrated(facts: Facts) -> str:
    alphas = ", ".join(f"{alpha:g}" for alpha in facts["alphas"])
    classes = "" if facts["class_thresholds"] == "pooled" else f", class thresholds {facts['class_thresholds']}"
    images = f"{number(facts['num_labeled'])} labeled images"
    variants = ", ".join([facts["variant"], *facts["beside"]])
    return f"variant {variants}{classes}, α = {alphas}, {images}, {facts['quantile']} quantile"


def _probed(facts: Facts) -> str:
    return f"{len(facts['outcomes'])} ways to train in {facts['folds']} folds: {facts['verdict']}"


def _pseudolabeled(facts: Facts) -> str:
    kept = f"{number(facts['num_images'])} images, {percent(facts['keep_rate'])} of their pixels kept"
    chosen = ", chosen automatically" if facts["is_automatic"] else ""
    thresholds = "" if facts["rule"] == "raw" else f"variant {facts['variant']}, α = {facts['alpha']:g}, "
    return f"{kept}, {thresholds}rule {facts['rule']}{chosen}" + _failures(facts["num_failed"])


def _trained(facts: Facts) -> str:
    if not facts["num_steps"]:
        return "switched off (0 epochs): the student of the previous stage is the result"
    return f"{number(facts['num_steps'])} steps, final loss {facts['final_loss']:.3f}, on {facts['device']}"


def _evaluated(facts: Facts) -> str:
    scores = (f"{figures.STAGE_NAMES[stage]} {_mious(student)}" for stage, student in facts["students"].items())
    return f"mIoU on {number(facts['num_val'])} val images: {', '.join(scores)}"


def _baseline(facts: Facts) -> str:
    steps = f"{number(facts['num_steps'])} steps on the labeled images alone"
    return f"{steps}, mIoU on {number(facts['num_val'])} val images: {percent(facts['miou'])}"


def training_warnings(receipts: Mapping[str, Facts]) -> list[str]:
    """Warnings of prepare about the labeled images, and of the collapse guard with stage and epoch."""
    return warnings_of(receipts, "prepare", "Labeled images") + [
        f"{name}, epoch {point['epoch']}: {warning}"
        for stage, name in figures.STAGE_NAMES.items()
        for point in receipts.get(stage, {}).get("history", [])
        for warning in point.get("warnings", [])
    ]


def warnings_of(receipts: Mapping[str, Facts], stage: str, about: str) -> list[str]:
    """Warnings in the receipt of a stage that may be missing, each after what it is about."""
    return [f"{about}: {warning}" for warning in receipts.get(stage, {}).get("warnings", [])]


def _mious(student: Facts) -> str:
    """mIoU of a stage's last student, and of its best if that is another one."""
    last, best = student["miou"], (student["best"] or student)["miou"]
    return percent(last) + (f" (best: {percent(best)})" if best != last else "")


def _failures(count: int) -> str:
    return f"; {number(count)} failed" if count else ""


RESULTS: dict[str, Callable[[Facts], str]] = {
    "prepare": _prepared,
    "annotate": _annotated,
    "calibrate": _calibrated,
    "probe": _probed,
    "pseudolabel": _pseudolabeled,
    "stage1": _trained,
    "stage2": _trained,
    "evaluate": _evaluated,
    "baseline": _baseline,
}


def percent(fraction: float | None, digits: int = 1) -> str:
    """`76.6 %`, with a non-breaking space; a dash for None, NaN and infinity."""
    if fraction is None or not math.isfinite(fraction):
        return DASH
    return f"{100 * fraction:.{digits}f}\u00a0%"


def number(count: int) -> str:
    """`12 345`, with narrow non-breaking spaces."""
    return f"{count:,}".replace(",", "\u202f")


def duration(seconds: float | None) -> str:
    """`1:02:03`; a dash for None."""
    return DASH if seconds is None else clock(seconds)


def settings_text(settings: Facts) -> str:
    """Settings as YAML, in the form of a run file."""
    return yaml.safe_dump(dict(settings), sort_keys=False, allow_unicode=True, default_flow_style=None, width=100)


FILTERS: dict[str, Callable[..., str]] = {
    "percent": percent,
    "exact": exact_percent,
    "number": number,
    "clock": duration,
    "settings": settings_text,
}
