"""Stage I: trains the student on masks and on the pseudo-labels of labels.zarr."""

from __future__ import annotations

import logging
from typing import Any

import torch

from pipeline.datasets import SampleIndex
from pipeline.run import Run
from pipeline.settings import Settings
from pipeline.store import DONE, OUTCOMES, LabelStore
from train.data import Draw, Passes, TrainingImages, passes
from train.engine.loop import run
from train.engine.stage import Stage
from train.engine.state import TrainingState, new_state
from train.evaluate import validation
from train.machine.device import compute_of
from train.objective import Objective, SetTerm, term
from train.plan import labeled_samples, lr_schedule, num_stage2_steps, plan_fingerprint, stage1_fingerprint
from train.recipe import grouping, hard_pixels, has_block, new_student
from train.self_labels import Confidence, self_labels
from train.views import Views

log = logging.getLogger(__name__)

NAME = "stage1"


def stage1(settings: Settings) -> dict[str, Any]:
    """Train on labeled and pseudo-labeled images.

    Reads samples.json and, unless `stage1.labels` is none, labels.zarr of the run. Writes stage1/checkpoint.pt,
    stage1/student/ (the last student), stage1/best/ and what `train.trackers` keep.

    returns: facts for the receipt
    raises:  DatasetError, StoreError if an input is missing, or inputs do not belong together; TrainingError if
             training diverges or runs out of memory
    """
    own_run = Run(settings)
    own_run.check_inputs(NAME)
    index = own_run.samples(NAME)
    labels = None if settings.stage1.labels == "none" else open_run_labels(settings)
    stage = stage_of(settings, index, labels)
    torch.manual_seed(settings.seed)
    if settings.train.licence_note is not None:
        log.warning("stage1: %s", settings.train.licence_note)
    student = new_student(settings, compute_of(settings.train))
    facts = _facts(settings, index, labels, stage)
    if facts["keep_rate"] is not None:
        log.info(
            "stage1: %d labeled and %d pseudo-labeled images; %.1f %% of the pseudo-labels' pixels have a class",
            facts["num_labeled"], facts["num_pseudolabeled"], 100 * facts["keep_rate"],
        )  # fmt: skip
    if facts["teaching_rate"] is not None:
        level = logging.INFO if facts["teaching_rate"] else logging.WARNING
        rate = 100 * facts["teaching_rate"]
        log.log(level, "stage1: %.1f %% of the pseudo-labels' pixels teach by their prediction set", rate)
    state = new_state(student, settings.train, settings.data.num_classes)
    return facts | run(state, stage, settings, validation(settings, index))


def open_run_labels(settings: Settings) -> LabelStore:
    """Open the pseudo-labels of the run; StoreError unless they are whole and were made with its settings."""
    return Run(settings).open_labels()


def stage_of(settings: Settings, index: SampleIndex, labels: LabelStore | None) -> Stage:
    """The definition of Stage I. labels: the pseudo-labels, or None if it trains on masks only"""
    fingerprint = None if labels is None else labels.fingerprint
    return stage_on(settings, index, training_images(settings, index, labels), fingerprint)


def stage_on(settings: Settings, index: SampleIndex, images: TrainingImages, labels_fingerprint: str | None) -> Stage:
    """The definition of Stage I on these images, the labeled ones first."""
    own = settings.stage1
    num_labeled = len(labeled_samples(settings, index)[0])
    if own.batch_labeled is None:
        order, steps_per_epoch = passes(len(images), own.batch_size, f"{images.key}/order")
        groups = [(order, own.batch_size)]
    else:
        num_unlabeled, size = len(images) - num_labeled, own.batch_size - own.batch_labeled
        unlabeled, steps_per_epoch = passes(num_unlabeled, size, f"{images.key}/order", first=num_labeled)
        labeled = Passes(num_labeled, num_labeled, f"{images.key}/labeled")
        groups = [(labeled, own.batch_labeled), (unlabeled, size)]

    def draws(step: int) -> list[list[Draw]]:
        return [order.draws(step * size, size) for order, size in groups]

    def objective(state: TrainingState, views: Views, step: int) -> Objective:
        return pseudo_label_objective(settings, state, views, step // steps_per_epoch)

    num_steps, steps_after = own.epochs * steps_per_epoch, num_stage2_steps(settings, len(index.of("unlabeled")))
    return Stage(
        name=NAME,
        fingerprint=stage1_fingerprint(plan_fingerprint(settings, index), labels_fingerprint, images.samples),
        num_epochs=own.epochs,
        steps_per_epoch=steps_per_epoch,
        images=images,
        draws=draws,
        objective=objective,
        lr_factor=lr_schedule(settings, 0, num_steps, steps_after),
    )


def training_images(settings: Settings, index: SampleIndex, labels: LabelStore | None) -> TrainingImages:
    """The labeled images, then the unlabeled images that have a pseudo-label (an annotator may fail on a few)."""
    samples, key = labeled_samples(settings, index)[0], f"{settings.seed}/{NAME}"
    if labels is None:
        return TrainingImages(index, samples, settings.data, settings.train, key)
    is_done = labels.status == DONE
    index_of = {sample_id: i for i, sample_id in enumerate(labels.sample_ids) if is_done[i]}
    samples += [sample for sample in index.of("unlabeled") if sample.id in index_of]
    is_raw, has_sets = settings.stage1.labels == "raw", settings.stage1.set_loss != "none"
    return TrainingImages(index, samples, settings.data, settings.train, key, (labels, index_of), is_raw, has_sets)


def pseudo_label_objective(settings: Settings, state: TrainingState, views: Views, epoch: int) -> Objective:
    """The objective of Stage I: one mean over labeled and pseudo-labeled pixels, or one mean of each (paper Eq. 2).

    With `stage1.set_loss` there is a mean over the pixels that have a prediction set instead of a label, too.
    """
    own = settings.stage1
    labeled, unlabeled = views.split()
    labeled_images, unlabeled_images = (kind.strong() if own.strong else kind.images for kind in (labeled, unlabeled))
    terms = [term("labeled", labeled, labeled_images, labeled.targets)]
    if own.labels == "none":
        return Objective(terms, hard=hard_pixels(settings.train))
    is_pooled = own.loss == "pooled"
    weight = 1.0 if is_pooled else own.pseudo_weight
    terms.append(term("unlabeled", unlabeled, unlabeled_images, unlabeled.targets, weight=weight))
    sets = SetTerm(unlabeled.sets, own.set_weight) if own.set_loss == "partial" else None
    objective = Objective(terms, is_pooled=is_pooled, hard=hard_pixels(settings.train), sets=sets)
    if not has_block(settings, NAME):
        return objective
    labels = self_labels(state.final_student, unlabeled.images, unlabeled.targets, Confidence("none"))
    return objective._replace(extra=grouping(settings, len(labeled.examples), labels.logits, epoch))


def _facts(settings: Settings, index: SampleIndex, labels: LabelStore | None, stage: Stage) -> dict[str, Any]:
    num_labeled = len(labeled_samples(settings, index)[0])
    return {
        "num_labeled": num_labeled,
        "num_pseudolabeled": len(stage.images) - num_labeled,
        "keep_rate": None if labels is None else _keep_rate(settings, labels),
        "teaching_rate": None if labels is None or not stage.images.has_sets else _teaching_rate(labels),
        "labels_fingerprint": None if labels is None else labels.fingerprint,
        "plan_fingerprint": plan_fingerprint(settings, index),
    }


def _keep_rate(settings: Settings, labels: LabelStore) -> float:
    """Fraction of the pixels of the pseudo-labels that have a class."""
    if settings.stage1.labels == "raw":
        return 1.0
    done = labels.outcome_pixels[labels.status == DONE].sum(axis=0)
    kept, pixels = (int(done[OUTCOMES.index(name)]) for name in ("kept", "pixels"))
    return kept / max(pixels, 1)


def _teaching_rate(labels: LabelStore) -> float:
    """Fraction of the pixels of the pseudo-labels that have no class, but a prediction set that teaches."""
    done = labels.status == DONE
    pixels = labels.outcome_pixels[done, OUTCOMES.index("pixels")].sum()
    return int(labels.teaching_pixels[done].sum()) / max(int(pixels), 1)
