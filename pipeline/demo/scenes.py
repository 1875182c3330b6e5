"""Procedural scenes of the sea floor with exact masks, in two domains: clear water (source), murky water (target)."""

import colorsys
import zlib
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFilter

from pipeline.demo.creatures import CREATURES, Creature, Polygon

Domain = Literal["source", "target"]
Array = NDArray[np.float32]
Range = tuple[float, float]

CLASS_NAMES: tuple[str, ...] = ("background", *CREATURES)
IGNORE_INDEX = 255
SCENES_VERSION = 1  # raise it when the same seed would give other pictures
SUPERSAMPLING = 2  # factor by which outlines are drawn larger and then averaged, for soft edges


class Scene(NamedTuple):
    """An image and its mask."""

    image: NDArray[np.uint8]  # [H, W, 3] RGB
    mask: NDArray[np.uint8]  # [H, W] class index; 255 on a rim of about two pixels around each creature, as in VOC


@dataclass(frozen=True)
class Water:
    """Parameters of a domain. Lengths are fractions of the shorter side; colours are hue or HSV in [0, 1]."""

    hues: tuple[float, ...]  # typical hue of each creature
    hue_spread: float  # standard deviation of the hue of one animal
    saturation: Range
    brightness: Range
    floor: tuple[Range, Range, Range]  # HSV of the sea floor
    relief: float  # amplitude of the floor's texture
    creatures: tuple[int, int]  # number, inclusive
    radius: Range
    tilt: float  # largest rotation, radians
    pebbles: tuple[int, int]
    weeds: tuple[int, int]
    murk: Range  # fraction of the water's own colour in every pixel
    murk_color: tuple[float, float, float]  # HSV
    blur: Range  # standard deviation, pixels
    noise: Range  # standard deviation, for values in [0, 1]


WATERS: dict[Domain, Water] = {
    "source": Water(
        hues=(0.06, 0.98, 0.90, 0.33, 0.75),
        hue_spread=0.16,
        saturation=(0.4, 0.9),
        brightness=(0.5, 0.98),
        floor=((0.0, 0.6), (0.05, 0.45), (0.35, 0.85)),
        relief=0.22,
        creatures=(0, 4),
        radius=(0.16, 0.32),
        tilt=0.7,
        pebbles=(2, 8),
        weeds=(0, 4),
        murk=(0.0, 0.2),
        murk_color=(0.52, 0.5, 0.85),
        blur=(0.2, 0.7),
        noise=(0.005, 0.035),
    ),
    "target": Water(
        hues=(0.12, 0.94, 0.87, 0.24, 0.64),
        hue_spread=0.06,
        saturation=(0.3, 0.75),
        brightness=(0.5, 0.9),
        floor=((0.27, 0.36), (0.2, 0.4), (0.35, 0.5)),
        relief=0.40,
        creatures=(1, 4),
        radius=(0.14, 0.30),
        tilt=1.0,
        pebbles=(6, 16),
        weeds=(3, 9),
        murk=(0.2, 0.55),
        murk_color=(0.45, 0.45, 0.45),
        blur=(0.5, 1.1),
        noise=(0.02, 0.06),
    ),
}


def draw_scene(rng: np.random.Generator, domain: Domain, size: tuple[int, int]) -> Scene:
    """Draw one scene; the same generator state gives the same scene.

    size: (height, width) in pixels
    """
    water = WATERS[domain]
    picture = _sea_floor(rng, water, size)
    picture = _scatter_clutter(rng, water, picture)
    light = rng.uniform(0.0, 2.0 * np.pi)
    placed: list[tuple[float, float]] = []
    owner = np.zeros(size, np.uint8)  # 0 = floor, i = the i-th animal
    class_of_owner = [0]
    for animal in range(1, int(rng.integers(*water.creatures, endpoint=True)) + 1):
        index = int(rng.integers(1, len(CLASS_NAMES)))
        pose = _pose(rng, water, size, placed)
        window, local = _window(pose, size)
        outline = _paint_animal(rng, water, picture[window], index, local, light)
        owner[window][outline > 0.5] = animal
        class_of_owner.append(index)
        placed.append(pose.center)
    image = _through_water(rng, water, picture)
    mask = np.where(_rim(owner), IGNORE_INDEX, np.array(class_of_owner, np.uint8)[owner])
    return Scene(image, mask.astype(np.uint8))


class Pose(NamedTuple):
    """The pose of an animal: unit coordinates (x, y) become pixels by `matrix @ (x, y) + center`."""

    matrix: NDArray[np.float64]
    center: tuple[float, float]
    radius: float  # pixels


def _pose(rng: np.random.Generator, water: Water, size: tuple[int, int], placed: list[tuple[float, float]]) -> Pose:
    height, width = size
    radius = rng.uniform(*water.radius) * min(size)
    tilt, flip, squeeze = rng.uniform(-water.tilt, water.tilt), rng.choice([-1.0, 1.0]), rng.uniform(0.8, 1.0)
    cos, sin = np.cos(tilt), np.sin(tilt)
    matrix = radius * np.array([[cos, -sin], [sin, cos]]) @ np.diag([flip, squeeze])
    # The best of three centres: animals sometimes overlap, but rarely hide each other.
    options = rng.uniform((0.1, 0.1), (0.9, 0.9), size=(3, 2)) * (width, height)
    distances = [min((float(np.hypot(*(option - other))) for other in placed), default=0.0) for option in options]
    x, y = options[int(np.argmax(distances))]
    return Pose(matrix, (float(x), float(y)), radius)


def _window(pose: Pose, size: tuple[int, int]) -> tuple[tuple[slice, slice], Pose]:
    """The window of the image that contains the animal and its shadow, and the pose relative to its corner."""
    reach = 1.6 * pose.radius
    left, top = (max(0, int(center - reach)) for center in pose.center)
    right, bottom = (int(center + reach) + 1 for center in pose.center)
    window = slice(top, min(bottom, size[0])), slice(left, min(right, size[1]))
    return window, pose._replace(center=(pose.center[0] - left, pose.center[1] - top))


def _paint_animal(
    rng: np.random.Generator, water: Water, picture: Array, index: int, pose: Pose, light: float
) -> Array:
    """Paint an animal of class `index` and its shadow; returns its coverage, float32 [H, W] in [0, 1]."""
    creature, size = CREATURES[CLASS_NAMES[index]], picture.shape[:2]
    parts = [part @ pose.matrix.T + pose.center for part in creature.parts()]
    away = 0.18 * pose.radius * np.array([np.cos(light), np.sin(light)])
    shadow = _blur(_coverage(size, [part + away for part in parts]), 0.10 * pose.radius)
    picture *= (1.0 - rng.uniform(0.3, 0.6) * shadow)[..., None]
    outline = _coverage(size, parts)
    skin = _skin(rng, water, index, creature, pose, size)
    lit = np.clip(skin * _shading(outline, pose.radius, light)[..., None], 0.0, 1.0)
    picture += outline[..., None] * (lit - picture)
    return outline


def _skin(
    rng: np.random.Generator, water: Water, index: int, creature: Creature, pose: Pose, size: tuple[int, int]
) -> Array:
    """Base and marking colours of one animal at every pixel, float32 [H, W, 3]."""
    hue = rng.normal(water.hues[index - 1], water.hue_spread)
    saturation, brightness = rng.uniform(*water.saturation), rng.uniform(*water.brightness)
    base = _rgb(hue, saturation, brightness)
    marking = _rgb(hue + rng.normal(0.0, 0.06), 0.9 * saturation, brightness * rng.uniform(0.35, 0.7))
    y, x = np.indices(size, np.float32)
    inverse = np.linalg.inv(pose.matrix).astype(np.float32)
    dx, dy = x - pose.center[0], y - pose.center[1]
    fraction = creature.markings(inverse[0, 0] * dx + inverse[0, 1] * dy, inverse[1, 0] * dx + inverse[1, 1] * dy)
    mottled = 1.0 + 0.12 * _texture(rng, size, cell=5)
    return (base + fraction[..., None] * (marking - base)) * mottled[..., None]


def _shading(outline: Array, radius: float, light: float) -> Array:
    """Brightness of a convex body, lit from direction `light` (radians): float32 [H, W] around 1."""
    bulge = _blur(outline, 0.16 * radius)
    slope_y, slope_x = np.gradient(bulge)
    facing = -(slope_x * np.cos(light) + slope_y * np.sin(light)) * radius
    return np.clip(0.72 + 0.32 * bulge - 0.45 * facing, 0.3, 1.5).astype(np.float32)


def _sea_floor(rng: np.random.Generator, water: Water, size: tuple[int, int]) -> Array:
    base = _rgb(*(rng.uniform(*bounds) for bounds in water.floor))
    relief = 0.55 * _texture(rng, size, 24) + 0.3 * _texture(rng, size, 8) + 0.25 * _texture(rng, size, 3)
    y, x = np.indices(size, np.float32)
    angle, wavelength = rng.uniform(-0.5, 0.5), rng.uniform(9.0, 20.0)
    ripple = np.sin(2.0 * np.pi * (np.sin(angle) * x + np.cos(angle) * y) / wavelength + 3.0 * _texture(rng, size, 32))
    return np.clip(base * (1.0 + water.relief * (relief + 0.35 * ripple))[..., None], 0.0, 1.0)


def _scatter_clutter(rng: np.random.Generator, water: Water, picture: Array) -> Array:
    """Add pebbles and seaweed: objects that belong to the background."""
    size = picture.shape[:2]
    pebbles = _coverage(size, _pebbles(rng, size, rng.integers(*water.pebbles, endpoint=True)))
    stone = _rgb(rng.uniform(), rng.uniform(0.0, 0.25), 0.55) * (1.0 + 0.35 * _texture(rng, size, 14))[..., None]
    lit = np.clip(stone * _shading(pebbles, 0.05 * min(size), rng.uniform(0.0, 2.0 * np.pi))[..., None], 0.0, 1.0)
    picture = picture + pebbles[..., None] * (lit - picture)
    weeds = _coverage(size, [_weed(rng, size) for _ in range(rng.integers(*water.weeds, endpoint=True))])
    green = _rgb(rng.normal(0.28, 0.07), rng.uniform(0.3, 0.7), rng.uniform(0.2, 0.6))
    return picture + 0.85 * weeds[..., None] * (green - picture)


def _pebbles(rng: np.random.Generator, size: tuple[int, int], number: int) -> NDArray[np.float64]:
    """Outlines of irregular stones, [number, N, 2] as (x, y) in pixels."""
    angle = np.linspace(0.0, 2.0 * np.pi, 20, endpoint=False)
    phase = rng.uniform(0.0, 2.0 * np.pi, (2, number, 1))
    radius = rng.uniform(0.02, 0.07, (number, 1)) * min(size)
    reach = radius * (1.0 + 0.2 * np.cos(2 * angle + phase[0]) + 0.12 * np.cos(3 * angle + phase[1]))
    center = rng.uniform((0.0, 0.0), (size[1], size[0]), (number, 1, 2))
    return center + reach[..., None] * np.column_stack([np.cos(angle), np.sin(angle)])


def _weed(rng: np.random.Generator, size: tuple[int, int]) -> NDArray[np.float64]:
    along = np.linspace(0.0, 1.0, 20)
    sway = 0.06 * np.sin(rng.uniform(4.0, 9.0) * along + rng.uniform(0.0, 6.0))
    start, angle, length = rng.uniform(0.0, 1.0, 2), rng.uniform(-2.4, -0.7), rng.uniform(0.25, 0.6)
    across = np.array([-np.sin(angle), np.cos(angle)])
    spine = start + length * along[:, None] * (np.cos(angle), np.sin(angle)) + sway[:, None] * across
    half_width = rng.uniform(0.008, 0.022) * np.sin(np.pi * np.clip(along, 0.08, 0.96))[:, None] * across
    return np.vstack([spine - half_width, (spine + half_width)[::-1]]) * (size[1], size[0])


def _through_water(rng: np.random.Generator, water: Water, picture: Array) -> NDArray[np.uint8]:
    """The photographed image, uint8 [H, W, 3]: adds the colour of the water, blur and sensor noise."""
    size = picture.shape[:2]
    murk = np.clip(rng.uniform(*water.murk) * (1.0 + 0.35 * _texture(rng, size, 40)), 0.0, 0.9)[..., None]
    picture = picture + murk * (_rgb(*water.murk_color) * rng.uniform(0.8, 1.2) - picture)
    radius, noise = rng.uniform(*water.blur), rng.uniform(*water.noise)
    photo = Image.fromarray((255.0 * np.clip(picture, 0.0, 1.0)).astype(np.uint8))
    blurred = np.asarray(photo.filter(ImageFilter.GaussianBlur(radius)), np.float32)
    grain = rng.standard_normal(picture.shape, np.float32)
    return np.clip(blurred + 255.0 * noise * grain, 0.0, 255.0).astype(np.uint8)


def _rim(owner: NDArray[np.uint8]) -> NDArray[np.bool_]:
    """bool [H, W]: pixels with another owner among their eight neighbours."""
    photo = Image.fromarray(owner)
    return np.asarray(photo.filter(ImageFilter.MaxFilter(3))) != np.asarray(photo.filter(ImageFilter.MinFilter(3)))


def _coverage(size: tuple[int, int], polygons: Iterable[Polygon]) -> Array:
    """Fraction of every pixel that the polygons cover, float32 [H, W] in [0, 1]. Corners are (x, y) in pixels."""
    canvas = Image.new("L", (size[1] * SUPERSAMPLING, size[0] * SUPERSAMPLING))
    draw = ImageDraw.Draw(canvas)
    for polygon in polygons:
        draw.polygon((polygon * SUPERSAMPLING).ravel().tolist(), fill=255)
    return np.asarray(canvas.reduce(SUPERSAMPLING), np.float32) / 255.0


def _texture(rng: np.random.Generator, size: tuple[int, int], cell: int) -> Array:
    """Smooth noise with bumps of about `cell` pixels: float32 [H, W], mean about 0, standard deviation below 1."""
    coarse = rng.standard_normal((size[0] // cell + 2, size[1] // cell + 2), np.float32)
    return np.asarray(Image.fromarray(coarse).resize((size[1], size[0]), Image.Resampling.BICUBIC))


def _blur(values: Array, radius: float) -> Array:
    photo = Image.fromarray((255.0 * values).astype(np.uint8)).filter(ImageFilter.GaussianBlur(radius))
    return np.asarray(photo, np.float32) / 255.0


def _rgb(hue: float, saturation: float, brightness: float) -> Array:
    return np.array(colorsys.hsv_to_rgb(hue % 1.0, min(saturation, 1.0), min(brightness, 1.0)), np.float32)


def numbered_scene(seed: int, domain: Domain, split: str, index: int, size: tuple[int, int]) -> Scene:
    """Scene `index` of a split. It depends only on the arguments, not on the scenes drawn before.

    size: (height, width) in pixels
    """
    key = zlib.crc32(f"{domain}/{split}".encode())
    return draw_scene(np.random.default_rng([seed, key, index]), domain, size)


def write_scenes(
    folder: Path, *, domain: Domain, seed: int, num_train: int, num_val: int, size: tuple[int, int] = (128, 128)
) -> None:
    """Write scenes in the layout of PASCAL VOC: JPEGImages, SegmentationClass, ImageSets/Segmentation/{train,val}.txt.

    Existing scenes of the same recipe are kept. The recipe is written last, so the next call completes an interrupted
    one.

    size: (height, width) in pixels of one scene in three; one in three is 1/8 wider, and one in three 1/8 higher
    """
    lists = folder / "ImageSets" / "Segmentation"
    for subfolder in (folder / "JPEGImages", folder / "SegmentationClass", lists):
        subfolder.mkdir(parents=True, exist_ok=True)
    recipe = folder / "recipe.txt"
    recipe_text = f"version {SCENES_VERSION}, domain {domain}, seed {seed}, size {size[0]} x {size[1]}\n"
    is_kept = recipe.is_file() and recipe.read_text() == recipe_text
    if not is_kept:
        recipe.unlink(missing_ok=True)
    for split, number in (("train", num_train), ("val", num_val)):
        for index in range(number):
            _write_scene(folder, domain, seed, split, index, size, is_kept)
        ids = [_scene_id(split, index) for index in range(number)]
        (lists / f"{split}.txt").write_text("\n".join(ids) + "\n")
    recipe.write_text(recipe_text)


def _scene_id(split: str, index: int) -> str:
    return f"{split}_{index:04d}"


def _write_scene(
    folder: Path, domain: Domain, seed: int, split: str, index: int, size: tuple[int, int], is_kept: bool
) -> None:
    name = _scene_id(split, index)
    mask_path, image_path = folder / f"SegmentationClass/{name}.png", folder / f"JPEGImages/{name}.jpg"
    if is_kept and image_path.is_file() and mask_path.is_file():
        return
    taller, wider = ((0, 0), (0, 1), (1, 0))[index % 3]
    scene = numbered_scene(seed, domain, split, index, (size[0] * (8 + taller) // 8, size[1] * (8 + wider) // 8))
    Image.fromarray(scene.image).save(image_path, quality=95)
    mask = Image.fromarray(scene.mask)
    mask.putpalette(_palette())
    mask.save(mask_path)


def _palette() -> list[int]:
    """Palette of the mask files: evenly spaced hues for the classes, grey for the void rim."""
    hues = [colorsys.hsv_to_rgb(index / len(CREATURES), 0.7, 0.9) for index in range(len(CREATURES))]
    colors = [(0.0, 0.0, 0.0), *hues]
    flat = [round(255 * channel) for color in colors for channel in color]
    return flat + [0] * (3 * IGNORE_INDEX - len(flat)) + [224, 224, 224]
