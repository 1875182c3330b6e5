"""The facts of a store as lines of text, each with its topic."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import calib
from pipeline.datasets import in_groups
from pipeline.folder import STAGE_OF, stage_command
from pipeline.inspect.findings import named
from pipeline.store import repair_command

SPARKS = "▁▂▃▄▅▆▇█"
DECILES = {1: "p10", 5: "median", 9: "p90"}
MEASURES = ("coverage", "precision")
FRACTIONS = {"labels": "of held-out labels", "masks": "of masks"}

Facts = Mapping[str, Any]
Line = tuple[str, str]


def format_summary(facts: Facts) -> str:
    """The facts of `inspect_store` as lines."""
    lines = [
        ("store", f"{facts['path']}: {facts['kind']}, {_state(facts)}"),
        ("made by", ", ".join(f"{name} {value}" for name, value in facts["made_by"].items())),
        ("images", _images(facts["images"])),
        ("chunks", _chunks(facts)),
        ("size", f"{facts['megabytes']:.1f} MB"),
        *(("array", _array(name, array)) for name, array in facts["arrays"].items()),
    ]
    if "labels" in facts:
        lines += _label_lines(facts["labels"])
    elif "thresholds" in facts:
        lines += _threshold_lines(facts["thresholds"])
    if "held_out" in facts:
        lines += held_out_lines(facts["held_out"])
    lines += class_lines(facts)
    return "\n".join(f"{word:<12}{text}".rstrip() for word, text in lines)


def _state(facts: Facts) -> str:
    command = stage_command(Path(facts["path"]), STAGE_OF[facts["kind"]])
    return "complete" if facts["complete"] else f"incomplete; to finish it, run {command}"


def _images(images: Facts) -> str:
    return f"{images['done']} of {images['total']} done, {named(images['failed'])} failed, {images['absent']} to come"


def _chunks(facts: Facts) -> str:
    missing = facts["missing_chunks"]
    if not missing:
        return "all there; --check reads them with their checksums"
    lost = "; ".join(f"{name}: {named(ids)}" for name, ids in missing.items())
    return f"missing of images that are done: {lost}; run {repair_command(Path(facts['path']), facts['kind'])}"


def _array(name: str, array: Facts) -> str:
    dims = ", ".join(f"{dim} {length}" for dim, length in zip(array["dims"], array["shape"], strict=True))
    return f"{name} ({dims}) {array['dtype']}"


def _label_lines(labels: Facts) -> Iterator[Line]:
    alphas = ", ".join(f"{alpha:g}" for alpha in labels["alphas"]) or "none yet"
    yield "labels", f"alpha {alphas}; rule {labels['rule']}, variant {labels['variant']}"
    if labels["keep_rate"] is None:
        yield "keep rate", "no image is done yet"
        return
    deciles = "  ".join(f"{name} {labels['keep_rate_deciles'][i]:.2f}" for i, name in DECILES.items())
    bars = f"images that keep 0 {sparks(labels['keep_rate_histogram'])} 1 of their pixels"
    yield "keep rate", f"{labels['keep_rate']:.3f}; over the images {deciles}; {bars}"
    yield "pixels", ", ".join(f"{name} {count}" for name, count in labels["outcomes"].items() if name != "pixels")
    if labels["teaching_pixels"] is not None:
        yield "sets", f"{labels['teaching_pixels']} pixels without a label can teach by their set (stage1.set_loss)"
    width = max((len(image["id"]) for image in labels["worst"]), default=0)
    for image in labels["worst"]:
        lost = [name for name in ("empty", "uncalibrated") if image[name]]
        fractions = ", ".join(f"{name} {image[name] / image['pixels']:.3f}" for name in lost)
        yield "keeps least", f"{image['id']:<{width}}  {image['keep_rate']:.3f}  {fractions}"


def _threshold_lines(thresholds: Facts | None) -> Iterator[Line]:
    if thresholds is None:
        yield "thresholds", "not computed yet"
        return
    where = "class and location" if thresholds["is_class_wise"] else "location"
    each = ", each class has its own" if thresholds["is_class_wise"] else ""
    spread = "{min:.0f} to {max:.0f} labeled images, median {median:.0f}".format(**thresholds["n_valid"])
    never = f"{100 * thresholds['never_labeled_fraction']:.1f} % have none"
    alphas = ", ".join(f"{alpha:g}" for alpha in thresholds["alphas"])
    beside = "; compared with it: " + ", ".join(thresholds["beside"]) if thresholds["beside"] else ""
    fixed = ", fixed, nothing is calibrated" if calib.find_variant(thresholds["variant"]).bounds == "nothing" else ""
    yield "thresholds", f"variant {thresholds['variant']}{each}{fixed}, alpha {alphas}{beside}"
    yield from (("q_hat", _q_hat(facts)) for facts in thresholds["by_alpha"])
    yield "n_valid", f"{spread}, behind each {where}; {never}"


def _q_hat(facts: Facts) -> str:
    q_hat = facts["q_hat"]
    spread = "{min:.3f} to {max:.3f}, median {median:.3f}".format(**q_hat) if q_hat else "none is finite"
    return f"alpha {facts['alpha']:<5g} {spread}; {100 * facts['uncalibrated_fraction']:.1f} % uncalibrated"


def sparks(counts: Sequence[int]) -> str:
    """One bar character for each count; the highest for the largest count, the lowest for 0."""
    top = max(*counts, 1)
    return "".join(SPARKS[-(-count * (len(SPARKS) - 1) // top)] for count in counts)


def held_out_lines(facts: Facts) -> Iterator[Line]:
    """One line for each row of held-out estimates, or the reason why there are none."""
    if facts["problem"] is not None:
        yield "held out", facts["problem"]
        return
    groups = facts["num_groups"]
    images, over = in_groups(facts["num_images"], groups), "images" if groups is None else "groups"
    yield "held out", f"{images} in {facts['folds']} folds; [95 % interval over {over}]"
    raw = facts["raw"]
    yield (
        "held out",
        f"annotator's own argmax, every pixel: precision {_shown(raw['precision'])}, mIoU {_shown(raw['miou'])}",
    )
    for row in facts["rows"]:
        estimates = ", ".join(f"{name.replace('_', ' ')} {_shown(row[name])}" for name in (*MEASURES, "keep_rate"))
        beside = "" if row["same_keep"] is None else f", argmax at that keep rate {_shown(row['same_keep'])}"
        miou = f", mIoU of labels {_shown(row['miou'])}"
        target = ", no coverage guaranteed" if calib.find_variant(row["variant"]).bounds == "nothing" else ""
        if row["target"] is not None:
            target = f", target coverage {row['target']:g}"
        without = (
            f"; {100 * row['uncalibrated']:.1f} % covered because no threshold exists" if row["uncalibrated"] else ""
        )
        made = f"variant {row['variant']:<6} alpha {row['alpha']:<5g} rule {row['rule']:<13}"
        yield "held out", f"{made} {estimates}{beside}{miou}{target}{without}"
    if facts["verdict"] is not None:
        yield "verdict", facts["verdict"]
    if facts["guarantee"] is not None:
        yield "guarantee", facts["guarantee"]


def class_lines(facts: Facts) -> Iterator[Line]:
    """A table with one row per class: labeled pixels and their fraction, held-out estimates, and a flag."""
    pixels = facts["labels"]["pixels_per_class"] if "labels" in facts else {}
    estimates = facts.get("held_out", {}).get("per_class", {})
    if estimates:
        row = facts["held_out"]["rows"][0]
        yield "by class", f"held out at variant {row['variant']}, alpha {row['alpha']:g}, rule {row['rule']}"
    if not pixels and not estimates:
        yield "classes", ", ".join(facts["classes"])
        return
    columns = [["class", *facts["classes"]]]
    if pixels:
        total = max(sum(pixels.values()), 1)
        columns += [["pixels", *(str(pixels[name]) for name in facts["classes"])]]
        columns += [["fraction", *(_percent(pixels[name] / total) for name in facts["classes"])]]
    for of, title in FRACTIONS.items() if estimates else ():
        columns += [[title, *(_percent(estimates[name]["fractions"][of]) for name in facts["classes"])]]
    for measure in MEASURES if estimates else ():
        columns += [[f"held-out {measure}", *(_shown(estimates[name][measure]) for name in facts["classes"])]]
    if estimates:
        columns += [["", *("under-covered" if estimates[name]["under_covered"] else "" for name in facts["classes"])]]
    for cells in zip(*(_aligned(column) for column in columns), strict=True):
        yield "by class", "  ".join(cells).rstrip()


def _aligned(column: Sequence[str]) -> list[str]:
    """Cells of one width; pixels and fractions are aligned to the right."""
    width = max(map(len, column))
    is_number = column[0] in ("pixels", "fraction", *FRACTIONS.values())
    return [cell.rjust(width) if is_number else cell.ljust(width) for cell in column]


def _percent(fraction: float | None) -> str:
    return "-" if fraction is None else f"{100 * fraction:.2f} %"


def _shown(estimate: Mapping[str, float] | None) -> str:
    """`0.952 [0.941, 0.963]`, or a dash for None."""
    return "-" if estimate is None else "{value:.3f} [{low:.3f}, {high:.3f}]".format(**estimate)
