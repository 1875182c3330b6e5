"""Trackers show a training while it runs: TensorBoard, Weights & Biases, trackio, MLflow. Chosen ones are imported.

A stage that starts from the beginning is a new tracked run; one that resumes continues its own.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable, Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import numpy as np
import numpy.typing as npt

from pipeline.errors import TrainingError, first_line
from pipeline.files import write_text
from pipeline.folder import Folder

PROJECT = "conformalsam"


class TrackedRun(NamedTuple):
    """A stage of a run, as trackers name it."""

    folder: Folder
    """Of the run."""
    stage: str
    step: int
    """First step of this process: 0, or the step at which it resumes."""
    config: Mapping[str, Any]
    """Settings that are shown beside the numbers."""

    @property
    def files(self) -> Path:
        """Folder of the id, and of what trackers keep on this machine; a start from the beginning removes it."""
        return self.folder.tracking(self.stage)

    @property
    def id(self) -> str:
        """8 hex digits, drawn when the stage starts from the beginning and kept in the run's folder."""
        path = self.files / "id"
        if not path.is_file():
            write_text(path, secrets.token_hex(4))
        return path.read_text()

    @property
    def name(self) -> str:
        """Name for people, and for trackers that know a run by its name."""
        return f"{self.folder.path.name}-{self.stage}-{self.id}"


class Tracker(Protocol):
    """Shows numbers and pictures of a training. The constructor begins or continues a `TrackedRun`."""

    def numbers(self, values: Mapping[str, float], step: int) -> None:
        """Show numbers by name."""

    def picture(self, name: str, picture: npt.NDArray[np.uint8], step: int) -> None:
        """Show a picture, uint8 [H, W, 3] RGB."""

    def close(self, has_failed: bool) -> None:
        """Write what is left. has_failed: whether the training ended with an error"""


class TensorBoard:
    """Entries that a killed process wrote for steps after its last checkpoint are hidden."""

    def __init__(self, run: TrackedRun):
        from torch.utils.tensorboard import SummaryWriter

        self.writer = SummaryWriter(str(run.folder.tensorboard(run.stage)), purge_step=run.step)

    def numbers(self, values: Mapping[str, float], step: int) -> None:
        for name, value in values.items():
            self.writer.add_scalar(name, value, step)

    def picture(self, name: str, picture: npt.NDArray[np.uint8], step: int) -> None:
        self.writer.add_image(name, picture, step, dataformats="HWC")

    def close(self, has_failed: bool) -> None:
        self.writer.close()


class Wandb:
    """Weights & Biases keeps the first numbers that it gets for a step."""

    def __init__(self, run: TrackedRun):
        import wandb

        self.image = wandb.Image
        self.run = wandb.init(
            project=PROJECT, id=run.id, name=run.name, dir=run.files, config=dict(run.config), resume="allow"
        )

    def numbers(self, values: Mapping[str, float], step: int) -> None:
        self.run.log(dict(values), step=step)

    def picture(self, name: str, picture: npt.NDArray[np.uint8], step: int) -> None:
        self.run.log({name: self.image(picture)}, step=step)

    def close(self, has_failed: bool) -> None:
        self.run.finish(exit_code=int(has_failed))


class Trackio:
    """trackio knows a run by its name."""

    def __init__(self, run: TrackedRun):
        import trackio

        self.image = trackio.Image
        self.run = trackio.init(project=PROJECT, name=run.name, config=dict(run.config), resume="allow", embed=False)

    def numbers(self, values: Mapping[str, float], step: int) -> None:
        self.run.log(dict(values), step=step)

    def picture(self, name: str, picture: npt.NDArray[np.uint8], step: int) -> None:
        self.run.log({name: self.image(picture)}, step=step)

    def close(self, has_failed: bool) -> None:
        self.run.finish()


class Mlflow:
    """MLflow's server draws the ids of its runs, so a run is found by our id in a tag."""

    def __init__(self, run: TrackedRun):
        import mlflow

        self.mlflow = mlflow
        mlflow.set_experiment(PROJECT)
        found = mlflow.search_runs(filter_string=f"tags.training = '{run.id}'", output_format="list")
        if found:
            mlflow.start_run(run_id=found[0].info.run_id)
        else:
            mlflow.start_run(run_name=run.name, tags={"training": run.id})
            mlflow.log_params(dict(run.config))

    def numbers(self, values: Mapping[str, float], step: int) -> None:
        self.mlflow.log_metrics(dict(values), step=step)

    def picture(self, name: str, picture: npt.NDArray[np.uint8], step: int) -> None:
        self.mlflow.log_image(picture, key=name, step=step)

    def close(self, has_failed: bool) -> None:
        self.mlflow.end_run("FAILED" if has_failed else "FINISHED")


TRACKERS: Mapping[str, Callable[[TrackedRun], Tracker]] = {
    "tensorboard": TensorBoard,
    "wandb": Wandb,
    "trackio": Trackio,
    "mlflow": Mlflow,
}
"""By name of the package, the values of `train.trackers`."""


def check_trackers(names: Sequence[str]) -> None:
    """Raise TrainingError if the package of a tracker is not installed."""
    missing = [name for name in names if find_spec(name) is None]
    if missing:
        raise TrainingError(
            f"train.trackers names {', '.join(missing)}, not installed here; run pip install {' '.join(missing)}, or "
            f"remove {'them' if len(missing) > 1 else 'it'} from train.trackers"
        )


def open_trackers(names: Sequence[str], run: TrackedRun) -> dict[str, Tracker]:
    """The trackers by name; TrainingError if one of them cannot begin, e.g. because nobody is logged in."""
    trackers: dict[str, Tracker] = {}
    for name in names:
        try:
            trackers[name] = TRACKERS[name](run)
        except Exception as error:  # of a foreign package and its server, which may raise anything
            raise TrainingError(
                f"{name} of train.trackers cannot begin ({first_line(error)}); set it up as docs/training.md says "
                "under Trackers, or remove it from train.trackers"
            ) from error
    return trackers
