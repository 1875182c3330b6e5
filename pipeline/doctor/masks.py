"""Findings about what masks hold: colours instead of indices, other codings, values without a class, void."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from pipeline.datasets import IGNORE_INDEX, mask_classes, unknown_mask_values
from pipeline.doctor.findings import Finding, from_message
from pipeline.doctor.survey import Look, MaskLook, Survey
from pipeline.settings import DataSettings
from pipeline.sources.misreadings import misreading, suspicions

MUCH_VOID = 0.5
MAX_VALUES = 8  # listed of those that no class names


def mask_findings(survey: Survey, data: DataSettings) -> list[Finding]:
    """Whether the masks are index masks in the coding of `data.classes`."""
    return [*_colours(survey.looks), *_coding(survey, data), *_unknown(survey.looks, data), *_void(survey.looks, data)]


def _colours(looks: Sequence[Look]) -> Iterator[Finding]:
    coloured = [(look, look.mask) for look in looks if look.mask is not None and look.mask.num_colours]
    grey = tuple(str(look.sample.mask) for look, mask in coloured if mask.is_grey)
    if grey:
        what = f"{len(grey)} index masks were saved as colour pictures with three equal channels"
        yield Finding("error", what, grey, "save one channel of each (mode L)")
    rest = [(look, mask) for look, mask in coloured if not mask.is_grey]
    if rest:
        fewest, most = (f(mask.num_colours for _, mask in rest) for f in (min, max))
        told = f"{fewest} colours" if fewest == most else f"{fewest} to {most} colours"
        what = f"{len(rest)} masks are colour pictures ({told} each), expected one index a class (mode P or L)"
        fix = "replace each colour by its class's index, and save PNGs"
        yield Finding("error", what, tuple(str(look.sample.mask) for look, _ in rest), fix)


def _coding(survey: Survey, data: DataSettings) -> Iterator[Finding]:
    values = [frozenset(mask.values) for mask in survey.masks_of("labeled", "val")]
    published = misreading(values, data)
    if published is not None:
        yield from_message(published)
        return
    for suspicion in suspicions(values, data):
        yield Finding("error" if suspicion.is_certain else "warning", suspicion.what, fix=suspicion.fix)


def _unknown(looks: Sequence[Look], data: DataSettings) -> Iterator[Finding]:
    unknown = {
        str(look.sample.mask): unknown_mask_values(np.array(list(look.mask.values), np.int32), data)
        for look in looks
        if look.mask is not None
    }
    where = tuple(mask for mask, values in unknown.items() if values)
    if where:
        values = sorted({value for found in unknown.values() for value in found})
        shown = ", ".join(map(str, values[:MAX_VALUES])) + (", ..." if len(values) > MAX_VALUES else "")
        many = f" ({len(values)} values: smoothed or compressed masks have such)" if len(values) > MAX_VALUES else ""
        yield Finding(
            "error",
            f"{len(where)} masks have values that no class names: {shown}{many}",
            where,
            "add them to data.classes (values) or data.ignore_values, or set data.unknown_values: ignore",
        )


def _void(looks: Sequence[Look], data: DataSettings) -> Iterator[Finding]:
    shares = {
        str(look.sample.mask): void_share(look.mask, data)
        for look in looks
        if look.mask is not None and look.mask.values
    }
    if not shares:
        return
    empty = tuple(mask for mask, share in shares.items() if share == 1)
    if empty:
        yield Finding("warning", f"{len(empty)} masks have no pixel of any class", empty, "draw or remove them")
    mean = float(np.mean(list(shares.values())))
    what = f"void is {100 * mean:.1f} % of a mask on average"
    if mean > MUCH_VOID:
        fix = "see that data.ignore_values names no class; pixels that are void teach and calibrate nothing"
        yield Finding("warning", what, (f"data.ignore_values: {data.ignore_values}",), fix)
    else:
        yield Finding("note", what)


def void_share(mask: MaskLook, data: DataSettings) -> float:
    """Share of the pixels of an index mask that no class has."""
    classes = mask_classes(np.array(list(mask.values), np.int32), data)
    pixels = np.array(list(mask.values.values()))
    return float(pixels[classes == IGNORE_INDEX].sum() / pixels.sum())
