"""The five creatures of the demo: outlines as polygons, markings as functions of (x, y), both in unit coordinates.

Unit coordinates: x to the right, y down. A creature roughly fills the disc of radius 1 around the origin.
"""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float32]
Polygon = NDArray[np.float64]  # [N, 2] corners as (x, y)


class Creature(NamedTuple):
    """The shape and the markings of one class, before it is placed, lit and coloured."""

    parts: Callable[[], list[Polygon]]  # the outline is the union of these polygons
    markings: Callable[[Array, Array], Array]  # (x, y) -> fraction of the marking colour, in [0, 1]


def fish_parts() -> list[Polygon]:
    tail = np.array([(-0.45, 0.0), (-1.0, -0.5), (-0.8, 0.0), (-1.0, 0.5)])
    fin = np.array([(-0.25, -0.34), (0.0, -0.72), (0.35, -0.34)])
    return [_ellipse((0.15, 0.0), (0.8, 0.45)), tail, fin]


def fish_markings(x: Array, y: Array) -> Array:
    bars = np.cos(9.0 * x + 1.5 * y * y) > 0.45
    eye = np.hypot(x - 0.62, y + 0.1) < 0.11
    return np.where(eye, 1.0, 0.75 * bars * (x < 0.4)).astype(np.float32)


def starfish_parts() -> list[Polygon]:
    angle = np.linspace(0.0, 2.0 * np.pi, 120, endpoint=False)
    reach = 0.34 + 0.66 * np.abs(np.cos(2.5 * angle)) ** 1.3
    return [_polar((0.0, 0.0), angle - np.pi / 2, reach)]


def starfish_markings(x: Array, y: Array) -> Array:
    angle, reach = np.arctan2(y, x) + np.pi / 2, np.hypot(x, y)
    ridge = np.abs(np.cos(2.5 * angle)) ** 12
    return (ridge * (np.cos(22.0 * reach) > -0.3)).astype(np.float32)


def shell_parts() -> list[Polygon]:
    angle = np.linspace(-0.83, -0.17, 80) * np.pi
    fan = _polar((0.0, 0.72), angle, 1.42 + 0.07 * np.cos(18.0 * angle))
    hinge = np.array([(-0.4, 0.45), (0.4, 0.45), (0.34, 0.85), (-0.34, 0.85)])
    return [np.vstack([fan, [(0.0, 0.72)]]), hinge]


def shell_markings(x: Array, y: Array) -> Array:
    angle, reach = np.arctan2(y - 0.72, x), np.hypot(x, y - 0.72)
    ribs = 0.5 - 0.5 * np.cos(18.0 * angle)
    return (ribs * (0.6 + 0.4 * np.cos(9.0 * reach))).astype(np.float32)


def turtle_parts() -> list[Polygon]:
    flippers = [_ellipse((0.42 * a, 0.6 * b), (0.42, 0.17), tilt=a * b * 0.95) for a in (-1, 1) for b in (-1, 1)]
    return [_ellipse((0.0, 0.0), (0.68, 0.56)), _ellipse((0.8, 0.0), (0.24, 0.19)), *flippers]


def turtle_markings(x: Array, y: Array) -> Array:
    carapace = (x / 0.6) ** 2 + (y / 0.48) ** 2 < 1.0
    seams = np.minimum(np.abs(np.cos(5.2 * x)), np.abs(np.cos(3.4 * x + 5.4 * y))) < 0.22
    return np.where(carapace, 1.0 - 0.8 * seams, 0.0).astype(np.float32)


def jellyfish_parts() -> list[Polygon]:
    angle = np.linspace(np.pi, 2.0 * np.pi, 40)
    dome = _polar((0.0, 0.0), angle, 0.8)
    skirt = np.linspace(0.8, -0.8, 40)
    hem = np.column_stack([skirt, 0.08 + 0.09 * np.abs(np.sin(2.5 * np.pi * skirt / 0.8))])
    return [np.vstack([dome, hem]), *(_tentacle(x) for x in (-0.54, -0.18, 0.18, 0.54))]


def jellyfish_markings(x: Array, y: Array) -> Array:
    lobes = np.abs(np.cos(2.0 * np.arctan2(y, x))) * (np.hypot(x, y + 0.35) < 0.32)
    hem = np.abs(y - 0.02) < 0.06
    return np.maximum(lobes, 0.7 * hem).astype(np.float32)


CREATURES: dict[str, Creature] = {
    "fish": Creature(fish_parts, fish_markings),
    "starfish": Creature(starfish_parts, starfish_markings),
    "shell": Creature(shell_parts, shell_markings),
    "turtle": Creature(turtle_parts, turtle_markings),
    "jellyfish": Creature(jellyfish_parts, jellyfish_markings),
}


def _polar(center: tuple[float, float], angle: Polygon, reach: Polygon | float) -> Polygon:
    return np.column_stack([center[0] + reach * np.cos(angle), center[1] + reach * np.sin(angle)])


def _ellipse(center: tuple[float, float], radii: tuple[float, float], tilt: float = 0.0) -> Polygon:
    angle = np.linspace(0.0, 2.0 * np.pi, 36, endpoint=False)
    x, y = radii[0] * np.cos(angle), radii[1] * np.sin(angle)
    cos, sin = np.cos(tilt), np.sin(tilt)
    return np.column_stack([center[0] + cos * x - sin * y, center[1] + sin * x + cos * y])


def _tentacle(x: float) -> Polygon:
    down = np.linspace(0.0, 0.95, 16)
    middle = x + 0.07 * np.sin(9.0 * down + 7.0 * x)
    half_width = 0.12 - 0.03 * down
    return np.vstack([np.column_stack([middle - half_width, down]), np.column_stack([middle + half_width, down])[::-1]])
