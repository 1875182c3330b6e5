"""From folders and id lists to samples: the layouts of data sets, their files, and the splits.

No image is decoded here; `pipeline.stages.prepare` checks each image.
"""

from pipeline.sources.samples import find_samples
from pipeline.sources.true_masks import TrueMasks, truth_path

__all__ = ["TrueMasks", "find_samples", "truth_path"]
