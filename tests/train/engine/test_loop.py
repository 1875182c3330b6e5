import itertools
import time

import pytest
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from pipeline.datasets import load_samples
from pipeline.errors import TrainingError
from pipeline.folder import Folder
from train.engine import loop, step
from train.engine.checkpoint import load_checkpoint
from train.engine.state import new_state
from train.machine.device import compute_of
from train.recipe import new_student
from train.stage1 import open_run_labels, stage1, stage_of
from train.students import load_network


def start(settings):
    index = load_samples(settings.folder / "samples.json")
    stage = stage_of(settings, index, open_run_labels(settings))
    student = new_student(settings, compute_of(settings.train))
    return new_state(student, settings.train, settings.data.num_classes), stage


def checkpoint_of(settings):
    return load_checkpoint(Folder(settings.folder).checkpoint("stage1"))


def with_losses_times(stage, factor_of):
    """The stage with the weights of all terms multiplied by a factor that depends on the step."""

    def objective(state, views, step):
        original = stage.objective(state, views, step)
        terms = [term._replace(weight=term.weight * factor_of(step)) for term in original.terms]
        return original._replace(terms=terms)

    return stage._replace(objective=objective)


def test_how_often_losses_are_read_changes_nothing(make_run, monkeypatch):
    settings = make_run()
    seldom = stage1(settings)
    monkeypatch.setattr(loop, "SECONDS_BETWEEN_READS", 0.0)
    assert stage1(settings)["history"] == seldom["history"]


def test_names_the_step_whose_loss_is_not_a_number_and_keeps_the_checkpoint_before(make_run):
    settings = make_run(train={"checkpoint_minutes": 0})
    state, stage = start(settings)
    broken = with_losses_times(stage, lambda step: float("nan") if step == 4 else 1.0)
    with pytest.raises(TrainingError, match=r"the loss of step 5 is nan; .*; lower train\.lr \(now 0\.02\)"):
        loop.train(state, broken, settings.seed, Folder(settings.folder), lambda student: 0.5)
    checkpoint = checkpoint_of(settings)
    assert checkpoint["step"] == 4
    assert all(value.isfinite().all() for value in checkpoint["model"].values())


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB.\nMore"),
        RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes."),
    ],
)
def test_running_out_of_memory_names_the_settings_to_change_and_keeps_the_checkpoint(make_run, error):
    settings = make_run(train={"checkpoint_minutes": 0})
    state, stage = start(settings)

    def objective(state, views, step):
        if step == 3:
            raise error
        return stage.objective(state, views, step)

    with pytest.raises(TrainingError, match=r"ran out of memory \(.*allocate.*\); raise train\.accumulate \(now 1\)"):
        loop.train(state, stage._replace(objective=objective), settings.seed, Folder(settings.folder), lambda _: 0.5)
    assert checkpoint_of(settings)["step"] == 3


def test_a_batch_too_small_for_a_batch_norm_names_the_settings_to_change(make_run):
    settings = make_run()
    state, stage = start(settings)

    def objective(state, views, step):
        return torch.nn.BatchNorm2d(2)(torch.zeros(1, 2, 1, 1))

    with pytest.raises(TrainingError, match=r"stage1: the student's batch norm needs .*lower train\.accumulate"):
        loop.train(state, stage._replace(objective=objective), settings.seed, Folder(settings.folder), lambda _: 0.5)


def test_weights_that_are_not_finite_are_never_saved(make_run):
    settings = make_run()
    state, stage = start(settings)
    folder = Folder(settings.folder)
    loop.save(state, stage, folder, finished=False)
    next(state.student.model.parameters()).data[0] = float("inf")
    with pytest.raises(TrainingError, match="weights after step 0 are not finite"):
        loop.save(state, stage, folder, finished=False)
    assert all(value.isfinite().all() for value in checkpoint_of(settings)["model"].values())


def saves(settings, monkeypatch, scores, seconds_per_step=0.0):
    """Steps of the checkpoints of a stage whose students have these scores, and the seconds between them."""
    state, stage = start(settings)
    steps, times, of_loop = [], [time.monotonic()], loop.save

    def slow(state, views, step):
        time.sleep(seconds_per_step)
        return stage.objective(state, views, step)

    def recorded(state, stage, folder, finished):
        steps.append(state.step)
        times.append(time.monotonic())
        of_loop(state, stage, folder, finished)

    monkeypatch.setattr(loop, "save", recorded)
    points = iter(scores)
    loop.train(state, stage._replace(objective=slow), settings.seed, Folder(settings.folder), lambda _: next(points))
    return steps, [later - sooner for sooner, later in itertools.pairwise(times)]


def test_a_new_best_student_brings_a_checkpoint(make_run, monkeypatch):
    settings = make_run(stage1={"epochs": 4}, train={"validate_every": 1, "checkpoint_minutes": 600.0})  # of 4 steps
    assert saves(settings, monkeypatch, [0.2, 0.1, 0.6, 0.1])[0] == [4, 12]


def test_checkpoints_come_by_time_and_not_sooner(make_run, monkeypatch):
    settings = make_run(train={"checkpoint_minutes": 0.5 / 60, "validate_every": 2})
    seconds = saves(settings, monkeypatch, [0.5], seconds_per_step=0.2)[1]  # 8 steps in at least 1.6 seconds
    assert seconds
    assert min(seconds) >= 0.5


def test_validates_every_so_many_epochs_and_at_the_end(make_run):
    settings = make_run(stage1={"epochs": 5}, train={"validate_every": 2})
    assert [entry["epoch"] for entry in stage1(settings)["history"]] == [2, 4, 5]


def test_a_point_of_the_curve_has_the_mean_loss_since_the_point_before(make_run, monkeypatch):
    settings = make_run(train={"validate_every": 1})
    state, stage = start(settings)
    losses = []

    def recorded(*arguments):
        measures = step.training_step(*arguments)
        losses.append(measures[0])
        return measures

    monkeypatch.setattr(loop, "training_step", recorded)
    loop.train(state, stage, settings.seed, Folder(settings.folder), lambda _: None)
    expected = torch.stack(losses).reshape(2, stage.steps_per_epoch).mean(dim=1).tolist()
    assert [entry["loss"] for entry in state.history] == pytest.approx(expected)
    assert [entry["miou"] for entry in state.history] == [None, None]
    sums = [entry["loss_labeled"] + entry["loss_unlabeled"] for entry in state.history]
    assert sums == pytest.approx(expected)  # pooled: two terms of one mean


def test_the_best_student_is_kept_beside_the_last(make_run):
    settings = make_run(stage1={"epochs": 4}, train={"validate_every": 1})
    state, stage = start(settings)
    scores = iter([0.2, 0.6, 0.6, 0.1])
    at_each_point = []

    def validate(student):
        at_each_point.append({name: value.clone() for name, value in student.model.state_dict().items()})
        return next(scores)

    loop.train(state, stage, settings.seed, Folder(settings.folder), validate)
    assert state.best == {"epoch": 2, "miou": 0.6}  # the first of two that are as good
    best = load_network(settings.folder / "stage1" / "best").state_dict()
    assert all(torch.equal(value, at_each_point[1][name]) for name, value in best.items())
    assert not all(torch.equal(value, at_each_point[3][name]) for name, value in best.items())


def test_a_stage_that_starts_from_the_beginning_removes_the_old_best_student(make_run):
    settings = make_run()
    stage1(settings)
    state, stage = start(settings.model_copy(update={"seed": 1}))
    loop.resume(state, stage, Folder(settings.folder))
    assert not (settings.folder / "stage1" / "best").exists()


def test_warns_when_the_student_stops_predicting_a_class_or_the_loss_jumps(make_run, caplog):
    settings = make_run(stage1={"epochs": 3}, train={"validate_every": 1})
    state, stage = start(settings)

    def validate(student):
        """Count predictions as if they were the labeled classes in the first epoch, and only floor afterwards."""
        state.num_predicted.copy_(state.num_labeled if not state.history else torch.tensor([1, 0, 0]))
        return 0.5

    rising = with_losses_times(stage, lambda step: 50.0 if step >= 2 * stage.steps_per_epoch else 1.0)
    loop.train(state, rising, settings.seed, Folder(settings.folder), validate)
    assert state.history[0]["warnings"] == []
    first, second = state.history[1]["warnings"]
    assert first.startswith("the student predicts square on 0.00 % of the pixels (")
    assert "disc" in second
    (third,) = state.history[2]["warnings"]
    assert third.startswith("the loss has risen to ")
    assert "the loss has risen" in caplog.text


def test_writes_a_tensorboard_log_of_numbers_and_predictions(make_run):
    settings = make_run(train={"validate_every": 1})
    facts = stage1(settings)
    events = EventAccumulator(str(settings.folder / "stage1" / "tensorboard"))
    events.Reload()
    assert {"loss", "loss_labeled", "loss_unlabeled", "lr", "data_wait", "miou"} <= set(events.Tags()["scalars"])
    written = {event.step: event.value for event in events.Scalars("miou")}
    assert events.Tags()["images"] == ["prediction/val_00", "prediction/val_01"]
    assert [(image.width, image.height) for image in events.Images("prediction/val_01")] == [(2 * 72, 56)] * 2
    assert written == pytest.approx({entry["step"]: entry["miou"] for entry in facts["history"]})


def test_dropout_has_another_seed_in_every_step_and_stage():
    seeds = {
        step.step_seed(seed, stage, number) for seed in (0, 1) for stage in ("stage1", "stage2") for number in range(9)
    }
    assert len(seeds) == 36
