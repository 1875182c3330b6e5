"""Corrected masks become labeled images of a run: each is checked, and all are taken or none."""

from __future__ import annotations

import contextlib
import logging
import os
import shutil
import tempfile
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, NamedTuple, get_args

import numpy as np
import numpy.typing as npt
from PIL import Image

from pipeline.datasets import IGNORE_INDEX, Sample, SampleIndex, read_mask
from pipeline.errors import ConfigError, DatasetError
from pipeline.exchange import FORMATS, READABLE, detect_format, refuse_unknown_format
from pipeline.exchange.corrected_masks import CorrectedMasks, RunFile, list_lines, run_file_for
from pipeline.exchange.incoming import Incoming
from pipeline.exchange.labels import ABSTAIN, Label
from pipeline.exchange.record import exported_digests, label_digest
from pipeline.files import write_json, write_text
from pipeline.folder import Folder, snakemake_command
from pipeline.progress import Progress
from pipeline.run import Run
from pipeline.run_file import load_settings, parse_overrides
from pipeline.settings import DataSettings, did_you_mean
from pipeline.sources.convert_masks.png import write_mask

log = logging.getLogger(__name__)

MAX_8_BIT = 255

Fate = Literal["taken", "known", "unchanged", "empty"]
FATES: tuple[Fate, ...] = get_args(Fate)


class Imported(NamedTuple):
    """What an import did: ids of the masks by their fate, the folder they are in, and the run to go on with.

    taken: written; known: equal the mask that the image has; unchanged: as they were exported; empty: without a class
    run: None if everything is as it was
    """

    ids: dict[Fate, list[str]]
    folder: Path
    run: str | None


def import_masks(
    run: str,
    overrides: Sequence[str],
    source: Path,
    format_name: str | None = None,
    *,
    overwrite: bool = False,
    unchanged: bool = False,
) -> Imported:
    """Take corrected masks into a prepared run; the user's files stay as they are.

    run, overrides: as on the command line
    source:         folder, zip or COCO JSON; format_name: one of READABLE, by default found out
    overwrite:      also take masks of images that have one; the run then reads the new one
    unchanged:      also take masks that are as they were exported
    raises:         ConfigError for an unknown format; DatasetError with every problem; then nothing is taken
    """
    if format_name is not None:
        refuse_unknown_format(format_name, READABLE)
    changed = parse_overrides(overrides)
    settings = load_settings(run, changed)
    if ABSTAIN in settings.data.class_names:
        raise ConfigError(
            f"data.classes has a class {ABSTAIN!r}, which means no class in masks that come back; rename it"
        )
    place = Run(settings)
    index = place.samples()
    if index.root != Path(settings.data.root):
        raise DatasetError(
            f"{place.folder.samples} is about images in {index.root}, the run about those in {settings.data.root}; "
            f"run {place.command('prepare', rerun='prepare')}"
        )
    masks = CorrectedMasks(settings)
    run_file = run_file_for(run, changed, settings, masks)
    desk = Desk(settings.data, index, masks, exported_digests(settings.folder), overwrite, unchanged)
    try:
        with unpacked(source) as folder:
            ids = desk.take(incoming_masks(folder, source, format_name, settings.data))
        is_changed = masks.index_with(index) != index
        if is_changed:
            put_to_use(masks, masks.index_with(index), run_file, place.folder)
    except OSError as error:
        raise DatasetError(f"the import into {masks.folder} stopped: {error}; fix that and run it again") from None
    return Imported(ids, masks.masks, (run_file.run if run_file is not None else run) if is_changed else None)


def put_to_use(masks: CorrectedMasks, index: SampleIndex, run_file: RunFile | None, results: Folder) -> None:
    """Write the id lists and the run file, and let the next snakemake run what depends on the new samples.

    Newer samples make it run annotate and what follows, and prepare as well, because its receipt is missing. They come
    last: an import that was killed before them does all of this when it is repeated.
    """
    masks.write_lists(index)
    if run_file is not None:
        write_text(*run_file)
    results.receipt("prepare").unlink(missing_ok=True)
    write_json(results.samples, index.as_json())


@contextlib.contextmanager
def unpacked(source: Path) -> Iterator[Path]:
    """The folder itself, or a temporary one with what is in a zip, or with a JSON; nested lone folders are entered."""
    if source.is_dir():
        yield source
        return
    if not source.is_file():
        raise DatasetError(f"no {source}; name a folder, a zip or a COCO JSON with corrected masks")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        if source.suffix.lower() == ".json":
            shutil.copy(source, folder)
        else:
            try:
                with zipfile.ZipFile(source) as archive:
                    archive.extractall(folder)
            except zipfile.BadZipFile as error:
                raise DatasetError(f"{source} is no whole zip ({error}); export it again") from None
        entries = list(folder.iterdir())
        while len(entries) == 1 and entries[0].is_dir():
            folder = entries[0]
            entries = list(folder.iterdir())
        yield folder


def incoming_masks(folder: Path, source: Path, format_name: str | None, data: DataSettings) -> list[Incoming]:
    """Masks in a folder, none read yet; DatasetError if there are none."""
    found = format_name or detect_format(folder)
    read = FORMATS[found].read_masks if found is not None else None
    masks = read(folder, data) if read is not None else []
    if not masks:
        what = f"masks of format {found}" if found is not None else f"masks ({', '.join(READABLE)})"
        raise DatasetError(f"{source} holds no {what}; export the corrected masks again, or say what it is with --from")
    return masks


@dataclass(frozen=True)
class Desk:
    """Where masks are checked and taken in. exported: digests of the labels that went out, by image."""

    data: DataSettings
    index: SampleIndex
    masks: CorrectedMasks
    exported: Mapping[str, Sequence[str]]
    overwrite: bool
    unchanged: bool

    def take(self, incoming: Sequence[Incoming]) -> dict[Fate, list[str]]:
        """Write the masks that pass; DatasetError with every problem, also of the lists to come, and then none."""
        samples = {sample.id: sample for sample in self.index.samples}
        _refuse(_id_problems(incoming, samples))
        part = self.masks.folder / "masks.part"
        shutil.rmtree(part, ignore_errors=True)
        part.mkdir(parents=True)
        try:
            fates = self._judge_all(incoming, samples, part)
            _refuse([str(fate) for fate in fates if isinstance(fate, DatasetError)])
            ids = {fate: [mask.id for mask, f in zip(incoming, fates, strict=True) if f == fate] for fate in FATES}
            list_lines(self.masks.index_with(self.index, ids["taken"]))
            self.masks.masks.mkdir(exist_ok=True)
            for sample_id in ids["taken"]:
                os.replace(part / f"{sample_id}.png", self.masks.mask(sample_id))
        finally:
            shutil.rmtree(part, ignore_errors=True)
        return ids

    def _judge_all(
        self, incoming: Sequence[Incoming], samples: Mapping[str, Sample], folder: Path
    ) -> list[Fate | DatasetError]:
        """The fate of every mask, or why it is refused; those to be taken are written into a folder."""
        values = mask_values(self.data)
        progress = Progress(log, "import-masks", len(incoming), "masks")

        def check(mask: Incoming) -> Fate | DatasetError:
            try:
                fate, label = self.judge(mask, samples[mask.id])
            except DatasetError as error:
                return error
            if fate == "taken":
                write_values(folder / f"{mask.id}.png", values[label])
            return fate

        fates = []
        with ThreadPoolExecutor(os.cpu_count()) as pool:
            for fate in pool.map(check, incoming):
                fates.append(fate)
                progress.advance()
        return fates

    def judge(self, mask: Incoming, sample: Sample) -> tuple[Fate, Label]:
        """What becomes of one mask, and its label; DatasetError if it cannot be read or does not fit its image."""
        label = mask.read()
        if label.shape != (sample.height, sample.width):
            size = f"{label.shape[1]} x {label.shape[0]}"
            raise DatasetError(
                f"{mask.where} is {size}, its image is {sample.width} x {sample.height}; make them equal"
            )
        present = self.present(sample)
        if present is not None:
            if np.array_equal(read_mask(present, self.data), label):
                return "known", label
            if not self.overwrite:
                raise DatasetError(
                    f"{mask.where}: {sample.id} has the mask {present} already; to read the new one: --overwrite"
                )
        if (label == IGNORE_INDEX).all():
            return "empty", label
        if not self.unchanged and label_digest(label) in self.exported.get(sample.id, ()):
            return "unchanged", label
        return "taken", label

    def present(self, sample: Sample) -> Path | None:
        """The mask that an image has: one that came in before, or its own."""
        corrected = self.masks.mask(sample.id)
        if corrected.is_file():
            return corrected
        return None if sample.mask is None else self.index.root / sample.mask


def _id_problems(incoming: Sequence[Incoming], samples: Mapping[str, Sample]) -> list[str]:
    """Masks of images that the run does not have or validates with, and second masks of one image."""
    problems: list[str] = []
    strangers: list[str] = []
    seen: dict[str, str] = {}
    for mask in incoming:
        sample = samples.get(mask.id)
        if sample is None:
            hint = "" if strangers else did_you_mean(mask.id, list(samples))  # slow, among many images
            strangers.append(mask.id)
            problems.append(f"{mask.where}: the run has no image {mask.id}{hint}")
        elif sample.split == "val":
            problems.append(f"{mask.where}: {mask.id} is a validation image, nothing may be learnt from it; remove it")
        if mask.id in seen:
            problems.append(f"{mask.where} and {seen[mask.id]} are masks of one image, {mask.id}; remove one")
        seen[mask.id] = mask.where
    return problems


def mask_values(data: DataSettings) -> npt.NDArray[np.uint16]:
    """uint16 [256]: mask value of each class index as the run reads it, and of 255 (no class).

    raises: ConfigError if the run has no value for pixels without a class
    """
    named = {value for values in data.mask_values for value in values}
    spare = data.ignore_values or [v for v in range(IGNORE_INDEX, -1, -1) if v not in named]
    if not spare or (not data.ignore_values and data.unknown_values == "error"):
        raise ConfigError("data.ignore_values is empty, but corrected masks have pixels without a class; write [255]")
    lookup = np.full(IGNORE_INDEX + 1, spare[0], np.uint16)
    lookup[: data.num_classes] = [values[0] for values in data.mask_values]
    return lookup


def write_values(path: Path, values: npt.NDArray[np.uint16]) -> None:
    """Write a mask as PNG, of 16 bits only if its values need them."""
    if values.max() > MAX_8_BIT:
        Image.fromarray(values).save(path)
    else:
        write_mask(path, values.astype(np.uint8))


def _refuse(problems: Sequence[str]) -> None:
    """DatasetError that lists the problems, if there are any."""
    if problems:
        noun = "problem" if len(problems) == 1 else "problems"
        head = f"{len(problems)} {noun} with the corrected masks; none was taken:"
        raise DatasetError("\n  ".join([head, *problems]))


def summary(imported: Imported) -> str:
    """What the command prints."""
    ids = imported.ids
    lines = [f"corrected masks taken into {imported.folder}: {len(ids['taken'])}"]
    lines += [f"equal to the masks that their images have: {len(ids['known'])}"] if ids["known"] else []
    lines += [f"left out, without a pixel that has a class: {len(ids['empty'])}"] if ids["empty"] else []
    if ids["unchanged"]:
        lines.append(
            f"left out, as they were exported: {len(ids['unchanged'])}, e.g. {ids['unchanged'][0]}; if somebody looked "
            "at them and found no fault, take them with --unchanged"
        )
    if imported.run is not None:
        lines.append(f"next: {snakemake_command('all', [f'run={imported.run}'])}")
    return "\n".join(lines)
