"""Exports labels to other tools, and imports corrected masks from them. Each format has a module.

labels      the exported labels: those of one alpha, at the images' own sizes
images      how images are put beside their labels
polygons    outlines of labels
next_images  the images to label next
choice      the exported images, and their order
provenance  how the labels were made, written into every export
record      digests of exported labels, to detect masks that come back unchanged
training_sets  human masks and pseudo-labels together, as other programs train on them
shell       the export: its folder appears only when it is complete

import_masks     imports corrected masks                corrected_masks  their folder, id lists and run file
"""

from pipeline.exchange.formats import FORMATS, TOOLS, refuse_unknown_format
from pipeline.exchange.shell import Export, export_labels, export_training_set

__all__ = ["FORMATS", "TOOLS", "Export", "export_labels", "export_training_set", "refuse_unknown_format"]
