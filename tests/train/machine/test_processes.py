"""Processes that divide every batch end with the weights of one process that computes the whole batch."""

import multiprocessing
import runpy
import socket
from pathlib import Path

import pytest
import torch

from pipeline.errors import TrainingError
from pipeline.run import Run
from train.data import Draw
from train.engine import stage
from train.engine.checkpoint import load_checkpoint
from train.machine.launch import launch, must_launch
from train.machine.processes import World, own_gpu, process_group, world
from train.stage1 import stage1
from train.stage2 import stage2

SCRIPT = Path(__file__).with_name("shared_run.py")
PLUS = {
    "views": 2,
    "cutmix": 0.5,
    "complementary_dropout": True,
    "confidence": "threshold",
    "threshold": 0.4,
    "normaliser": "valid",
    "lambda_schedule": "constant",
}


@pytest.fixture
def settings(make_run):
    return make_run(
        num={"labeled": 3, "unlabeled": 9, "val": 3},
        train={"ema": 0.9, "validate_every": 1},
        stage1={"batch_size": 4, "epochs": 2},
        stage2={"batch_labeled": 2, "batch_unlabeled": 4, "epochs": 1} | PLUS,
    )


def named(settings, name):
    """The same run in another folder, with the files that the stages read."""
    renamed = settings.model_copy(update={"name": name})
    renamed.folder.mkdir()
    for file in ("samples.json", "labels.zarr", "pseudolabel.json"):
        (renamed.folder / file).symlink_to(settings.folder / file)
    return renamed


def run_alone(settings):
    for name, run in (("stage1", stage1), ("stage2", stage2)):
        Run(settings).finish(name, run(settings))


def run_shared(settings, num_processes):
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["train.stage1", "train.stage2"])
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port = listener.getsockname()[1]
    common = {"WORLD_SIZE": str(num_processes), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    processes = []
    for rank in range(num_processes):
        environment = common | {"RANK": str(rank), "LOCAL_RANK": str(rank)}
        arguments = (str(SCRIPT), {"settings": settings, "environment": environment})
        processes.append(context.Process(target=runpy.run_path, args=arguments))
    for process in processes:
        process.start()
    for process in processes:
        process.join(timeout=240)
    assert [process.exitcode for process in processes] == [0] * num_processes


def checkpoints(settings):
    return [load_checkpoint(settings.folder / name / "checkpoint.pt") for name in ("stage1", "stage2")]


def assert_close(one, other):
    assert one["step"] == other["step"] > 0
    weights = [(one["model"], other["model"]), (one["average"]["model"], other["average"]["model"])]
    for model, same in weights:
        for name, value in model.items():
            torch.testing.assert_close(value, same[name], rtol=1e-3, atol=2e-5, msg=lambda m, n=name: f"{n}: {m}")
    for point, same in zip(one["history"], other["history"], strict=True):
        assert point["loss"] == pytest.approx(same["loss"], rel=1e-4)
        assert point["miou"] == pytest.approx(same["miou"], abs=0.005)
        assert (point["confident"] or 0) == pytest.approx(same["confident"] or 0, rel=1e-3)


@pytest.mark.slow
def test_two_processes_give_the_weights_of_one_with_the_same_batch(settings):
    """Including dropout, batch statistics, CutMix and the moving average."""
    alone, shared = named(settings, "alone"), named(settings, "shared")
    run_alone(alone)
    run_shared(shared, 2)
    for one, other in zip(checkpoints(alone), checkpoints(shared), strict=True):
        assert_close(one, other)
    assert checkpoints(shared)[1]["history"][-1]["confident"] > 0


def test_each_process_has_its_own_gpu():
    assert own_gpu("cpu", 1, num_gpus=2) is None
    assert own_gpu("auto", 1, num_gpus=0) is None
    assert own_gpu("auto", 1, num_gpus=2) == torch.device("cuda", 1)
    with pytest.raises(TrainingError, match=r"process 3 finds only 2 CUDA devices .*set train\.processes: 2"):
        own_gpu("cuda", 2, num_gpus=2)
    with pytest.raises(TrainingError, match=r"one GPU for all of train\.processes; set train\.device: auto"):
        own_gpu("cuda:1", 0, num_gpus=2)


def test_micro_batches_give_the_gradients_of_the_whole_batch_except_for_batch_statistics(settings):
    """Only the batch statistics differ, which are those of a micro-batch; so the first loss differs little."""
    whole = named(settings, "whole")
    divided = named(settings, "divided")
    divided = divided.model_copy(update={"train": divided.train.model_copy(update={"accumulate": 2})})
    run_alone(whole)
    run_alone(divided)
    first, second = (checkpoints(run)[0]["history"][0]["loss"] for run in (whole, divided))
    assert first == pytest.approx(second, rel=0.05)
    assert first != second


@pytest.mark.parametrize("accumulate", [1, 2])
def test_every_image_is_in_one_micro_batch_and_each_micro_batch_has_images_of_every_group(
    make_run, monkeypatch, accumulate
):
    groups = [[Draw(0, index) for index in range(4)], [Draw(0, index) for index in range(4, 12)]]
    images = type("Images", (), {"train": make_run(train={"accumulate": accumulate}).train})
    two_groups = stage.Stage("stage", "", 1, 1, images, lambda step: groups, None, None)
    draws = []
    for rank in range(2):
        monkeypatch.setattr(stage, "world", lambda rank=rank: World(rank, 2))
        stage.check_batch(two_groups)
        own = stage.own_draws(two_groups, 0)
        assert {draw.micro_batch for draw in own} == set(range(rank * accumulate, (rank + 1) * accumulate))
        draws += own
    size = 4 // (2 * accumulate)
    for number in range(2 * accumulate):
        is_labeled = [draw.image < 4 for draw in draws if draw.micro_batch == number]
        assert is_labeled == [True] * size + [False] * 2 * size
    assert sorted((draw.position, draw.image) for draw in draws) == [(index, index) for index in range(12)]
    assert [draw.micro_batch for draw in draws] == sorted(draw.micro_batch for draw in draws)


def test_a_batch_that_cannot_be_divided_equally_is_refused(make_run):
    settings = make_run(train={"accumulate": 2}, stage1={"batch_size": 3})
    expected = r"3 images of a batch .* into 2 micro-batches .*accumulate 2\); set the batch sizes"
    with pytest.raises(TrainingError, match=expected):
        stage1(settings)


def test_a_failing_process_ends_all_with_its_exit_code(tmp_path, monkeypatch, capfd):
    (tmp_path / "train.py").write_text("raise SystemExit(3)")  # the working folder is not where processes import from
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    assert must_launch(2)
    assert launch(["stage1", "nowhere"], 2) == 1
    assert "error: no run file nowhere" in capfd.readouterr().err


def test_a_process_that_was_started_by_another_starts_none(monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    assert not must_launch(2)
    monkeypatch.delenv("WORLD_SIZE")
    assert not must_launch(1)
    with process_group("auto") as alone:
        assert alone == world() == World(0, 1)
