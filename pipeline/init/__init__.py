"""A run file for images of one's own: look at the folders, choose what can be chosen, write config/NAME.yaml.

folders   images, masks, which belong together        classes   values and names -> classes, background, void
settings  what a run starts with                     recipe    the student, and how it is trained
run_file  settings -> commented YAML
"""

from __future__ import annotations

import logging
import os
from collections import Counter
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np

from pipeline.datasets import SPLITS, read_mask_values
from pipeline.errors import ConfigError, DatasetError, UserError
from pipeline.files import write_text
from pipeline.folder import snakemake_command
from pipeline.init.classes import ClassPlan, images_per_class, plan_classes, read_class_list
from pipeline.init.folders import Found, listed, look_into, run_name
from pipeline.init.recipe import has_cuda
from pipeline.init.run_file import render
from pipeline.init.settings import Choices, comments, opening, settings_tree
from pipeline.progress import Progress
from pipeline.run_file import CONFIG_FOLDER, full_names, load_settings
from pipeline.settings import Settings
from pipeline.sources import find_samples

__all__ = ["Choices", "start"]

log = logging.getLogger(__name__)

MIN_MASKS = 2  # one to learn from, one to measure with


def start(choices: Choices) -> list[str]:
    """Write config/NAME.yaml; returns what was found, what was decided and what to run next, a line each.

    raises: DatasetError for folders, masks or class lists that cannot be used, ConfigError for a run file that exists
            or a setting that does not; then nothing is written
    """
    name = choices.name or run_name(choices.images)
    path = CONFIG_FOLDER / f"{name}.yaml"
    if path.exists():
        raise ConfigError(f"{path} exists and is not overwritten; give another --name, or remove it: rm {path}")
    found, choices = look_into(choices.images, choices.masks), choices._replace(overrides=full_names(choices.overrides))
    _refuse_odd_numbers(found, choices.overrides)
    values = mask_values(found.masks)
    listed_classes = read_class_list(choices.class_list) if choices.class_list is not None else None
    plan = plan_classes(values.values(), listed_classes, choices.background)
    num_images = images_per_class(plan, values)
    tree = settings_tree(choices, found, plan, has_cuda())
    settings = _write(path, render(opening(name, found), tree, comments(found, plan, num_images, tree)))
    return [*_found(found, plan, num_images), *_next(path, name, settings, plan, choices)]


def mask_values(masks: Mapping[str, Path]) -> dict[str, frozenset[int]]:
    """Stem -> values of each mask, read in parallel; DatasetError names those that are no index masks."""
    progress, values, problems = Progress(log, "init", len(masks), "masks"), {}, []
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        for stem, result in zip(masks, pool.map(_values_or_problem, masks.values()), strict=True):
            progress.advance()
            if isinstance(result, str):
                problems.append(result)
            else:
                values[stem] = result
    if problems:
        raise DatasetError("\n  ".join([f"{len(problems)} of {len(masks)} masks cannot be used:", *problems]))
    return values


def _values_or_problem(path: Path) -> frozenset[int] | str:
    try:
        return frozenset(np.unique(read_mask_values(path)).tolist())
    except DatasetError as error:
        return str(error)
    except (OSError, SyntaxError, ValueError) as error:
        return f"{path} cannot be read ({error}); replace or remove it"


def _refuse_odd_numbers(found: Found, overrides: Mapping[str, Any]) -> None:
    """Too few masks to split, or no image left to be labeled."""
    if len(found.masks) < MIN_MASKS:
        only = next(iter(found.masks.values()))
        raise DatasetError(f"{only} is the only mask; a run needs at least {MIN_MASKS}: to learn and to measure")
    splits = {name for name in overrides if name.startswith("data.splits.")}
    if len(found.masks) == len(found.images) and not splits:
        raise DatasetError(
            f"all {len(found.images)} images have a mask, so none is left to be labeled; add images without masks, or "
            "treat most as unlabeled with --set num_labeled=20"
        )


# --- the file --------------------------------------------------------------------------------------------------------


def _write(path: Path, text: str) -> Settings:
    """The settings of the new file, once they are known to load and to give a split; else there is no file."""
    write_text(path, text)
    try:
        settings = load_settings(path)
        _, problems = find_samples(settings.data)
        if problems:
            raise DatasetError("\n  ".join(["the images cannot be split so:", *problems]))
    except UserError:
        path.unlink()
        raise
    return settings


# --- what is told ----------------------------------------------------------------------------------------------------


def _found(found: Found, plan: ClassPlan, num_images: Mapping[str, int]) -> Iterator[str]:
    sizes = Counter(map(tuple, found.sizes.tolist())).most_common()
    shown = ", ".join(f"{h} x {w} ({number})" for (h, w), number in sizes[:3]) + (", ..." if len(sizes) > 3 else "")
    yield f"found     {len(found.images)} images, height x width {shown}"
    without = len(found.images) - len(found.masks)
    yield f"          {len(found.masks)} masks, so {without} images are unlabeled"
    if found.ending:
        yield f"          masks are named as their images, and then {found.ending}"
    if found.without_image:
        yield f"          masks without an image, not used: {listed([path.name for path in found.without_image])}"
    for entry in plan.classes:
        role = ", the background" if entry["name"] == plan.background else ""
        values = ", ".join(map(str, entry["values"]))
        yield f"class     {entry['name']} (value {values}{role}): in {num_images[entry['name']]} masks"
    yield f"ignored   mask values {', '.join(map(str, plan.ignore_values)) or 'none'}"


def _next(path: Path, name: str, settings: Settings, plan: ClassPlan, choices: Choices) -> Iterator[str]:
    samples, _ = find_samples(settings.data)
    number = Counter(sample.split for sample in samples)
    yield f"split     {', '.join(f'{number[split]} {split}' for split in SPLITS)}; alpha {settings.calibrate.alpha:g}"
    yield from (f"look      {remark}" for remark in plan.remarks)
    if settings.train.licence_note is not None:
        yield f"licence   {settings.train.licence_note}"
    if choices.annotator == "onnx":
        yield f"look      the channels in annotate.onnx.class_map of {path} are only counted up; correct them"
    yield f"wrote     {path}"
    yield f"next      conformalsam doctor {name}"
    yield f"then      {snakemake_command('all', [f'run={name}'])}"
