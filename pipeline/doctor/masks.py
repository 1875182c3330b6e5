"""Findings about the values of masks: colours instead of indices, other codings, values without a class, void."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from pipeline.datasets import IGNORE_INDEX, mask_classes, unknown_mask_values
from pipeline.doctor.findings import Finding, from_message
from pipeline.doctor.survey import MaskFacts, SampleFacts, Survey
from pipeline.settings import DataSettings
from pipeline.sources.misreadings import misreading, suspicions
from pipeline.sources.palettes import palette_problems

MUCH_VOID = 0.5  # fraction of the pixels
MAX_VALUES = 8  # number of values without a class that are listed


def mask_findings(survey: Survey, data: DataSettings) -> list[Finding]:
    """Check whether the masks are index masks in the coding of `data.classes`."""
    return [
        *_colours(survey.samples),
        *_coding(survey, data),
        *_palettes(survey),
        *_unknown(survey.samples, data),
        *_void(survey.samples, data),
    ]


def _colours(samples: Sequence[SampleFacts]) -> Iterator[Finding]:
    coloured = [(facts, facts.mask) for facts in samples if facts.mask is not None and facts.mask.num_colours]
    grey = tuple(str(facts.sample.mask) for facts, mask in coloured if mask.is_grey)
    if grey:
        what = f"{len(grey)} index masks were saved as colour images with three equal channels"
        yield Finding("error", what, grey, "save one channel of each as PNG (mode L)")
    others = [(facts, mask) for facts, mask in coloured if not mask.is_grey]
    if others:
        fewest, most = (f(mask.num_colours for _, mask in others) for f in (min, max))
        number = f"{fewest} colours" if fewest == most else f"{fewest} to {most} colours"
        what = f"{len(others)} masks are colour images ({number} each), expected one index per class (mode P or L)"
        fix = "replace each colour by the index of its class, and save the masks as PNG"
        yield Finding("error", what, tuple(str(facts.sample.mask) for facts, _ in others), fix)


def _palettes(survey: Survey) -> list[Finding]:
    colours = {str(facts.sample.mask): facts.mask.colours for facts in survey.samples if facts.mask is not None}
    return [from_message(problem) for problem in palette_problems(colours)]


def _coding(survey: Survey, data: DataSettings) -> Iterator[Finding]:
    values = [frozenset(mask.values) for mask in survey.masks_of("labeled", "val")]
    published = misreading(values, data)
    if published is not None:
        yield from_message(published)
        return
    for suspicion in suspicions(values, data):
        yield Finding("error" if suspicion.is_certain else "warning", suspicion.what, fix=suspicion.fix)


def _unknown(samples: Sequence[SampleFacts], data: DataSettings) -> Iterator[Finding]:
    unknown = {
        str(facts.sample.mask): unknown_mask_values(np.array(list(facts.mask.values), np.int32), data)
        for facts in samples
        if facts.mask is not None
    }
    where = tuple(mask for mask, values in unknown.items() if values)
    if where:
        values = sorted({value for of_mask in unknown.values() for value in of_mask})
        shown = ", ".join(map(str, values[:MAX_VALUES])) + (", ..." if len(values) > MAX_VALUES else "")
        many = f" ({len(values)} values, probably from smoothing or compression)" if len(values) > MAX_VALUES else ""
        yield Finding(
            "error",
            f"{len(where)} masks have values without a class: {shown}{many}",
            where,
            "add the values to data.classes or data.ignore_values, or set data.unknown_values: ignore",
        )


def _void(samples: Sequence[SampleFacts], data: DataSettings) -> Iterator[Finding]:
    fractions = {
        str(facts.sample.mask): void_fraction(facts.mask, data)
        for facts in samples
        if facts.mask is not None and facts.mask.values
    }
    if not fractions:
        return
    empty = tuple(mask for mask, fraction in fractions.items() if fraction == 1)
    if empty:
        yield Finding("warning", f"{len(empty)} masks have no pixel with a class", empty, "complete or remove them")
    mean = float(np.mean(list(fractions.values())))
    what = f"on average {100 * mean:.1f} % of a mask is void"
    if mean > MUCH_VOID:
        what += ", and void pixels are used neither for training nor for calibration"
        fix = "check that data.ignore_values contains no value of a class"
        yield Finding("warning", what, (f"data.ignore_values: {data.ignore_values}",), fix)
    else:
        yield Finding("note", what)


def void_fraction(mask: MaskFacts, data: DataSettings) -> float:
    """Fraction of the pixels of an index mask that have no class, in [0, 1]."""
    classes = mask_classes(np.array(list(mask.values), np.int32), data)
    pixels = np.array(list(mask.values.values()))
    return float(pixels[classes == IGNORE_INDEX].sum() / pixels.sum())
