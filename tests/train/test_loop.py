import pytest
import torch

from pipeline.datasets import load_samples
from pipeline.errors import TrainingError
from train import loop
from train.checkpoint import load_checkpoint
from train.compute import compute_of
from train.stage1 import open_run_labels, pooled_loss, stage1, stage_of
from train.student import Student, new_model


def start(settings):
    index = load_samples(settings.folder / "samples.json")
    stage = stage_of(settings, index, open_run_labels(settings, index))
    student = Student(new_model(settings.train, settings.data.class_names, settings.seed), compute_of(settings.train))
    return loop.new_state(student, settings.train), stage


def test_how_often_losses_are_read_changes_nothing(make_run, monkeypatch):
    settings = make_run(train={"checkpoint_every": 100})
    seldom = stage1(settings)
    monkeypatch.setattr(loop, "SECONDS_BETWEEN_READS", 0.0)
    assert stage1(settings)["history"] == seldom["history"]


def test_names_the_step_whose_loss_is_not_a_number_and_keeps_the_checkpoint_before(make_run):
    settings = make_run(train={"checkpoint_every": 2})
    state, stage = start(settings)

    def loss(student, images, targets, step):
        return pooled_loss(student, images, targets, step) * (float("nan") if step == 4 else 1.0)

    path = settings.folder / "stage1" / "checkpoint.pt"
    with pytest.raises(TrainingError, match=r"the loss of step 5 is nan; lower train\.lr \(now 0\.02\)"):
        loop.train(state, stage._replace(loss=loss), settings.seed, path, lambda student: 0.5)
    checkpoint = load_checkpoint(path)
    assert checkpoint["step"] == 4
    assert all(value.isfinite().all() for value in checkpoint["model"].values())


def test_weights_that_are_not_finite_are_never_saved(make_run):
    settings = make_run()
    state, stage = start(settings)
    path = settings.folder / "stage1" / "checkpoint.pt"
    loop.save(state, stage, path, finished=False)
    next(state.student.model.parameters()).data[0] = float("inf")
    with pytest.raises(TrainingError, match="weights after step 0 are not finite"):
        loop.save(state, stage, path, finished=False)
    assert all(value.isfinite().all() for value in load_checkpoint(path)["model"].values())


def test_validates_every_so_many_epochs_and_at_the_end(make_run):
    settings = make_run(stage1={"epochs": 5}, train={"validate_every": 2})
    assert [entry["epoch"] for entry in stage1(settings)["history"]] == [2, 4, 5]


def test_a_point_of_the_curve_has_the_mean_loss_since_the_point_before(make_run):
    settings = make_run(train={"validate_every": 1})
    state, stage = start(settings)
    losses = []

    def recorded(student, images, targets, step):
        losses.append(pooled_loss(student, images, targets, step))
        return losses[-1]

    loop.train(state, stage._replace(loss=recorded), settings.seed, settings.folder / "checkpoint.pt", lambda _: None)
    expected = torch.stack(losses).reshape(2, stage.steps_per_epoch).mean(dim=1).tolist()
    assert [entry["loss"] for entry in state.history] == pytest.approx(expected)
    assert [entry["miou"] for entry in state.history] == [None, None]


def test_dropout_draws_anew_every_step_and_in_every_stage():
    seeds = {
        loop.step_seed(seed, stage, step) for seed in (0, 1) for stage in ("stage1", "stage2") for step in range(9)
    }
    assert len(seeds) == 36
