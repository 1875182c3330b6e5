"""The gallery as HTML: a fragment for the report, or a page of its own; neither asks for any other file."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import jinja2
from markupsafe import Markup

from pipeline.drawing import STYLE_FOLDER
from pipeline.gallery.content import page_content
from pipeline.gallery.source import Source, open_source
from pipeline.report.page import number
from pipeline.settings import Settings

Facts = Mapping[str, Any]

HERE = Path(__file__).parent
SCRIPTS = (
    "data.js", "words.js", "paint.js", "controls.js", "viewer.js", "images.js", "charts.js", "classes.js", "maps.js",
    "main.js",
)  # fmt: skip


def gallery_page(settings: Settings) -> str:
    """The gallery of a run as a whole HTML page; raises StoreError until the run has labels."""
    return _render("page.html", settings, standalone=True)


def gallery_fragment(settings: Settings) -> Markup:
    """The same as one `<section>` with its style and script, for a page with the report's style sheet."""
    return Markup(_render("fragment.html", settings, standalone=False))


def _render(template: str, settings: Settings, standalone: bool) -> str:
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader([HERE, STYLE_FOLDER]),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["number"] = number
    source = open_source(settings)
    content = page_content(source)
    return environment.get_template(template).render(
        words(source, content), data=script_json(content), scripts=SCRIPTS, standalone=standalone
    )


def words(source: Source, content: Facts) -> dict[str, Any]:
    """What the templates say of the run."""
    held_out = content["heldOut"]
    return {
        "run": source.settings.name,
        "annotator": f"The annotator ({source.receipts['annotate']['annotator']})",
        "num_images": len(content["ids"]),
        "num_labeled": source.receipts["calibrate"]["num_labeled"],
        "num_held_out": held_out["numImages"],
        "folds": held_out["folds"],
        "is_class_wise": source.is_class_wise,
        "is_risk": held_out["isRisk"],
        "promise_is_of_classes": source.receipts["calibrate"]["class_thresholds"] == "each",
        "choice": choice(len(content["images"]), len(content["ids"])),
        "made_by": list(made_by(source, len(content["ids"]))),
    }


def choice(shown: int, num_images: int) -> str:
    """Which images are shown, in a sentence."""
    if shown == num_images:
        return f"All {number(num_images)} unlabeled images of the run."
    return (
        f"{number(shown)} of the run's {number(num_images)} unlabeled images: half are those with the lowest "
        "keep rate at the run's own alpha, half are evenly spaced among the others. Every count of the run is of all."
    )


def made_by(source: Source, num_images: int) -> Iterator[tuple[str, str]]:
    """What made the labels, and how it was checked that they are those of the planes."""
    calibrated, state = source.receipts["calibrate"], source.labels.state
    yield "annotator", source.receipts["annotate"]["annotator"]
    yield "probabilities", source.receipts["annotate"]["fingerprint"]
    yield "calibration", f"{source.calibration.fingerprint}: {calibrated['num_labeled']} labeled images"
    yield "variant", f"{state['variant']}, class thresholds {calibrated['class_thresholds']}"
    yield "quantile", calibrated["quantile"]
    yield "labels", f"{source.labels.fingerprint}: alpha {state['alpha']:g}, rule {state['rule']}"
    yield (
        "checked",
        (
            f"the labels of all {number(num_images)} images, counted again from planes and thresholds, have as many "
            "pixels of every class as the store"
        ),
    )


def script_json(content: Facts) -> Markup:
    """JSON that may stand in a script element: no `<` can end it."""
    return Markup(json.dumps(content, separators=(",", ":"), allow_nan=False).replace("<", "\\u003c"))
