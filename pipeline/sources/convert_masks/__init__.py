"""Official annotations of other kinds (SBD's .mat files, COCO's JSON) to index masks, one PNG an image."""

from pipeline.sources.convert_masks.coco import convert_coco
from pipeline.sources.convert_masks.sbd import convert_sbd

__all__ = ["convert_coco", "convert_sbd"]
