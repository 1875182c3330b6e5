"""Exports labels to a folder, which appears only when it is complete."""

from __future__ import annotations

import contextlib
import logging
import os
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

from pipeline.datasets import IGNORE_INDEX
from pipeline.errors import StoreError, UnreadableSourceError
from pipeline.exchange.choice import choose_images
from pipeline.exchange.exported import add_exported, label_digest
from pipeline.exchange.formats import FORMATS, TOOLS, refuse_unknown_format
from pipeline.exchange.images import ImageFiles
from pipeline.exchange.incoming import READABLE
from pipeline.exchange.labels import ExportedLabels, Label, open_exported
from pipeline.exchange.provenance import provenance
from pipeline.exchange.training_sets.contents import Entry, TrainingSet, make_training_set
from pipeline.files import replacing_folder, write_json
from pipeline.folder import PROVENANCE, Folder
from pipeline.progress import Progress
from pipeline.run import Run
from pipeline.settings import Settings

log = logging.getLogger(__name__)

UNFINISHED = ".unfinished-export"  # mark of a folder that an export writes, and may leave if it is killed


class Pixels(NamedTuple):
    """Number of all pixels of the exported labels, and of those without a label."""

    all: int
    unlabeled: int


class Export(NamedTuple):
    """The folder and number of exported images, the ids of chosen images without labels, and the pixels of the labels.

    unlabeled: what pixels without a label have become
    """

    folder: Path
    num_images: int
    left_out: list[str]
    pixels: Pixels
    unlabeled: str

    def summary(self) -> str:
        """The text that the command prints."""
        failed = f"; without {', '.join(self.left_out)}, where the annotator failed" if self.left_out else ""
        lines = [f"wrote {self.folder}: {self.num_images} images{failed}"]
        if self.pixels.unlabeled:
            percent = 100 * self.pixels.unlabeled / self.pixels.all
            numbers = f"{self.pixels.unlabeled:,} of {self.pixels.all:,} pixels of the labels ({percent:.1f} %)"
            lines.append(f"{numbers} have no class: {self.unlabeled}")
        return "\n".join(lines)


def export_labels(
    store: Path,
    format_name: str,
    out: Path | None = None,
    *,
    alpha: float | None = None,
    ids: Path | None = None,
    most_uncertain: int | None = None,
    root: Path | None = None,
    copies_images: bool = False,
    licence: str | None = None,
) -> Export:
    """Write the labels of a store in one of FORMATS.

    An interrupted export leaves no folder, and the next one starts again. An older export is replaced at the end.

    out:     folder; default: export/FORMAT beside the store
    alpha, root, copies_images: see `open_exported`
    ids, most_uncertain: see `choose_images`
    licence: of the labels, for their card; None: none is stated
    raises:  ConfigError for an unknown format; StoreError for a store, alpha or list that cannot be used, damaged
             labels, missing image files, and an existing folder that is not an export
    """
    refuse_unknown_format(format_name, tuple(FORMATS))
    out = out or Folder(store.parent).export(format_name)
    _refuse_other_folder(out)
    exported = open_exported(store, alpha, root, copies_images)
    choice = choose_images(exported, ids, most_uncertain)
    facts = provenance(exported, choice, format_name, licence)
    with _export_folder(out, choice.left_out) as part:
        digests, pixels = _write(part, exported, choice.indices, format_name, facts)
        write_json(part / PROVENANCE, {**facts, "pixels": pixels.all, "unlabeled_pixels": pixels.unlabeled})
    if format_name in READABLE:
        _record(store.parent, digests)
    return Export(out, len(choice.indices), choice.left_out, pixels, FORMATS[format_name].unlabeled)


def export_training_set(
    settings: Settings,
    tool_name: str,
    out: Path | None = None,
    *,
    alpha: float | None = None,
    ids: Path | None = None,
    most_uncertain: int | None = None,
    copies_images: bool = False,
) -> Export:
    """Write the human masks and pseudo-labels of a run as a data set that one of TOOLS trains on.

    out:     folder; default: export/TOOL of the run
    ids, most_uncertain: of the images with pseudo-labels, see `choose_images`
    raises:  as `export_labels`; also StoreError if prepare was run with other settings
    """
    refuse_unknown_format(tool_name, tuple(TOOLS), "tool")
    run, tool = Run(settings), TOOLS[tool_name]
    run.receipt("prepare")
    out = out or run.folder.export(tool_name)
    _refuse_other_folder(out)
    exported = open_exported(run.folder.labels, alpha, Path(settings.data.root))
    choice = choose_images(exported, ids, most_uncertain)
    files = ImageFiles(exported.index, copies_images, tool.formats, tool.modes)
    content = make_training_set(out, exported, choice.indices, settings.data, files)
    facts = provenance(exported, choice, tool_name)
    with _export_folder(out, choice.left_out) as part:
        pixels = _write_training_set(part, content, tool_name)
        values = {name: facts[name] for name in ("variant", "alpha", "rule")}
        values |= {"tool": tool_name, "title": tool.title, "is_linked": not copies_images}
        content.write_text(part / "README.md", "README.md.jinja", **values)
        write_json(part / PROVENANCE, {**facts, "pixels": pixels.all, "unlabeled_pixels": pixels.unlabeled})
    return Export(out, len(content.entries), choice.left_out, pixels, tool.unlabeled)


def _write_training_set(folder: Path, content: TrainingSet, tool_name: str) -> Pixels:
    """Write all files; returns the pixels of the pseudo-labels."""
    tool = TOOLS[tool_name]
    progress = Progress(log, f"export {tool_name}", len(content.entries), "images")

    def write_image(entry: Entry) -> Pixels:
        label = content.label(entry)
        tool.write_image(folder, content, entry, label)
        return _pixels(label) if entry.part == "pseudo" else Pixels(0, 0)

    pixels = []
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        for of_image in pool.map(write_image, content.entries):
            pixels.append(of_image)
            progress.advance()
    tool.write_rest(folder, content)
    return _total(pixels)


def _pixels(label: Label) -> Pixels:
    return Pixels(label.size, int((label == IGNORE_INDEX).sum()))


def _total(pixels: Sequence[Pixels]) -> Pixels:
    return Pixels(*map(sum, zip(*pixels, strict=True)))


@contextlib.contextmanager
def _export_folder(out: Path, left_out: Sequence[str]) -> Iterator[Path]:
    """Context with a new folder, which becomes `out` at the end. Files of an older export are replaced."""
    for name in left_out:
        log.warning("export: %s failed and has no label; it is left out", name)
    unfinished = out.with_name(f"{out.name}.part")
    _refuse_other_folder(unfinished)
    try:
        with replacing_folder(out) as part:
            part.mkdir(parents=True)
            (part / UNFINISHED).touch()
            yield part
            (part / UNFINISHED).unlink()
    except UnreadableSourceError:
        raise
    except OSError as error:
        raise StoreError(
            f"the export to {out} stopped: {error}; remove the cause, or use another folder: --out"
        ) from None


def _write(
    folder: Path, exported: ExportedLabels, indices: list[int], format_name: str, facts: dict[str, Any]
) -> tuple[dict[str, str], Pixels]:
    """Write all files; returns digests of the labels that a reader finds in them, by sample id, and their pixels."""
    form = FORMATS[format_name]
    progress = Progress(log, f"export {format_name}", len(indices), "images")
    rows, digests, pixels = [], {}, []

    def write_image(index: int) -> tuple[str, Pixels, Any]:
        label = exported.label(index)
        digest = label_digest(form.read_back(label, exported.background))
        return digest, _pixels(label), form.write_image(folder, exported, index, label)

    with ThreadPoolExecutor(os.cpu_count()) as pool:
        for index, (digest, of_image, row) in zip(indices, pool.map(write_image, indices), strict=True):
            digests[exported.samples[index].id] = digest
            pixels.append(of_image)
            rows.append((index, row))
            progress.advance()
    form.write_rest(folder, exported, rows, facts)
    return digests, _total(pixels)


def _record(folder: Path, digests: dict[str, str]) -> None:
    try:
        add_exported(folder, digests)
    except OSError as error:
        log.warning("export: %s; import-masks cannot detect masks that come back unchanged", error)


def _refuse_other_folder(folder: Path) -> None:
    """StoreError if a folder exists that is neither empty nor an export, finished or not."""
    is_export = any((folder / mark).is_file() for mark in (PROVENANCE, UNFINISHED))
    if folder.exists() and not is_export and not _is_empty(folder):
        raise StoreError(f"{folder} exists and is not an export (it has no {PROVENANCE}); use another folder: --out")


def _is_empty(folder: Path) -> bool:
    return folder.is_dir() and not any(folder.iterdir())
