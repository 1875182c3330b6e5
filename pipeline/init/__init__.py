"""Writes config/NAME.yaml, a run file for the user's own folders of images and masks.

folders    matches images and masks                   classes   mask values and names -> classes, background, void
annotated  annotations -> index masks                 settings  the settings of a new run
                                                      recipe    the student and its training
"""

from __future__ import annotations

import logging
import os
import shlex
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np

from pipeline.datasets import SPLITS, read_index_mask
from pipeline.errors import ConfigError, DatasetError, UserError
from pipeline.files import write_text
from pipeline.images import IndexMask, PixelLimit
from pipeline.init.annotated import MASK_ENDING, MIN_MASKS, are_annotations, converted_folder, masks_of
from pipeline.init.classes import ClassPlan, images_per_class, plan_classes
from pipeline.init.folders import ImagesAndMasks, find_files, has_sub_folders, listed, run_name
from pipeline.init.recipe import has_cuda
from pipeline.init.settings import Choices, comments, opening, settings_tree
from pipeline.names import checked_name
from pipeline.progress import Progress
from pipeline.run_file import CONFIG_FOLDER, full_names, load_settings
from pipeline.run_file_text import render
from pipeline.settings import Settings
from pipeline.sources import find_samples
from pipeline.sources.palettes import palette_problems
from pipeline.sources.unread import unread_images
from pipeline.workflow import run_word, snakemake_command

__all__ = ["Choices", "start"]

log = logging.getLogger(__name__)


def start(choices: Choices) -> list[str]:
    """Write config/NAME.yaml. After an error no file is left.

    returns: lines of text: what was found, what was chosen, and the commands to run next
    raises:  DatasetError for folders, masks or class lists that cannot be used; ConfigError for a run file that exists
             already, or an unknown setting
    """
    name = run_name(choices.images) if choices.name is None else _checked(choices.name)
    path = CONFIG_FOLDER / f"{name}.yaml"
    choices = _with_sub_folders(choices._replace(overrides=full_names(choices.overrides)))
    _refuse_existing([path, *([converted_folder(choices.images, name)] if are_annotations(choices) else [])])
    with masks_of(choices, name) as masks:
        choices = masks.choices
        files = find_files(choices.images, choices.masks, choices.below, choices.overrides.get(MASK_ENDING))
        _check_numbers(files, choices.overrides)
        values = mask_values(files.masks, PixelLimit(choices.max_pixels, "add --set data.max_pixels={}"))
        plan = plan_classes(values.values(), masks.listed, choices.background)
        num_images = images_per_class(plan, values)
        tree = settings_tree(choices, files, plan, has_cuda())
        settings = _write(path, render(opening(name, files), tree, comments(files, plan, num_images, tree)))
    notes = [*(f"          {remark}" for remark in masks.remarks)]
    return [*_summary(files, plan, num_images, notes), *_next_steps(path, name, settings, plan, choices)]


def _refuse_existing(paths: Sequence[Path]) -> None:
    """ConfigError for a run file, or a folder of converted masks, that exists already."""
    existing = [path for path in paths if path.exists()]
    if existing:
        verb = "exists and is not overwritten" if len(existing) == 1 else "exist and are not overwritten"
        option = " -r" if any(path.is_dir() for path in existing) else ""
        raise ConfigError(
            f"{' and '.join(map(str, existing))} {verb}; use another --name, or remove "
            f"{'it' if len(existing) == 1 else 'them'}: rm{option} {shlex.join(map(str, existing))}"
        )


def _with_sub_folders(choices: Choices) -> Choices:
    """The choices with `data.subfolders`, if there are images in sub-folders and the user has not chosen."""
    name = "data.subfolders"
    if name in choices.overrides or not has_sub_folders(choices.images, choices.masks):
        return choices
    return choices._replace(overrides={**choices.overrides, name: True})


def _checked(name: str) -> str:
    try:
        return checked_name(name)
    except ValueError as error:
        raise ConfigError(str(error).replace("set name: ", "use --name ")) from None


def mask_values(masks: Mapping[str, Path], limit: PixelLimit) -> dict[str, frozenset[int]]:
    """Values of each mask by id, without negative ones (void), read in parallel.

    raises: DatasetError that lists the files that are no index masks, or have another palette than the others
    """
    progress, values, problems = Progress(log, "init", len(masks), "masks"), {}, []
    colours = {}
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        results = pool.map(lambda path: _mask_or_problem(path, limit), masks.values())
        for stem, result in zip(masks, results, strict=True):
            progress.advance()
            if isinstance(result, str):
                problems.append(result)
            else:
                unique = np.unique(result.values)
                values[stem] = frozenset(unique[unique >= 0].tolist())
                colours[str(masks[stem])] = result.colours()
    problems += palette_problems(colours)
    if problems:
        raise DatasetError("\n  ".join([f"{len(problems)} of {len(masks)} masks cannot be used:", *problems]))
    return values


def _mask_or_problem(path: Path, limit: PixelLimit) -> IndexMask | str:
    try:
        return read_index_mask(path, limit)
    except DatasetError as error:
        return str(error)


def _check_numbers(files: ImagesAndMasks, overrides: Mapping[str, Any]) -> None:
    """DatasetError for too few masks to split, or no unlabeled image."""
    if len(files.masks) < MIN_MASKS:
        only = next(iter(files.masks.values()))
        raise DatasetError(
            f"{only} is the only mask, but a run needs at least {MIN_MASKS}, one to train on and one to evaluate on; "
            "add masks"
        )
    splits = {name for name in overrides if name.startswith("data.splits.")}
    if len(files.masks) == len(files.images) and not splits:
        raise DatasetError(
            f"all {len(files.images)} images have a mask, so no image is unlabeled; add images without masks, or use "
            "only some of the masks: --set num_labeled=20"
        )


# --- the file --------------------------------------------------------------------------------------------------------


def _write(path: Path, text: str) -> Settings:
    """Write the run file, check that it loads and that its images can be split, and return its settings."""
    write_text(path, text)
    try:
        settings = load_settings(path)
        _, problems = find_samples(settings.data)
        if problems:
            raise DatasetError("\n  ".join(["the images cannot be split:", *problems]))
    except UserError:
        path.unlink()
        raise
    return settings


# --- the printed text ------------------------------------------------------------------------------------------------


def _summary(
    files: ImagesAndMasks, plan: ClassPlan, num_images: Mapping[str, int], notes: Sequence[str]
) -> Iterator[str]:
    sizes = Counter(map(tuple, files.sizes.tolist())).most_common()
    shown = ", ".join(f"{h} x {w} ({number})" for (h, w), number in sizes[:3]) + (", ..." if len(sizes) > 3 else "")
    yield f"found     {len(files.images)} images, height x width {shown}"
    num_unlabeled = len(files.images) - len(files.masks)
    yield f"          {len(files.masks)} masks, so {num_unlabeled} images are unlabeled"
    yield from notes
    if files.ending:
        yield f"          name of a mask: stem of its image, then {files.ending}"
    if files.without_image:
        yield f"          masks without an image, not used: {listed([path.name for path in files.without_image])}"
    for entry in plan.classes:
        role = ", the background" if entry["name"] == plan.background else ""
        values = ", ".join(map(str, entry["values"]))
        yield f"class     {entry['name']} (value {values}{role}): in {num_images[entry['name']]} masks"
    yield f"ignored   mask values {', '.join(map(str, plan.ignore_values)) or 'none'}"


def _next_steps(path: Path, name: str, settings: Settings, plan: ClassPlan, choices: Choices) -> Iterator[str]:
    samples, _ = find_samples(settings.data)
    number = Counter(sample.split for sample in samples)
    yield f"split     {', '.join(f'{number[split]} {split}' for split in SPLITS)}; alpha {settings.calibrate.alpha:g}"
    yield from (f"check     {remark}" for remark in plan.remarks)
    yield from (f"check     {doubt}" for doubt in unread_images(settings.data))
    chosen = settings.annotate.transformers
    for note in (settings.train.licence_note, chosen.licence_note if chosen is not None else None):
        if note is not None:
            yield f"licence   {note}"
    if choices.annotator == "onnx":
        yield f"check     the channels in annotate.onnx.class_map of {path} are placeholders 0, 1, ...; correct them"
    yield f"wrote     {path}"
    yield f"next      conformalsam doctor {shlex.quote(name)}"
    yield f"then      {snakemake_command('all', [run_word(name)])}"
