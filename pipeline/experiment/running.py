"""Runs the stages of a set of labels or of a student. Finished stages are kept, so a killed run can be resumed."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pipeline.datasets import SampleIndex
from pipeline.digests import sha256_of
from pipeline.errors import DatasetError
from pipeline.experiment.folders import ANNOTATED, LABELED, PREPARED, write_with_every_mask
from pipeline.experiment.lengths import Length, Sizes, curve_interval, length_of
from pipeline.experiment.logit_bias import corrected_bias
from pipeline.experiment.plan import Experiment, Run
from pipeline.experiment.quality import label_quality
from pipeline.folder import Folder, link, write_workflow
from pipeline.gpus import claimed_gpu
from pipeline.receipt import fingerprint, has_receipt, input_digests, read_receipt
from pipeline.record import is_whole, read_record, write_record
from pipeline.run import Run as PipelineRun
from pipeline.run_file import load_settings
from pipeline.stage_calls import call

TRAINED = ("stage1", "stage2", "evaluate")


def make_labels(experiment: Experiment, name: str) -> dict[str, Any]:
    """Calibrate and label with the settings of a recipe, on the maps of `experiment.base`.

    name:    of the labels
    returns: facts for the receipt
    raises:  StageError if a stage fails
    """
    recipe, folder = experiment.labels_named(name), experiment.labels_folder(name)
    changes = {**experiment.changes_of(recipe), **experiment.placed_in(folder)}
    write_workflow(folder, "experiment", experiment.workflow_config)
    stages = ["calibrate", "pseudolabel"]
    bias = None
    if recipe.targets == "bias":
        link(experiment.base.folder, folder, PREPARED)
        bias = corrected_bias(experiment.base)
        changes["annotate.onnx.logit_bias"] = bias
        stages.insert(0, "annotate")
    else:
        link(experiment.base.folder, folder, ANNOTATED)
    for stage in stages:
        call("pipeline", stage, experiment.run_file, changes)
    run = PipelineRun(load_settings(experiment.run_file, changes))
    labels = run.receipt("pseudolabel")
    return {
        "labels": name,
        "logit_bias": bias,
        "made_with": {"rule": labels["rule"], "variant": labels["variant"], "alpha": labels["alpha"]},
        "quality": label_quality(run),
        "receipts": receipts_of(folder, ("prepare", "annotate", "calibrate", "pseudolabel")),
        "inputs": input_digests(experiment.labels_inputs()),
    }


def train_run(experiment: Experiment, name: str, seed: int) -> dict[str, Any]:
    """Train and evaluate a run with one seed.

    returns: facts for the receipt; of a run that is impossible on these data (targets masks, where masks are missing)
             the reason, as `left_out`
    raises:  StageError if a stage fails
    """
    run, folder = experiment.run_named(name), experiment.run_folder(name, seed)
    base = PipelineRun(experiment.base).samples()
    write_workflow(folder, "experiment", experiment.workflow_config)
    try:
        own = link_inputs(experiment, run, base, folder)
    except DatasetError as error:
        return {"run": name, "seed": seed, "left_out": str(error), "inputs": input_digests(experiment.run_inputs(run))}
    length = length_of(experiment, run, sizes_of(base), sizes_of(own))
    changes = {
        **experiment.changes_of(run.recipe),
        **experiment.placed_in(folder),
        "seed": seed,
        "stage1.epochs": length.epochs[0],
        "stage2.epochs": length.epochs[1],
        **bias_of(experiment, run),
    }
    start_over_if_changed(folder, plan_of(experiment, run, seed, length, own))
    with claimed_gpu(experiment.folder) as environment:
        if not environment:
            changes |= {"train.threads": 1, "train.workers": 1, "evaluate.workers": 1}
            environment = {"OMP_NUM_THREADS": "1"}
        for stage, epochs in zip(run.stages, length.epochs, strict=False):
            if not has_receipt(Folder(folder).receipt(stage), stage):
                points = {"train.validate_every": curve_interval(epochs)}
                call("train", stage, experiment.run_file, changes | points, environment)
        call("train", "evaluate", experiment.run_file, changes, environment)
    return {
        "run": name,
        "seed": seed,
        "epochs": length.epochs,
        "steps": [read_receipt(Folder(folder).receipt(stage), stage)["num_steps"] for stage in run.stages],
        "receipts": receipts_of(folder, (*run.stages, "evaluate")),
        "inputs": input_digests(experiment.run_inputs(run)),
    }


def bias_of(experiment: Experiment, run: Run) -> dict[str, Any]:
    """The setting `annotate.onnx.logit_bias` of labels with a fitted bias; {} for a run on other labels."""
    name = experiment.labels_name(run.recipe)
    if name is None or run.recipe.targets != "bias":
        return {}
    bias = read_receipt(experiment.labels_receipt(name), "experiment-labels", experiment.command)["logit_bias"]
    return {"annotate.onnx.logit_bias": bias}


def sizes_of(index: SampleIndex) -> Sizes:
    """Numbers of labeled and unlabeled images."""
    return Sizes(len(index.of("labeled")), len(index.of("unlabeled")))


def link_inputs(experiment: Experiment, run: Run, base: SampleIndex, folder: Path) -> SampleIndex:
    """Link the samples and labels that a run trains on into its folder; return its samples.

    raises: DatasetError if a mask is missing that the run needs
    """
    labels = experiment.labels_name(run.recipe)
    if labels is not None:
        link(experiment.labels_folder(labels), folder, LABELED)
        return base
    if run.recipe.targets == "masks":
        return write_with_every_mask(base, experiment.base.data, folder)
    link(experiment.base.folder, folder, PREPARED)
    return base


def plan_of(experiment: Experiment, run: Run, seed: int, length: Length, index: SampleIndex) -> dict[str, Any]:
    """All that the students of a run depend on. Stages that finished under another plan are repeated."""
    labels = experiment.labels_name(run.recipe)
    receipt = Folder(experiment.labels_folder(labels or "")).receipt("pseudolabel")
    return {
        **experiment.tracked(run),
        "seed": seed,
        "epochs": list(length.epochs),
        "images": fingerprint(index.as_json()),
        "labels": None if labels is None else read_receipt(receipt, "pseudolabel")["fingerprint"],
    }


def start_over_if_changed(folder: Path, plan: Mapping[str, Any]) -> None:
    """Remove the receipts of finished stages unless the plan is the same as before."""
    path, content = Folder(folder).plan, json.loads(json.dumps(plan))
    if is_whole(path) and read_record(path, "the same command again") == content:
        return
    for stage in TRAINED:
        Folder(folder).receipt(stage).unlink(missing_ok=True)
    write_record(path, content)


def receipts_of(folder: Path, stages: tuple[str, ...]) -> dict[str, dict[str, str]]:
    """Stage -> path and SHA-256 of its receipt."""
    paths = {stage: Folder(folder).receipt(stage) for stage in stages}
    return {stage: {"path": str(path), "sha256": sha256_of(path)} for stage, path in paths.items()}
