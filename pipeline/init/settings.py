"""The settings that a run starts with, and what is said beside each in the run file."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import calib
from pipeline.doctor.grid import fitting_grid
from pipeline.errors import ConfigError
from pipeline.folder import snakemake_command
from pipeline.init.classes import ClassPlan
from pipeline.init.folders import Found, data_paths
from pipeline.init.recipe import CPU_BATCH, CPU_STEPS, recipe
from pipeline.run_file import put_setting
from pipeline.sources.samples import DEFAULT_VAL_FRACTION

DEFAULT_CHECKPOINT = "checkpoints/focal-l"
ALPHA_STEP = 0.05


class Choices(NamedTuple):
    """What the user gave."""

    images: Path
    masks: Path
    class_list: Path | None = None
    name: str | None = None
    background: str | None = None
    annotator: str = "seem"
    checkpoint: str | None = None
    overrides: Mapping[str, Any] = {}
    """Full name of a setting -> value."""


def settings_tree(choices: Choices, found: Found, plan: ClassPlan, is_on_gpu: bool) -> dict[str, Any]:
    """Section -> name -> value; what the user set has the last word."""
    grid = fitting_grid(found.sizes) if len(found.sizes) else None
    num_val = max(1, round(DEFAULT_VAL_FRACTION * len(found.masks)))
    tree: dict[str, Any] = {
        "data": {
            **data_paths(choices.images, choices.masks),
            **({"mask_ending": found.ending} if found.ending else {}),
            "classes": plan.classes,
            **({"background": plan.background} if plan.background else {}),
            "ignore_values": plan.ignore_values,
            "splits": {**({} if "data.splits.val" in choices.overrides else {"num_val": num_val}), "seed": 0},
            **({"grid": grid} if grid else {}),
        },
        "annotate": annotator_section(choices, plan),
        "calibrate": {},
        **recipe(found.sizes, grid, len(found.images) - num_val, choices.overrides, is_on_gpu),
    }
    for name, value in choices.overrides.items():
        put_setting(tree, name, value)
    tree["calibrate"].setdefault("alpha", starting_alpha(num_labeled(tree, len(found.masks))))
    return tree


def num_labeled(tree: Mapping[str, Any], num_masks: int) -> int:
    """Labeled images that the splits leave, at most: id lists, if there are any, are not read here."""
    splits = tree["data"]["splits"]
    return max(1, splits.get("num_labeled") or num_masks - (splits.get("num_val") or 0))


def annotator_section(choices: Choices, plan: ClassPlan) -> dict[str, Any]:
    """The annotator with what `--checkpoint` names."""
    kind, checkpoint = choices.annotator, choices.checkpoint
    if kind == "seem":
        return {"annotator": kind, kind: {"checkpoint": checkpoint or DEFAULT_CHECKPOINT}}
    if checkpoint is None:
        what = "the network, FILE.onnx" if kind == "onnx" else "your factory, MODULE:FACTORY"
        raise ConfigError(f"--annotator {kind} needs {what}; give it with --checkpoint")
    if kind == "onnx":
        channels = {entry["name"]: [k] for k, entry in enumerate(plan.classes)}
        return {"annotator": kind, kind: {"model": str(Path(checkpoint).absolute()), "class_map": channels}}
    return {"annotator": kind, kind: {"factory": checkpoint}}


def starting_alpha(number: int) -> float:
    """The smallest multiple of 0.05 that so many labeled images can keep; 0.5 for a single one."""
    steps = math.ceil(round(calib.smallest_alpha(number) / ALPHA_STEP, 6))
    return round(steps * ALPHA_STEP, 2)


def opening(name: str, found: Found) -> list[str]:
    """Lines of the comment that the run file begins with."""
    return [
        f"{len(found.images)} images, {len(found.masks)} of them with a mask. Written by conformalsam init.",
        "What is not here has a default: conformalsam settings prints every setting with its meaning.",
        f"Check: conformalsam doctor {name}. Run: {snakemake_command('all', [f'run={name}'])}",
    ]


def comments(found: Found, plan: ClassPlan, num_images: Mapping[str, int], tree: Mapping[str, Any]) -> dict[str, str]:
    """Full name of a setting -> what is said beside it. num_images: class -> masks that show it"""
    num_masks = len(found.masks)
    number = num_labeled(tree, num_masks)
    smallest = calib.smallest_alpha(number)
    return {
        "data.root": "the paths below are relative to it",
        "data.masks": "of the labeled images only",
        "data.mask_ending": "what a mask's name has after its image's",
        "data.classes": "values: of the mask files; prompts: [aliases] for the annotator, if not the name",
        **{f"data.classes.{name}": f"in {count} of {num_masks} masks" for name, count in num_images.items()},
        "data.background": "any other class in the prediction set beats it; remove the line if there is no such class",
        "data.ignore_values": "mask values that mean nothing",
        "data.splits.num_val": "images with masks that are kept to measure the student",
        "data.splits.seed": "draws them; or list ids in text files: val: val.txt, labeled: labeled.txt",
        "data.grid": "height and width that images are stretched to for maps and thresholds; larger: finer, slower",
        "annotate.seem.checkpoint": "folder from conformalsam convert-seem; or seem-nano, the demo's own tiny network",
        "annotate.onnx.class_map": "channels of the network that mean each class: CHECK THEM, they are only counted up",
        "calibrate.alpha": f"miscoverage: how often the true class may be left out; {number} images allow {smallest:g}",
        "train.student": "the paper's is b5; see docs/training.md",
        "train.weights": "pretrained, Apache-2.0; or a folder, or a name of the hub; `random` needs far more images",
        "train.frozen_stages": "first stages of the encoder that keep their weights: faster, and less to overfit",
        "train.frozen_norms": "batches this small cannot measure statistics of their own",
        "train.crop": "side of the training crop, pixels; larger: finer, slower",
        "train.scale": "sizes that images are resized to before the crop, in parts of their own",
        "train.optimizer": "with a learning rate for a pretrained encoder",
        "train.lr": "of the encoder",
        "train.head_lr_multiplier": "learning rate of the decoder, in parts of the encoder's",
        "train.weight_decay": "pulls the weights towards 0",
        "train.total_epochs": f"of both stages: some {CPU_STEPS} steps of {CPU_BATCH} images; more is better",
        "train.validate_every": "epochs between two points of the learning curve",
        "stage1": "learns from masks and calibrated pseudo-labels",
        "stage1.batch_size": "images",
        "stage1.strong": "colour changes are too much for training this short",
        "stage2": "goes on with labels that the student makes itself",
        "stage2.batch_labeled": "images with masks in a batch",
        "stage2.batch_unlabeled": "images without",
        "stage2.strong_labeled": "as stage1.strong",
        "evaluate.scales": "the middle of the sizes that it was trained on",
    }
