"""Which images of a label store are exported, and in which order."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from pipeline.errors import StoreError
from pipeline.exchange.labels import LabelSource
from pipeline.settings import did_you_mean
from pipeline.sources.lists import parse_list
from pipeline.store import DONE, OUTCOMES


class Choice(NamedTuple):
    """Places in the store, in the order of the export; and ids of wanted images that have no labels (they failed)."""

    places: list[int]
    left_out: list[str]


def choose_images(source: LabelSource, ids: Path | None = None, most_uncertain: int | None = None) -> Choice:
    """All images of a store, or those that a list names, or of these the ones with the lowest keep rates first.

    ids:            text file with an id, or an image's path, a line; its order is that of the export
    most_uncertain: how many
    raises:         StoreError for an id that the store does not have, and if no image has labels
    """
    store = source.store
    places = list(range(len(store.sample_ids))) if ids is None else _listed_places(source, ids)
    status, names = store.status, store.sample_ids
    left_out = [names[place] for place in places if status[place] != DONE]
    places = [place for place in places if status[place] == DONE]
    if not places:
        raise StoreError(f"{store.path} has no labels of the wanted images: {len(left_out)} failed; see annotate.json")
    if most_uncertain is not None:
        rates = keep_rates(source, places)
        places = [places[i] for i in np.argsort(rates, kind="stable")[:most_uncertain]]
    return Choice(places, left_out)


def keep_rates(source: LabelSource, places: list[int]) -> npt.NDArray[np.float64]:
    """float64 [N]: share of the pixels that have a label, on the grid."""
    if source.position == 0:
        pixels, kept = (source.store.outcome_pixels[places, OUTCOMES.index(name)] for name in ("pixels", "kept"))
        rates: npt.NDArray[np.float64] = kept / pixels
        return rates
    return np.array([(~np.isnan(source.grid_label(place))).mean() for place in places])


def _listed_places(source: LabelSource, ids: Path) -> list[int]:
    try:
        wanted = [entry.id for entry in parse_list(ids.read_text(encoding="utf-8"), Path())]
    except (OSError, UnicodeDecodeError) as error:
        raise StoreError(f"{ids} cannot be read as a list ({error}); give a text file with an id a line") from None
    known = list(source.place_of)
    strange = [name for name in dict.fromkeys(wanted) if name not in source.place_of]
    if strange:
        more = f" and {len(strange) - 1} more" if len(strange) > 1 else ""
        raise StoreError(
            f"{ids} names {strange[0]}{more}, not in {source.store.path}{did_you_mean(strange[0], known)}; it has the "
            f"unlabeled images, e.g. {known[0]}"
        )
    return [source.place_of[name] for name in dict.fromkeys(wanted)]
