"""Colours, computed in OKLCH: one for each class, and a scale from low to high values."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

Colours = npt.NDArray[np.uint8]

# Neighbouring hues differ in lightness too: colour-blind readers and greyscale prints can distinguish them.
LIGHTNESS = (0.72, 0.5, 0.86)
CHROMA = 0.16
FIRST_HUE, HUE_RANGE = 25.0, 340.0  # less than the full circle: the first and the last class are no neighbours
BACKGROUND = (90, 90, 90)
SCALE_STEPS = 256

# OKLab -> LMS' and LMS -> linear sRGB (B. Ottosson, "A perceptual color space for image processing", 2020)
LMS_OF_OKLAB = np.array(
    [
        [1, 0.3963377774, 0.2158037573],
        [1, -0.1055613458, -0.0638541728],
        [1, -0.0894841775, -1.2914855480],
    ]
)
RGB_OF_LMS = np.array(
    [
        [4.0767416621, -3.3077115913, 0.2309699292],
        [-1.2684380046, 2.6097574011, -0.3413193965],
        [-0.0041960863, -0.7034186147, 1.7076147010],
    ]
)


def class_colours(num_classes: int, background: int | None = None) -> Colours:
    """uint8 [K, 3] RGB: hues are evenly spaced, lightness alternates. background: class index that is grey, if any."""
    hues = FIRST_HUE + HUE_RANGE * np.arange(num_classes) / num_classes
    colours = np.stack([oklch_to_rgb(LIGHTNESS[k % len(LIGHTNESS)], CHROMA, hue) for k, hue in enumerate(hues)])
    if background is not None:
        colours[background] = BACKGROUND
    return colours


def scale_colours() -> Colours:
    """uint8 [256, 3] RGB, from dark blue (low) to light yellow (high); the lightness rises steadily."""
    steps = np.linspace(0, 1, SCALE_STEPS)
    return np.stack([oklch_to_rgb(0.25 + 0.68 * t, 0.085, 285 - 180 * t) for t in steps])


def oklch_to_rgb(lightness: float, chroma: float, hue: float) -> Colours:
    """uint8 [3] sRGB of an OKLCH colour; chroma is reduced until the colour is within sRGB.

    lightness: in [0, 1]
    chroma:    0 (grey) to about 0.4
    hue:       degrees
    """
    angle = np.deg2rad(hue)
    linear = np.full(3, np.nan)
    for reduced in np.linspace(chroma, 0, 40):
        lab = np.array([lightness, reduced * np.cos(angle), reduced * np.sin(angle)])
        linear = RGB_OF_LMS @ (LMS_OF_OKLAB @ lab) ** 3
        if linear.min() >= -1e-6 and linear.max() <= 1 + 1e-6:
            break
    linear = np.clip(linear, 0, 1)
    encoded = np.where(linear <= 0.0031308, 12.92 * linear, 1.055 * linear ** (1 / 2.4) - 0.055)
    rgb: Colours = np.rint(255 * encoded).astype(np.uint8)
    return rgb


def css(colour: Colours) -> str:
    """`#rrggbb` of a colour, uint8 [3] RGB."""
    return "#" + "".join(f"{value:02x}" for value in colour.tolist())
