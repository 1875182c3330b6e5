"""Converts official annotations in other formats (SBD's .mat files, COCO's JSON) to index masks, one PNG per image."""

from pipeline.sources.convert_masks.coco import convert_coco
from pipeline.sources.convert_masks.sbd import convert_sbd

__all__ = ["convert_coco", "convert_sbd"]
