"""The training loop of both stages; stages and recipes differ only in the objective that they build from a batch."""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from pipeline.digests import digests_of
from pipeline.files import remove_folder, replacing_folder
from pipeline.folder import Folder
from pipeline.progress import Progress
from pipeline.run import Run
from pipeline.settings import Settings
from train.data import Example, WholeImages, training_batches
from train.engine.board import Board
from train.engine.checkpoint import CheckpointError, load_checkpoint, save_checkpoint
from train.engine.curve import add_to_history, mean_measures, save_if_best
from train.engine.failures import diverged, explained_errors
from train.engine.stage import Stage, check_batch, own_draws
from train.engine.state import TrainingState
from train.engine.step import step_seed, training_step
from train.engine.trackers import TrackedRun, check_trackers, open_trackers
from train.engine.trial import try_training_pass
from train.machine.processes import wait_for_all, world
from train.recipe import has_block
from train.student import Validate
from train.students import num_parameters, save_network

log = logging.getLogger(__name__)

NUM_SHOWN = 2  # val images whose predictions trackers show
SECONDS_BETWEEN_READS = 5.0  # reading a loss waits for the GPU; a NaN is found at most this late


def resume(state: TrainingState, stage: Stage, folder: Folder) -> None:
    """Continue an unfinished run of the same stage from its checkpoint; otherwise start from the beginning.

    On a CPU with the same number of threads, the result is bit-identical to that of an uninterrupted run. On CUDA some
    kernels (the backward pass of bilinear up-sampling) sum in an order that changes from run to run.

    folder: of the run
    """
    path = folder.checkpoint(stage.name)
    try:
        checkpoint = load_checkpoint(path)
    except CheckpointError as error:  # there is no other: only a training from the start gives these weights
        checkpoint = None
        log.warning("%s: starting from the beginning, because %s", stage.name, error)
    if checkpoint is not None and checkpoint["fingerprint"] == stage.fingerprint and not checkpoint["finished"]:
        state.load_weights(checkpoint)
        state.load_progress(checkpoint)
        log.info("%s: resuming at step %d of %d from %s", stage.name, state.step, stage.num_steps, path)
        return
    if checkpoint is not None:
        is_other = checkpoint["fingerprint"] != stage.fingerprint
        reason = "was made by other settings or data" if is_other else "is of a finished run"
        log.info("%s: starting from the beginning; %s %s", stage.name, path, reason)
    wait_for_all()  # every process has read the checkpoint
    if world().is_main:
        for leftover in (folder.best_student(stage.name), folder.tensorboard(stage.name), folder.tracking(stage.name)):
            remove_folder(leftover)


def save(state: TrainingState, stage: Stage, folder: Folder, finished: bool) -> None:
    """Write a checkpoint; raises TrainingError if a weight is NaN or infinite, and keeps the previous checkpoint.

    folder: of the run
    """
    if not world().is_main:
        return
    is_finite = [parameter.detach().isfinite().all() for parameter in state.student.model.parameters()]
    if not torch.stack(is_finite).all():
        raise diverged(stage, f"the weights after step {state.step} are not finite")
    state.tick()
    facts = {"fingerprint": stage.fingerprint, "num_steps": stage.num_steps, "finished": finished}
    save_checkpoint(folder.checkpoint(stage.name), {**facts, **state.weights(), **state.progress()})


def run(state: TrainingState, stage: Stage, settings: Settings, validate: Validate) -> dict[str, Any]:
    """Train a stage to its end, resuming an unfinished run of it; writes its checkpoint, last and best student.

    returns: facts for the receipt
    raises:  TrainingError if a loss is NaN or infinite, memory runs out, or the student cannot be trained on batches of
             this shape; the last good checkpoint is kept
    """
    folder = Folder(settings.folder)
    check_batch(stage)
    check_trackers(settings.train.trackers)
    if stage.num_steps and not has_block(settings, stage.name):  # the block needs logits of real images
        try_training_pass(state.student, stage)
    if world().is_main:
        Run(settings).begin(stage.name)
    resume(state, stage, folder)
    data_wait = train(state, stage, settings.seed, folder, validate)
    if world().is_main:
        with replacing_folder(folder.student(stage.name)) as part:
            save_network(state.final_student.model, part)
    save(state, stage, folder, finished=True)  # last, so that a run that is killed before this line resumes
    files = product_digests(folder, stage.name) if world().is_main else {}
    wait_for_all()
    return _facts(state, stage) | {"data_wait": round(data_wait, 4), "files": files}


def product_digests(folder: Folder, stage: str) -> dict[str, str]:
    """SHA-256 of the checkpoint, the last and the best student, by their paths in the stage's folder."""
    students = (folder.student(stage), folder.best_student(stage))
    files = [path for student in students for path in student.rglob("*") if path.is_file()]
    return digests_of(folder.training(stage), [folder.checkpoint(stage), *files])


def train(state: TrainingState, stage: Stage, seed: int, folder: Folder, validate: Validate) -> float:
    """Optimise from `state.step` to the end of the stage, writing checkpoints on the way (not at the end).

    folder:  of the run
    returns: fraction of the time spent waiting for data
    """
    settings, student = stage.images.train, state.student
    on_gpu = student.compute.device.type == "cuda"
    steps = range(state.step, stage.num_steps)
    batches = TimedBatches(
        training_batches(stage.images, lambda step: own_draws(stage, step), steps, pin_memory=on_gpu)
    )
    board = board_of(state, stage, folder)
    reader = Reader(state, stage, batches, board)
    time_of_last_save = time.monotonic()
    student.model.train()
    with board:
        for batch in batches:
            if state.step % stage.steps_per_epoch == 0:
                stage.before_epoch(state)
            torch.manual_seed(step_seed(seed, stage.name, state.step))
            with explained_errors(stage):
                reader.add(training_step(state, stage, batch))
            ends_epoch = _ends_epoch_to_validate(state.step, stage, settings.validate_every)
            is_due = time.monotonic() - time_of_last_save >= 60 * settings.checkpoint_minutes
            if ends_epoch or is_due or reader.is_due():
                reader.read()
            if ends_epoch:
                add_to_history(state, stage, validate(state.final_student))
                board.numbers({"miou": state.history[-1]["miou"]}, state.step)
                board.predictions(state.final_student, state.step)
                # A new best student is always followed by a checkpoint, so that a resumed run has both or neither.
                is_due = save_if_best(state, stage, folder) or is_due
            if is_due and state.step < stage.num_steps:
                save(state, stage, folder, finished=False)
                time_of_last_save = time.monotonic()
    return reader.data_wait()


def board_of(state: TrainingState, stage: Stage, folder: Folder) -> Board:
    """The board of the steps that are left; only the first process has trackers. folder: of the run"""
    train, trackers = stage.images.train, {}
    if world().is_main and state.step < stage.num_steps:
        config = {"folder": str(folder.path), "num_steps": stage.num_steps, **train.tracked()}
        trackers = open_trackers(train.trackers, TrackedRun(folder, stage.name, state.step, config))
    return Board(trackers, shown_images(stage))


def shown_images(stage: Stage) -> WholeImages:
    """The val images whose predictions trackers show."""
    index = stage.images.index
    return WholeImages(index, index.of("val")[:NUM_SHOWN], stage.images.data)


def _ends_epoch_to_validate(step: int, stage: Stage, validate_every: int) -> bool:
    epoch, rest = divmod(step, stage.steps_per_epoch)
    return rest == 0 and (epoch % validate_every == 0 or epoch == stage.num_epochs)


class TimedBatches:
    """Iterates over batches and measures the time spent waiting for them, in seconds."""

    def __init__(self, batches: Iterator[list[Example]]):
        self.batches = batches
        self.seconds = 0.0

    def __iter__(self) -> Iterator[list[Example]]:
        return self

    def __next__(self) -> list[Example]:
        start = time.monotonic()
        batch = next(self.batches)
        self.seconds += time.monotonic() - start
        return batch


class Reader:
    """Collects the measures of the steps on the device and reads them rarely, because reading waits for the GPU."""

    def __init__(self, state: TrainingState, stage: Stage, batches: TimedBatches, board: Board):
        self.state, self.stage, self.batches, self.board = state, stage, batches, board
        self.pending: list[Tensor] = []
        self.start = self.time_of_last_read = time.monotonic()
        self.progress = Progress(log, stage.name, stage.num_steps, "steps", done=state.step)

    def add(self, measures: Tensor) -> None:
        self.pending.append(measures)

    def is_due(self) -> bool:
        return time.monotonic() - self.time_of_last_read >= SECONDS_BETWEEN_READS

    def data_wait(self) -> float:
        """Fraction of the time since the start that was spent waiting for data."""
        return self.batches.seconds / max(time.monotonic() - self.start, 1e-9)

    def read(self) -> None:
        """Move the pending measures into the state and the log; raises TrainingError if a loss is NaN or infinite."""
        rows, self.pending = torch.stack(self.pending).tolist(), []
        for step, row in enumerate(rows, start=self.state.step - len(rows) + 1):
            if not math.isfinite(row[0]):
                raise diverged(self.stage, f"the loss of step {step} is {row[0]}")
        self.state.measures += rows
        self.time_of_last_read = time.monotonic()
        means = mean_measures(rows, world().size)
        note = f"loss {means['loss']:.4f}, {self.data_wait():.0%} of the time waiting for data"
        self.progress.advance(len(rows), note)
        self.board.numbers(means | self._schedule(), self.state.step)

    def _schedule(self) -> dict[str, float | None]:
        step = self.state.step - 1
        lr = self.stage.images.train.lr * self.stage.lr_factor(step)
        return {"lr": lr, "lambda": self.stage.lambda_of(step), "data_wait": self.data_wait()}


def _facts(state: TrainingState, stage: Stage) -> dict[str, Any]:
    compute, last = state.student.compute, state.history[-1] if state.history else None
    on_gpu = compute.device.type == "cuda"
    return {
        "fingerprint": stage.fingerprint,
        "num_steps": stage.num_steps,
        "num_epochs": stage.num_epochs,
        "seconds": round(state.seconds, 1),
        "history": state.history,
        "final_loss": None if last is None else last["loss"],
        "last": None if last is None else {"epoch": last["epoch"], "miou": last["miou"]},
        "best": state.best,
        "num_parameters": num_parameters(state.student.model),
        "processes": world().size,
        "device": torch.cuda.get_device_name(compute.device) if on_gpu else f"CPU x {torch.get_num_threads()}",
        "precision": str(compute.dtype).removeprefix("torch."),
    }
