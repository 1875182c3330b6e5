"""probe: which labels to train on, answered by small students on the frozen features of a pretrained encoder."""

from __future__ import annotations

import functools
import json
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch

import calib
from pipeline.calibration.label_choice import Labeler, labeler, ranked_candidates
from pipeline.errors import TrainingError
from pipeline.receipt import fingerprint
from pipeline.run import Run
from pipeline.settings import Settings
from train.machine.device import compute_of
from train.probe.arms import Labels, arms_of, distinct_candidates
from train.probe.cross_fit import CrossFit, LabelOf
from train.probe.features import FeatureCache, feature_key
from train.probe.fit import Recipe
from train.probe.planes import PlaneSource, open_planes
from train.probe.verdict import chosen, command, outcome_facts, outcomes, sentence
from train.probe.views import thinned, view_plan
from train.student import Student
from train.students import new_network


def probe(settings: Settings) -> dict[str, Any]:
    """Train and judge small students on every kind of labels; returns facts for the receipt.

    Reads samples.json, calibration.zarr, and the planes of labels.zarr or else probs.zarr. Keeps features and judged
    students in probe/ of the run, so that a second call trains nothing and returns the same facts.
    raises: StoreError if the run is not calibrated; TrainingError if there are too few labeled images
    """
    calibrated = Run(settings).receipt("calibrate")
    crossed = cross_fit(settings, calibrated["fingerprint"])
    judged = crossed.judged()
    found = outcomes(crossed.arms, judged.areas, crossed.fold, settings.seed)
    taken = chosen(found)
    return {
        "fingerprint": calibrated["fingerprint"],
        "students": fingerprint({"keys": [crossed.key(fit) for fit in crossed.fits]}),
        "chosen": taken.arm.as_json(),
        "verdict": sentence(found, taken),
        "command": command(Run(settings), taken.arm),
        "outcomes": [outcome_facts(outcome) for outcome in found],
        "num_labeled": len(crossed.labeled),
        "num_unlabeled": len(crossed.unlabeled),
        "folds": settings.probe.folds,
        "crop": crossed.cache.plan.crop,
        "scale": list(crossed.cache.plan.scale),
        "seconds": round(judged.seconds, 1),
    }


def is_recorded(run: Run, facts: Mapping[str, Any]) -> bool:
    """Whether a receipt of these settings is there and has these facts."""
    if not run.has_receipt("probe") or run.is_stale("probe"):
        return False
    known: Mapping[str, Any] = run.recorded("probe")
    return bool({name: known.get(name) for name in facts} == json.loads(json.dumps(facts)))


def cross_fit(settings: Settings, calibration: str) -> CrossFit:
    """The students to train. calibration: its fingerprint"""
    own, index, planes = settings.probe, Run(settings).samples(), open_planes(settings)
    labeled, unlabeled = thinned(index.of("labeled"), planes.known(index.of("unlabeled")), own.max_images)
    if len(labeled) < own.folds or not unlabeled:
        raise TrainingError(
            f"probe.folds is {own.folds}; {len(labeled)} labeled and {len(unlabeled)} unlabeled images take part: "
            "every fold needs a labeled image, and the students an unlabeled one: lower probe.folds, or add images"
        )
    plan, student = view_plan(settings), encoding_student(settings)
    ranked = ranked_candidates(settings)
    has_background = settings.data.background is not None
    folder = Run(settings).folder.probe
    return CrossFit(
        data=settings.data,
        index=index,
        labeled=labeled,
        unlabeled=unlabeled,
        fold=calib.assign_folds(len(labeled), own.folds),
        arms=arms_of(distinct_candidates(ranked, own.candidates, has_background), own.unlabeled_weights),
        label_of=label_of(settings, ranked, planes),
        made_by={"raw": planes.made_by, "calibrated": calibration},
        recipe=Recipe(own.steps, own.batch_size, own.lr, settings.seed),
        cache=FeatureCache(folder / "features", feature_key(student.model, plan), plan, student),
        folder=folder / "students",
    )


def encoding_student(settings: Settings) -> Student:
    """The student whose encoder sees the images. raises: TrainingError for weights that are missing or do not fit"""
    own = settings.probe
    torch.manual_seed(settings.seed)  # of an encoder without weights
    return Student(new_network(own.encoder, own.weights, settings.data.class_names), compute_of(settings.train))


def label_of(settings: Settings, ranked: Sequence[calib.Candidate], planes: PlaneSource) -> LabelOf:
    """What labels an unlabeled image by any of the ranked candidates, or by the annotator's own argmax."""

    @functools.cache
    def labels_planes(labels: Labels) -> Labeler:
        if labels.labels == "raw":
            return lambda one: calib.most_probable(one, planes.background)[0].astype(np.float32)
        key = (labels.variant, labels.alpha, labels.rule)
        (candidate,) = (one for one in ranked if (one.variant, one.alpha, one.rule) == key)
        return labeler(settings, candidate)

    return lambda labels, sample: labels_planes(labels)(planes.planes(sample))
