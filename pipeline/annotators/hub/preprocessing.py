"""Images -> the input of a network, by preprocessor_config.json; equal to the stock processors without torchvision."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from PIL import Image
from scipy import ndimage

from pipeline.annotators.contract import Images
from pipeline.errors import AnnotatorError
from pipeline.files import read_json

FILE, COMBINED_FILE = "preprocessor_config.json", "processor_config.json"
BILINEAR = 2  # number of the filter in Pillow, and in these files
RESIZED_BY_TORCH = ("Sam2", "Sam3")  # image processors without a variant that uses Pillow; up to 2 of 255 levels differ
PADDED_TO_SQUARE = "Owlv2"  # the image processor that pads an image at the right and the bottom, and then resizes it

HeightWidth = tuple[int, int]


class Preprocessing(NamedTuple):
    """How a network's image processor treats an image. Crops are left out, because a map covers the whole image.

    content: of preprocessor_config.json
    size:    height and width of the network's input; None: by `content`
    """

    content: Mapping[str, Any]
    size: HeightWidth | None

    @property
    def is_padded(self) -> bool:
        """Whether an image is padded to a square before it is resized."""
        return self._type.startswith(PADDED_TO_SQUARE)

    @property
    def _type(self) -> str:
        return str(self.content.get("image_processor_type", ""))

    def input_size(self, height: int, width: int) -> HeightWidth:
        """Height and width to which an image of this size is resized; AnnotatorError for a size that is not known."""
        if self.size is not None:
            return self.size
        if not self.content.get("do_resize", True):
            return height, width
        size = _in_words(self.content["size"], self.content.get("max_size"))
        short, long = size.get("shortest_edge"), size.get("longest_edge")
        if "height" in size and "width" in size:
            target = _of_dpt(self.content, height, width, size["height"], size["width"])
        elif short is not None and "do_split_image" in self.content:  # EoMT: patches of this size, or padded to it
            target = short, long or short
        elif short is not None:
            target = with_aspect_ratio(height, width, short, long)
        else:
            raise AnnotatorError(f"{FILE} has the size {self.content['size']}; set annotate.transformers.input_size")
        divisor = self.content.get("size_divisor") or 1
        return math.ceil(target[0] / divisor) * divisor, math.ceil(target[1] / divisor) * divisor

    def __call__(self, images: Images) -> npt.NDArray[np.float32]:
        """uint8 [B, H, W, 3] RGB -> float32 [B, 3, h, w], resized and normalised."""
        height, width = self.input_size(*images.shape[1:3])
        if (height, width) != images.shape[1:3] and not self.is_padded:
            images = self._resized(images, height, width)
        if self.content.get("do_flip_channel_order"):
            images = images[..., ::-1]
        factor = float(self.content.get("rescale_factor", 1 / 255)) if self.content.get("do_rescale", True) else 1.0
        pixels = (images * factor).astype(np.float32)
        if self.is_padded:
            pixels = np.stack([_padded(image, height, width) for image in pixels])
        if self.content.get("do_normalize", True):
            pixels = (pixels - np.float32(self.content["image_mean"])) / np.float32(self.content["image_std"])
        return np.ascontiguousarray(pixels.transpose(0, 3, 1, 2))

    def _resized(self, images: Images, height: int, width: int) -> Images:
        """uint8 [B, H, W, 3] -> uint8 [B, height, width, 3]."""
        resample = Image.Resampling(self.content.get("resample", BILINEAR))
        if self._type.startswith(RESIZED_BY_TORCH):
            pixels = torch.tensor(images).permute(0, 3, 1, 2)
            mode = resample.name.lower()
            return F.interpolate(pixels, (height, width), mode=mode, antialias=True).permute(0, 2, 3, 1).numpy()
        resized = [Image.fromarray(image).resize((width, height), resample) for image in images]
        return np.stack([np.asarray(image) for image in resized])


def read_preprocessing(folder: Path, config: Any, size: Sequence[int] | None) -> Preprocessing:
    """The preprocessing of the network in a folder.

    config: of the network; its `image_size` is used if the file has no size
    size:   height and width of the setting `input_size`, which replace those of the file
    raises: AnnotatorError if the folder has no such file, or if the file lacks the normalisation
    """
    content = _content(folder)
    if content.get("do_normalize", True) and not (content.get("image_mean") and content.get("image_std")):
        raise AnnotatorError(
            f"{FILE} in {folder} has no image_mean and image_std; add those that the network was trained with, or "
            'add "do_normalize": false'
        )
    if size is not None:
        return Preprocessing(content, (size[0], size[1]))
    if content.get("size") is None:
        own = getattr(config, "image_size", None)
        is_known = isinstance(own, int | list | tuple)
        content = {**content, "do_resize": is_known, "size": own if is_known else None}
    return Preprocessing(content, None)


def _padded(image: npt.NDArray[np.float32], height: int, width: int) -> npt.NDArray[np.float32]:
    """An image padded with 0 to a square, smoothed if that is made smaller, and resized: [H, W, 3] -> [h, w, 3]."""
    side = max(image.shape[:2])
    square = np.pad(image, ((0, side - image.shape[0]), (0, side - image.shape[1]), (0, 0)))
    sigma = [max(0.0, (side / length - 1) / 2) for length in (height, width)]
    zoom = height / side, width / side
    smooth = (ndimage.gaussian_filter(channel, sigma, mode="mirror") for channel in np.moveaxis(square, -1, 0))
    channels = [ndimage.zoom(channel, zoom, order=1, mode="mirror", grid_mode=True) for channel in smooth]
    return np.stack(channels, axis=-1).clip(square.min(), square.max())


def _content(folder: Path) -> dict[str, Any]:
    """Content of preprocessor_config.json, or of that part of processor_config.json, in which newer folders have it."""
    try:
        if (folder / FILE).is_file():
            alone: dict[str, Any] = read_json(folder / FILE)
            return alone
        combined: dict[str, Any] = read_json(folder / COMBINED_FILE)["image_processor"]
    except (OSError, ValueError, KeyError) as error:
        raise AnnotatorError(
            f"{folder} has no readable {FILE} ({type(error).__name__}), which has the size and the normalisation of "
            "the network's input; copy it from the page of the network"
        ) from None
    return combined


def _in_words(size: Any, max_size: int | None) -> dict[str, int | None]:
    """A size of a file with named sides. A number is a square, or the short side if the file limits the long one."""
    if isinstance(size, Mapping):
        return dict(size)
    if isinstance(size, int):
        return (
            {"height": size, "width": size} if max_size is None else {"shortest_edge": size, "longest_edge": max_size}
        )
    height, width = size
    return {"height": height, "width": width}


def with_aspect_ratio(height: int, width: int, short_side: int, longest: int | None) -> HeightWidth:
    """Size with the short side `short_side` and the same aspect ratio; the long side is at most `longest`."""
    short, long = min(height, width), max(height, width)
    exact: float = short_side
    if longest is not None and long / short * short_side > longest:
        exact = longest * short / long
    if short == round(exact):
        return height, width
    new_short, new_long = round(exact), int(exact * long / short)
    return (new_short, new_long) if height <= width else (new_long, new_short)


def _of_dpt(content: Mapping[str, Any], height: int, width: int, to_height: Any, to_width: Any) -> HeightWidth:
    """The size, unless DPT's options keep the aspect ratio or round it to a multiple."""
    scales = to_height / height, to_width / width
    if content.get("keep_aspect_ratio"):
        closest = scales[1] if abs(1 - scales[1]) < abs(1 - scales[0]) else scales[0]
        scales = closest, closest
    multiple = content.get("ensure_multiple_of") or 1
    return round(scales[0] * height / multiple) * multiple, round(scales[1] * width / multiple) * multiple
