"""Imports corrected masks as labeled images of a run. Every mask is checked; after an error none is imported."""

from __future__ import annotations

import logging
import os
import shutil
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, NamedTuple, get_args

import numpy as np
import numpy.typing as npt
from PIL import Image

from pipeline.datasets import IGNORE_INDEX, Sample, SampleIndex, read_mask, save_samples
from pipeline.errors import ConfigError, DatasetError
from pipeline.exchange.corrected_masks import CorrectedMasks, RunFile, list_lines, run_file_for
from pipeline.exchange.exported import exported_digests, label_digest
from pipeline.exchange.formats import refuse_unknown_format
from pipeline.exchange.import_record import record_import
from pipeline.exchange.incoming import READABLE, Incoming, incoming_masks
from pipeline.exchange.labels import ABSTAIN, Label
from pipeline.files import remove_folder, write_text
from pipeline.folder import Folder
from pipeline.lock import only_writer
from pipeline.overrides import parse_overrides
from pipeline.progress import Progress
from pipeline.run import Run
from pipeline.run_file import load_settings
from pipeline.settings import DataSettings, did_you_mean
from pipeline.sources.annotations import unpacked
from pipeline.workflow import run_word, snakemake_command

log = logging.getLogger(__name__)

MAX_8_BIT = 255

Result = Literal["imported", "equal", "unchanged", "empty", "unannotated"]
RESULTS: tuple[Result, ...] = get_args(Result)


class Imported(NamedTuple):
    """The result of an import.

    ids:    ids of the masks by result. imported: written; equal: equal to the image's present mask; unchanged: equal
            to the exported mask; empty: no pixel has a class; unannotated: listed, but nothing was drawn
    folder: folder of the corrected masks
    run:    run file to continue with; None if nothing changed
    """

    ids: dict[Result, list[str]]
    folder: Path
    run: str | None


def import_masks(
    run: str,
    overrides: Sequence[str],
    source: Path,
    format_name: str | None = None,
    *,
    colours: Path | None = None,
    overwrite: bool = False,
    unchanged: bool = False,
    unannotated: bool = False,
) -> Imported:
    """Import corrected masks into a prepared run. The user's files are not changed.

    run, overrides: as on the command line
    source:         folder, zip or annotation file
    format_name:    one of `incoming.READABLE`; default: detected
    colours:        table of the colours of masks in colours, as for `init`
    overwrite:      also import masks of images that have a mask already; the run then reads the new ones
    unchanged:      also import masks that are equal to the exported ones
    unannotated:    also import images in which nothing was drawn, all of background
    raises:         ConfigError for an unknown format or unsuitable classes; DatasetError with every problem of the
                    masks. After an error no mask is imported.
    """
    if format_name is not None:
        refuse_unknown_format(format_name, READABLE)
    changed = parse_overrides(overrides)
    settings = load_settings(run, changed)
    if ABSTAIN in settings.data.class_names:
        raise ConfigError(
            f"data.classes has a class {ABSTAIN!r}, which means no class in imported masks; rename it in data.classes"
        )
    to_import = Run(settings)
    index = to_import.samples().whole
    if index.root != Path(settings.data.root):
        raise DatasetError(
            f"{to_import.folder.samples} lists images in {index.root}, but data.root is {settings.data.root}; run "
            f"{to_import.command('prepare', rerun='prepare')}"
        )
    masks = CorrectedMasks(settings)
    run_file = run_file_for(run, changed, settings, masks)
    importer = Importer(
        settings.data, index, masks, exported_digests(settings.folder), overwrite, unchanged, unannotated
    )
    num_pixels = sum(sample.height * sample.width for sample in index.samples)
    try:
        with only_writer(to_import.folder.path, "prepare"), unpacked(source, num_pixels) as folder:
            images = {sample.id: index.root / sample.image for sample in index.samples}
            ids = importer.import_all(incoming_masks(folder, source, format_name, settings.data, images, colours))
        is_changed = masks.index_with(index) != index
        if is_changed:
            record_import(to_import, index, masks, ids["imported"])
            activate(masks, masks.index_with(index), run_file, to_import.folder)
    except OSError as error:
        raise DatasetError(
            f"the import into {masks.folder} stopped: {error}; remove the cause and run it again"
        ) from None
    return Imported(ids, masks.masks, (run_file.run if run_file is not None else run) if is_changed else None)


def activate(masks: CorrectedMasks, index: SampleIndex, run_file: RunFile | None, results: Folder) -> None:
    """Write the id lists, the run file and samples.json, so that the next snakemake uses the masks.

    Snakemake runs prepare, because its receipt is missing, and annotate and the stages after it, because samples.json
    is newer. samples.json is written last: if the import is killed before, running it again completes it.
    """
    masks.write_lists(index)
    if run_file is not None:
        write_text(*run_file)
    results.receipt("prepare").unlink(missing_ok=True)
    save_samples(results.samples, index)


@dataclass(frozen=True)
class Importer:
    """Checks masks and imports them.

    exported: digests of the exported labels, by image id
    """

    data: DataSettings
    index: SampleIndex
    masks: CorrectedMasks
    exported: Mapping[str, Sequence[str]]
    overwrite: bool
    unchanged: bool
    unannotated: bool

    def import_all(self, incoming: Sequence[Incoming]) -> dict[Result, list[str]]:
        """Check all masks, and write those to be imported; ids by result.

        raises: DatasetError with every problem of the masks and of the new lists; then nothing is written
        """
        samples = {sample.id: sample for sample in self.index.samples}
        left_out = [mask.id for mask in incoming if not (mask.is_annotated or self.unannotated)]
        incoming = [mask for mask in incoming if mask.is_annotated or self.unannotated]
        _refuse(_id_problems(incoming, samples))
        part = self.masks.folder / "masks.part"
        remove_folder(part)
        part.mkdir(parents=True)
        try:
            results = self._check_all(incoming, samples, part)
            _refuse([str(result) for result in results if isinstance(result, DatasetError)])
            ids = {name: [mask.id for mask, r in zip(incoming, results, strict=True) if r == name] for name in RESULTS}
            ids["unannotated"] = left_out
            list_lines(self.masks.index_with(self.index, ids["imported"]))
            self.masks.masks.mkdir(exist_ok=True)
            for sample_id in ids["imported"]:
                os.replace(part / f"{sample_id}.png", self.masks.mask(sample_id))
        finally:
            shutil.rmtree(part, ignore_errors=True)
        return ids

    def _check_all(
        self, incoming: Sequence[Incoming], samples: Mapping[str, Sample], folder: Path
    ) -> list[Result | DatasetError]:
        """The result or the error of every mask. The masks to be imported are written into a folder."""
        values = mask_values(self.data)
        progress = Progress(log, "import-masks", len(incoming), "masks")

        def check(mask: Incoming) -> Result | DatasetError:
            try:
                result, label = self.check(mask, samples[mask.id])
            except DatasetError as error:
                return error
            if result == "imported":
                write_values(folder / f"{mask.id}.png", values[label])
            return result

        results = []
        with ThreadPoolExecutor(os.cpu_count()) as pool:
            for result in pool.map(check, incoming):
                results.append(result)
                progress.advance()
        return results

    def check(self, mask: Incoming, sample: Sample) -> tuple[Result, Label]:
        """The result and the label of one mask.

        raises: DatasetError if the mask cannot be read, has another size than its image, or would replace a mask
        """
        label = mask.read((sample.height, sample.width))
        present = self.present(sample)
        if present is not None:
            if np.array_equal(read_mask(present, self.data), label):
                return "equal", label
            if not self.overwrite:
                raise DatasetError(
                    f"{mask.where}: {sample.id} already has the mask {present}; add --overwrite to use the new one"
                )
        if (label == IGNORE_INDEX).all():
            return "empty", label
        if not self.unchanged and label_digest(label) in self.exported.get(sample.id, ()):
            return "unchanged", label
        return "imported", label

    def present(self, sample: Sample) -> Path | None:
        """The present mask of an image: one imported before, or that of the data set."""
        corrected = self.masks.mask(sample.id)
        if corrected.is_file():
            return corrected
        return None if sample.mask is None else self.index.root / sample.mask


def _id_problems(incoming: Sequence[Incoming], samples: Mapping[str, Sample]) -> list[str]:
    """Messages for masks of unknown images, of validation images, and second masks of an image."""
    problems: list[str] = []
    has_hint = False
    first_mask: dict[str, str] = {}
    for mask in incoming:
        sample = samples.get(mask.id)
        if sample is None:
            hint = "" if has_hint else did_you_mean(mask.id, list(samples))  # once only: it is slow for many images
            has_hint = True
            problems.append(f"{mask.where}: the run has no image {mask.id}{hint}; rename or remove the mask")
        elif sample.split == "val":
            problems.append(
                f"{mask.where}: {mask.id} is a validation image and must not be used for training; remove the mask"
            )
        if mask.id in first_mask:
            problems.append(
                f"{mask.where} and {first_mask[mask.id]} are masks of the same image {mask.id}; remove one of them"
            )
        first_mask[mask.id] = mask.where
    return problems


def mask_values(data: DataSettings) -> npt.NDArray[np.uint16]:
    """Mask value of each class index, and of 255 (no class), uint16 [256].

    raises: ConfigError if the run has no mask value for pixels without a class
    """
    of_classes = {value for values in data.mask_values for value in values}
    free = [value for value in range(IGNORE_INDEX, -1, -1) if value not in of_classes]
    void = data.ignore_values or free
    if not void or (not data.ignore_values and data.unknown_values == "error"):
        raise ConfigError(
            "data.ignore_values is empty, but corrected masks have pixels without a class; set data.ignore_values: "
            f"[{free[0] if free else MAX_8_BIT + 1}]"
        )
    lookup = np.full(IGNORE_INDEX + 1, void[0], np.uint16)
    lookup[: data.num_classes] = [values[0] for values in data.mask_values]
    return lookup


def write_values(path: Path, values: npt.NDArray[np.uint16]) -> None:
    """Write a mask, uint16 [H, W], as grey PNG with 8 bits, or with 16 bits if a value is above 255.

    It has no palette, because `prepare` compares the palettes of the masks of a data set.
    """
    Image.fromarray(values if values.max() > MAX_8_BIT else values.astype(np.uint8)).save(path)


def _refuse(problems: Sequence[str]) -> None:
    """DatasetError that lists the problems, if there are any."""
    if problems:
        noun = "problem" if len(problems) == 1 else "problems"
        head = f"{len(problems)} {noun} with the corrected masks; none was imported:"
        raise DatasetError("\n  ".join([head, *problems]))


def summary(imported: Imported) -> str:
    """The text that the command prints."""
    ids = imported.ids
    lines = [f"corrected masks imported into {imported.folder}: {len(ids['imported'])}"]
    lines += [f"not imported, equal to the present masks of their images: {len(ids['equal'])}"] if ids["equal"] else []
    lines += [f"not imported, no pixel has a class: {len(ids['empty'])}"] if ids["empty"] else []
    if ids["unannotated"]:
        lines.append(
            f"not imported, listed without any outline: {len(ids['unannotated'])}, e.g. {ids['unannotated'][0]}; if "
            "these images show only background, add --unannotated background"
        )
    if ids["unchanged"]:
        lines.append(
            f"not imported, unchanged since the export: {len(ids['unchanged'])}, e.g. {ids['unchanged'][0]}; if a "
            "person has reviewed them and they are correct, add --unchanged"
        )
    if imported.run is not None:
        lines.append(f"next: {snakemake_command('all', [run_word(imported.run)])}")
    return "\n".join(lines)
