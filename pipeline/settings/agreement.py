"""Checks that the sections of a run fit together."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import calib
from pipeline.settings.calibrate import VARIANT_OF_TILES
from pipeline.settings.train import STUDENTS
from pipeline.student_folders import indivisible_network

if TYPE_CHECKING:
    from pipeline.settings.run import Settings


def refuse_disagreement(settings: Settings) -> None:
    """ValueError unless the sections of a run fit together, with the first problem and what to change."""
    for check in (
        _pseudo_labels_need_an_annotator,
        _baseline_has_less_to_learn_from,
        _students_are_of_another_run,
        _variant_is_of_the_rule,
        _tiles_share_thresholds,
        _guarantee_is_of_one_threshold,
        _set_loss_needs_sets,
        _classes_without_a_channel_share_a_threshold,
        _allspark_trains_on_labeled_images,
        _allspark_drops_no_channels,
        _divided_batches_have_pseudo_labels,
        _conformal_confidence_has_enough_images,
        _encoder_can_be_taken_apart,
    ):
        check(settings)


def _pseudo_labels_need_an_annotator(settings: Settings) -> None:
    if settings.needs_annotator and settings.annotate.annotator == "none":
        raise ValueError(
            f"stage1.labels {settings.stage1.labels} needs an annotator, but annotate.annotator is none or missing; "
            "add the section annotate, or set stage1.labels: none"
        )


def _baseline_has_less_to_learn_from(settings: Settings) -> None:
    if settings.baseline and not settings.needs_unlabeled:
        raise ValueError(
            "baseline compares the student with one of the labeled images alone, but stage1.labels is none and "
            "Stage II has no epochs, so this run trains just that; set baseline: false"
        )


def _students_are_of_another_run(settings: Settings) -> None:
    student = settings.annotate.student
    if settings.annotate.annotator == "student" and student is not None and student.run == settings.name:
        raise ValueError(
            f"annotate.student.run is {student.run}, this run itself; set it to the run of the last round, or set "
            f"name: {settings.name}_round2"
        )


def _variant_is_of_the_rule(settings: Settings) -> None:
    kind = settings.calibrate.kind
    if kind.rule is not None and settings.pseudolabel.rule != kind.rule:
        raise ValueError(
            f"calibrate.variant {kind.name} bounds the {kind.bounds} of pseudolabel.rule {kind.rule}, got "
            f"{settings.pseudolabel.rule}; set pseudolabel.rule: {kind.rule}"
        )


def _tiles_share_thresholds(settings: Settings) -> None:
    by_location = [name for name in settings.variants if not calib.find_variant(name).is_whole]
    if settings.data.tile is not None and by_location:
        is_first = settings.calibrate.variant in by_location
        where, fix = ("variant", VARIANT_OF_TILES) if is_first else ("variants", f"[{VARIANT_OF_TILES}]")
        raise ValueError(
            f"calibrate.{where} has {by_location[0]}, whose thresholds depend on the location, but a location in a "
            f"tile (data.tile) means nothing; set calibrate.{where}: {fix}, or remove data.tile"
        )


def _guarantee_is_of_one_threshold(settings: Settings) -> None:
    if settings.pseudolabel.guarantee is not None and settings.calibrate.class_thresholds != "pooled":
        raise ValueError(
            "pseudolabel.guarantee needs one threshold for all classes, but calibrate.class_thresholds is "
            f"{settings.calibrate.class_thresholds}; set calibrate.class_thresholds: pooled, or remove the guarantee"
        )


def _set_loss_needs_sets(settings: Settings) -> None:
    if settings.stage1.set_loss != "none" and not settings.pseudolabel.keep_sets:
        raise ValueError(
            f"stage1.set_loss {settings.stage1.set_loss} needs the prediction sets in labels.zarr, which pseudolabel "
            "stores with pseudolabel.keep_sets only; set pseudolabel.keep_sets: true, or stage1.set_loss: none"
        )


def _classes_without_a_channel_share_a_threshold(settings: Settings) -> None:
    thresholds = settings.calibrate.class_thresholds
    empty = _classes_of_no_channel(settings) if thresholds != "pooled" else []
    if empty:
        chosen = settings.annotate.annotator
        what = "label" if chosen == "transformers" else "channel"
        lack = f"no member has a {what}" if settings.members else f"annotate.{chosen}.class_map has no {what}"
        raise ValueError(
            f"{lack} for {', '.join(empty)}, and under class_thresholds {thresholds} their own threshold of 1 "
            "would label them wherever no other class is in the set; set calibrate.class_thresholds: pooled, or "
            "remove the classes"
        )


def _classes_of_no_channel(settings: Settings) -> list[str]:
    """Classes for which `class_map` lists nothing, in every annotator."""
    empty = set(settings.data.class_names)
    for chosen in (one.annotate for one in settings.each_annotator):
        section = {"onnx": chosen.onnx, "transformers": chosen.transformers}.get(chosen.annotator)
        empty &= {name for name, entries in (section.class_map if section else {}).items() if not entries}
    return [name for name in settings.data.class_names if name in empty]


def _allspark_trains_on_labeled_images(settings: Settings) -> None:
    has_block = settings.train.framework == "allspark" and settings.stage1.network == "allspark"
    if has_block and settings.stage1.epochs and settings.stage1.batch_labeled is None:
        raise ValueError(
            "train.framework allspark needs labeled images in every batch of Stage I, but stage1.batch_labeled is "
            "missing; set stage1.batch_labeled: 2, or stage1.network: plain"
        )


def _allspark_drops_no_channels(settings: Settings) -> None:
    if settings.train.framework == "allspark" and settings.stage2.complementary_dropout:
        raise ValueError(
            "train.framework allspark has no complementary dropout; set stage2.complementary_dropout: false, or "
            "train.framework: plain"
        )


def _divided_batches_have_pseudo_labels(settings: Settings) -> None:
    if settings.stage1.batch_labeled is not None and settings.stage1.labels == "none":
        raise ValueError(
            "stage1.batch_labeled divides a batch between labeled and pseudo-labeled images, but stage1.labels is "
            "none; remove stage1.batch_labeled"
        )


def _conformal_confidence_has_enough_images(settings: Settings) -> None:
    stage2, holdout = settings.stage2, settings.train.holdout
    needed = math.ceil(1 / stage2.confidence_alpha - 1e-9) - 1
    if stage2.confidence == "conformal" and stage2.epochs and holdout < needed:
        raise ValueError(
            f"stage2.confidence conformal at confidence_alpha {stage2.confidence_alpha} needs "
            f"train.holdout of at least {needed}, got {holdout}; set train.holdout: {needed}, raise "
            "confidence_alpha, or set stage2.confidence: threshold"
        )


def _encoder_can_be_taken_apart(settings: Settings) -> None:
    needs_encoder = {
        "stage2.complementary_dropout: false": settings.stage2.complementary_dropout and settings.stage2.epochs > 0,
        "train.framework: plain": settings.train.framework == "allspark",
        "train.frozen_stages: 0": settings.train.frozen_stages > 0,
    }
    fixes = [fix for fix, is_set in needs_encoder.items() if is_set]
    kind = indivisible_network(settings.train.student) if fixes else None
    if kind is not None:
        raise ValueError(
            f"train.student is {settings.train.student}, a network of type {kind}, whose encoder is unknown; set "
            f"{' and '.join(fixes)}, or train.student to one of {', '.join(STUDENTS)}, or to the folder of such a "
            "student"
        )
