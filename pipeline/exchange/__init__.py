"""Exports labels to other tools, and imports corrected masks from them. Each format has a module.

labels      the exported labels: those of one alpha, at the images' own sizes
choice      the exported images, and their order
provenance  how the labels were made, written into every export
record      digests of exported labels, to detect masks that come back unchanged
shell       the export: its folder appears only when it is complete

import_masks     imports corrected masks                corrected_masks  their folder, id lists and run file
"""

from pipeline.exchange.formats import FORMATS, refuse_unknown_format
from pipeline.exchange.shell import Export, export_labels

__all__ = ["FORMATS", "Export", "export_labels", "refuse_unknown_format"]
