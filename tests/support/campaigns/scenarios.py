"""The tiny run that campaigns start from, and what each of its commands makes of it undisturbed."""

import functools
import os
import shutil
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

import forked
from contents import contents
from tiny_run import write_run_file, write_sample_files

from pipeline.datasets import load_samples
from pipeline.experiment.plan import Experiment
from pipeline.experiment.request import parse_request

ROOT = Path(__file__).parents[3]
STAGES = ("prepare", "annotate", "calibrate", "pseudolabel", "stage1", "stage2", "evaluate", "report")
FINISHED = "finished"  # the state of the run when all stages have run
OTHER = {
    "prepare": "data.splits.num_val=3",
    "annotate": "data.splits.num_val=3",  # after prepare with it: one image less has maps
    "calibrate": "alpha=0.3",
    "pseudolabel": "rule=argmax",
    "stage1": "seed=1",
    "stage2": "lambda_start=0.4",
    "evaluate": "num_examples=2",
}
"""Another value of a setting that the stage depends on."""
RUN = "tiny.yaml"
EXPERIMENT = (RUN, "--table", "1", "--arms", "raw", "--seeds", "1", "--protocol", "steps")
TOOLS = {
    "alpha": ("alpha", RUN),
    "gallery": ("gallery", RUN),
    **{f"export {name}": ("export", RUN, "--to", name) for name in ("png", "coco", "ome-zarr", "cvat", "huggingface")},
    "import-masks": ("import-masks", RUN, "drawn"),
    "repair": ("inspect", "results/tiny/labels.zarr", "--repair"),
    "predict": ("predict", "data/images", "results/tiny/predicted", "--student", "results/tiny/stage2/student"),
    "experiment-labels": ("experiment-labels", *EXPERIMENT, "--labels", "{labels}"),
    "experiment-run": ("experiment-run", *EXPERIMENT, "--name", "raw-first-steps", "--seed", "0"),
    "experiment-table": ("experiment-table", *EXPERIMENT),
}
"""Every other command that writes into the run's folder or beside the data -> its words.

They start from the finished run; what they need besides, see `BEFORE`.
"""
TRAIN = {"student": "tiny", "crop": 32, "workers": 0, "total_epochs": 3, "checkpoint_minutes": 0}  # after every step
DAMAGED = "labels.zarr/label/c/1/0/0"


class Scenario(NamedTuple):
    """A stage or a tool, and the state of the run that it starts from.

    start: fresh, only the stages before it have run; again, all have; other, all have, and it is run with `OTHER`
    """

    stage: str
    start: str

    def words(self, folder: Path) -> list[str]:
        if self.stage in TOOLS:
            return [word.format(labels=_labels_name(folder)) for word in TOOLS[self.stage]]
        changed = ["--set", OTHER[self.stage]] if self.start == "other" else []
        return [self.stage, str(folder / RUN), *changed]


BEFORE = {
    Scenario("annotate", "other"): Scenario("prepare", "other"),
    Scenario("repair", "again"): Scenario("pseudolabel", "again"),
    Scenario("experiment-run", "again"): Scenario("experiment-labels", "again"),
    Scenario("experiment-table", "again"): Scenario("experiment-run", "again"),
}
"""Scenario -> the one that ended before it."""


class Undisturbed(NamedTuple):
    """What a scenario ends with, and how many changes to files and seconds it takes."""

    contents: dict[str, str]
    num_changes: int


@functools.cache
def _labels_name(folder: Path) -> str:
    """Name of the labels of the experiment."""
    request = parse_request({"table": "1", "arms": "raw", "seeds": 1, "protocol": "steps"})
    (name,) = Experiment(str(folder / RUN), {}, request).labels
    return name


class Bench:
    """A folder where scenarios are played; `folder/results/tiny` is the run. until: the last of its stages"""

    def __init__(self, folder: Path, until: str):
        self.stages = STAGES[: STAGES.index(until) + 1]
        forked.preload(self.stages)
        os.environ["PYTHONPATH"] = f"{ROOT}{os.pathsep}{ROOT / 'tests/support'}"  # of commands that start others
        self.folder, self.log = folder, folder / "log"
        self.run = folder / "results/tiny"
        self.states = folder / "states"
        write_sample_files(folder / "data", [f"im{i:02d}" for i in range(14)])
        write_run_file(folder, train=TRAIN)
        self.run.mkdir(parents=True)
        for stage in self.stages:
            self._keep(stage)
            self._run_to_its_end(Scenario(stage, "fresh"))
        self._keep(FINISHED)

    @property
    def scenarios(self) -> list[Scenario]:
        """All of the stages."""
        starts = [Scenario(stage, start) for stage in self.stages for start in ("fresh", "again", "other")]
        return [scenario for scenario in starts if scenario.start != "other" or scenario.stage in OTHER]

    def tools(self, names: Iterable[str] = TOOLS) -> list[Scenario]:
        """Those of tools, which need a run with all stages."""
        return [Scenario(name, "again") for name in names] if self.stages == STAGES else []

    def _keep(self, name: str) -> Path:
        shutil.copytree(self.run, self.states / name, symlinks=True)
        return self.states / name

    def _run_to_its_end(self, scenario: Scenario) -> None:
        ended = self.finish(scenario)
        assert ended.code == 0, f"{scenario} failed:\n{ended.text}"

    def set_up(self, scenario: Scenario, where: Path | None = None) -> None:
        """Put the run into the scenario's first state. where: a folder to put it in instead; it must not exist."""
        state = self._state(scenario)
        for path in (self.folder / "data/corrected", self.folder / "drawn", *([] if where else [self.run])):
            shutil.rmtree(path, ignore_errors=True)
        self.folder.joinpath("tiny_corrected.yaml").unlink(missing_ok=True)
        shutil.copytree(state, where or self.run, symlinks=True)
        if scenario.stage == "import-masks":
            self._draw_masks()

    def _state(self, scenario: Scenario) -> Path:
        """The folder with a copy of the run as the scenario finds it."""
        if scenario.start == "fresh":
            return self.states / scenario.stage
        before = BEFORE.get(scenario)
        if before is None:
            return self.states / FINISHED
        name = f"{scenario.stage} {scenario.start}"
        if not (self.states / name).exists():
            self.set_up(before)
            self._run_to_its_end(before)
            if scenario.stage == "repair":
                (self.run / DAMAGED).write_bytes(b"damaged")
            self._keep(name)
        return self.states / name

    def _draw_masks(self) -> None:
        """Masks of two images that have none in the run's sample index."""
        (self.folder / "drawn").mkdir()
        unlabeled = load_samples(self.run / "samples.json").of("unlabeled")
        for sample in unlabeled[:2]:
            shutil.copy(self.folder / f"data/masks/{sample.id}.png", self.folder / "drawn")

    def contents(self, run: Path | None = None) -> dict[str, str]:
        """Path -> digest, of the run and of what commands write beside it. run: the run's folder, if it is another"""
        outside = {path.name: path.read_text() for path in self.folder.glob("tiny_corrected.yaml*")}
        corrected = self.folder / "data/corrected"
        return (
            contents(run or self.run)
            | {f"corrected/{name}": one for name, one in contents(corrected).items()}
            | outside
        )

    @functools.cache  # noqa: B019 - one bench a campaign
    def undisturbed(self, scenario: Scenario) -> Undisturbed:
        self.set_up(scenario)
        num = forked.num_changes(scenario.words(self.folder), self.folder, self.log)
        return Undisturbed(self.contents(), num)

    def finish(self, scenario: Scenario) -> forked.Ended:
        """Run the scenario's command to its end."""
        return forked.run(scenario.words(self.folder), self.folder, self.log)
