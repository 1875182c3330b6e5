"""Chooses the images of a label store to export, and their order."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import numpy as np

from pipeline.errors import DatasetError, StoreError
from pipeline.exchange.labels import ExportedLabels
from pipeline.settings import did_you_mean
from pipeline.sources.lists import named_images
from pipeline.store import OUTCOMES


class Choice(NamedTuple):
    """Images to export.

    indices:  of the images, in the order of the export
    left_out: ids of chosen images without labels, because the annotator failed on them; also of single tiles of images
    """

    indices: list[int]
    left_out: list[str]


def choose_images(exported: ExportedLabels, ids: Path | None = None, most_uncertain: int | None = None) -> Choice:
    """All images of a store, or those of a list, in this order; or those of them with the lowest keep rates.

    ids:            text file with one id, image path or unique stem per line
    most_uncertain: number of images with the lowest keep rates, lowest first
    raises:         StoreError for an id that the store does not have, and if no image has labels; DatasetError for a
                    list that cannot be read
    """
    store = exported.store
    chosen = list(range(len(exported.samples))) if ids is None else _listed_indices(exported, ids)
    rows = {index: exported.rows(index) for index in chosen}
    left_out = [store.sample_ids[row] for own in rows.values() for row in own if not exported.has_label[row]]
    indices = [index for index in chosen if exported.has_label[rows[index]].any()]
    if not indices:
        raise StoreError(
            f"{store.path} has no labels of the chosen images, because the annotator failed on all {len(left_out)}; "
            "choose other images, or fix the causes in annotate.json"
        )
    if most_uncertain is not None:
        rates = [_keep_rate(exported, rows[index]) for index in indices]
        indices = [indices[i] for i in np.argsort(rates, kind="stable")[:most_uncertain]]
    return Choice(indices, left_out)


def _keep_rate(exported: ExportedLabels, rows: list[int]) -> float:
    """Fraction of the pixels of an image that have a label, in [0, 1], on the grid. Overlaps of tiles count twice."""
    rows = [row for row in rows if exported.has_label[row]]
    if exported.alpha_index == 0:
        pixels, kept = (exported.outcome_pixels[rows, OUTCOMES.index(name)].sum() for name in ("pixels", "kept"))
        return float(kept / pixels)
    return float(np.mean([~np.isnan(exported.grid_label(row)) for row in rows]))


def _listed_indices(exported: ExportedLabels, ids: Path) -> list[int]:
    known = list(exported.index_of)
    listed = named_images(ids, known)
    if not listed:
        raise DatasetError(f"{ids} names no image; write one id per line, e.g. {known[0]}")
    unknown = [name for name in dict.fromkeys(listed) if name not in exported.index_of]
    if unknown:
        more = f" and {len(unknown) - 1} more" if len(unknown) > 1 else ""
        raise StoreError(
            f"{ids} names {unknown[0]}{more}, not in {exported.store.path}{did_you_mean(unknown[0], known)}; name only "
            f"unlabeled images of the run, e.g. {known[0]}"
        )
    return [exported.index_of[name] for name in dict.fromkeys(listed)]
