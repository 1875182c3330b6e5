"""Which classes have too many labels and which too few: fractions of the labels beside those of the masks."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

SHOWN = 5  # classes in the sentence


def fractions_of(pixels: Mapping[str, int], held_out: Mapping[str, Any] | None) -> dict[str, dict[str, float | None]]:
    """Class -> its fraction of some labels, and of the masks of the labeled images.

    pixels:   class -> number of labels
    held_out: of the receipt of calibrate; None, or of an earlier version: the fractions of the masks are None
    """
    masks = {} if held_out is None else held_out["raw"].get("fractions_per_class", {})
    total = sum(pixels.values())
    return {
        name: {"labels": number / total if total else None, "masks": masks.get(name, {}).get("masks")}
        for name, number in pixels.items()
    }


def fractions_sentence(fractions: Mapping[str, Mapping[str, float | None]]) -> str | None:
    """The classes whose fraction of the labels differs most from that of the masks, without a full stop.

    fractions: class -> its fraction of the "labels" and of the "masks"; None without labels or without pixels
    returns:   None if there are no labels or no pixels
    """
    pairs = [(name, both["labels"], both["masks"]) for name, both in fractions.items()]
    known = [(name, labels, masks) for name, labels, masks in pairs if labels is not None and masks is not None]
    if not known:
        return None
    by_difference = sorted(known, key=lambda one: -abs(one[1] - one[2]))
    shown = (f"{name} {_percent(labels)} ({_percent(masks)})" for name, labels, masks in by_difference[:SHOWN])
    rest = len(known) - SHOWN
    return ", ".join(shown) + (f", and {rest} classes that differ less" if rest > 0 else "")


def _percent(fraction: float) -> str:
    return f"{100 * fraction:.1f} %"
