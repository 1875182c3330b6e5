"""From folders and id lists to samples: the known layouts, the files they hold, and the splits.

Nothing is decoded here: `pipeline.stages.prepare` checks each image.
"""

from pipeline.sources.samples import find_samples, truth_path

__all__ = ["find_samples", "truth_path"]
