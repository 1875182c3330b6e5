"""The settings of a new run, and the comments on them in the run file."""

from __future__ import annotations

import math
import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import calib
from pipeline.doctor.grid import fitting_grid
from pipeline.errors import ConfigError
from pipeline.init.classes import ClassPlan
from pipeline.init.folders import ImagesAndMasks, data_paths
from pipeline.init.recipe import CPU_BATCH, CPU_STEPS, recipe
from pipeline.run_file import put_setting
from pipeline.settings import MAX_PIXELS
from pipeline.sources.samples import DEFAULT_VAL_FRACTION
from pipeline.workflow import run_word, snakemake_command

DEFAULT_CHECKPOINT = "checkpoints/focal-l"
ALPHA_STEP = 0.05


class Choices(NamedTuple):
    """The arguments and options of the user."""

    images: Path
    masks: Path
    class_list: Path | None = None
    name: str | None = None
    background: str | None = None
    annotator: str = "seem"
    checkpoint: str | None = None
    colours: Path | None = None
    """Table of the colours of masks."""
    unannotated: bool = False
    """Whether images that annotations list, but in which nothing is drawn, are background."""
    overrides: Mapping[str, Any] = {}
    """Full name of a setting -> value."""

    @property
    def below(self) -> bool:
        """Whether sub-folders are read too."""
        return self.overrides.get("data.subfolders") is True

    @property
    def max_pixels(self) -> int:
        return int(self.overrides.get("data.max_pixels", MAX_PIXELS))


def settings_tree(choices: Choices, files: ImagesAndMasks, plan: ClassPlan, is_on_gpu: bool) -> dict[str, Any]:
    """Settings by section and name. Settings of the user replace the chosen ones."""
    grid = fitting_grid(files.sizes) if len(files.sizes) else None
    num_val = max(1, round(DEFAULT_VAL_FRACTION * len(files.masks)))
    tree: dict[str, Any] = {
        "data": {
            **data_paths(choices.images, choices.masks),
            **({"mask_ending": files.ending} if files.ending else {}),
            "classes": plan.classes,
            **({"background": plan.background} if plan.background else {}),
            "ignore_values": plan.ignore_values,
            "splits": {**({} if "data.splits.val" in choices.overrides else {"num_val": num_val}), "seed": 0},
            **({"grid": grid} if grid else {}),
        },
        "annotate": annotator_section(choices, plan),
        "calibrate": {},
        **recipe(files.sizes, grid, len(files.images) - num_val, choices.overrides, is_on_gpu),
    }
    for name, value in choices.overrides.items():
        put_setting(tree, name, value)
    tree["calibrate"].setdefault("alpha", starting_alpha(num_labeled(tree, len(files.masks))))
    return tree


def num_labeled(tree: Mapping[str, Any], num_masks: int) -> int:
    """Upper bound of the number of labeled images by the settings of the splits. Id lists are not read here."""
    splits = tree["data"]["splits"]
    return max(1, splits.get("num_labeled") or num_masks - (splits.get("num_val") or 0))


def annotator_section(choices: Choices, plan: ClassPlan) -> dict[str, Any]:
    """The section `annotate`, with the value of `--checkpoint`; ConfigError if that is missing."""
    kind, checkpoint = choices.annotator, choices.checkpoint
    if kind == "seem":
        return {"annotator": kind, kind: {"checkpoint": checkpoint or DEFAULT_CHECKPOINT}}
    if checkpoint is None:
        needed = {
            "onnx": ("a network", "FILE.onnx"),
            "transformers": ("a network", "FOLDER, or OWNER/NAME of the hub"),
            "maps": ("the maps", "FOLDER"),
        }
        what, value = needed.get(kind, ("your factory", "MODULE:FACTORY"))
        raise ConfigError(f"--annotator {kind} needs {what}; add --checkpoint {value}")
    if kind == "onnx":
        channels = {entry["name"]: [k] for k, entry in enumerate(plan.classes)}
        return {"annotator": kind, kind: {"model": str(Path(checkpoint).absolute()), "class_map": channels}}
    if kind == "transformers":
        is_folder = Path(checkpoint).is_dir()
        return {"annotator": kind, kind: {"model": str(Path(checkpoint).absolute()) if is_folder else checkpoint}}
    if kind == "maps":
        return {"annotator": kind, kind: {"folder": str(Path(checkpoint).absolute())}}
    return {"annotator": kind, kind: {"factory": checkpoint}}


def starting_alpha(number: int) -> float:
    """The smallest multiple of 0.05 that `number` labeled images can guarantee; 0.5 for a single one."""
    steps = math.ceil(round(calib.smallest_alpha(number) / ALPHA_STEP, 6))
    return round(steps * ALPHA_STEP, 2)


def opening(name: str, files: ImagesAndMasks) -> list[str]:
    """Lines of the opening comment of the run file."""
    return [
        f"{len(files.images)} images, {len(files.masks)} of them with a mask. Written by conformalsam init.",
        "All other settings have defaults: conformalsam settings prints every setting with its meaning.",
        f"Check: conformalsam doctor {shlex.quote(name)}. Run: {snakemake_command('all', [run_word(name)])}",
    ]


def comments(
    files: ImagesAndMasks, plan: ClassPlan, num_images: Mapping[str, int], tree: Mapping[str, Any]
) -> dict[str, str]:
    """Comments of the run file by full name of a setting.

    num_images: number of masks in which a class occurs, by class name
    """
    num_masks = len(files.masks)
    number = num_labeled(tree, num_masks)
    smallest = calib.smallest_alpha(number)
    return {
        "data.root": "the paths below are relative to it",
        "data.masks": "masks of the labeled images only",
        "data.subfolders": "images in sub-folders are read too",
        "data.mask_ending": "end of a mask's file name after the stem of its image",
        "data.classes": "values: mask values; prompts: [aliases] for the annotator, by default the name",
        **{f"data.classes.{name}": f"in {count} of {num_masks} masks" for name, count in num_images.items()},
        "data.background": "background class; remove the line if there is none",
        "data.ignore_values": "mask values of void pixels, which have no class",
        "data.splits.num_val": "number of images with masks that are used only to evaluate the student",
        "data.splits.seed": "seed of their draw; or list ids in text files: val: val.txt, labeled: labeled.txt",
        "data.grid": "height and width of maps and thresholds, to which images are resized; larger: finer, slower",
        "annotate.seem.checkpoint": "folder from conformalsam convert-seem; or seem-nano, the tiny network of the demo",
        "annotate.onnx.class_map": "channels of the network for each class: PLACEHOLDERS 0, 1, ..., CORRECT THEM",
        "annotate.transformers.model": "labels are matched by name; class_map: {CLASS: [LABELS]} overrides",
        "calibrate.alpha": f"tolerated miscoverage; the smallest possible with {number} labeled images is {smallest:g}",
        "train.student": "network of the student; the paper's is b5; see docs/training.md",
        "train.weights": "pretrained, Apache-2.0; or a folder, or a name of the hub; `random` needs far more images",
        "train.frozen_stages": "number of first encoder stages whose weights stay fixed: faster, less overfitting",
        "train.frozen_norms": "keep the pretrained batch statistics, because the batches are small",
        "train.crop": "size of the training crop in pixels; larger: finer, slower",
        "train.scale": "range of factors by which images are resized before the crop",
        "train.optimizer": "optimizer for a pretrained encoder",
        "train.lr": "learning rate of the encoder",
        "train.head_lr_multiplier": "learning rate of the decoder divided by that of the encoder",
        "train.weight_decay": "weight decay of the optimizer",
        "train.total_epochs": f"of both stages: about {CPU_STEPS} steps of {CPU_BATCH} images; more is better",
        "train.validate_every": "epochs between two points of the learning curve",
        "stage1": "trains on masks and calibrated pseudo-labels",
        "stage1.batch_size": "number of images",
        "stage1.strong": "no strong colour changes, because the training is short",
        "stage2": "continues with online pseudo-labels of the student",
        "stage2.batch_labeled": "number of labeled images in a batch",
        "stage2.batch_unlabeled": "number of unlabeled images in a batch",
        "stage2.strong_labeled": "as stage1.strong",
        "evaluate.scales": "factor by which images are resized for evaluation, within train.scale",
    }
