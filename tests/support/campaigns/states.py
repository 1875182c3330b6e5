"""Anything that may happen to a run, in any order: commands, changes, kills, a full disk, damage and a clock."""

import functools
import os
from collections import Counter
from pathlib import Path

import forked
import hypothesis
from campaigns.outcome import Outcome
from driven_run import ALL_STAGES
from hypothesis.stateful import run_state_machine_as_test
from run_model import RunMachine
from undisturbed import Oracle

COUNT = 100
STEPS = 25  # of a run, at most
ROOT = Path(__file__).parents[3]


def search(folder: Path, seed: int, count: int, until: str = "pseudolabel") -> Outcome:
    """Play `count` runs of up to STEPS steps each, until one breaks a promise."""
    steps, failures = play(folder, count, STEPS, seed)
    rows = [*steps.most_common(), ("all", steps.total())]
    return Outcome(("step", "times"), rows, failures)


def play(folder: Path, count: int, num_steps: int, seed: int) -> tuple[Counter[str], list[str]]:
    """How often each step was done, and the first failure with the steps that led to it."""
    forked.preload(ALL_STAGES)
    os.environ["PYTHONPATH"] = f"{ROOT}{os.pathsep}{ROOT / 'tests/support'}"
    steps: Counter[str] = Counter()
    machine = hypothesis.seed(seed)(
        functools.partial(RunMachine, folder / "run", Oracle(folder / "undisturbed"), steps)
    )
    how = hypothesis.settings(
        max_examples=count,
        stateful_step_count=num_steps,
        derandomize=False,
        database=None,
        report_multiple_bugs=False,
        deadline=None,
        suppress_health_check=list(hypothesis.HealthCheck),
    )
    try:
        run_state_machine_as_test(machine, settings=how)
    except AssertionError as error:
        return steps, ["\n".join([str(error), *getattr(error, "__notes__", [])])]
    return steps, []
