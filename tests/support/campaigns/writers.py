"""Two writers at once: one of them is refused, nothing is mixed, and the run can be used afterwards.

pair:    both start at random times
stopped: the first is stopped (SIGSTOP) at a random change that it makes to files, the second starts, the first goes on
"""

import random
import signal
import time
from pathlib import Path
from typing import NamedTuple

from campaigns.outcome import Outcome
from campaigns.scenarios import FINISHED, OTHER, Bench, Scenario
from contents import contents, differences
from forked import Ended, Forked, Moment

COUNT = 50
STOPPED = 4  # one of so many has its first writer stopped
SECONDS_APART = 1.5
FIRST_AFTER_LOCK = 4  # the first changes make the folder of locks, the lock, and its text
READERS = {"calibrate": "pseudolabel", "pseudolabel": "stage1"}
RESULTS = {"prepare": "samples.json", "calibrate": "calibration.zarr/", "pseudolabel": "labels.zarr/"}
ALONE = ("annotate",)  # with other settings it needs another prepare, so that two would have different inputs


class Meeting(NamedTuple):
    """How both ended. was_stopped: whether the first was stopped, or ended before its moment"""

    first: Ended
    second: Ended
    was_stopped: bool


def search(folder: Path, seed: int, count: int, until: str = "report") -> Outcome:
    """Let two writers meet: two of a stage with other settings, or a stage and one that reads its results."""
    bench, rng = Bench(folder, until), random.Random(seed)
    rows, failures, stages = [], [], [stage for stage in OTHER if stage in bench.stages and stage not in ALONE]
    for kind, num in (("pair", count - count // STOPPED), ("stopped", count // STOPPED)):
        refused, sound, usable = 0, 0, 0
        for number in range(num):
            stage = stages[number % len(stages)]
            with_reader = kind == "pair" and READERS.get(stage) in bench.stages and rng.random() < 0.5
            first = Scenario(stage, "other")
            second = Scenario(READERS[stage] if with_reader else stage, "again")
            bench.undisturbed(first), bench.undisturbed(second)
            bench.set_up(first)
            met = _meet(bench, rng, first, second, kind == "stopped")
            problems = [*_badly_ended(met), *_mixed(bench, [(first, met.first), (second, met.second)])]
            refused += met.first.is_refused + met.second.is_refused
            sound += not problems
            again = Scenario(stage, "again")
            is_usable = bench.finish(again).code == 0 and _stage_equals(bench, again)
            usable += is_usable
            if problems or not is_usable:
                failures.append(f"{kind} of {first} and {second}: {problems or 'not usable'}\n{met}")
        rows.append((kind, num, refused, f"{sound} of {num}", f"{usable} of {num}"))
    return Outcome(("meeting", "times", "refused", "sound", "usable afterwards"), rows, failures)


def _meet(bench: Bench, rng: random.Random, first: Scenario, second: Scenario, is_stopped: bool) -> Meeting:
    log = bench.folder / "log of the second"
    if is_stopped:
        after_lock = rng.randint(FIRST_AFTER_LOCK, bench.undisturbed(first).num_changes)
        moment = Moment(after_lock, signal.SIGSTOP)
        one = Forked(first.words(bench.folder), bench.folder, bench.log, moment)
        was_stopped = one.wait_until_stopped()
        other = Forked(second.words(bench.folder), bench.folder, log).wait()
        if was_stopped:
            one.send(signal.SIGCONT)
        return Meeting(one.wait(), other, was_stopped)
    one = Forked(first.words(bench.folder), bench.folder, bench.log)
    time.sleep(rng.uniform(0, SECONDS_APART))
    other = Forked(second.words(bench.folder), bench.folder, log)
    return Meeting(one.wait(), other.wait(), False)


def _badly_ended(met: Meeting) -> list[str]:
    """Neither success nor a refusal in one line; two refusals; a second writer beside a stopped one."""
    ended = (met.first, met.second)
    problems = [f"ended badly: {one}" for one in ended if one.code != 0 and not one.is_refused]
    if all(one.is_refused for one in ended):
        problems.append("both were refused")
    if met.was_stopped and (met.first.code != 0 or not met.second.is_refused):
        problems.append("the second was not refused, or the first did not end well")
    return problems


def _mixed(bench: Bench, writers: list[tuple[Scenario, Ended]]) -> list[str]:
    """Stages whose results are of no writer that succeeded; those that nobody changed must be as they were."""
    problems = []
    for stage in {scenario.stage for scenario, _ in writers}:
        succeeded = [scenario for scenario, ended in writers if scenario.stage == stage and ended.code == 0]
        allowed = [bench.undisturbed(scenario).contents for scenario in succeeded] or [
            contents(bench.states / FINISHED)
        ]
        if all(differences(_of(stage, contents(bench.run)), _of(stage, one)) for one in allowed):
            problems.append(f"{stage} is not as {succeeded or 'before'}")
    return problems


def _stage_equals(bench: Bench, scenario: Scenario) -> bool:
    """Whether what the scenario's stage makes is what it makes undisturbed."""
    expected = bench.undisturbed(scenario).contents
    return not differences(_of(scenario.stage, contents(bench.run)), _of(scenario.stage, expected))


def _of(stage: str, found: dict[str, str]) -> dict[str, str]:
    prefixes = (f"{stage}.json", RESULTS.get(stage, f"{stage}/"))
    return {name: digest for name, digest in found.items() if name.startswith(prefixes)}
