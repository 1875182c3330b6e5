"""The conformal method: arrays in, arrays out; knows nothing of files, settings or networks.

scores       how badly a probability map fits a mask (paper Eq. 3)
quantile     ranks in exact arithmetic, and what to do with too few images
sketch       the largest scores of every location: their thresholds, mergeable over images
histogram    scores of groups of pixels: their thresholds, and control of the wrong-label rate, mergeable over images
regions      which locations share a threshold
interface    what a variant gets, what it is asked, what it returns
locations    thresholds of every location by itself, with and without each fold of images
groups       thresholds that the pixels of a map, a region or a class share
variants     the variants, an entry each: score maps in, threshold maps out
rules        the labeling rules, an entry and a truth table each
labels       probability map + thresholds -> pseudo-labels by a rule (paper Eq. 4)
judgement    what thresholds make of an image whose true classes are known
evaluation   do the promises hold on labeled images that were left out?
choice       which labels to take, by what those images say
"""

from calib.choice import Candidate, choose_most_labels, choose_most_precise, pareto_front, rank
from calib.evaluation import Estimate, HeldOut, assign_folds, summarise
from calib.interface import ArrayMaps, Block, Kind, LabeledMaps, Thresholds, Variant
from calib.judgement import SET_SIZES, Judgement, judge_image
from calib.labels import (
    LabelCounts,
    Planes,
    class_planes,
    class_wise_sets,
    label_class_wise,
    label_pixels,
    most_probable,
    set_sizes,
    stack_planes,
    summarise_labels,
)
from calib.quantile import (
    CalibrationError,
    Method,
    Policy,
    conformal_rank,
    resolve_uncalibrated,
    smallest_alpha,
)
from calib.rules import RAW, RULES, Rule, UnknownNameError, distinct_rules, find_rule, refuse_unknown, rules_alike
from calib.scores import true_class_scores
from calib.sketch import Sketch, merge_sketches, pixel_quantile, sketch_quantile, sketch_scores, sketch_size
from calib.variants import VARIANTS, find_variant, fit

__all__ = [
    "RAW",
    "RULES",
    "SET_SIZES",
    "VARIANTS",
    "ArrayMaps",
    "Block",
    "CalibrationError",
    "Candidate",
    "Estimate",
    "HeldOut",
    "Judgement",
    "Kind",
    "LabelCounts",
    "LabeledMaps",
    "Method",
    "Planes",
    "Policy",
    "Rule",
    "Sketch",
    "Thresholds",
    "UnknownNameError",
    "Variant",
    "assign_folds",
    "choose_most_labels",
    "choose_most_precise",
    "class_planes",
    "class_wise_sets",
    "conformal_rank",
    "distinct_rules",
    "find_rule",
    "find_variant",
    "fit",
    "judge_image",
    "label_class_wise",
    "label_pixels",
    "merge_sketches",
    "most_probable",
    "pareto_front",
    "pixel_quantile",
    "rank",
    "refuse_unknown",
    "resolve_uncalibrated",
    "rules_alike",
    "set_sizes",
    "sketch_quantile",
    "sketch_scores",
    "sketch_size",
    "smallest_alpha",
    "stack_planes",
    "summarise",
    "summarise_labels",
    "true_class_scores",
]
