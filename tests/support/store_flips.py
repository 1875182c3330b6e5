"""Bytes of a store that are changed one at a time, and the error or finding of each change."""

from pathlib import Path
from typing import NamedTuple

import numpy as np

from pipeline.errors import StoreError
from pipeline.inspect import check_store
from pipeline.store import open_calibration, open_for_inspection, open_labels, open_probabilities

PLACES = ("facts", "metadata", "chunks", "status")
OPEN = {"probabilities": open_probabilities, "calibration": open_calibration, "labels": open_labels}
PROVEN_AT_OPEN = ("facts", "metadata", "status")
STATUS = ("status", "made_by")


class Flip(NamedTuple):
    """A changed byte of a file. found: the error of a reader or the first finding of a check; empty: nothing."""

    file: Path
    offset: int
    before: int
    after: int
    found: str


def flip_bytes(path: Path, place: str, num: int, seed: int) -> list[Flip]:
    """Change a random byte of a finished store to another random value, `num` times, each undone before the next.

    place: one of PLACES. Facts, metadata and status must be refused by a reader that opens the store; the checksum of
    a chunk is read with the chunk, so chunks must be found by `inspect --check`
    """
    rng, kind = np.random.default_rng(seed), open_for_inspection(path).state["kind"]
    places = bytes_of(path, place)
    flips = []
    for chosen in rng.integers(0, len(places), num):
        file, offset = places[chosen]
        content = file.read_bytes()
        after = (content[offset] + int(rng.integers(1, 256))) % 256
        file.write_bytes(content[:offset] + bytes([after]) + content[offset + 1 :])
        try:
            found = refusal(path, kind) if place in PROVEN_AT_OPEN else first_finding(path)
        finally:
            file.write_bytes(content)
        flips.append(Flip(file, offset, content[offset], after, found))
    return flips


def bytes_of(path: Path, place: str) -> list[tuple[Path, int]]:
    """Every byte of a place, as a file and an offset in it."""
    root = path / "zarr.json"
    text = root.read_bytes()
    start = text.index(b'{\n      "kind"')
    facts = range(start, text.index(b"}", text.index(b'"digest"')) + 1)
    if place == "facts":
        return [(root, offset) for offset in facts]
    if place == "metadata":
        own = [(root, offset) for offset in range(len(text)) if offset not in facts]
        return own + _all_bytes(path.glob("*/zarr.json"))
    of_status = {file: file.relative_to(path).parts[0] in STATUS for file in path.glob("*/c/**/*") if file.is_file()}
    return _all_bytes(file for file, is_status in of_status.items() if is_status == (place == "status"))


def _all_bytes(files) -> list[tuple[Path, int]]:
    return [(file, offset) for file in sorted(files) for offset in range(file.stat().st_size)]


def refusal(path: Path, kind: str) -> str:
    """The error of a reader that opens the store; empty if there is none."""
    try:
        OPEN[kind](path)
    except StoreError as error:
        return str(error)
    return ""


def first_finding(path: Path) -> str:
    """The first finding of `inspect --check`, or why it cannot open the store; empty if there is nothing."""
    try:
        findings = check_store(path).findings
    except StoreError as error:
        return str(error)
    return findings[0].where if findings else ""
