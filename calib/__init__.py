"""The conformal method: arrays in, arrays out; knows nothing of files, settings or networks.

scores       how badly a probability map fits a mask (paper Eq. 3)
quantile     the threshold of every location, from the scores of the labelled images
rules        probability map + thresholds -> pseudo-labels (paper Eq. 4)
evaluation   does the promised coverage hold on labelled images that were left out?
"""

from calib.evaluation import (
    HeldOutCounts,
    HeldOutCoverage,
    assign_folds,
    cross_fitted_coverage,
    held_out_counts,
    summarise_coverage,
    total_counts,
)
from calib.quantile import (
    CalibrationError,
    Method,
    Policy,
    conformal_rank,
    largest_score,
    num_valid,
    pixel_quantile,
    resolve_uncalibrated,
    smallest_alpha,
)
from calib.rules import LabelCounts, Planes, Rule, class_planes, label_pixels, summarise_labels
from calib.scores import true_class_scores

__all__ = [
    "CalibrationError",
    "HeldOutCounts",
    "HeldOutCoverage",
    "LabelCounts",
    "Method",
    "Planes",
    "Policy",
    "Rule",
    "assign_folds",
    "class_planes",
    "conformal_rank",
    "cross_fitted_coverage",
    "held_out_counts",
    "label_pixels",
    "largest_score",
    "num_valid",
    "pixel_quantile",
    "resolve_uncalibrated",
    "smallest_alpha",
    "summarise_coverage",
    "summarise_labels",
    "total_counts",
    "true_class_scores",
]
