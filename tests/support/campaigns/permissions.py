"""Files and folders that the user may not read or write: one line names them, nothing is lost, the next run goes on."""

import os
import random
import re
import signal
import stat
from collections import Counter
from pathlib import Path

from campaigns.outcome import Outcome
from campaigns.scenarios import Bench, Scenario
from contents import differences
from forked import Ended, Forked, Moment

COUNT = 60
MISSING = {"read": 0o444, "write": 0o222, "all": 0o777}  # what is taken from a mode
OF_DATA = 0.3  # of the files and folders are images, masks or their folders, the others those of the run
INTERRUPTED = 0.5  # of the fresh stages were killed before
VARYING = "stamps.json"  # has the times of changes to modes


def search(folder: Path, seed: int, count: int, until: str = "report") -> Outcome:
    """Run each stage in turn without permissions for one file or folder, then with them."""
    bench, rng = Bench(folder, until), random.Random(seed)
    stages = rng.sample(bench.stages, len(bench.stages))
    counts: dict[str, Counter[str]] = {stage: Counter() for stage in bench.stages}
    failures = []
    for number in range(count):
        stage = stages[number % len(stages)]
        scenario = rng.choice([scenario for scenario in bench.scenarios if scenario.stage == stage])
        ended, target, problems = _play(bench, scenario, rng)
        counts[stage] += Counter({"times": 1, "refused": ended.is_refused, "sound": not problems})
        if problems:
            failures.append(f"{scenario.stage} ({scenario.start}), {target}: {problems}\n{ended.text[-2000:]}")
    rows = [(stage, *(counts[stage][name] for name in ("times", "refused", "sound"))) for stage in bench.stages]
    columns = ("command", "times", "refused in one line", "file named, nothing lost, equal bytes at last")
    return Outcome(columns, rows, failures)


def _play(bench: Bench, scenario: Scenario, rng: random.Random) -> tuple[Ended, str, list[str]]:
    """How a stage ended without the permissions, for which file or folder, and what went wrong."""
    expected, num_changes = bench.undisturbed(scenario)
    bench.set_up(scenario)
    words = scenario.words(bench.folder)
    if scenario.start == "fresh" and rng.random() < INTERRUPTED:
        moment = Moment(rng.randint(num_changes // 2, num_changes), signal.SIGKILL)
        Forked(words, bench.folder, bench.log, moment).wait()
    before = bench.contents()
    place = _some_path(bench, rng)
    kind = rng.choice(sorted(MISSING))
    mode = stat.S_IMODE(place.stat().st_mode)
    place.chmod(mode & ~MISSING[kind])
    try:
        ended = Forked(words, bench.folder, bench.log, is_privileged=False).wait()
    finally:
        if place.exists():
            place.chmod(mode)
    after = bench.contents()
    problems = []
    if ended.code == 0:
        problems += [f"other bytes, and no refusal: {found}"] if (found := _differences(after, expected)) else []
    elif not ended.is_refused or not _names(ended.text, place):
        problems.append("not refused in one line that names it")
    left = [name for name in after.keys() - before.keys() if ".part" in name]
    problems += [f"left over: {left}"] if left else []
    done = [name for name in before if before[name] == expected.get(name) and name != f"{scenario.stage}.json"]
    lost = [name for name in done if after.get(name) != before[name]] if scenario.start == "fresh" else []
    problems += [f"lost: {lost}"] if lost else []
    at_last = bench.finish(scenario)
    problems += [f"does not go on: {at_last.text[-2000:]}"] if at_last.code else []
    problems += [f"other bytes: {found}"] if (found := _differences(bench.contents(), expected)) else []
    return ended, f"{place.relative_to(bench.folder)} without permission to {kind}", problems


def _some_path(bench: Bench, rng: random.Random) -> Path:
    """A file or folder of the data or of the run, rather in few folders than in many."""
    root = bench.folder / "data" if rng.random() < OF_DATA else bench.run
    paths = [root, *(path for path in root.rglob("*") if not path.is_symlink())]
    depths = sorted({len(path.parts) for path in paths})
    depth = min(rng.choice(depths), rng.choice(depths))
    return rng.choice(sorted(path for path in paths if len(path.parts) == depth))


def _names(text: str, place: Path) -> bool:
    """Whether the error says that permission is denied for the file or folder, or for one in it."""
    (line,) = (line for line in text.splitlines() if line.startswith("error: "))
    words = re.split(r"[\s:;,()']+", line.replace(".zarr.going", ".zarr"))  # an old store is renamed, then removed
    paths = [Path(word) for word in words if os.sep in word]
    return "ermission denied" in line and any(path.is_relative_to(place) for path in paths)


def _differences(found: dict[str, str], expected: dict[str, str]) -> list[str]:
    return [name for name in differences(found, expected) if name != VARYING]
