"""A disk that is full, or cannot be written: one line says so, nothing is lost or left over, and the next run goes on.

Needs the right to mount a file system: root, or `unshare --user --map-root-user --mount` in front of the command.
"""

import contextlib
import os
import random
import subprocess
from collections.abc import Iterator
from pathlib import Path

import forked
from campaigns.outcome import Outcome
from campaigns.scenarios import Bench, Scenario
from contents import differences

COUNT = 60
READ_ONLY = 4  # one of so many disks is not full, but cannot be written
PAGE = 4096
LARGE = "512m"
TOOLS = ("alpha", "gallery", "export png", "export ome-zarr", "export huggingface")
WITH_COMMANDS = (".html", "provenance.json")  # contain the place of the results


def search(folder: Path, seed: int, count: int, until: str = "report") -> Outcome:
    """Run stages and tools on small disks: with room for a part of what they write, or read-only."""
    bench, rng = Bench(folder, until), random.Random(seed)
    scenarios = [*bench.scenarios, *bench.tools(TOOLS)]
    order = rng.sample(scenarios, len(scenarios))
    rows, failures = [], []
    for kind, num in (("full", count - count // READ_ONLY), ("read-only", count // READ_ONLY)):
        refused, had_room, sound = 0, 0, 0
        for number in range(num):
            scenario = order[number % len(order)]
            ended, problems = _play(bench, scenario, rng, kind)
            refused, had_room, sound = refused + ended.is_refused, had_room + (ended.code == 0), sound + (not problems)
            if problems:
                failures.append(f"{kind}, {scenario.stage} ({scenario.start}): {problems}\n{ended.text[-2000:]}")
        rows.append((kind, num, refused, had_room, f"{sound} of {num}"))
    columns = (
        "disk",
        "times",
        "refused in one line",
        "had room",
        "nothing lost, nothing left over, equal bytes at last",
    )
    return Outcome(columns, rows, failures)


def _play(bench: Bench, scenario: Scenario, rng: random.Random, kind: str) -> tuple[forked.Ended, list[str]]:
    """How a stage ended on such a disk, and what went wrong."""
    expected = bench.undisturbed(scenario).contents
    growth = _size(bench.run)
    bench.set_up(scenario)
    used = _size(bench.run)
    slack = rng.randint(0, max(growth - used, 16 * PAGE))
    with small_disk(bench.folder / "disk") as disk:
        run = disk / "tiny"
        bench.set_up(scenario, run)
        before = bench.contents(run)
        _remount(disk, "ro" if kind == "read-only" else f"size={used + slack}")
        words = [*scenario.words(bench.folder), "--set", f"results={disk}"]
        ended = forked.run(words, bench.folder, bench.log)
        problems = [] if ended.is_refused or (kind == "full" and ended.code == 0) else ["ended badly"]
        left = [str(path) for path in run.rglob("*") if ".part" in path.name]
        problems += [f"left over: {left}"] if left else []
        changed = differences(before, bench.contents(run)) if kind == "read-only" else []
        problems += [f"changed: {changed}"] if changed else []
        _remount(disk, f"rw,size={LARGE}")
        at_last = forked.run(words, bench.folder, bench.folder / "log of the second")
        problems += [f"does not go on: {at_last.text[-2000:]}"] if at_last.code else []
        differing = [name for name in differences(bench.contents(run), expected) if not name.endswith(WITH_COMMANDS)]
        problems += [f"other bytes: {differing}"] if differing else []
    return ended, problems


@contextlib.contextmanager
def small_disk(place: Path) -> Iterator[Path]:
    """An empty file system in memory."""
    place.mkdir(exist_ok=True)
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={LARGE}", "tmpfs", str(place)], check=True)
    try:
        yield place
    finally:
        subprocess.run(["umount", str(place)], check=True)


def _remount(place: Path, options: str) -> None:
    subprocess.run(["mount", "-o", f"remount,{options}", str(place)], check=True)


def _size(folder: Path) -> int:
    """Bytes that a folder takes in such a file system: whole pages, and one for the folder of all."""
    files = (path.stat().st_size for path in folder.rglob("*") if path.is_file() and not os.path.islink(path))
    return PAGE + sum(-(-size // PAGE) * PAGE for size in files)
