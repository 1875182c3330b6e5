"""prepare: find the images, split them, check each file once, and write samples.json."""

from __future__ import annotations

import logging
import os
import time
from collections import Counter
from collections.abc import Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from pipeline.datasets import (
    IGNORE_INDEX,
    SPLITS,
    Sample,
    SampleIndex,
    decode_index_mask,
    load_samples,
    mask_classes,
    save_samples,
    unknown_mask_values,
)
from pipeline.errors import DatasetError, ImageFileError, UserError
from pipeline.files import Stamp, content_digest, read_with_stamp
from pipeline.images import IndexMask, PixelLimit, decode_image, unreadable
from pipeline.memory import refuse_large_grid
from pipeline.progress import Progress
from pipeline.run import Run
from pipeline.settings import DataSettings, SceneSettings, Settings
from pipeline.sources import find_samples
from pipeline.sources.labeled_set import MaskCounts, judge_masks
from pipeline.sources.misreadings import certain_suspicions, misreading
from pipeline.sources.palettes import palette_problems
from pipeline.sources.stamps import write_stamps

log = logging.getLogger(__name__)

MAX_8_BIT = 255


def prepare(settings: Settings) -> dict[str, Any]:
    """Write `samples.json`; returns the facts of the receipt.

    raises: DatasetError with all problems of the data set, ConfigError for a grid that does not fit into memory;
            nothing is written then
    """
    data, start = settings.data, time.monotonic()
    if settings.needs_annotator:
        refuse_large_grid(settings)
    if data.scenes is not None:
        draw_scenes(data, data.scenes)
    samples, problems = find_samples(data, settings.needs_unlabeled)
    checked = list(check_samples(samples, data))
    masks = [check.mask for check in checked if check.mask is not None]
    wrong_coding = misreading((mask.values for mask in masks), data)
    if wrong_coding is not None:  # reported alone: it is the cause of a problem in every mask
        raise DatasetError(_list_problems([wrong_coding], data))
    problems += [problem for check in checked for problem in check.problems]
    problems += [str(suspicion) for suspicion in certain_suspicions((mask.values for mask in masks), data)]
    problems += palette_problems({mask.path: mask.colours for mask in masks})
    judged = judge_masks(_mask_counts(checked), settings)
    problems += judged.problems
    if problems:
        raise DatasetError(_list_problems(problems, data))
    for warning in judged.warnings:
        log.warning("prepare: %s", warning)
    index = SampleIndex(Path(data.root), tuple(check.sample for check in checked))
    run = Run(settings)
    folder = run.folder
    run.begin("prepare")
    if not _has_samples(folder.samples, index):  # writing the same list again would make Snakemake run every stage
        save_samples(folder.samples, index)
    write_stamps(folder.stamps, {name: stamp for check in checked for name, stamp in check.stamps.items()})
    warnings = {"warnings": judged.warnings}
    return _facts(index, checked, data) | warnings | {"seconds": round(time.monotonic() - start, 1)}


def draw_scenes(data: DataSettings, scenes: SceneSettings) -> None:
    """Draw the demo's procedural scenes into `data.root`."""
    from pipeline.demo.scenes import write_scenes

    log.info("drawing %d scenes of the %s domain", scenes.num_train + scenes.num_val, scenes.domain)
    write_scenes(
        Path(data.root),
        domain=scenes.domain,
        seed=scenes.seed,
        num_train=scenes.num_train,
        num_val=scenes.num_val,
    )


def _has_samples(path: Path, index: SampleIndex) -> bool:
    """Whether a samples.json lists exactly these samples."""
    try:
        return load_samples(path) == index
    except UserError:  # missing or damaged
        return False


class Check(NamedTuple):
    """Result of checking one sample.

    sample:       with its size and digests
    problems:     messages, [] if there is none
    class_pixels: class index -> pixels of its mask
    stamps:       path relative to the data root -> stamp
    mask:         path and content of its mask, None without a mask or if it cannot be read
    """

    sample: Sample
    problems: list[str]
    class_pixels: Counter[int]
    stamps: Mapping[str, Stamp] = {}
    mask: MaskContent | None = None


class MaskContent(NamedTuple):
    """What the mask of a sample contains.

    values:  all values
    colours: value -> colour 0xRRGGBB, {} without a palette
    highest: largest value that a pixel of the file can have
    """

    path: str
    values: frozenset[int]
    colours: Mapping[int, int]
    highest: int


def check_samples(samples: list[Sample], data: DataSettings) -> Iterable[Check]:
    """Decode every image, and the masks of labeled and val images, in parallel; yields the results in order."""
    progress = Progress(log, "prepare", len(samples), "images")
    with ThreadPoolExecutor(data.workers or os.cpu_count()) as pool:
        for check in pool.map(lambda sample: check_sample(sample, data), samples):
            progress.advance()
            yield check


def check_sample(sample: Sample, data: DataSettings) -> Check:
    """Read one image and, unless it is unlabeled, its mask."""
    path = Path(data.root) / sample.image
    try:
        content, stamp = _read(path)
        height, width = decode_image(content, path, PixelLimit(data.max_pixels)).shape[:2]
    except ImageFileError as error:
        return Check(sample, [str(error)], Counter())
    sample = replace(sample, height=height, width=width, image_digest=content_digest(content))
    stamps = {sample.image: stamp}
    return Check(sample, [], Counter(), stamps) if sample.mask is None else _check_mask(sample, data, stamps)


def _check_mask(sample: Sample, data: DataSettings, stamps: Mapping[str, Stamp]) -> Check:
    path = Path(data.root) / str(sample.mask)
    try:
        content, stamp = _read(path)
        mask = decode_index_mask(content, path, PixelLimit(data.max_pixels))
    except DatasetError as error:
        return Check(sample, [str(error)], Counter())
    sample = replace(sample, mask_digest=content_digest(content))
    unique, counts = np.unique(mask.values, return_counts=True)
    problems = _mask_problems(path, mask, unique, sample, data)
    pixels, stamps = _class_pixels(unique, counts, data), {**stamps, str(sample.mask): stamp}
    found = MaskContent(str(path), frozenset(unique.tolist()), mask.colours(), mask.highest)
    return Check(sample, problems, pixels, stamps, found)


def _read(path: Path) -> tuple[bytes, Stamp]:
    """Content and stamp of a file; raises ImageFileError."""
    try:
        return read_with_stamp(path)
    except OSError as error:
        raise unreadable(path, error) from None


def _mask_problems(
    path: Path, mask: IndexMask, values: npt.NDArray[np.int32], sample: Sample, data: DataSettings
) -> list[str]:
    problems = []
    height, width = mask.values.shape
    if (height, width) != sample.size:
        size = f"{width} x {height}"
        problems.append(f"{path} is {size}, its image is {sample.width} x {sample.height}; make them equal")
    unknown = unknown_mask_values(values, data)
    if unknown:
        shown = ", ".join(map(str, unknown[:8])) + (", ..." if len(unknown) > 8 else "")
        if mask.highest < MAX_8_BIT:
            shown += f" (its pixels hold 0 to {mask.highest}, and are read as they are stored)"
        problems.append(
            f"{path} has values that no class names: {shown}; add them to data.classes (values) or to "
            "data.ignore_values, or set data.unknown_values: ignore"
        )
    return problems


def _class_pixels(values: npt.NDArray[np.int32], counts: npt.NDArray[np.intp], data: DataSettings) -> Counter[int]:
    """Class index -> pixels, from the values of a mask [V] and their counts [V]; void is left out."""
    pixels: Counter[int] = Counter()
    for k, num in zip(mask_classes(values, data).tolist(), counts.tolist(), strict=True):
        if k != IGNORE_INDEX:
            pixels[k] += num
    return pixels


def _mask_counts(checked: Iterable[Check]) -> list[MaskCounts]:
    return [
        MaskCounts(check.mask.path, check.sample.split, check.class_pixels, check.mask.highest)
        for check in checked
        if check.mask is not None
    ]


def _list_problems(problems: list[str], data: DataSettings) -> str:
    unique = list(dict.fromkeys(problems))
    noun = "problem" if len(unique) == 1 else "problems"
    return "\n  ".join([f"{len(unique)} {noun} with the data set in {data.root}:", *unique])


def _facts(index: SampleIndex, checked: list[Check], data: DataSettings) -> dict[str, Any]:
    labeled = [check.class_pixels for check in checked if check.sample.split == "labeled"]
    return {
        "num_samples": {split: len(index.of(split)) for split in SPLITS},
        "labeled_images_per_class": {
            name: sum(k in pixels for pixels in labeled) for k, name in enumerate(data.class_names)
        },
        "labeled_pixels_per_class": {
            name: sum(pixels[k] for pixels in labeled) for k, name in enumerate(data.class_names)
        },
    }
