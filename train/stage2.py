"""Stage II: the same student labels the unlabelled images itself; the pseudo-labels on disk are not read any more."""

from __future__ import annotations

import logging
from typing import Any

import torch
from torch import Tensor

from pipeline.config import Settings, Stage2Settings
from pipeline.datasets import IGNORE_INDEX, SampleIndex, load_samples
from pipeline.errors import TrainingError
from pipeline.receipt import read_receipt
from train.checkpoint import load_checkpoint
from train.compute import compute_of
from train.data import Draw, Passes, TrainingImages, passes
from train.evaluate import validation
from train.loop import Stage, new_state, run
from train.losses import pixel_cross_entropy, self_reliance_loss
from train.plan import lr_schedule, plan_fingerprint, stage2_fingerprint
from train.schedule import unlabeled_weight
from train.student import Student, random_model

log = logging.getLogger(__name__)

NAME = "stage2"


def stage2(settings: Settings) -> dict[str, Any]:
    """Go on from Stage I's last weights and momentum by self-reliance; returns facts for the receipt.

    Reads samples.json and stage1/checkpoint.pt; writes stage2/checkpoint.pt and stage2/student/. With 0 epochs the
    student of Stage I is the result.
    raises: DatasetError without samples; TrainingError without a finished Stage I of the same settings
    """
    index = load_samples(settings.folder / "samples.json")
    checkpoint = finished_stage1(settings, index)
    stage = stage_of(settings, index, checkpoint)
    student = Student(random_model(settings.train.size, settings.data.class_names), compute_of(settings.train))
    state = new_state(student, settings.train)
    state.load_weights(checkpoint)
    num_labeled, num_unlabeled = len(index.of("labeled")), len(index.of("unlabeled"))
    log.info("stage2: %d labelled and %d unlabelled images", num_labeled, num_unlabeled)
    facts = run(state, stage, settings, validation(settings, index))
    return {
        "num_labeled": num_labeled,
        "num_unlabeled": num_unlabeled,
        "stage1_fingerprint": checkpoint["fingerprint"],
        **facts,
        "history": [entry | {"lambda": weight_of(settings.stage2, entry["epoch"] - 1)} for entry in facts["history"]],
    }


def finished_stage1(settings: Settings, index: SampleIndex) -> dict[str, Any]:
    """Stage I's checkpoint; TrainingError if it is missing, unfinished, or was made by other settings or data."""
    again = "run snakemake --cores 8 stage1"
    path = settings.folder / "stage1" / "checkpoint.pt"
    checkpoint, receipt = load_checkpoint(path), settings.folder / "stage1.json"
    if checkpoint is None or not checkpoint["finished"] or not receipt.is_file():
        raise TrainingError(f"stage2 goes on from a finished stage1, but there is none in {path.parent}; {again}")
    facts = read_receipt(receipt, "stage1")
    if (facts["fingerprint"], facts["plan_fingerprint"]) != (
        checkpoint["fingerprint"],
        plan_fingerprint(settings, index),
    ):
        raise TrainingError(
            f"{path} was made by other settings or data than this run's (with train.lr_scope both, the length of "
            f"stage2 counts too); {again}"
        )
    return checkpoint


def stage_of(settings: Settings, index: SampleIndex, checkpoint: dict[str, Any]) -> Stage:
    """Everything that makes Stage II: two lists, a batch from each, and the loss of Eq. 5."""
    labeled, unlabeled = index.of("labeled"), index.of("unlabeled")
    own, key = settings.stage2, f"{settings.seed}/{NAME}"
    images = TrainingImages(index, labeled + unlabeled, settings.data, settings.train, key)
    labeled_order = Passes(len(labeled), len(labeled), f"{key}/labeled")
    unlabeled_order, steps_per_epoch = passes(
        len(unlabeled), own.batch_unlabeled, f"{key}/unlabeled", first=len(labeled)
    )

    def draws(step: int) -> list[Draw]:
        return labeled_order.draws(step * own.batch_labeled, own.batch_labeled) + unlabeled_order.draws(
            step * own.batch_unlabeled, own.batch_unlabeled
        )

    def loss(student: Student, images: Tensor, targets: Tensor, step: int) -> Tensor:
        weight = weight_of(own, step // steps_per_epoch)
        return self_training_loss(student, images, targets, own.batch_labeled, weight)

    return Stage(
        name=NAME,
        fingerprint=stage2_fingerprint(settings, checkpoint["fingerprint"]),
        num_epochs=own.epochs,
        steps_per_epoch=steps_per_epoch,
        images=images,
        draws=draws,
        loss=loss,
        lr_factor=lr_schedule(settings, checkpoint["num_steps"], own.epochs * steps_per_epoch, 0),
    )


def weight_of(settings: Stage2Settings, epoch: int) -> float:
    """lambda of an epoch, counted from 0."""
    return unlabeled_weight(
        settings.lambda_schedule, epoch, settings.epochs, settings.lambda_start, settings.lambda_end
    )


def self_training_loss(student: Student, images: Tensor, targets: Tensor, num_labeled: int, weight: float) -> Tensor:
    """Eq. 5, the unlabelled images labelled by the student as it is now: arg max, no threshold.

    images:  uint8 [B, 3, H, W], the first `num_labeled` labelled
    targets: uint8 [B, H, W]; of an unlabelled image only IGNORE_INDEX (padding) is used
    """
    own_labels = self_labels(student, images[num_labeled:], targets[num_labeled:])
    logits = student.logits(images)
    supervised = pixel_cross_entropy(logits[:num_labeled], targets[:num_labeled])
    unsupervised = pixel_cross_entropy(logits[num_labeled:], own_labels)
    return self_reliance_loss(supervised, unsupervised, weight)


def self_labels(student: Student, images: Tensor, padding: Tensor) -> Tensor:
    """uint8 [B, H, W]: the student's most probable class in evaluation mode, IGNORE_INDEX on padding."""
    return torch.where(padding == IGNORE_INDEX, padding, student.classes(images))
