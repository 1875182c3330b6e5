"""From the stores of a run to what the page embeds: integer planes of the images shown, exact counts of all images."""

from __future__ import annotations

import logging
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

import calib
from pipeline.dask_tasks import run_tasks
from pipeline.datasets import resize_nearest
from pipeline.errors import StoreError
from pipeline.gallery.estimates import held_out
from pipeline.gallery.images import Looked, Slider, look
from pipeline.gallery.numbers import Tally, assert_levels_exist, chosen_images, first_stops
from pipeline.gallery.packing import pack, shown_size, steps
from pipeline.gallery.source import Source
from pipeline.gallery.thresholds import threshold_facts
from pipeline.palette import class_colours, css
from pipeline.progress import Progress
from pipeline.run import Run
from pipeline.store import DONE, OUTCOMES

log = logging.getLogger(__name__)

Facts = dict[str, Any]


class Seen(NamedTuple):
    """All labeled images, in the order of the store.

    places: in the store
    totals: of each rule, over all of them
    raw:    int64 [K], pixels by most probable class
    kept:   int64 [N, R, A], labeled pixels of each
    shown:  what the page embeds of those that are shown
    """

    places: list[int]
    totals: list[Tally]
    raw: npt.NDArray[np.int64]
    kept: npt.NDArray[np.int64]
    shown: list[Facts]


def page_content(source: Source) -> Facts:
    """All that the page embeds, as JSON; arrays are deflated and in base64 (`pack`).

    raises: StoreError if a recount of the stored labels from their planes does not give the stored numbers
    """
    slider = prepare_slider(source)
    seen = look_at_images(source, slider)
    labels, stops = source.labels, source.stops
    names = labels.class_names
    colours = class_colours(len(names), source.background)
    ids = labels.sample_ids
    return {
        "run": source.settings.name,
        "command": command(source),
        "alphas": list(stops.alphas),
        "ownStop": source.own_stop,
        "ownRule": labels.rule,
        "otherVariant": source.other_variant,
        "rules": list(source.rules),
        "ruleTables": [calib.find_rule(rule).table.ravel().tolist() for rule in source.rules],
        "isClassWise": source.is_class_wise,
        "classes": [{"name": name, "colour": css(colour)} for name, colour in zip(names, colours, strict=True)],
        "background": source.background,
        "grid": list(source.settings.data.grid),
        "size": list(slider.size),
        "first": pack(resize_nearest(slider.first, slider.size)),
        "ids": [ids[place] for place in seen.places],
        "totals": [_as_lists(total) for total in seen.totals],
        "rawPixels": seen.raw.tolist(),
        "keptOfAll": pack(steps(seen.kept)),
        "images": seen.shown,
        "heldOut": held_out(stops, source.rules, names, source.receipts["calibrate"]),
        "thresholds": threshold_facts(stops, source.settings.calibrate, source.settings.gallery.longest_side // 2),
    }


def command(source: Source) -> str:
    """What labels as the page shows, with the words alpha=ALPHA and rule=RULE to be replaced."""
    variant = {} if source.other_variant is None else {"variant": source.other_variant}
    return Run(source.settings).command("all", **variant, alpha="ALPHA", rule="RULE")


def prepare_slider(source: Source) -> Slider:
    """Where locations start to label, the size of the planes, and the choice of images."""
    policy = source.settings.calibrate.uncalibrated
    if not source.is_class_wise:
        assert_levels_exist(source.stops.q)
    first = first_stops(source.stops.q, "accept" if policy == "accept" else "abstain")
    done = np.flatnonzero(source.labels.status == DONE)
    outcomes = source.labels.outcome_pixels[done].astype(np.float64)
    keep_rates = outcomes[:, OUTCOMES.index("kept")] / np.maximum(outcomes[:, OUTCOMES.index("pixels")], 1)
    chosen = done[chosen_images(keep_rates, source.settings.gallery.num_images)]
    size = shown_size(source.settings.data.grid, source.settings.gallery.longest_side)
    return Slider(first, size, frozenset(chosen.tolist()), source.labels.class_pixels)


def look_at_images(source: Source, slider: Slider) -> Seen:
    """Count all labeled images; StoreError unless there is one, and as `look` raises it."""
    samples = source.samples.of("unlabeled")
    places = np.flatnonzero(source.labels.status == DONE).tolist()
    if not places:
        raise StoreError(f"{source.labels.path} has no labeled image; see the failures in annotate.json")
    num_rules, num_classes, num_stops = len(source.rules), len(source.labels.class_names), len(source.stops.alphas)
    by_class = num_classes, num_stops
    totals = [Tally(*(np.zeros(n, np.int64) for n in (by_class, by_class, num_stops))) for _ in range(num_rules)]
    raw = np.zeros(num_classes, np.int64)
    kept = {place: np.zeros((num_rules, num_stops), np.int64) for place in places}
    shown: dict[int, Facts] = {}
    progress = Progress(log, "gallery", len(places), "images")

    def on_done(image: Looked) -> None:
        for rule, counted in enumerate(image.tallies):
            for total, counts in zip(totals[rule], counted, strict=True):
                total += counts
            kept[image.place][rule] = counted.by_label.sum(axis=0)
        np.add(raw, image.raw, out=raw)
        if image.shown is not None:
            shown[image.place] = image.shown
        progress.advance()

    # threads share the thresholds of all stops; a cluster would have to be sent them
    threads = source.settings.compute.model_copy(update={"scheduler": "threads"})
    run_tasks(lambda place: look(source, slider, samples[place], place), places, threads, on_done)
    return Seen(places, totals, raw, np.stack(list(kept.values())), [shown[place] for place in sorted(shown)])


def _as_lists(total: Tally) -> Facts:
    return {
        "byLabel": total.by_label.tolist(),
        "byRaw": total.by_raw.tolist(),
        "changed": total.changed.tolist(),
    }
