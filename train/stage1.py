"""Stage I: the student learns from labels and calibrated pseudo-labels, drawn from one shuffled list."""

from __future__ import annotations

import logging
from typing import Any

from torch import Tensor

from pipeline.config import Settings
from pipeline.datasets import SampleIndex, load_samples
from pipeline.errors import StoreError
from pipeline.receipt import read_receipt
from pipeline.store import DONE, OUTCOMES, LabelStore, open_labels
from train.compute import compute_of
from train.data import TrainingImages, passes
from train.evaluate import validation
from train.loop import Stage, new_state, run
from train.losses import pixel_cross_entropy
from train.plan import lr_schedule, num_stage2_steps, plan_fingerprint, stage1_fingerprint
from train.student import Student, new_model

log = logging.getLogger(__name__)

NAME = "stage1"


def stage1(settings: Settings) -> dict[str, Any]:
    """Train on the union of labelled and pseudo-labelled images; returns facts for the receipt.

    Reads samples.json and labels.zarr of the run; writes stage1/checkpoint.pt and stage1/student/.
    raises: DatasetError, StoreError if what it reads is missing or does not belong together; TrainingError
    """
    index = load_samples(settings.folder / "samples.json")
    labels = open_run_labels(settings, index)
    stage = stage_of(settings, index, labels)
    student = Student(new_model(settings.train, settings.data.class_names, settings.seed), compute_of(settings.train))
    facts = _facts(settings, index, labels, stage)
    log.info(
        "stage1: %d labelled and %d pseudo-labelled images; %.1f %% of the pseudo-labels' pixels have a class",
        facts["num_labeled"], facts["num_pseudolabeled"], 100 * facts["keep_rate"],
    )  # fmt: skip
    return facts | run(new_state(student, settings.train), stage, settings, validation(settings, index))


def open_run_labels(settings: Settings, index: SampleIndex) -> LabelStore:
    """The run's pseudo-labels, whole and of this run's samples and classes; StoreError otherwise."""
    path = settings.folder / "labels.zarr"
    made_by = read_receipt(settings.folder / "pseudolabel.json", "pseudolabel")["fingerprint"]
    labels = open_labels(path, made_by)
    again = "run snakemake --cores 8 pseudolabel to rebuild it"
    if labels.sample_ids != [sample.id for sample in index.of("unlabeled")]:
        raise StoreError(f"{path} labels other images than the unlabelled ones of samples.json; {again}")
    if labels.class_names != settings.data.class_names:
        raise StoreError(f"{path} has the classes {labels.class_names}, expected {settings.data.class_names}; {again}")
    lost = labels.missing_chunks().get("label", [])
    if lost:
        raise StoreError(f"{path} has lost {len(lost)} labels, e.g. {lost[0]}; rm -r {path} and {again}")
    return labels


def stage_of(settings: Settings, index: SampleIndex, labels: LabelStore) -> Stage:
    """Everything that makes Stage I: one list, one batch size, one pooled cross-entropy (paper Eq. 2)."""
    images = training_images(settings, index, labels)
    order, steps_per_epoch = passes(len(images), settings.stage1.batch_size, f"{images.key}/order")
    num_steps = settings.stage1.epochs * steps_per_epoch
    steps_after = num_stage2_steps(settings, len(index.of("unlabeled")))
    return Stage(
        name=NAME,
        fingerprint=stage1_fingerprint(plan_fingerprint(settings, index), labels.fingerprint, images.samples),
        num_epochs=settings.stage1.epochs,
        steps_per_epoch=steps_per_epoch,
        images=images,
        draws=lambda step: order.draws(step * settings.stage1.batch_size, settings.stage1.batch_size),
        loss=pooled_loss,
        lr_factor=lr_schedule(settings, 0, num_steps, steps_after),
    )


def training_images(settings: Settings, index: SampleIndex, labels: LabelStore) -> TrainingImages:
    """Labelled images, then those whose pseudo-label was made (an annotator may fail on a few)."""
    is_done = labels.status == DONE
    places = {sample_id: i for i, sample_id in enumerate(labels.sample_ids) if is_done[i]}
    samples = index.of("labeled") + [sample for sample in index.of("unlabeled") if sample.id in places]
    key = f"{settings.seed}/{NAME}"
    return TrainingImages(index, samples, settings.data, settings.train, key, (labels, places))


def pooled_loss(student: Student, images: Tensor, targets: Tensor, step: int) -> Tensor:
    """One mean over all pixels of the batch that have a label or a pseudo-label."""
    return pixel_cross_entropy(student.logits(images), targets)


def _facts(settings: Settings, index: SampleIndex, labels: LabelStore, stage: Stage) -> dict[str, Any]:
    done = labels.outcome_pixels[labels.status == DONE].sum(axis=0)
    kept, pixels = (int(done[OUTCOMES.index(name)]) for name in ("kept", "pixels"))
    num_labeled = len(index.of("labeled"))
    return {
        "num_labeled": num_labeled,
        "num_pseudolabeled": len(stage.images) - num_labeled,
        "keep_rate": kept / max(pixels, 1),
        "labels_fingerprint": labels.fingerprint,
        "plan_fingerprint": plan_fingerprint(settings, index),
    }
