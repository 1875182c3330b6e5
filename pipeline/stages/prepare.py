"""prepare: find the images, split them, check each file once, and write samples.json."""

from __future__ import annotations

import logging
import os
import time
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
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
    load_samples,
    mask_classes,
    num_groups,
    save_samples,
    unknown_mask_values,
)
from pipeline.errors import DatasetError, UserError
from pipeline.files import Stamp
from pipeline.images import Header, IndexMask
from pipeline.memory import refuse_large_grid
from pipeline.progress import Progress
from pipeline.run import Run
from pipeline.settings import DataSettings, SceneSettings, Settings
from pipeline.sources import find_samples
from pipeline.sources.groups import group_warnings
from pipeline.sources.image_checks import Doubt, darkness_problems, leak_doubts, orientation_doubts, refuse_other_size
from pipeline.sources.labeled_set import MaskCounts, judge_masks
from pipeline.sources.misreadings import certain_suspicions, misreading
from pipeline.sources.palettes import palette_problems
from pipeline.sources.rows import MASKS, PHOTOGRAPHS, Rows, mask_values, open_rows
from pipeline.sources.stamps import write_stamps
from pipeline.sources.tiles import TileFolder, remove_other_tiles, stamps_of
from pipeline.sources.unread import unread_files

log = logging.getLogger(__name__)

MAX_8_BIT = 255
WITHOUT_PROMPTS = ("onnx", "maps", "student", "python")  # an annotator of the user may ignore them


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
    problems += prompt_problems(settings)
    run = Run(settings)
    tiles = None if data.tile is None else TileFolder(run.folder.tiles, data.tile)
    checked = list(check_samples(samples, data, tiles))
    masks = [check.mask for check in checked if check.mask is not None]
    wrong_coding = misreading((mask.values for mask in masks), data)
    if wrong_coding is not None:  # reported alone: it is the cause of a problem in every mask
        raise DatasetError(_list_problems([wrong_coding], data))
    problems += [problem for check in checked for problem in check.problems]
    problems += darkness_problems({check.sample.image: check.brightest for check in checked if check.is_deep})
    problems += [str(suspicion) for suspicion in certain_suspicions((mask.values for mask in masks), data)]
    problems += palette_problems({mask.path: mask.colours for mask in masks})
    judged = judge_masks(_mask_counts(checked), settings)
    problems += judged.problems
    doubts = image_doubts(checked, data)
    for doubt in doubts:
        log.warning("prepare: %s", doubt)
    if problems:
        raise DatasetError(_list_problems(problems, data))
    index = _index_of(checked, data)
    warnings = [*judged.warnings, *group_warnings(index.samples)]
    for warning in warnings:
        log.warning("prepare: %s", warning)
    folder = run.folder
    run.begin("prepare")
    if not _has_samples(folder.samples, index):  # writing the same list again would make Snakemake run every stage
        save_samples(folder.samples, index)
    stamps = {name: stamp for check in checked for name, stamp in check.stamps.items()}
    write_stamps(folder.stamps, stamps | stamps_of(index))
    remove_other_tiles(folder.tiles, index)
    told = {"warnings": [*doubts, *warnings], "seconds": round(time.monotonic() - start, 1)}
    return _facts(index, checked, data) | told


def prompt_problems(settings: Settings) -> list[str]:
    """Messages on prompts that describe nothing, or that classes have in common, with an annotator that reads them."""
    reading = [one for one in settings.each_annotator if one.annotate.annotator not in WITHOUT_PROMPTS]
    if not settings.needs_annotator or not reading:
        return []
    from pipeline.doctor.prompts import prompt_findings  # takes most of a second

    findings = (finding for one in reading for finding in prompt_findings(one, None) if finding.level == "error")
    return list(dict.fromkeys(str(Doubt(finding.what, finding.where, finding.fix)) for finding in findings))


def image_doubts(checked: Sequence[Check], data: DataSettings) -> list[str]:
    """Messages on images that a person should look at."""
    masked = [(check.sample.image, check.header) for check in checked if check.mask is not None and check.header]
    samples = [check.sample for check in checked]
    return list(map(str, (*unread_files(data), *orientation_doubts(masked), *leak_doubts(samples))))


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


def _index_of(checked: Sequence[Check], data: DataSettings) -> SampleIndex:
    """The samples that were checked; tiles in place of images that were cut."""
    samples = (sample for check in checked for sample in check.tiles or (check.sample,))
    return SampleIndex(Path(data.root), tuple(samples), cut=tuple(check.sample for check in checked if check.tiles))


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
    header:       of its image, None if it cannot be read
    brightest:    largest value of its pixels, 0 to 255
    tiles:        samples that take its place, if the image is cut
    """

    sample: Sample
    problems: list[str]
    class_pixels: Counter[int]
    stamps: Mapping[str, Stamp] = {}
    mask: MaskContent | None = None
    header: Header | None = None
    brightest: int = 0
    tiles: Sequence[Sample] = ()

    @property
    def is_deep(self) -> bool:
        """Whether the image has more than 8 bits per channel."""
        return self.header is not None and self.header.is_deep


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


def check_samples(samples: list[Sample], data: DataSettings, tiles: TileFolder | None) -> Iterable[Check]:
    """Decode every image, and the masks of labeled and val images, in parallel; yields the results in order.

    tiles: folder of the tiles of large images; None if no image is cut
    """
    progress = Progress(log, "prepare", len(samples), "images")
    with ThreadPoolExecutor(data.workers or os.cpu_count()) as pool:
        for check in pool.map(lambda sample: check_sample(sample, data, tiles), samples):
            progress.advance()
            yield check


def check_sample(sample: Sample, data: DataSettings, tiles: TileFolder | None) -> Check:
    """Read one image and, unless it is unlabeled, its mask; a large one is cut into tiles."""
    check, mask = Check(sample, [], Counter()), None
    try:
        image = open_rows(Path(data.root) / sample.image, PHOTOGRAPHS, data)
        check = _checked_image(sample, image)
        if sample.mask is not None:
            mask = open_rows(Path(data.root) / sample.mask, MASKS, data)
            check = _checked_mask(check, image.header, mask, data)
        if tiles is None or check.problems or not tiles.settings.are_of(image.header.size):
            return check
        return check._replace(tiles=tiles.cut(check.sample, Path(data.root), image, mask))
    except DatasetError as error:
        return check._replace(problems=[str(error)])


def _checked_image(sample: Sample, image: Rows[npt.NDArray[np.uint8]]) -> Check:
    height, width = image.header.size
    brightest = max(int(pixels.max()) for pixels in image.bands())
    sample = replace(sample, height=height, width=width, image_digest=image.digest)
    return Check(sample, [], Counter(), {sample.image: image.stamp}, header=image.header, brightest=brightest)


def _checked_mask(check: Check, image: Header, mask: Rows[IndexMask], data: DataSettings) -> Check:
    """The check of an image and of its mask."""
    sample = check.sample
    path = Path(data.root) / str(sample.mask)
    refuse_other_size(str(path), mask.header.size, image)
    pixels, colours, highest = mask_values(mask)
    return check._replace(
        sample=replace(sample, mask_digest=mask.digest),
        problems=_value_problems(path, pixels, highest, data),
        class_pixels=_class_pixels(pixels, data),
        stamps={**check.stamps, str(sample.mask): mask.stamp},
        mask=MaskContent(str(path), frozenset(pixels), colours, highest),
    )


def _value_problems(path: Path, values: Iterable[int], highest: int, data: DataSettings) -> list[str]:
    problems = []
    unknown = unknown_mask_values(np.array(list(values)), data)
    if unknown:
        shown = ", ".join(map(str, unknown[:8])) + (", ..." if len(unknown) > 8 else "")
        if highest < MAX_8_BIT:
            shown += f" (its pixels hold 0 to {highest}, and are read as they are stored)"
        problems.append(
            f"{path} has values that no class names: {shown}; add them to data.classes (values) or to "
            "data.ignore_values, or set data.unknown_values: ignore"
        )
    return problems


def _class_pixels(pixels: Mapping[int, int], data: DataSettings) -> Counter[int]:
    """Class index -> pixels, from those of each mask value; void is left out."""
    of_classes: Counter[int] = Counter()
    for k, num in zip(mask_classes(np.array(list(pixels)), data).tolist(), pixels.values(), strict=True):
        if k != IGNORE_INDEX:
            of_classes[k] += num
    return of_classes


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
        "num_groups": {split: num_groups(index.of(split)) for split in SPLITS},
        "labeled_images_per_class": {
            name: sum(k in pixels for pixels in labeled) for k, name in enumerate(data.class_names)
        },
        "labeled_pixels_per_class": {
            name: sum(pixels[k] for pixels in labeled) for k, name in enumerate(data.class_names)
        },
    }
