"""The tiny run that campaigns start from, and what each stage makes of it undisturbed."""

import functools
import shutil
from pathlib import Path
from typing import NamedTuple

import forked
from contents import contents
from tiny_run import write_run_file, write_sample_files

STAGES = ("prepare", "annotate", "calibrate", "pseudolabel", "stage1", "stage2", "evaluate", "report")
FINISHED = "finished"  # the state of the run when all stages have run
OTHER = {
    "calibrate": "alpha=0.3",
    "pseudolabel": "rule=argmax",
    "stage1": "seed=1",
    "stage2": "lambda_start=0.4",
    "evaluate": "num_examples=2",
}
"""Another value of a setting that the stage itself depends on, and none before it."""


class Scenario(NamedTuple):
    """A stage, and the state of the run that it starts from.

    start: fresh, only the stages before it have run; again, all have; other, all have, and it is run with `OTHER`
    """

    stage: str
    start: str

    def words(self, folder: Path) -> list[str]:
        changed = ["--set", OTHER[self.stage]] if self.start == "other" else []
        return [self.stage, str(folder / "tiny.yaml"), *changed]


class Undisturbed(NamedTuple):
    """What a scenario ends with, and how many changes to files and seconds it takes."""

    contents: dict[str, str]
    num_changes: int


class Bench:
    """A folder where scenarios are played; `folder/results/tiny` is the run. until: the last of its stages"""

    def __init__(self, folder: Path, until: str):
        self.stages = STAGES[: STAGES.index(until) + 1]
        forked.preload(self.stages)
        self.folder, self.log = folder, folder / "log"
        self.run = folder / "results/tiny"
        self.states = folder / "states"
        write_sample_files(folder / "data", [f"im{i:02d}" for i in range(14)])
        write_run_file(folder)
        self.run.mkdir(parents=True)
        for stage in self.stages:
            self._keep(stage)
            ended = forked.run(Scenario(stage, "fresh").words(folder), folder, self.log)
            assert ended.code == 0, f"{stage} failed:\n{ended.text}"
        self._keep(FINISHED)

    @property
    def scenarios(self) -> list[Scenario]:
        starts = [Scenario(stage, start) for stage in self.stages for start in ("fresh", "again", "other")]
        return [scenario for scenario in starts if scenario.start != "other" or scenario.stage in OTHER]

    def _keep(self, name: str) -> None:
        shutil.copytree(self.run, self.states / name)

    def set_up(self, scenario: Scenario, where: Path | None = None) -> None:
        """Put the run into the scenario's first state. where: a folder to put it in instead; it must not exist."""
        if where is None:
            shutil.rmtree(self.run)
        state = scenario.stage if scenario.start == "fresh" else FINISHED
        shutil.copytree(self.states / state, where or self.run)

    @functools.cache  # noqa: B019 - one bench a campaign
    def undisturbed(self, scenario: Scenario) -> Undisturbed:
        self.set_up(scenario)
        num = forked.num_changes(scenario.words(self.folder), self.folder, self.log)
        return Undisturbed(contents(self.run), num)

    def finish(self, scenario: Scenario) -> forked.Ended:
        """Run the scenario's command to its end."""
        return forked.run(scenario.words(self.folder), self.folder, self.log)
