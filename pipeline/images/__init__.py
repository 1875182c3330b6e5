"""The one reader of image files: photographs, and the files of masks.

formats      the formats that are opened, whatever the name of a file says
header       size, mode and orientation, before anything is decoded
decode       pixels by fixed rules, up to a limit of size
bands        rows of a TIFF above that limit
mask_values  the values of an index mask, and its palette
"""

from pipeline.images.bands import Band, band_of, has_bands
from pipeline.images.decode import (
    MaskFile,
    Photograph,
    PixelLimit,
    decode_image,
    load_mask,
    load_photograph,
    read_content,
    read_image,
)
from pipeline.images.formats import MASK, PHOTOGRAPH, Kind
from pipeline.images.header import ON_ITS_SIDE, UPRIGHT, Header, header_of, png_text, read_header, tiff_tags, unreadable
from pipeline.images.mask_values import IndexMask, index_mask, is_index_mode, packed_colours, pixel_colours

__all__ = [
    "MASK",
    "ON_ITS_SIDE",
    "PHOTOGRAPH",
    "UPRIGHT",
    "Band",
    "Header",
    "IndexMask",
    "Kind",
    "MaskFile",
    "Photograph",
    "PixelLimit",
    "band_of",
    "decode_image",
    "has_bands",
    "header_of",
    "index_mask",
    "is_index_mode",
    "load_mask",
    "load_photograph",
    "packed_colours",
    "pixel_colours",
    "png_text",
    "read_content",
    "read_header",
    "read_image",
    "tiff_tags",
    "unreadable",
]
