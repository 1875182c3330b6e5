"""Findings: what is wrong with a store, each as one line with the command that fixes it."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator, Sequence
from itertools import groupby
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np

from pipeline.datasets import Split, load_samples
from pipeline.errors import RecordError, StoreError, UserError
from pipeline.folder import FILE_OF, STAGE_OF, Folder, member_of, run_folder, stage_command
from pipeline.receipt import read_receipt
from pipeline.store import (
    ABSENT,
    DONE,
    FAILED,
    LEFTOVERS,
    AnyStore,
    Damage,
    remake_command,
    repair_command,
    store_state,
)

MAX_NAMED = 3
SPLITS_OF: dict[str, tuple[Split, ...]] = {
    "probabilities": ("labeled", "unlabeled"),
    "calibration": ("labeled",),
    "labels": ("unlabeled",),
}
MADE_FROM = {"probabilities": (), "calibration": ("probabilities",), "labels": ("calibration", "probabilities")}


class Finding(NamedTuple):
    """One thing that is wrong.

    what:    corrupt, missing, metadata, failed, unfinished, left over, receipt, or other run
    where:   what is affected, and why
    command: command that fixes it
    fix:     whether `inspect --repair` and then the stage fix it, the stage alone, or neither
    """

    what: str
    where: str
    command: str
    fix: Literal["repair", "stage", "by hand"]


def finding_of(what: str, error: UserError, otherwise: str) -> Finding:
    """An error as a finding. otherwise: command to use if the message has none"""
    where, _, advice = str(error).partition("; ")
    command = re.search(r"\brun (.*)", advice)
    return Finding(what, where, command[1] if command else otherwise, "by hand")


def receipt_of(store: AnyStore) -> Path:
    """Path of the receipt of the stage that makes this store; it exists if the stage has finished."""
    return Folder(run_folder(store.path)).receipt(STAGE_OF[store.state["kind"]])


def named(ids: Sequence[str]) -> str:
    """Number of ids with the first three of them: `5 (a, b, c, ...)`, or `0`."""
    more = ", ..." if len(ids) > MAX_NAMED else ""
    return f"{len(ids)} ({', '.join(ids[:MAX_NAMED])}{more})" if ids else "0"


def damage_findings(store: AnyStore, damages: Sequence[Damage]) -> Iterator[Finding]:
    """One finding for each array and kind of damage, with the ids of the first images."""
    ids = _ids(store)
    ordered = sorted(damages, key=lambda damage: (damage.array, damage.problem, damage.images))
    for (array, problem), group in groupby(ordered, key=lambda damage: (damage.array, damage.problem)):
        same = list(group)
        images = sorted({image for damage in same for image in damage.images})
        where = f"{array} of {named([ids[i] if ids else f'number {i}' for i in images])}" if images else array
        why = f": {same[0].why.rstrip('.') or 'not on disk'}"
        yield Finding(problem, where + why, repair_command(store.path, store.state["kind"]), "repair")


def _ids(store: AnyStore) -> list[str] | None:
    try:
        return store.sample_ids
    except StoreError:
        return None


def state_findings(store: AnyStore, damages: Sequence[Damage]) -> Iterator[Finding]:
    """Images that are not done or failed, unless the status is damaged; and temporary files."""
    kind, receipt, leftovers = store.state["kind"], receipt_of(store), list(store.path.rglob(LEFTOVERS))
    stage = stage_command(store.path, STAGE_OF[kind])
    temporary = f"; {len(leftovers)} temporary files ({LEFTOVERS})" if leftovers else ""
    is_known = not {"sample", "status", "made_by"} & {damage.array for damage in damages}
    ids, status = (np.array(store.sample_ids), store.status) if is_known else (np.array([]), np.array([]))
    absent, failed = ids[status == ABSENT].tolist(), ids[status == FAILED].tolist()
    if not store.state["complete"]:
        done = f"{np.count_nonzero(status == DONE)} of {len(status)} images are done"
        where = (done if is_known else "its status is damaged") + temporary
        if receipt.is_file():
            where += f", but the stage has finished according to {receipt}"
            stage = f"rm {shlex.quote(str(receipt))} && {stage}"
        yield Finding("unfinished", where, stage, "by hand" if receipt.is_file() else "stage")
    elif absent:
        where = f"{named(absent)} were never made, or were written by another process"
        yield Finding("unfinished", where, repair_command(store.path, kind), "repair")
    elif leftovers:
        command = f"conformalsam inspect {shlex.quote(str(store.path))} --repair"
        yield Finding("left over", temporary.removeprefix("; "), command, "repair")
    if failed and kind == "probabilities":
        reasons = store.state.get("failed", {})
        why = f": {reasons[failed[0]]}" if failed[0] in reasons else ""
        yield Finding("failed", f"{named(failed)}{why}; fix the files", repair_command(store.path, kind), "repair")
    elif failed:
        command = f"conformalsam inspect {shlex.quote(str(store.path.parent / FILE_OF['probabilities']))} --repair"
        where = f"{named(failed)}, because their maps are missing"
        yield Finding("failed", where, f"{command} && {stage_command(store.path, STAGE_OF[kind])}", "by hand")


def run_findings(store: AnyStore) -> tuple[list[str], list[Finding]]:
    """Names of the files of the run that the store was compared with, and the first finding of these comparisons.

    A store without a run, e.g. one that was copied, is compared with nothing.
    """
    folder, kind, receipt = run_folder(store.path), store.state["kind"], receipt_of(store)
    samples = Folder(folder).samples
    if not samples.is_file() and not receipt.is_file():
        return [], []
    compared, findings = [], []
    for compare in (_compare_samples, _compare_receipt):
        path, new = compare(store)
        compared.append(path.name)
        findings += new
    for origin in MADE_FROM[kind]:
        state = _state_of(folder / FILE_OF[origin])
        if origin in store.state and state:
            compared.append(FILE_OF[origin])
            findings += _compare_origin(store, origin, state["fingerprint"])
    return compared, findings[:1]


def _compare_samples(store: AnyStore) -> tuple[Path, list[Finding]]:
    path, kind = Folder(run_folder(store.path)).samples, store.state["kind"]
    prepare = stage_command(store.path, "prepare")
    if not path.is_file():
        return path, [Finding("other run", f"{path} is not there", prepare, "by hand")]
    try:
        expected = [sample.id for sample in load_samples(path).of(*SPLITS_OF[kind])]
    except RecordError as error:
        return path, [finding_of("other run", error, prepare)]
    ids = _ids(store)
    if ids is None or ids == expected or (kind == "probabilities" and sorted(ids) == sorted(expected)):
        return path, []
    different = sorted(set(ids) ^ set(expected))
    where = (
        f"its images are not those of {path}, e.g. {different[0]}"
        if different
        else f"its images are not in the order of {path}"
    )
    stage = STAGE_OF[kind]  # it replaces a store of other images, and keeps maps
    return path, [Finding("other run", where, stage_command(store.path, stage, rerun=stage), "stage")]


def _compare_receipt(store: AnyStore) -> tuple[Path, list[Finding]]:
    path, stage = receipt_of(store), STAGE_OF[store.state["kind"]]
    if not path.is_file():
        if not store.state["complete"]:
            return path, []
        return path, [Finding("receipt", f"{path} is not there", stage_command(store.path, stage), "stage")]
    try:
        facts, name = read_receipt(path, stage), member_of(store.path)
    except RecordError as error:
        return path, [finding_of("receipt", error, stage_command(store.path, stage))]
    made_by = (facts if name is None else facts.get("members", {}).get(name, {})).get("fingerprint", "none")
    if made_by == store.fingerprint:
        return path, []
    where = f"it has the fingerprint {store.fingerprint}, but {path} has {made_by}"
    return path, [Finding("other run", where, remake_command(store.path), "by hand")]


def _compare_origin(store: AnyStore, origin: str, fingerprint: str) -> list[Finding]:
    if store.state[origin] == fingerprint:
        return []
    stage = STAGE_OF[store.state["kind"]]
    where = f"it was made from {origin} {store.state[origin]}, but {FILE_OF[origin]} is now {fingerprint}"
    return [Finding("other run", where, stage_command(store.path, stage, rerun=stage), "by hand")]


def _state_of(path: Path) -> dict[str, str]:
    try:
        return store_state(path)
    except StoreError:  # a check of that store reports it
        return {}
