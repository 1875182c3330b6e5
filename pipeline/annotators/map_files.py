"""Files of maps that other code has written: probabilities as numpy arrays, and index masks with confidences.

Each function takes the content of a file, and its path for messages.
"""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from pipeline.annotators.contract import Maps
from pipeline.datasets import decode_index_mask, mask_classes, unknown_mask_values
from pipeline.errors import AnnotatorError, first_line
from pipeline.images import PixelLimit, index_mask, is_index_mode, load_mask, pixel_colours
from pipeline.resample import resize_bilinear
from pipeline.settings import DataSettings

NUM_AXES = 3  # of the maps of an image: class, row, column
ROUNDING = 1e-3  # by which a probability of low precision may be outside [0, 1]
SUM_TOLERANCE = 0.02  # mean distance from 1 of the sum of the probabilities of a pixel
CONFIDENCES = (255, 65535)  # largest values of files with 8 and 16 bits


@dataclass(frozen=True)
class Probabilities:
    """Maps of an image. maps: float32 [K, h, w] in [0, 1]"""

    maps: Maps

    @property
    def size(self) -> tuple[int, int]:
        """Height and width."""
        return self.maps.shape[1], self.maps.shape[2]

    def resized(self, size: Sequence[int]) -> Maps:
        """float32 [K, H, W] in [0, 1] of that size (H, W), by bilinear interpolation."""
        return np.clip(resize_bilinear(self.maps, size), 0, 1)


@dataclass(frozen=True)
class ClassOfPixels:
    """One class per pixel, and how probable it is.

    classes:     int64 [h, w], class index; K where no class is named
    confidence:  float32 [h, w] in [0, 1]
    num_classes: K
    """

    classes: npt.NDArray[np.int64]
    confidence: npt.NDArray[np.float32]
    num_classes: int

    @property
    def size(self) -> tuple[int, int]:
        """Height and width."""
        return self.classes.shape[0], self.classes.shape[1]

    def resized(self, size: Sequence[int]) -> Maps:
        """float32 [K, H, W] in [0, 1] of that size (H, W), by bilinear interpolation of the map of each class.

        At a pixel with confidence c, the class has probability c and each other one (1 - c) / (K - 1). Where no class
        is named, each has 1 / K.
        """
        other = (1 - self.confidence) / (self.num_classes - 1)
        other[self.classes == self.num_classes] = 1 / self.num_classes
        maps = np.empty((self.num_classes, *size), np.float32)
        for k in range(self.num_classes):  # one class at a time: a mask may be large, and its classes many
            maps[k] = resize_bilinear(np.where(self.classes == k, self.confidence, other)[None], size)[0]
        return np.clip(maps, 0, 1, out=maps)


def read_probabilities(content: bytes, path: Path, data: DataSettings, sums: str) -> Probabilities:
    """Maps in a .npy file, or in a .npz file with one array.

    sums, raises: as `checked_probabilities`, and AnnotatorError for a file that cannot be read
    """
    return checked_probabilities(_array_in(content, path), str(path), data, sums)


def checked_probabilities(array: npt.NDArray[Any], where: str, data: DataSettings, sums: str) -> Probabilities:
    """Maps of an image from an array of any kind.

    where:  of the array, for messages
    sums:   "one": the probabilities of a pixel must sum to about 1 if there is a background class; "any": not checked
    raises: AnnotatorError for anything but K maps of probabilities
    """
    _check_shape(array, where, data.num_classes)
    with np.errstate(over="ignore"):  # float64 may be infinite in float32
        maps = array.astype(np.float32)
    if not np.isfinite(maps).all():
        raise AnnotatorError(f"{where} has NaN or infinite values, expected probabilities in [0, 1]; write it again")
    lowest, highest = float(maps.min()), float(maps.max())
    if lowest < -ROUNDING or highest > 1 + ROUNDING:
        fix = "if they are logits, write their softmax: scipy.special.softmax(maps, axis=0)"
        if lowest >= 0:
            fix = f"divide them by their largest possible value, such as 100 or 255, or, {fix}"
        raise AnnotatorError(
            f"{where} has values from {lowest:.3g} to {highest:.3g}, expected probabilities in [0, 1]; {fix}"
        )
    sum_of_pixel = maps.sum(axis=0)
    if sums == "one" and data.background is not None and np.abs(sum_of_pixel - 1).mean() > SUM_TOLERANCE:
        raise AnnotatorError(
            f"{where} has probabilities whose sum at a pixel is {sum_of_pixel.min():.3g} to {sum_of_pixel.max():.3g}, "
            f"expected 1, because {data.background} is one of the classes; write maps / maps.sum(axis=0), or, if each "
            "class was predicted on its own, set annotate.maps.sums: any"
        )
    return Probabilities(np.clip(maps, 0, 1, out=maps))


def _array_in(content: bytes, path: Path) -> npt.NDArray[Any]:
    """The only array of a file; AnnotatorError if it cannot be read, or has several."""
    try:
        loaded = np.load(io.BytesIO(content), allow_pickle=False)
        if isinstance(loaded, np.ndarray):
            return loaded
        names = list(loaded.files)
        arrays = [np.asarray(loaded[name]) for name in names[:1]]
    except Exception as error:  # numpy and zipfile raise many types of errors at damaged files
        raise AnnotatorError(f"{path} cannot be read by numpy ({first_line(error)}); write it again") from None
    if len(names) != 1:
        listed = f"{len(names)} arrays ({', '.join(names[:3])}{', ...' if len(names) > 3 else ''})"
        found = listed if names else "no array"
        raise AnnotatorError(f"{path} has {found}, expected one; write it with np.savez_compressed(path, maps)")
    return arrays[0]


def _check_shape(array: npt.NDArray[Any], where: str, num_classes: int) -> None:
    shape = array.shape
    if not np.issubdtype(array.dtype, np.floating):
        raise AnnotatorError(
            f"{where} has values of {array.dtype}, expected floats in [0, 1]; write probabilities as float16 or "
            "float32, and class indices as an index mask, ID.png"
        )
    if len(shape) == NUM_AXES and shape[0] == num_classes and array.size:
        return
    found = f"{where} has shape {list(shape)}, expected [{num_classes}, h, w], one map per class of data.classes"
    if len(shape) == NUM_AXES and shape[-1] == num_classes and array.size:
        raise AnnotatorError(f"{found}: its classes are the last axis; write maps.transpose(2, 0, 1)")
    if len(shape) == NUM_AXES + 1 and shape[:2] == (1, num_classes):
        raise AnnotatorError(f"{found}; write maps[0]")
    if len(shape) == NUM_AXES - 1:
        raise AnnotatorError(f"{found}; write the maps of all classes, or class indices as an index mask, ID.png")
    raise AnnotatorError(f"{found}; write the maps of all classes, in the order of data.classes")


def read_classes(content: bytes, path: Path, data: DataSettings) -> npt.NDArray[np.int64]:
    """Classes of an index mask with the values of `data.classes`, int64 [h, w]; K where no class is named.

    raises: DatasetError for a file that is no index mask; AnnotatorError for values that no class has
    """
    values = decode_index_mask(content, path, PixelLimit(data.max_pixels)).values
    if unknown := unknown_mask_values(values, data):
        raise AnnotatorError(
            f"{path} has the values {', '.join(map(str, unknown[:5]))}{', ...' if len(unknown) > 5 else ''}, which "
            "neither data.classes nor data.ignore_values lists; write the values of data.classes"
        )
    classes = mask_classes(values, data).astype(np.int64)
    return np.minimum(classes, data.num_classes)


def read_coloured(content: bytes, path: Path, legend: Mapping[int, int], data: DataSettings) -> npt.NDArray[np.int64]:
    """Classes of a mask by the colours of its pixels, int64 [h, w].

    legend: class index by colour, 0xRRGGBB; K for colours without a class
    raises: ImageFileError for a file that cannot be read; AnnotatorError for values without colours, and for colours
            that the legend lacks
    """
    file = load_mask(content, path, PixelLimit(data.max_pixels))
    colours = pixel_colours(file, index_mask(file, path) if is_index_mode(file.header.mode) else None)
    if colours is None:
        raise AnnotatorError(
            f"{path} has values and no colours, but annotate.maps.colours is set; write colours, or remove it"
        )
    present, codes = np.unique(colours, return_inverse=True)
    unknown = [f"#{colour:06x}" for colour in present.tolist() if colour not in legend]
    if unknown:
        raise AnnotatorError(
            f"{path} has the colours {', '.join(unknown[:5])}{', ...' if len(unknown) > 5 else ''}, which neither "
            "annotate.maps.colours nor annotate.maps.ignore_colours lists; add them"
        )
    classes: npt.NDArray[np.int64] = np.array([legend[colour] for colour in present.tolist()])[codes]
    return classes.reshape(colours.shape)


def read_confidence(content: bytes, path: Path, size: tuple[int, int], data: DataSettings) -> npt.NDArray[np.float32]:
    """Confidences of the pixels of an index mask, float32 [h, w] in [0, 1].

    size:   height and width of the index mask
    raises: DatasetError for a file that is not grey; AnnotatorError for another size, or other than 8 or 16 bits
    """
    mask = decode_index_mask(content, path, PixelLimit(data.max_pixels))
    if mask.values.shape != size:
        height, width = mask.values.shape
        raise AnnotatorError(
            f"{path} is {height} x {width} (height x width), its index mask is {size[0]} x {size[1]}; write one "
            "confidence per pixel of the mask"
        )
    if mask.highest not in CONFIDENCES or mask.palette is not None:
        raise AnnotatorError(f"{path} is not grey with 8 or 16 bits; write it as np.uint8(255 * confidence)")
    return mask.values.astype(np.float32) / np.float32(mask.highest)
