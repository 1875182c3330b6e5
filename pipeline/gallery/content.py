"""The data that the page embeds: integer planes of the images shown, and exact counts of all images."""

from __future__ import annotations

import logging
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

import calib
from pipeline.dask_tasks import run_tasks
from pipeline.datasets import resize_nearest
from pipeline.errors import StoreError
from pipeline.gallery.estimates import guaranteed_stops, held_out_estimates
from pipeline.gallery.images import CountedImage, Slider, count_image
from pipeline.gallery.labeled_run import LabeledRun
from pipeline.gallery.numbers import Tally, assert_levels_exist, chosen_images, first_stops
from pipeline.gallery.packing import pack, shown_size, steps
from pipeline.gallery.thresholds import threshold_facts
from pipeline.palette import class_colours, css
from pipeline.progress import Progress
from pipeline.run import Run
from pipeline.store import DONE, OUTCOMES

log = logging.getLogger(__name__)

Facts = dict[str, Any]
DIGITS = 9  # of the fractions in commands


class CountedRun(NamedTuple):
    """Counts of all images that have labels, in the order of the store.

    indices: of the images in the store
    totals:  of each rule, over all images
    raw:     int64 [K], pixels by most probable class
    kept:    int64 [N, R, A], labeled pixels of each image under R rules at A stops
    shown:   embedded data of the images that are shown
    """

    indices: list[int]
    totals: list[Tally]
    raw: npt.NDArray[np.int64]
    kept: npt.NDArray[np.int64]
    shown: list[Facts]


def page_content(run: LabeledRun) -> Facts:
    """All data that the page embeds, as JSON types; arrays are compressed and in base64 (`pack`).

    raises: StoreError if no image has labels, a photograph cannot be read, or stored labels differ from those that
            follow from their planes and the thresholds
    """
    slider = prepare_slider(run)
    counted = count_images(run, slider)
    labels, stops = run.labels, run.stops
    names = labels.class_names
    colours = class_colours(len(names), run.background)
    ids = labels.sample_ids
    return {
        "run": run.settings.name,
        "commands": commands(run),
        "alphas": list(stops.alphas),
        "ownStop": run.own_stop,
        "ownRule": labels.rule,
        "otherVariant": run.other_variant,
        "rules": list(run.rules),
        "ruleTables": [calib.find_rule(rule).table.ravel().tolist() for rule in run.rules],
        "isClassWise": run.is_class_wise,
        "classes": [{"name": name, "colour": css(colour)} for name, colour in zip(names, colours, strict=True)],
        "background": run.background,
        "grid": list(run.settings.data.grid),
        "size": list(slider.size),
        "first": pack(resize_nearest(slider.first, slider.size)),
        "ids": [ids[i] for i in counted.indices],
        "totals": [_as_lists(total) for total in counted.totals],
        "rawPixels": counted.raw.tolist(),
        "keptOfAll": pack(steps(counted.kept)),
        "images": counted.shown,
        "heldOut": held_out_estimates(stops, run.rules, names, run.receipts["calibrate"]),
        "guaranteed": guaranteed_stops(run),
        "thresholds": threshold_facts(stops, run.settings.calibrate, run.settings.gallery.longest_side // 2),
    }


def commands(run: LabeledRun) -> list[list[str]]:
    """Command that writes the labels of each rule at each stop."""
    own = Run(run.settings)
    return [[own.command("all", **_changes(run, alpha, rule)) for alpha in run.stops.alphas] for rule in run.rules]


def _changes(run: LabeledRun, alpha: float, rule: str) -> Facts:
    """Overrides of the run's settings that give the labels of a stop and rule."""
    if run.settings.calibrate.kind.bounds != "precision":
        variant = {} if run.other_variant is None else {"variant": run.other_variant}
        return variant | {"alpha": alpha, "rule": rule}
    if rule == calib.RAW:
        return {"guarantee": None, "rule": rule}
    confidence = round(1 - run.settings.error_of_each_test, DIGITS)  # a single rule may make all of the error
    return {"guarantee": {"precision": round(1 - alpha, DIGITS), "confidence": confidence}, "rule": rule}


def prepare_slider(run: LabeledRun) -> Slider:
    """The first stop of each location, the size of the planes, and the choice of images."""
    policy = run.settings.calibrate.uncalibrated
    if not run.is_class_wise:
        assert_levels_exist(run.stops.q)
    first = first_stops(run.stops.q, "accept" if policy == "accept" else "abstain")
    done = np.flatnonzero(run.labels.status == DONE)
    outcomes = run.labels.outcome_pixels[done].astype(np.float64)
    keep_rates = outcomes[:, OUTCOMES.index("kept")] / np.maximum(outcomes[:, OUTCOMES.index("pixels")], 1)
    chosen = done[chosen_images(keep_rates, run.settings.gallery.num_images)]
    size = shown_size(run.settings.data.grid, run.settings.gallery.longest_side)
    return Slider(first, size, frozenset(chosen.tolist()), run.labels.class_pixels)


def count_images(run: LabeledRun, slider: Slider) -> CountedRun:
    """Counts of all images that have labels; StoreError if there is none, and as `count_image` raises it."""
    samples = run.samples.of("unlabeled")
    indices = np.flatnonzero(run.labels.status == DONE).tolist()
    if not indices:
        raise StoreError(f"{run.labels.path} has no image with labels; fix the failures listed in annotate.json")
    num_rules, num_classes, num_stops = len(run.rules), len(run.labels.class_names), len(run.stops.alphas)
    by_class = num_classes, num_stops
    totals = [Tally(*(np.zeros(n, np.int64) for n in (by_class, by_class, num_stops))) for _ in range(num_rules)]
    raw = np.zeros(num_classes, np.int64)
    kept = {i: np.zeros((num_rules, num_stops), np.int64) for i in indices}
    shown: dict[int, Facts] = {}
    progress = Progress(log, "gallery", len(indices), "images")

    def on_done(image: CountedImage) -> None:
        for rule, tally in enumerate(image.tallies):
            for total, counts in zip(totals[rule], tally, strict=True):
                total += counts
            kept[image.index][rule] = tally.by_label.sum(axis=0)
        np.add(raw, image.raw, out=raw)
        if image.shown is not None:
            shown[image.index] = image.shown
        progress.advance()

    # threads read the thresholds of all stops from one array; a cluster would need a copy per task
    threads = run.settings.compute.model_copy(update={"scheduler": "threads"})
    run_tasks(lambda i: count_image(run, slider, samples[i], i), indices, threads, on_done)
    return CountedRun(indices, totals, raw, np.stack(list(kept.values())), [shown[i] for i in sorted(shown)])


def _as_lists(total: Tally) -> Facts:
    return {
        "byLabel": total.by_label.tolist(),
        "byRaw": total.by_raw.tolist(),
        "changed": total.changed.tolist(),
    }
