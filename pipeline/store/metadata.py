"""The zarr.json files of a store: written and checked as a function of the store's facts, which have a digest.

Nothing of a file is used before it is checked: the facts by their digest, everything else by comparing it with the
bytes that follow from these facts. A repair therefore writes metadata from the facts, never from a copy on disk.
"""

from __future__ import annotations

import functools
import json
import os
import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from pipeline.errors import StoreError, UserError
from pipeline.files import write_text
from pipeline.folder import FILE_OF, STAGE_OF, Folder, member_of, run_folder, stage_command
from pipeline.receipt import fingerprint, read_receipt
from pipeline.store.arrays import LAYOUT, ArraySpec, arrays_of
from pipeline.store.facts import MAX_BYTES, fact_problem

ROOT = "zarr.json"
NAMESPACE = "conformalsam"

Document = dict[str, Any]


class FactsError(StoreError):
    """The facts of a store that are damaged or lost."""


def store_exists(path: Path) -> bool:
    return (path / ROOT).is_file()


def store_state(path: Path) -> dict[str, Any]:
    """Facts of a store: kind, fingerprint, complete, and what its stage recorded; {} if it does not exist.

    raises: FactsError if the facts do not have their digest; StoreError if they cannot be those of a store
    """
    if not store_exists(path):
        return {}
    size = (path / ROOT).stat().st_size
    if size > MAX_BYTES:
        raise _damaged(path, f"it has {size} bytes, expected at most {MAX_BYTES}")
    text = (path / ROOT).read_bytes().decode(errors="replace")
    _, key, facts = text.partition(f'"{NAMESPACE}": ')
    if not key:
        _refuse_foreign(path, text)
    try:
        state, _ = json.JSONDecoder().raw_decode(facts)
        digest = state.pop("digest", None)
        is_undamaged = digest == fingerprint(state)
    except (ValueError, AttributeError, RecursionError) as error:
        raise _damaged(path, one_line(error)) from None
    if digest is None:
        raise StoreError(
            f"{path} was written by an earlier version of conformalsam (its facts have no digest); run "
            f"{remake_command(path)}"
        )
    if not is_undamaged:
        raise _damaged(path, f"its facts do not have the digest {digest}")
    problem = fact_problem(state)
    if problem is not None:
        raise StoreError(
            f"{path / ROOT} is not that of a store of conformalsam ({problem}); take the store from its author again, "
            f"or run {remake_command(path)}"
        )
    return dict(state)


def _refuse_foreign(path: Path, text: str) -> None:
    """FactsError for a damaged zarr.json; StoreError for one of another program or of an array."""
    try:
        document = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise _damaged(path, one_line(error)) from None
    if isinstance(document, dict) and document.get("node_type") == "array":
        raise StoreError(f"{path} is one array of a store; name the store: {path.parent}")
    if '"fingerprint"' in text:
        raise _damaged(path, "facts are missing")
    raise StoreError(
        f"{path} is a Zarr group that conformalsam did not write; rename it: "
        f"mv {shlex.quote(str(path))} {shlex.quote(f'{path}.other')}"
    )


def _damaged(path: Path, why: str) -> FactsError:
    return FactsError(f"{path / ROOT} is damaged ({why}); run {restore_command(path)}")


def recorded_facts(path: Path) -> dict[str, Any] | None:
    """Facts of a finished store in the receipt of its stage; None if there are none. path: as in `remake_command`"""
    stage, name = stage_of(path), member_of(path.resolve())
    try:
        facts = read_receipt(Folder(run_folder(path.resolve())).receipt(stage), stage)
    except UserError:
        return None
    if name is not None:
        facts = facts.get("members", {}).get(name, {})
    return facts.get("store")


def restore_command(path: Path) -> str:
    """Command that fixes a store whose facts are damaged or lost, and keeps its images.

    The facts come from the receipt of the stage or, if it has not finished, from its settings.
    """
    facts = recorded_facts(path)
    if facts is None:
        return without_receipt(path, stage_of(path), stage_command(_owned(path), stage_of(path)))
    return repair_command(path, facts["kind"])


def stage_of(path: Path) -> str:
    """The stage that makes a store, by the name of its folder."""
    return next((STAGE_OF[kind] for kind, name in FILE_OF.items() if name == path.name), "STAGE")


def remake_command(path: Path) -> str:
    """Command that makes a whole store again. path: of the store, or of a link to it"""
    stage, path = stage_of(path), _owned(path)
    return without_receipt(path, stage, f"rm -r {shlex.quote(str(path))} && {stage_command(path, stage)}")


def without_receipt(path: Path, stage: str, command: str) -> str:
    """The command, after one that removes the receipt of the stage, if there is one: with it, the stage is not run.

    path: of the store, or of a link to it
    """
    receipt = _owned(Folder(run_folder(path)).receipt(stage))
    return f"rm {shlex.quote(str(receipt))} && {command}" if receipt.is_file() else command


def repair_command(path: Path, kind: str) -> str:
    """Command that makes the damaged images of a store again, and only those. path: as in `remake_command`"""
    path = _owned(path)
    return f"conformalsam inspect {shlex.quote(str(path))} --repair && {stage_command(path, STAGE_OF[kind])}"


def _owned(path: Path) -> Path:
    """What a link points to (experiments have some), relative to the working folder; any other path itself."""
    return Path(os.path.relpath(path.resolve())) if path.is_symlink() else path


def one_line(error: Exception) -> str:
    """Type and text of an error, without line breaks."""
    return " ".join(f"{type(error).__name__}: {error}".split())


def metadata_files(state: Mapping[str, Any]) -> Mapping[str, str]:
    """Name of an array, or `zarr.json` for the store itself -> text of its zarr.json."""
    return _metadata_files(json.dumps(state), None)


def sharded_metadata_files(state: Mapping[str, Any], size: int) -> Mapping[str, str]:
    """The same of a store with shards. size: images in a shard"""
    return _metadata_files(json.dumps(state), size)


@functools.lru_cache(maxsize=8)  # every task of a stage opens the same stores
def _metadata_files(facts_as_json: str, size: int | None) -> Mapping[str, str]:
    state = json.loads(facts_as_json)
    specs = sorted(arrays_of(state).items())
    documents = {
        name: array_document(spec) if size is None or not spec.has_pixels else sharded_document(spec, size)
        for name, spec in specs
    }
    facts = {**state, "digest": fingerprint(state)}
    root: Document = {"attributes": {NAMESPACE: facts}, "zarr_format": 3}
    if state["complete"]:  # other programs read the arrays of a finished store from here
        root["consolidated_metadata"] = {"kind": "inline", "must_understand": False, "metadata": documents}
    root["node_type"] = "group"
    return {name: _as_text(document) for name, document in {ROOT: root, **documents}.items()}


def array_document(spec: ArraySpec) -> Document:
    """zarr.json of an array, in version 3 of the format. The checksum is the last codec, so it covers all others."""
    is_text = spec.dtype == "string"
    size = 1 if is_text else np.dtype(spec.dtype).itemsize
    endian = {"configuration": {"endian": "little"}} if size > 1 else {}
    cname, level = spec.compression
    blosc = {"typesize": size, "cname": cname, "clevel": level, "shuffle": "shuffle", "blocksize": 0}
    chunk_shape = [max(1, length) for length in spec.chunks]
    return {
        "shape": list(spec.shape),
        "data_type": spec.dtype,
        "chunk_grid": {"name": "regular", "configuration": {"chunk_shape": chunk_shape}},
        "chunk_key_encoding": {"name": "default", "configuration": {"separator": "/"}},
        "fill_value": "NaN" if spec.fill != spec.fill else spec.fill,
        "codecs": [
            {"name": "vlen-utf8", "configuration": {}} if is_text else {"name": "bytes", **endian},
            {"name": "blosc", "configuration": blosc},
            {"name": "crc32c"},
        ],
        "attributes": dict(spec.attributes),
        "dimension_names": list(spec.dims),
        "zarr_format": 3,
        "node_type": "array",
        "storage_transformers": [],
    }


def sharded_document(spec: ArraySpec, size: int) -> Document:
    """zarr.json of an array with pixels whose chunks are in shards. size: images in a shard"""
    document = array_document(spec)
    chunk_grid, axis = document["chunk_grid"]["configuration"], spec.dims.index("sample")
    chunk_shape = chunk_grid["chunk_shape"]
    sharding = {
        "chunk_shape": chunk_shape,
        "codecs": document["codecs"],
        "index_codecs": [{"name": "bytes", "configuration": {"endian": "little"}}, {"name": "crc32c"}],
        "index_location": "end",
    }
    chunk_grid["chunk_shape"] = [*chunk_shape[:axis], size, *chunk_shape[axis + 1 :]]
    document["codecs"] = [{"name": "sharding_indexed", "configuration": sharding}]
    return document


def _as_text(document: Document) -> str:
    return json.dumps(document, indent=2)


def file_of(path: Path, name: str) -> Path:
    """The zarr.json of an array, or of the store itself."""
    return path / ROOT if name == ROOT else path / name / ROOT


def difference(path: Path, name: str, text: str) -> str | None:
    """How a zarr.json differs from the text that it should have; None if it does not."""
    try:
        expected, file = text.encode(), file_of(path, name)
        is_same = file.stat().st_size == len(expected) and file.read_bytes() == expected
    except (FileNotFoundError, NotADirectoryError):
        return f"its {ROOT} is not on disk"
    return None if is_same else f"its {ROOT} does not follow from the facts of the store"


def refuse_other_layout(path: Path, state: Mapping[str, Any], again: str) -> None:
    """StoreError for a store of another version, whose arrays are others than those that follow from its facts.

    A store without a number, which counts as 0, is recognised by the two copies of its metadata, beside each array and
    in the store's own zarr.json: they agree with each other, but not with this version. Damage changes one of them.

    again: command that makes it
    """
    number = state.get("layout")
    if number != LAYOUT and (number is not None or _agrees_only_with_itself(path, state)):
        written = "a later" if number is not None and number > LAYOUT else "an earlier"
        raise StoreError(
            f"{path} was written by {written} version of conformalsam (layout {number or 0}, this is {LAYOUT}); run "
            f"{without_receipt(path, stage_of(path), again)}"
        )


def _agrees_only_with_itself(path: Path, state: Mapping[str, Any]) -> bool:
    if difference(path, ROOT, metadata_files(state)[ROOT]) is None:
        return False
    try:
        recorded = json.loads(file_of(path, ROOT).read_bytes())["consolidated_metadata"]["metadata"]
        expected = {name: array_document(spec) for name, spec in arrays_of(state).items()}
        names = recorded.keys() | expected.keys()
        return any(recorded.get(name) == _document(path, name) != expected.get(name) for name in names)
    except (ValueError, LookupError, TypeError, AttributeError, RecursionError):  # unfinished, or damaged
        return False


def _document(path: Path, name: str) -> Any:
    """Content of an array's zarr.json; None if it is not on disk."""
    file = file_of(path, name)
    return json.loads(file.read_bytes()) if file.is_file() else None


def write_metadata(path: Path, state: Mapping[str, Any]) -> None:
    """Write every zarr.json that differs from what follows from these facts; that of the store itself is the last."""
    files = metadata_files(state)
    for name in (*sorted(files.keys() - {ROOT}), ROOT):
        if difference(path, name, files[name]) is not None:
            write_text(file_of(path, name), files[name])
