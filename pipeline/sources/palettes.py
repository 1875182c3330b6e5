"""Compares the palettes of masks: the same colours in another order are other values for the same classes.

A mask is read by its values. A painting program may sort the palette when it saves, which swaps classes silently.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping

Colours = Mapping[int, int]
"""Value -> colour as the number 0xRRGGBB, of the values that occur in a mask with a palette."""
MAX_SHOWN = 3


def palette_problems(masks: Mapping[str, Colours]) -> list[str]:
    """A message if one colour stands for different values in different masks; [] if it does not.

    Palettes with other colours are no problem, and neither are those in which several values share a colour.

    masks: the colours of each mask, by its path
    """
    values: dict[int, Counter[int]] = defaultdict(Counter)
    for colours in masks.values():
        for value, colour in _distinct(colours):
            values[colour][value] += 1
    usual = {colour: of_colour.most_common(1)[0][0] for colour, of_colour in values.items()}
    others = [path for path, colours in masks.items() if any(usual[c] != v for v, c in _distinct(colours))]
    if not others:
        return []
    value, colour = next((v, c) for v, c in _distinct(masks[others[0]]) if usual[c] != v)
    like = next(path for path, colours in masks.items() if (usual[colour], colour) in _distinct(colours))
    listed = ", ".join(others[:MAX_SHOWN]) + (f" and {len(others) - MAX_SHOWN} more" if len(others) > MAX_SHOWN else "")
    return [
        f"{len(others)} of {len(masks)} masks with a palette have its colours in another order: {listed}; the colour "
        f"#{colour:06x} is value {value} in {others[0]}, but value {usual[colour]} in {like}, so classes would be "
        "swapped; export the masks again with one palette, or, if their values are right, as grey PNG without a palette"
    ]


def _distinct(colours: Colours) -> Iterator[tuple[int, int]]:
    """Values and colours, without colours that several values of the mask share."""
    number = Counter(colours.values())
    return ((value, colour) for value, colour in colours.items() if number[colour] == 1)
