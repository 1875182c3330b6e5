"""Reads the annotations of other tools: each annotated image as a mask, with the names of the labels in it.

annotated   what every reader returns             source        a file, a folder or a zip, and the format in it
convert     writes the index masks of a new run   archive       unpacks zips
regions     shapes that most tools have           coloured      masks whose values or colours stand for labels
pictures    masks that are pictures               colour_masks  masks in colours, and JPEGs

coco        COCO's JSON                           cvat_masks    CVAT's Segmentation mask 1.1
labelme     LabelMe's JSON                        cvat_xml      CVAT for images 1.1
yolo        YOLO's segmentation text              label_studio  Label Studio's JSON
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
