"""Bytes that change in a finished run, one at a time: each is refused by who reads the file, or found by a check."""

from pathlib import Path

from campaigns.outcome import Outcome
from campaigns.scenarios import Bench
from flips import missed_by_file
from store_flips import PLACES, flip_bytes

from pipeline.folder import FILE_OF
from pipeline.run_file import load_settings

COUNT = 60


def search(folder: Path, seed: int, count: int, until: str = "report") -> Outcome:
    """Change `count` bytes of each place of each store, and as many bits of every other file that is read again."""
    bench = Bench(folder, until)
    rows: list[tuple[str, int, int]] = []
    failures = []
    for name in FILE_OF.values():
        for place in PLACES:
            flips = flip_bytes(bench.run / name, place, count, seed)
            missed = [flip for flip in flips if not flip.found]
            rows.append((f"{name}, {place}", count, count - len(missed)))
            failures += [f"{flip.file}, byte {flip.offset}: {flip.before} -> {flip.after}" for flip in missed]
    for name, bits in missed_by_file(load_settings(folder / "tiny.yaml"), count, seed).items():
        rows.append((name, count, count - len(bits)))
        failures += [f"{name}, bit {bit}" for bit in bits]
    return Outcome(("file", "changes", "found"), rows, failures)
