"""Labels of a run in the formats of other tools, and corrected masks back from them: one module a format.

labels      what is exported: labels of one alpha, at the images' own sizes
choice      which images, in which order
provenance  what made the labels, written beside every export
record      what was exported, so that unchanged masks are known when they come back
shell       the export itself: a folder that is whole or not there

import_masks     corrected masks to a new run file      corrected_masks  which of them a person changed
"""

from pipeline.exchange.formats import FORMATS, READABLE, detect_format, refuse_unknown_format
from pipeline.exchange.shell import Export, export_labels

__all__ = ["FORMATS", "READABLE", "Export", "detect_format", "export_labels", "refuse_unknown_format"]
