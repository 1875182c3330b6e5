"""The conformal method: arrays in, arrays out; independent of files, settings and networks.

scores       non-conformity scores of a labeled image (paper Eq. 3)
quantile     conformal ranks in exact arithmetic, and policies for too few images
sketch       the largest scores of every location, mergeable over images, and their thresholds
histogram    histograms of the scores of groups of pixels, mergeable over images: thresholds, and conformal risk control
regions      partitions of the map into regions that share a threshold
units        images that are not independent: folds that keep them together, and bootstrap samples of units
interface    the interface of the variants: labeled maps in, thresholds out
locations    thresholds of every location by itself, from all images and without each fold
neighbours   thresholds of every location from the scores around it, weighted by their distance
groups       thresholds that the pixels of a map, a region or a class share
variants     the variants, one entry each: score maps in, threshold maps out
rules        the labeling rules, one entry with a truth table each
sets         prediction sets as bits, and those that can teach
planes       probability map -> the few planes that the rules need
labels       planes + thresholds -> pseudo-labels by a rule (paper Eq. 4)
relations    how the true class of a pixel relates to the classes that a rule can label it with
judgement    counts of an image with known true classes: prediction sets and labels at given thresholds
curves       labels of an image at every threshold at once
betting      tests of bounded means by betting, in a fixed sequence
precision    thresholds whose labels have a guaranteed precision, with confidence
estimates    fractions of the pixels of all images, and their differences, with intervals
evaluation   coverage, precision, mIoU and more on held-out images
shift        whether labeled and unlabeled images differ in what can be observed without masks
selection    which images to label next
choice       choosing labels by their held-out estimates
library      the method for arrays in memory, in two calls
"""

from calib.choice import Candidate, choose_most_labels, choose_most_precise, pareto_front, rank, without_equal_labels
from calib.estimates import Estimate, compare_miou, compare_with_first
from calib.evaluation import HeldOut, summarise
from calib.interface import ArrayMaps, Block, Kind, LabeledMaps, Thresholds, Variant
from calib.judgement import SET_SIZES, Judgement, judge_image
from calib.labels import LabelCounts, class_wise_sets, label_class_wise, label_pixels, set_sizes, summarise_labels
from calib.library import Calibration, Summary, calibrate
from calib.planes import Planes, class_planes, most_probable, stack_planes
from calib.quantile import (
    CalibrationError,
    Method,
    Policy,
    conformal_rank,
    resolve_uncalibrated,
    smallest_alpha,
)
from calib.rules import (
    RAW,
    RULES,
    Rule,
    UnknownNameError,
    calibrated_rules,
    distinct_rules,
    find_rule,
    refuse_unknown,
    rules_alike,
)
from calib.scores import scores_of, true_class_index, true_class_scores
from calib.sets import abstained_by_size, num_bytes, pack_sets, prediction_sets, teaching_sets, unpack_sets
from calib.shift import Difference, Observed, compare, most_different, observe
from calib.sketch import Sketch, merge_sketches, pixel_quantile, sketch_quantile, sketch_scores, sketch_size
from calib.units import assign_folds, bootstrap_weights, each_alone, num_units, number_units, sums_of_units
from calib.variants import VARIANTS, find_variant, fit

__all__ = [
    "RAW",
    "RULES",
    "SET_SIZES",
    "VARIANTS",
    "ArrayMaps",
    "Block",
    "Calibration",
    "CalibrationError",
    "Candidate",
    "Difference",
    "Estimate",
    "HeldOut",
    "Judgement",
    "Kind",
    "LabelCounts",
    "LabeledMaps",
    "Method",
    "Observed",
    "Planes",
    "Policy",
    "Rule",
    "Sketch",
    "Summary",
    "Thresholds",
    "UnknownNameError",
    "Variant",
    "abstained_by_size",
    "assign_folds",
    "bootstrap_weights",
    "calibrate",
    "calibrated_rules",
    "choose_most_labels",
    "choose_most_precise",
    "class_planes",
    "class_wise_sets",
    "compare",
    "compare_miou",
    "compare_with_first",
    "conformal_rank",
    "distinct_rules",
    "each_alone",
    "find_rule",
    "find_variant",
    "fit",
    "judge_image",
    "label_class_wise",
    "label_pixels",
    "merge_sketches",
    "most_different",
    "most_probable",
    "num_bytes",
    "num_units",
    "number_units",
    "observe",
    "pack_sets",
    "pareto_front",
    "pixel_quantile",
    "prediction_sets",
    "rank",
    "refuse_unknown",
    "resolve_uncalibrated",
    "rules_alike",
    "scores_of",
    "set_sizes",
    "sketch_quantile",
    "sketch_scores",
    "sketch_size",
    "smallest_alpha",
    "stack_planes",
    "summarise",
    "summarise_labels",
    "sums_of_units",
    "teaching_sets",
    "true_class_index",
    "true_class_scores",
    "unpack_sets",
    "without_equal_labels",
]
