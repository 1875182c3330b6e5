"""Masks that are pictures: which folders have them in colours, and which image each belongs to."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from pipeline.files import image_id, normal
from pipeline.sources.annotations import colour_masks
from pipeline.sources.annotations.annotated import Annotations
from pipeline.sources.annotations.source import detect
from pipeline.sources.endings import common_ending


def are_coloured(source: Path, below: bool) -> bool:
    """Whether a folder has masks in colours, or JPEGs. Pictures beside the files of a tool are photographs."""
    return colour_masks.are_here(source, below) and detect(source) is None


def called_as_images(masks: Annotations, images: Mapping[str, Path], ending: str | None) -> Annotations:
    """The masks, called as their images: without the end that most names have after the stem of an image.

    images: file of each image by id
    ending: `data.mask_ending`; default: the most common one, unless a mask is called as its image
    """
    if ending is None and any(mask.id_among(images) in images for mask in masks.images):
        return masks
    files = [Path(mask.file_name) for mask in masks.images]
    ending = ending or common_ending(files, {image_id(path) for path in images.values()})
    named = [
        mask._replace(other_names=(normal(mask.file_name).removesuffix(ending or "") + ".png",))
        for mask in masks.images
    ]
    return Annotations(masks.names, named, masks.remarks)
