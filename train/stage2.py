"""Stage II: the student labels the unlabeled images online; the pseudo-labels of labels.zarr are not read any more."""

from __future__ import annotations

import logging
from typing import Any

import torch
from torch import Tensor

from pipeline.datasets import IGNORE_INDEX, SampleIndex, require_unlabeled
from pipeline.errors import TrainingError
from pipeline.run import Run
from pipeline.settings import Settings, Stage2Settings
from train.data import Draw, Passes, TrainingImages, WholeImages, passes
from train.engine.checkpoint import CheckpointError, load_checkpoint
from train.engine.loop import run
from train.engine.stage import Stage
from train.engine.state import TrainingState, new_state
from train.evaluate import validation
from train.losses import num_with_class
from train.machine.device import compute_of
from train.objective import Objective, Term, term
from train.plan import labeled_samples, lr_schedule, plan_fingerprint, stage2_fingerprint
from train.recipe import channel_masks, grouping, hard_pixels, has_block, new_student
from train.schedule import unlabeled_weight
from train.self_labels import Confidence, conformal_threshold, self_labels
from train.views import Views

log = logging.getLogger(__name__)

NAME = "stage2"


def stage2(settings: Settings) -> dict[str, Any]:
    """Continue training from Stage I's last weights and momentum, on online pseudo-labels (self-reliance).

    Reads samples.json and stage1/checkpoint.pt. Writes stage2/ with the same files as stage1/. With 0 epochs the result
    is the student of Stage I.

    returns: facts for the receipt
    raises:  DatasetError without samples; StoreError without a Stage I that has finished with these settings;
             TrainingError if its checkpoint is missing or of other data, or if training diverges or runs out of memory
    """
    own_run = Run(settings)
    index = own_run.samples(NAME)
    if settings.stage2.epochs:
        require_unlabeled(index, own_run.command("all", rerun="prepare"))
    checkpoint = finished_stage1(settings, index)
    stage = stage_of(settings, index, checkpoint)
    torch.manual_seed(settings.seed)  # for the weights of AllSpark's block, if Stage I trained without it
    student = new_student(settings, compute_of(settings.train), weights="random", stage=NAME)
    state = new_state(student, settings.train, settings.data.num_classes)
    if has_block(settings, NAME) and not has_block(settings, "stage1"):
        load_plain_network(state, checkpoint)
    else:
        state.load_weights(checkpoint)
    num_labeled, num_unlabeled = len(labeled_samples(settings, index)[0]), len(index.of("unlabeled"))
    log.info("stage2: %d labeled and %d unlabeled images", num_labeled, num_unlabeled)
    facts = run(state, stage, settings, validation(settings, index))
    return {
        "num_labeled": num_labeled,
        "num_unlabeled": num_unlabeled,
        "stage1_fingerprint": checkpoint["fingerprint"],
        **facts,
        "history": [entry | {"lambda": stage.lambda_of(entry["step"] - 1)} for entry in facts["history"]],
    }


def load_plain_network(state: TrainingState, checkpoint: dict[str, Any]) -> None:
    """Load the plain network of Stage I into AllSpark's network; the state of the optimiser starts at zero.

    checkpoint: of Stage I
    """
    from train.students.allspark.network import AllSparkNetwork

    students = [(state.student, checkpoint["model"])]
    if state.average is not None:
        students.append((state.average.student, checkpoint["average"]["model"]))
        state.average.step = checkpoint["average"]["step"]
    for student, weights in students:
        assert isinstance(student.model, AllSparkNetwork)
        student.model.network.load_state_dict(weights)


def finished_stage1(settings: Settings, index: SampleIndex) -> dict[str, Any]:
    """The checkpoint of Stage I.

    raises: StoreError or TrainingError if Stage I has not finished, or was trained with other settings or data
    """
    own = Run(settings)
    facts = own.receipt("stage1")
    path, again = own.folder.checkpoint("stage1"), own.command("stage1", rerun="stage1")
    try:
        checkpoint = load_checkpoint(path)
    except CheckpointError as error:
        raise TrainingError(f"{error}; run {again}, which trains stage1 from the beginning") from None
    if checkpoint is None or not checkpoint["finished"]:
        raise TrainingError(f"stage2 needs a finished stage1, but there is none in {path.parent}; run {again}")
    if (facts["fingerprint"], facts["plan_fingerprint"]) != (
        checkpoint["fingerprint"],
        plan_fingerprint(settings, index),
    ):
        raise TrainingError(
            f"{path} was made by other settings or data than those of this run (with train.lr_scope both, the length "
            f"of stage2 counts too); run {again}"
        )
    return checkpoint


def stage_of(settings: Settings, index: SampleIndex, checkpoint: dict[str, Any]) -> Stage:
    """The definition of Stage II: a batch takes images from two lists, and its loss is Eq. 5. checkpoint: of Stage I"""
    labeled, held_out = labeled_samples(settings, index)
    own, unlabeled, key = settings.stage2, index.of("unlabeled"), f"{settings.seed}/{NAME}"
    images = TrainingImages(index, labeled + unlabeled, settings.data, settings.train, key, cutmix=own.cutmix)
    labeled_order = Passes(len(labeled), len(labeled), f"{key}/labeled")
    unlabeled_order, steps_per_epoch = passes(
        len(unlabeled), own.batch_unlabeled, f"{key}/unlabeled", first=len(labeled)
    )

    def draws(step: int) -> list[list[Draw]]:
        return [
            labeled_order.draws(step * own.batch_labeled, own.batch_labeled),
            unlabeled_order.draws(step * own.batch_unlabeled, own.batch_unlabeled),
        ]

    def lambda_of(step: int) -> float:
        return weight_of(own, step, steps_per_epoch)

    def objective(state: TrainingState, views: Views, step: int) -> Objective:
        epoch = (settings.stage1.epochs if has_block(settings, "stage1") else 0) + step // steps_per_epoch
        return self_training_objective(settings, state, views, lambda_of(step), epoch)

    def calibrate(state: TrainingState) -> None:
        if own.confidence == "conformal":
            judging, workers = WholeImages(index, held_out, settings.data), settings.train.workers
            state.score_threshold = conformal_threshold(state.final_student, judging, own.confidence_alpha, workers)

    return Stage(
        name=NAME,
        fingerprint=stage2_fingerprint(settings, checkpoint["fingerprint"]),
        num_epochs=own.epochs,
        steps_per_epoch=steps_per_epoch,
        images=images,
        draws=draws,
        objective=objective,
        lr_factor=lr_schedule(settings, checkpoint["num_steps"], own.epochs * steps_per_epoch, 0),
        before_epoch=calibrate,
        lambda_of=lambda_of,
    )


def weight_of(settings: Stage2Settings, step: int, steps_per_epoch: int) -> float:
    """lambda in a step, which is counted from 0."""
    time, times = step // steps_per_epoch, settings.epochs
    if settings.lambda_per == "step":
        time, times = step, settings.epochs * steps_per_epoch
    return unlabeled_weight(settings.lambda_schedule, time, times, settings.lambda_start, settings.lambda_end)


def confidence_of(settings: Stage2Settings, state: TrainingState) -> Confidence:
    """The rule that decides, at this point of training, which online pseudo-labels are confident."""
    is_conformal = settings.confidence == "conformal"
    return Confidence(settings.confidence, state.score_threshold if is_conformal else settings.threshold)


def self_training_objective(
    settings: Settings, state: TrainingState, views: Views, weight: float, epoch: int
) -> Objective:
    """The objective of Stage II (paper Eq. 5): masks for labeled images, online pseudo-labels for unlabeled ones.

    The pseudo-labels come from the weak view. The student trains on the weak view itself (as in the paper) or on strong
    views of it (`stage2.views`).

    weight: lambda
    epoch:  counted from the start of the first stage that has AllSpark's block
    """
    own = settings.stage2
    labeled, unlabeled = views.split()
    # Teacher: the final student labels the unlabeled weak views.
    labels = self_labels(state.final_student, unlabeled.images, unlabeled.targets, confidence_of(own, state))
    # Labeled term: the masks.
    labeled_images = labeled.strong() if own.strong_labeled else labeled.images
    terms = [term("labeled", labeled, labeled_images, labeled.targets, weight=1 - weight)]
    # Unlabeled terms: the weak view, or each strong view with an equal fraction of lambda.
    if own.views == 0:
        terms.append(unlabeled_term(own, unlabeled, 0, unlabeled.images, labels.labels, labels.is_confident, weight))
    masks = channel_masks(settings, state.student, unlabeled, state.step)
    for view in range(own.views):
        strong = unlabeled.strong(view)
        images, classes, is_confident = unlabeled.mixed(view, strong, labels.labels, labels.is_confident)
        view_term = unlabeled_term(own, unlabeled, view, images, classes, is_confident, weight / own.views)
        terms.append(view_term._replace(channel_masks=masks[view]))
    confident = labels.is_confident.sum() / num_with_class(unlabeled.targets).clamp(min=1)
    objective = Objective(terms, confident, hard=hard_pixels(settings.train))
    if not has_block(settings, NAME):
        return objective
    return objective._replace(extra=grouping(settings, len(labeled.examples), labels.logits, epoch))


def unlabeled_term(
    own: Stage2Settings,
    unlabeled: Views,
    view: int,
    images: Tensor,
    labels: Tensor,
    is_confident: Tensor,
    weight: float,
) -> Term:
    """The loss term of the confident online pseudo-labels of one view.

    images:       uint8 [B, 3, H, W] RGB
    labels:       uint8 [B, H, W], class index or IGNORE_INDEX
    is_confident: bool [B, H, W]
    """
    targets = torch.where(is_confident, labels, IGNORE_INDEX)
    num_pixels = num_with_class(labels if own.normaliser == "valid" else targets)
    return term("unlabeled", unlabeled, images, targets, view, num_pixels=num_pixels, weight=weight)
