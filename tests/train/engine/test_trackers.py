"""Trackers get the numbers of a training; a resumed stage continues its tracked run; no tracker can end a training."""

import json
import sys

import pytest

from pipeline.errors import TrainingError
from pipeline.folder import Folder
from train.engine import loop
from train.stage1 import stage1

TINY = {"labeled": 2, "unlabeled": 2, "val": 1}
WANDB = """
import json, pathlib

class Image:
    def __init__(self, picture):
        self.shape = picture.shape

class Run:
    def log(self, values, step):
        write(values={name: getattr(value, "shape", value) for name, value in values.items()}, step=step)
        if step == FAILS_AT:
            raise ConnectionError("the server is away")

    def finish(self, exit_code):
        write(exit_code=exit_code)

FAILS_AT = None

def init(**arguments):
    write(**arguments)
    return Run()

def write(**entry):
    with pathlib.Path(__file__).with_name("wandb.log").open("a") as lines:
        print(json.dumps(entry, default=str), file=lines)
"""  # the calls that we make of wandb, with the signatures of wandb 0.31


@pytest.fixture
def calls(tmp_path, monkeypatch):
    """The calls of a package wandb that records them, since the last time this was called."""
    (tmp_path / "wandb.py").write_text(WANDB)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "wandb", raising=False)

    def recorded():
        path = tmp_path / "wandb.log"
        entries = [json.loads(line) for line in path.read_text().splitlines()]
        path.unlink()
        return entries

    yield recorded
    sys.modules.pop("wandb", None)


class Killed(Exception):
    """In place of a signal."""


def kill_at(step, monkeypatch):
    """A training is killed after a step; returns how to undo that."""
    original = loop.training_step

    def training_step(state, *others):
        if state.step == step:
            raise Killed
        return original(state, *others)

    monkeypatch.setattr(loop, "training_step", training_step)
    return lambda: monkeypatch.setattr(loop, "training_step", original)


def test_a_resumed_stage_continues_its_tracked_run_and_a_repeated_one_starts_another(make_run, calls, monkeypatch):
    trackers = {"trackers": ["tensorboard", "wandb"], "checkpoint_minutes": 0, "validate_every": 1}
    settings = make_run(TINY, train=trackers)
    revive = kill_at(3, monkeypatch)
    with pytest.raises(Killed):
        stage1(settings)
    revive()
    (begun, *killed), (facts, continued) = calls(), (stage1(settings), calls())
    assert begun["project"] == "conformalsam"
    assert begun["name"] == f"run-stage1-{begun['id']}"
    assert begun["dir"] == str(settings.folder / "stage1" / "tracking")
    assert (begun["config"]["num_steps"], begun["config"]["lr"]) == (facts["num_steps"], 0.02)
    assert {entry["step"] for entry in killed[:-1]} == {1, 2, 3}
    assert killed[-1] == {"exit_code": 1}
    assert continued[0] == begun
    assert {entry["step"] for entry in continued[1:-1]} == set(range(4, facts["num_steps"] + 1))
    assert continued[-1] == {"exit_code": 0}
    points = [entry for entry in killed + continued if "miou" in entry.get("values", {})]
    assert [(entry["step"], entry["values"]["miou"]) for entry in points] == [
        (point["step"], point["miou"]) for point in facts["history"]
    ]
    assert {"loss", "loss_labeled", "lr", "data_wait"} <= set(continued[1]["values"])
    assert continued[-2]["values"] == {"prediction/val_00": [64, 128, 3]}
    stage1(settings)
    assert calls()[0]["id"] != begun["id"]


def test_a_tracker_that_fails_does_not_end_the_training(make_run, calls, caplog, monkeypatch):
    import wandb

    monkeypatch.setattr(wandb, "FAILS_AT", 2)
    settings = make_run(TINY, train={"trackers": ["wandb"], "validate_every": 1})
    assert len(stage1(settings)["history"]) == 2
    assert "wandb shows no more of this training: the server is away" in caplog.text
    assert calls()[-1]["step"] == 2
    assert not Folder(settings.folder).tensorboard("stage1").exists()


def test_a_tracker_that_cannot_begin_is_an_error(make_run, calls, monkeypatch):
    import wandb

    monkeypatch.setattr(wandb, "init", None)
    with pytest.raises(
        TrainingError, match=r"wandb of train\.trackers cannot begin \('NoneType'.*; set it up as docs/training\.md"
    ):
        stage1(make_run(TINY, train={"trackers": ["wandb"]}))


def test_a_package_that_is_not_installed_is_an_error_before_anything_changes(make_run, monkeypatch):
    settings = make_run(TINY, train={"trackers": ["tensorboard", "mlflow", "trackio"]})
    monkeypatch.setattr("train.engine.trackers.find_spec", lambda name: name == "tensorboard" or None)
    with pytest.raises(TrainingError, match=r"names mlflow, trackio, .*; run pip install mlflow trackio, or remove"):
        stage1(settings)
    assert not Folder(settings.folder).training("stage1").exists()


# --- the packages themselves, where they are installed ---------------------------------------------------------------


def killed_and_resumed(make_run, tracker, monkeypatch):
    """Facts of a stage that was killed after 2 of its steps and resumed, with a tracker; and the name of its run."""
    train = {"trackers": [tracker], "checkpoint_minutes": 0, "validate_every": 1}
    settings = make_run(TINY, train=train)
    revive = kill_at(3, monkeypatch)
    with pytest.raises(Killed):
        stage1(settings)
    revive()
    facts = stage1(settings)
    return facts, f"run-stage1-{(settings.folder / 'stage1/tracking/id').read_text()}"


@pytest.mark.slow
def test_mlflow_has_one_run_with_every_step(make_run, tmp_path, monkeypatch):
    mlflow = pytest.importorskip("mlflow")
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    mlflow.set_tracking_uri((tmp_path / "mlruns").as_uri())
    facts, name = killed_and_resumed(make_run, "mlflow", monkeypatch)
    (run,) = mlflow.search_runs(experiment_names=["conformalsam"], output_format="list")
    assert (run.info.run_name, run.info.status, run.data.params["lr"]) == (name, "FINISHED", "0.02")
    history = mlflow.MlflowClient().get_metric_history(run.info.run_id, "miou")
    assert [(one.step, one.value) for one in history] == [(point["step"], point["miou"]) for point in facts["history"]]


@pytest.mark.slow
def test_trackio_has_one_run_with_every_step(make_run, tmp_path, monkeypatch):
    monkeypatch.setenv("TRACKIO_DIR", str(tmp_path / "trackio"))
    trackio = pytest.importorskip("trackio")
    facts, name = killed_and_resumed(make_run, "trackio", monkeypatch)
    (run,) = trackio.Api().runs("conformalsam")
    assert (run.name, run.config["lr"]) == (name, 0.02)
    rows = trackio.sqlite_storage.SQLiteStorage.get_logs("conformalsam", name)
    shown = [(row["step"], row["miou"]) for row in rows if "miou" in row]
    assert shown == [(point["step"], point["miou"]) for point in facts["history"]]


@pytest.mark.slow
def test_wandb_offline_keeps_both_halves_under_one_id(make_run, tmp_path, monkeypatch):
    pytest.importorskip("wandb")
    monkeypatch.setenv("WANDB_MODE", "offline")
    facts, name = killed_and_resumed(make_run, "wandb", monkeypatch)
    halves = sorted((tmp_path / "run/stage1/tracking/wandb").glob(f"offline-run-*-{name[-8:]}"))
    assert len(halves) == 2
    pictures = [
        path.stem.split("_")[2] for half in halves for path in (half / "files/media/images/prediction").iterdir()
    ]
    assert pictures == [str(point["step"]) for point in facts["history"]]
