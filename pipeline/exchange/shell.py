"""The export of a label store: a folder that appears under its name only when it is whole."""

from __future__ import annotations

import logging
import os
import shutil
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

from pipeline.errors import StoreError
from pipeline.exchange.choice import choose_images
from pipeline.exchange.formats import FORMATS, READABLE, refuse_unknown_format
from pipeline.exchange.labels import LabelSource, open_source
from pipeline.exchange.provenance import FILE_NAME as PROVENANCE
from pipeline.exchange.provenance import provenance
from pipeline.exchange.record import add_exported, label_digest
from pipeline.files import write_json
from pipeline.folder import Folder
from pipeline.progress import Progress

log = logging.getLogger(__name__)


class Export(NamedTuple):
    """What was written, and which of the wanted images have no labels."""

    folder: Path
    num_images: int
    left_out: list[str]


def export_labels(
    store: Path,
    format_name: str,
    out: Path | None = None,
    *,
    alpha: float | None = None,
    ids: Path | None = None,
    most_uncertain: int | None = None,
) -> Export:
    """Write the labels of a store in one of FORMATS.

    An interrupted export leaves nothing under the folder's name, and the next one starts again. An older export is
    replaced at the end.
    out:     default: export/FORMAT beside the store
    alpha:   see `open_source`; ids, most_uncertain: see `choose_images`
    raises:  ConfigError for an unknown format; StoreError for a store, alpha or list that cannot be used, damaged
             labels, photographs that are not there, and a folder in the way that no export wrote
    """
    refuse_unknown_format(format_name, tuple(FORMATS))
    out = out or Folder(store.parent).export(format_name)
    _refuse_foreign(out)
    source = open_source(store, alpha)
    choice = choose_images(source, ids, most_uncertain)
    facts = provenance(source, choice, format_name)
    for name in choice.left_out:
        log.warning("export: %s failed and has no label; it is left out", name)
    part = out.with_name(f"{out.name}.part")
    _refuse_foreign(part)
    shutil.rmtree(part, ignore_errors=True)
    try:
        part.mkdir(parents=True)
        write_json(part / PROVENANCE, facts)
        digests = _write(part, source, choice.places, format_name, facts)
    except OSError as error:
        raise StoreError(f"the export to {out} stopped: {error}; fix that, or name another folder: --out") from None
    shutil.rmtree(out, ignore_errors=True)
    part.rename(out)
    if format_name in READABLE:
        _remember(store.parent, digests)
    return Export(out, len(choice.places), choice.left_out)


def _write(
    folder: Path, source: LabelSource, places: list[int], format_name: str, facts: dict[str, Any]
) -> dict[str, str]:
    """Write all files; returns digests of the labels, by id."""
    form = FORMATS[format_name]
    progress = Progress(log, f"export {format_name}", len(places), "images")
    rows, digests = [], {}

    def write_image(place: int) -> tuple[str, Any]:
        label = source.label(place)
        return label_digest(label), form.write_image(folder, source, place, label)

    with ThreadPoolExecutor(os.cpu_count()) as pool:
        for place, (digest, row) in zip(places, pool.map(write_image, places), strict=True):
            digests[source.samples[place].id] = digest
            rows.append((place, row))
            progress.advance()
    form.write_rest(folder, source, rows, facts)
    return digests


def _remember(folder: Path, digests: dict[str, str]) -> None:
    try:
        add_exported(folder, digests)
    except OSError as error:
        log.warning("export: %s; import-masks will not know masks that nobody corrected", error)


def _refuse_foreign(folder: Path) -> None:
    """StoreError if there is something that no export wrote."""
    if folder.exists() and not (folder / PROVENANCE).is_file() and not _is_empty(folder):
        raise StoreError(f"{folder} exists, and no export wrote it (no {PROVENANCE} in it); name another folder: --out")


def _is_empty(folder: Path) -> bool:
    return folder.is_dir() and not any(folder.iterdir())
