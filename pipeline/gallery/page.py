"""The gallery as HTML: a fragment for the report, or a page of its own; both need no other file."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import jinja2
from markupsafe import Markup

from pipeline.drawing import STYLE_FOLDER
from pipeline.gallery.content import page_content
from pipeline.gallery.labeled_run import LabeledRun, open_labeled_run
from pipeline.report.page import number
from pipeline.settings import Settings

Facts = Mapping[str, Any]

HERE = Path(__file__).parent
SCRIPTS = (
    "data.js", "words.js", "paint.js", "controls.js", "viewer.js", "images.js", "charts.js", "classes.js", "maps.js",
    "main.js",
)  # fmt: skip


def gallery_page(settings: Settings) -> str:
    """The gallery of a run as a whole HTML page; StoreError if the run has no labels yet."""
    return _render("page.html", settings, standalone=True)


def gallery_fragment(settings: Settings) -> Markup:
    """The gallery of a run as one `<section>` with style and scripts, for a page with the report's style sheet.

    raises: StoreError if the run has no labels yet
    """
    return Markup(_render("fragment.html", settings, standalone=False))  # nosec B704: the template escapes


def _render(template: str, settings: Settings, standalone: bool) -> str:
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader([HERE, STYLE_FOLDER]),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["number"] = number
    run = open_labeled_run(settings)
    content = page_content(run)
    return environment.get_template(template).render(
        page_variables(run, content), data=script_json(content), scripts=SCRIPTS, standalone=standalone
    )


def page_variables(run: LabeledRun, content: Facts) -> dict[str, Any]:
    """Variables of the templates."""
    held_out = content["heldOut"]
    return {
        "run": run.settings.name,
        "annotator": f"The annotator ({run.receipts['annotate']['annotator']})",
        "num_images": len(content["ids"]),
        "num_labeled": run.receipts["calibrate"]["num_labeled"],
        "num_held_out": held_out["numImages"],
        "num_held_out_groups": held_out["numGroups"],
        "folds": held_out["folds"],
        "is_class_wise": run.is_class_wise,
        "is_risk": held_out["isRisk"],
        "is_precision": run.settings.calibrate.kind.bounds == "precision",
        "guarantee_is_of_classes": run.receipts["calibrate"]["class_thresholds"] == "each",
        "choice": choice(len(content["images"]), len(content["ids"])),
        "provenance": list(provenance(run, len(content["ids"]))),
    }


def choice(shown: int, num_images: int) -> str:
    """Sentence on which images are shown."""
    if shown == num_images:
        return f"All {number(num_images)} unlabeled images of the run."
    return (
        f"{number(shown)} of the run's {number(num_images)} unlabeled images: half have the lowest keep rates at the "
        "run's own alpha, half are evenly spaced among the others. Counts of the run are of all images."
    )


def provenance(run: LabeledRun, num_images: int) -> Iterator[tuple[str, str]]:
    """Name and value of what produced the labels, and how they were checked."""
    calibrated, state = run.receipts["calibrate"], run.labels.state
    yield "annotator", run.receipts["annotate"]["annotator"]
    yield "probabilities", run.receipts["annotate"]["fingerprint"]
    yield "calibration", f"{run.calibration.fingerprint}: {calibrated['num_labeled']} labeled images"
    yield "variant", f"{state['variant']}, class thresholds {calibrated['class_thresholds']}"
    yield "quantile", calibrated["quantile"]
    yield "labels", f"{run.labels.fingerprint}: alpha {state['alpha']:g}, rule {state['rule']}"
    yield (
        "checked",
        (
            f"for all {number(num_images)} images, planes and thresholds give as many pixels of every class as the "
            "stored labels have"
        ),
    )


def script_json(content: Facts) -> Markup:
    """JSON that is safe inside a script element, because it contains no `<`."""
    return Markup(json.dumps(content, separators=(",", ":"), allow_nan=False).replace("<", "\\u003c"))  # nosec B704: no `<` is left
