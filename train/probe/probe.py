"""probe: finds the labels to train on, with small students on the features of a frozen pretrained encoder."""

from __future__ import annotations

import functools
import json
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch

import calib
from pipeline.calibration.label_choice import Labeler, labeler, ranked_candidates
from pipeline.datasets import in_groups, num_groups, units_of
from pipeline.errors import TrainingError
from pipeline.receipt import fingerprint
from pipeline.run import Run
from pipeline.settings import Settings
from train.machine.device import compute_of
from train.probe.arms import Labels, arms_of, distinct_candidates
from train.probe.cross_fit import CrossFit, LabelOf
from train.probe.features import FeatureCache, feature_key
from train.probe.fit import Recipe
from train.probe.planes import StoredPlanes, open_planes
from train.probe.verdict import chosen, command, outcome_facts, outcomes, sentence
from train.probe.views import thinned, view_plan
from train.student import Student
from train.students import new_network


def probe(settings: Settings) -> dict[str, Any]:
    """Train and evaluate small students on every kind of labels.

    Reads samples.json, calibration.zarr, and the planes of labels.zarr or probs.zarr. Keeps features and evaluations in
    probe/ of the run, so that a second call trains nothing and returns the same facts.

    returns: facts for the receipt
    raises:  StoreError if the run is not calibrated; TrainingError if there are too few labeled or unlabeled images
    """
    calibrated = Run(settings).receipt("calibrate")
    students = cross_fit(settings, calibrated["fingerprint"])
    if students.missing:
        Run(settings).begin("probe")
    judged = students.judged()
    units = units_of(students.labeled)
    results = outcomes(students.arms, judged.areas, students.fold, settings.seed, units)
    choice = chosen(results)
    return {
        "fingerprint": calibrated["fingerprint"],
        "students": fingerprint({"keys": [students.key(fit) for fit in students.fits]}),
        "chosen": choice.arm.as_json(),
        "verdict": sentence(results, choice),
        "command": command(Run(settings), choice.arm),
        "outcomes": [outcome_facts(outcome) for outcome in results],
        "num_labeled": len(students.labeled),
        "num_groups": num_groups(students.labeled),
        "num_unlabeled": len(students.unlabeled),
        "folds": settings.probe.folds,
        "crop": students.cache.plan.crop,
        "scale": list(students.cache.plan.scale),
        "seconds": round(judged.seconds, 1),
    }


def is_recorded(run: Run, facts: Mapping[str, Any]) -> bool:
    """Whether a receipt with these settings and these facts exists."""
    if not run.has_receipt("probe") or run.is_stale("probe"):
        return False
    recorded: Mapping[str, Any] = run.recorded("probe")
    return bool({name: recorded.get(name) for name in facts} == json.loads(json.dumps(facts)))


def cross_fit(settings: Settings, calibration: str) -> CrossFit:
    """The students of all arms and folds.

    calibration: fingerprint of the calibration
    raises:      TrainingError if there are too few images
    """
    own, index, planes = settings.probe, Run(settings).samples("probe"), open_planes(settings)
    labeled, unlabeled = thinned(index.of("labeled"), planes.available(index.of("unlabeled")), own.max_images)
    units = units_of(labeled)
    if calib.num_units(units) < own.folds or not unlabeled:
        groups = num_groups(labeled)
        each = "a labeled image" if groups is None else "a group of labeled images"
        raise TrainingError(
            f"probe.folds is {own.folds}, but the probe has {in_groups(len(labeled), groups)} and {len(unlabeled)} "
            f"unlabeled images; every fold needs {each}, and every student an unlabeled one: lower probe.folds, or add "
            "images"
        )
    plan, student = view_plan(settings), encoding_student(settings)
    ranked = ranked_candidates(settings)
    has_background = settings.data.background is not None
    folder = Run(settings).folder.probe
    students = CrossFit(
        data=settings.data,
        index=index,
        labeled=labeled,
        unlabeled=unlabeled,
        fold=calib.assign_folds(units, own.folds),
        arms=arms_of(distinct_candidates(ranked, own.candidates, has_background), own.unlabeled_weights),
        label_of=label_of(settings, ranked, planes),
        made_by={"raw": planes.made_by, "calibrated": calibration},
        recipe=Recipe(own.steps, own.batch_size, own.lr, settings.seed),
        cache=FeatureCache(folder / "features", feature_key(student.model, plan), plan, student),
        folder=folder / "students",
    )
    alone = next((fold for fold in range(own.folds) if not students.others(fold)), None)
    if alone is not None:
        raise TrainingError(
            f"all {len(unlabeled)} unlabeled images are in the groups of fold {alone + 1} of {own.folds}, so that its "
            "students have none to train on; add unlabeled images of other groups, or set data.groups to smaller ones"
        )
    return students


def encoding_student(settings: Settings) -> Student:
    """The student whose encoder computes the features; TrainingError for weights that are missing or do not fit."""
    own = settings.probe
    torch.manual_seed(settings.seed)  # for an encoder without given weights
    return Student(new_network(own.encoder, own.weights, settings.data.class_names), compute_of(settings.train))


def label_of(settings: Settings, ranked: Sequence[calib.Candidate], planes: StoredPlanes) -> LabelOf:
    """A function that labels an unlabeled image as one of the ranked candidates does, or as the annotator's argmax."""

    @functools.cache
    def labeler_of(labels: Labels) -> Labeler:
        if labels.labels == "raw":
            return lambda of_image: calib.most_probable(of_image, planes.background)[0].astype(np.float32)
        key = (labels.variant, labels.alpha, labels.rule)
        (candidate,) = (c for c in ranked if (c.variant, c.alpha, c.rule) == key)
        return labeler(settings, candidate)

    return lambda labels, sample: labeler_of(labels)(planes.planes(sample))
