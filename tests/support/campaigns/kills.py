"""kill -9 at random points of every stage and tool: the next run goes on, and ends with an undisturbed run's bytes."""

import random
import signal
import time
from collections import Counter
from pathlib import Path

from campaigns.outcome import Outcome
from campaigns.scenarios import Bench, Scenario
from contents import differences
from forked import Forked, Moment

COUNT = 100
MAX_KILLS = 3  # of one run of a stage, one after the other
MAX_CHAINS = 4  # times the kills: a stage may end before it is killed


def search(folder: Path, seed: int, count: int, until: str = "report") -> Outcome:
    """Kill stages and tools `count` times, at changes to files or at points in time, and compare what they end with."""
    bench, rng = Bench(folder, until), random.Random(seed)
    kills: Counter[Scenario] = Counter()
    equal: Counter[Scenario] = Counter()
    chains: Counter[Scenario] = Counter()
    failures = []
    scenarios = [*bench.scenarios, *bench.tools()]
    order = rng.sample(scenarios, len(scenarios))
    while kills.total() < count and chains.total() < MAX_CHAINS * count:
        scenario = order[chains.total() % len(order)]
        chains[scenario] += 1
        num = rng.randint(1, min(MAX_KILLS, count - kills.total()))
        moments, ended_well = _play(bench, scenario, rng, num)
        kills[scenario] += len(moments)
        differing = differences(bench.contents(), bench.undisturbed(scenario).contents)
        if ended_well and not differing:
            equal[scenario] += 1
            continue
        failures.append(f"{scenario.stage} ({scenario.start}), killed {moments}: {differing or bench.log.read_text()}")
    rows = [
        (scenario.stage, scenario.start, chains[scenario], kills[scenario], f"{equal[scenario]} of {chains[scenario]}")
        for scenario in scenarios
        if chains[scenario]
    ]
    total = ("all", "", chains.total(), kills.total(), f"{equal.total()} of {chains.total()}")
    return Outcome(("command", "start", "chains", "kills", "ended with equal bytes"), [*rows, total], failures)


def _play(bench: Bench, scenario: Scenario, rng: random.Random, num: int) -> tuple[list[str], bool]:
    """Kill a stage so many times, then run it to its end; returns when it was killed, and whether it ended well."""
    num_changes = bench.undisturbed(scenario).num_changes
    bench.set_up(scenario)
    moments = []
    for _ in range(num):
        words = scenario.words(bench.folder)
        if rng.random() < 0.7:
            change = rng.randint(1, num_changes)
            ended = Forked(words, bench.folder, bench.log, Moment(change, signal.SIGKILL)).wait()
            what = f"before change {change} of {num_changes}"
        else:  # in the middle of code that is not Python's, too
            seconds = rng.uniform(0, 2)
            started = Forked(words, bench.folder, bench.log)
            time.sleep(seconds)
            started.send(signal.SIGKILL)
            ended = started.wait()
            what = f"after {seconds:.2f} s"
        if ended.code != -signal.SIGKILL:
            break
        moments.append(what)
    ended = bench.finish(scenario)
    return moments, ended.code == 0
