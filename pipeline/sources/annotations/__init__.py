"""Reads the annotations of other tools: each annotated image as a mask, with the names of the labels in it.

annotated   what every reader returns         source    a file, a folder or a zip, and the format of what is in it
coco        JSON of COCO                      coloured  masks whose values or colours stand for labels
cvat_masks  CVAT's Segmentation mask 1.1      archive   unpacks zips
                                              convert   writes the index masks of a new run
"""

from pipeline.sources.annotations.annotated import AnnotatedImage, Annotations, Drawn, Size
from pipeline.sources.annotations.convert import Conversion, convert
from pipeline.sources.annotations.source import READERS, detect, unpacked

__all__ = [
    "READERS",
    "AnnotatedImage",
    "Annotations",
    "Conversion",
    "Drawn",
    "Size",
    "convert",
    "detect",
    "unpacked",
]
