"""Checks a store by reading all of it, and removes what is damaged, so that its stage makes only that again."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from pipeline.errors import StoreError
from pipeline.folder import STAGE_OF, run_folder, stage_command
from pipeline.inspect.findings import Finding, damage_findings, named, receipt_of, run_findings, state_findings
from pipeline.lock import only_writer
from pipeline.progress import Progress
from pipeline.store import (
    FAILED,
    LEFTOVERS,
    AnyStore,
    Damage,
    chunks_of,
    metadata_damage,
    open_for_inspection,
    read_chunks,
    recorded_facts,
    repair_command,
    repair_store,
    restore_facts,
)

log = logging.getLogger(__name__)


class Check(NamedTuple):
    """Result of reading a store. compared: names of the files of the run that it was compared with."""

    store: AnyStore
    num_chunks: int
    damages: list[Damage]
    compared: list[str]
    findings: list[Finding]


def check_store(path: Path) -> Check:
    """Read every chunk of every array with its checksum, and compare the store with its run.

    raises: StoreError if there is no store, or its own metadata cannot be read; the message has the command that helps
    """
    store = replace(open_for_inspection(path), is_strict=False)  # metadata are compared separately
    chunks = chunks_of(store)
    progress = Progress(log, f"inspect {path}", len(chunks), "chunks")
    damages = metadata_damage(store) + read_chunks(store, chunks, progress.advance)
    compared, foreign = run_findings(store)
    findings = [*damage_findings(store, damages), *state_findings(store, damages), *foreign]
    return Check(store, len(chunks), damages, compared, findings)


def check_facts(check: Check) -> dict[str, Any]:
    """The result of a check, as JSON can store it."""
    return {
        "path": str(check.store.path),
        "kind": check.store.state["kind"],
        "complete": check.store.state["complete"],
        "fingerprint": check.store.fingerprint,
        "chunks": check.num_chunks,
        "compared_with": check.compared,
        "findings": [finding._asdict() for finding in check.findings],
    }


def repair(path: Path) -> dict[str, Any]:
    """Check a store and repair it: damaged and failed images become absent, and the store becomes unfinished.

    Before, damaged facts are written again from the receipt of its stage, which alone does not make it unfinished.

    The receipt of its stage is removed, so that the stage runs again. It makes those images again and no others.

    returns: facts of the check, the number of repaired findings, and the ids of the images to make again
    raises:  StoreError as `check_store`; BusyError while the stage, or one that reads the store, runs
    """
    recorded = recorded_facts(path)
    kind = (recorded or open_for_inspection(path).state)["kind"]
    with only_writer(run_folder(path.resolve()), STAGE_OF[kind]):
        if not restore_facts(path):
            return _repair(path)
        facts = _repair(path)
    finding = Finding("metadata", f"{path}: its facts were damaged", repair_command(path, kind), "repair")
    return facts | {"findings": [finding._asdict(), *facts["findings"]], "repaired": facts["repaired"] + 1}


def _repair(path: Path) -> dict[str, Any]:
    check = check_store(path)
    store, fixable = check.store, [finding for finding in check.findings if finding.fix == "repair"]
    for leftover in path.rglob(LEFTOVERS):
        leftover.unlink()
    images: list[str] = []
    if any(finding.what != "left over" for finding in fixable):
        receipt_of(store).unlink(missing_ok=True)  # first, because a receipt means that a store is complete
        again = _failed(store) if store.state["kind"] == "probabilities" else []
        images = _ids_of(store.path, repair_store(store, check.damages, again))
    return check_facts(check) | {"repaired": len(fixable), "to_be_remade": images}


def _failed(store: AnyStore) -> list[int]:
    try:
        failed: list[int] = np.flatnonzero(store.status == FAILED).tolist()
    except StoreError:  # if the status is damaged, all images without maps are made again
        return []
    return failed


def _ids_of(path: Path, images: list[int]) -> list[str]:
    try:
        ids = open_for_inspection(path).sample_ids
    except StoreError:  # its stage writes the ids again
        return [f"number {i}" for i in images]
    return [ids[i] for i in images]


def is_sound(facts: Mapping[str, Any]) -> bool:
    """Whether a check found nothing; after a repair, whether the stage fixes everything that is left."""
    fixed_by = ("repair", "stage") if "repaired" in facts else ()
    return all(finding["fix"] in fixed_by for finding in facts["findings"])


def format_check(facts: Mapping[str, Any]) -> str:
    """The facts of a check or a repair as lines."""
    state = "complete" if facts["complete"] else "unfinished"
    compared = ", ".join(facts["compared_with"]) or "nothing: there is no samples.json and no receipt beside it"
    lines = [
        ("store", f"{facts['path']}: {facts['kind']}, {state}, fingerprint {facts['fingerprint']}"),
        ("integrity", f"{facts['chunks']} chunks read with their checksums; compared with {compared}"),
        *(("found", f"{f['what']}: {f['where']}; run {f['command']}") for f in facts["findings"]),
    ]
    if not facts["findings"]:
        lines.append(("found", "nothing"))
    if "repaired" in facts:
        lines += _repair_lines(facts)
    return "\n".join(f"{word:<12}{text}" for word, text in lines)


def _repair_lines(facts: Mapping[str, Any]) -> list[tuple[str, str]]:
    images = facts["to_be_remade"]
    if not facts["repaired"]:
        return [("repaired", "nothing: --repair cannot fix any finding")]
    what = f"the stage will make {named(images)} images again, and no others" if images else "no image is lost"
    stage = STAGE_OF[facts["kind"]]
    return [("repaired", what), ("next", f"run {stage_command(Path(facts['path']), stage)}")]
