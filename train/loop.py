"""The one training loop; Stage I and Stage II differ in where the loss of a step comes from."""

from __future__ import annotations

import logging
import math
import random
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from pipeline.config import Settings, TrainSettings
from pipeline.errors import TrainingError
from pipeline.progress import Progress
from train.checkpoint import load_checkpoint, save_checkpoint
from train.data import Draw, TrainingImages, training_batches
from train.student import Student, num_parameters, parameter_groups, save_model

log = logging.getLogger(__name__)

SECONDS_BETWEEN_READS = 5.0  # reading a loss waits for the GPU; NaN is noticed at most this late

Validate = Callable[[Student], float | None]
"""mIoU of the student on the val images; None if their masks hold no class."""


class Stage(NamedTuple):
    """What one stage is made of."""

    name: str
    fingerprint: str
    """Changes with everything that changes the weights; a checkpoint of another fingerprint is not resumed."""
    num_epochs: int
    steps_per_epoch: int
    images: TrainingImages
    draws: Callable[[int], list[Draw]]
    """Step -> its batch."""
    loss: Callable[[Student, Tensor, Tensor, int], Tensor]
    """(student, images uint8 [B, 3, H, W], targets uint8 [B, H, W], step) -> float32 []."""
    lr_factor: Callable[[int], float]
    """Step -> what the initial learning rates are multiplied by."""

    @property
    def num_steps(self) -> int:
        return self.num_epochs * self.steps_per_epoch


@dataclass
class TrainingState:
    """Everything that a step changes."""

    student: Student
    optimizer: torch.optim.SGD
    scaler: torch.amp.GradScaler
    step: int = 0
    seconds: float = 0.0
    losses: list[float] = field(default_factory=list)
    """Of the steps since the last entry of the history."""
    history: list[dict[str, Any]] = field(default_factory=list)
    """Points of the learning curve: epoch, step, loss (mean since the point before), miou."""
    time_of_last_tick: float = field(default_factory=time.monotonic)

    def tick(self) -> None:
        """Count the seconds since the last tick as training."""
        now = time.monotonic()
        self.seconds += now - self.time_of_last_tick
        self.time_of_last_tick = now

    def weights(self) -> dict[str, Any]:
        """What Stage II goes on with: weights and momentum."""
        return {
            "model": self.student.model.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "scaler": self.scaler.state_dict(),
        }

    def load_weights(self, content: dict[str, Any]) -> None:
        self.student.model.load_state_dict(content["model"])
        self.optimizer.load_state_dict(content["optimizer"])
        if content["scaler"]:  # empty unless it was float16 that wrote it
            self.scaler.load_state_dict(content["scaler"])

    def progress(self) -> dict[str, Any]:
        """Where in the stage this is."""
        names = ("step", "seconds", "losses", "history")
        return {name: getattr(self, name) for name in names}

    def load_progress(self, content: dict[str, Any]) -> None:
        for name in self.progress():
            setattr(self, name, content[name])


def new_state(student: Student, settings: TrainSettings) -> TrainingState:
    """Step 0 with SGD, two learning rates, and loss scaling if the precision is float16."""
    optimizer = torch.optim.SGD(
        parameter_groups(student.model, settings.lr, settings.head_lr_multiplier),
        lr=settings.lr,
        momentum=settings.momentum,
        weight_decay=settings.weight_decay,
    )
    compute = student.compute
    scaler = torch.amp.GradScaler(compute.device.type, enabled=compute.dtype == torch.float16)
    return TrainingState(student, optimizer, scaler)


def resume(state: TrainingState, stage: Stage, path: Path) -> None:
    """Go on where an unfinished run of the same stage was stopped; otherwise leave the state as it is. Logs which.

    On a CPU with the same number of threads the result has the same bits as that of an undisturbed run; on CUDA some
    kernels (backward of bilinear up-sampling) sum in an order that changes from run to run.
    """
    checkpoint = load_checkpoint(path)
    if checkpoint is None:
        return
    if checkpoint["fingerprint"] != stage.fingerprint:
        log.info("%s: starting afresh; %s was made by other settings or data", stage.name, path)
    elif checkpoint["finished"]:
        log.info("%s: starting afresh; %s is of a finished run", stage.name, path)
    else:
        state.load_weights(checkpoint)
        state.load_progress(checkpoint)
        log.info("%s: resuming at step %d of %d from %s", stage.name, state.step, stage.num_steps, path)


def save(state: TrainingState, stage: Stage, path: Path, finished: bool) -> None:
    """Write a checkpoint of a sound state; TrainingError instead of overwriting it with NaN."""
    weights = [parameter.detach().isfinite().all() for parameter in state.student.model.parameters()]
    if not torch.stack(weights).all():
        raise _diverged(stage, f"the weights after step {state.step} are not finite")
    state.tick()
    facts = {"fingerprint": stage.fingerprint, "num_steps": stage.num_steps, "finished": finished}
    save_checkpoint(path, {**facts, **state.weights(), **state.progress()})


def run(state: TrainingState, stage: Stage, settings: Settings, validate: Validate) -> dict[str, Any]:
    """Train a stage to its end, resuming an unfinished run of it; writes its checkpoint and student.

    returns: facts for the receipt
    raises:  TrainingError when a loss is NaN or infinite; the last good checkpoint is kept
    """
    folder = settings.folder / stage.name
    path = folder / "checkpoint.pt"
    resume(state, stage, path)
    (settings.folder / f"{stage.name}.json").unlink(missing_ok=True)  # from here on it would tell of other weights
    train(state, stage, settings.seed, path, validate)
    save_model(state.student.model, folder / "student")
    save(state, stage, path, finished=True)  # last: a run that is killed before is unfinished and resumes
    return _facts(state, stage)


def _facts(state: TrainingState, stage: Stage) -> dict[str, Any]:
    compute = state.student.compute
    on_gpu = compute.device.type == "cuda"
    return {
        "fingerprint": stage.fingerprint,
        "num_steps": stage.num_steps,
        "num_epochs": stage.num_epochs,
        "seconds": round(state.seconds, 1),
        "history": state.history,
        "final_loss": state.history[-1]["loss"] if state.history else None,
        "num_parameters": num_parameters(state.student.model),
        "device": torch.cuda.get_device_name(compute.device) if on_gpu else f"CPU x {torch.get_num_threads()}",
        "precision": str(compute.dtype).removeprefix("torch."),
    }


def train(state: TrainingState, stage: Stage, seed: int, path: Path, validate: Validate) -> None:
    """Optimise from `state.step` to the end of the stage, with checkpoints in `path` on the way (not at the end)."""
    settings, student = stage.images.train, state.student
    steps = range(state.step, stage.num_steps)
    on_gpu = student.compute.device.type == "cuda"
    batches = TimedBatches(training_batches(stage.images, stage.draws, steps, pin_memory=on_gpu))
    losses = LossReader(state, stage, batches)
    student.model.train()
    for images, targets in batches:
        torch.manual_seed(step_seed(seed, stage.name, state.step))
        losses.add(optimise(state, stage, images, targets))
        ends_epoch = _ends_epoch_to_validate(state.step, stage, settings.validate_every)
        is_due = ends_epoch or state.step % settings.checkpoint_every == 0
        if is_due or losses.are_due():
            losses.read()
        if ends_epoch:
            _add_to_history(state, stage, validate(student))
        if is_due and state.step < stage.num_steps:
            save(state, stage, path, finished=False)


def optimise(state: TrainingState, stage: Stage, images: Tensor, targets: Tensor) -> Tensor:
    """One step of SGD; returns its loss, float32 [], still on the device."""
    for group in state.optimizer.param_groups:
        group["lr"] = group["initial_lr"] * stage.lr_factor(state.step)
    device = state.student.compute.device
    images, targets = (tensor.to(device, non_blocking=True) for tensor in (images, targets))
    loss = stage.loss(state.student, images, targets, state.step)
    state.optimizer.zero_grad()
    torch.autograd.backward(state.scaler.scale(loss))
    state.scaler.step(state.optimizer)
    state.scaler.update()
    state.step += 1
    return loss.detach()


def step_seed(seed: int, stage: str, step: int) -> int:
    """Seed of dropout and drop path in one step, so that a resumed run draws what an undisturbed one would."""
    return random.Random(f"{seed}/{stage}/step/{step}").getrandbits(63)


class TimedBatches:
    """Passes batches on and counts the seconds of waiting for them."""

    def __init__(self, batches: Iterator[list[Tensor]]):
        self.batches = batches
        self.seconds = 0.0

    def __iter__(self) -> Iterator[list[Tensor]]:
        return self

    def __next__(self) -> list[Tensor]:
        start = time.monotonic()
        batch = next(self.batches)
        self.seconds += time.monotonic() - start
        return batch


class LossReader:
    """Keeps losses on the device and reads them seldom, because reading one waits for the GPU."""

    def __init__(self, state: TrainingState, stage: Stage, batches: TimedBatches):
        self.state, self.stage, self.batches = state, stage, batches
        self.pending: list[Tensor] = []
        self.start = self.time_of_last_read = time.monotonic()
        self.progress = Progress(log, stage.name, stage.num_steps, "steps", done=state.step)

    def add(self, loss: Tensor) -> None:
        self.pending.append(loss)

    def are_due(self) -> bool:
        return time.monotonic() - self.time_of_last_read >= SECONDS_BETWEEN_READS

    def read(self) -> None:
        """Move the pending losses into the state; TrainingError if one is NaN or infinite."""
        values, self.pending = torch.stack(self.pending).tolist(), []
        for step, loss in enumerate(values, start=self.state.step - len(values) + 1):
            if not math.isfinite(loss):
                raise _diverged(self.stage, f"the loss of step {step} is {loss}")
        self.state.losses += values
        self.time_of_last_read = time.monotonic()
        waiting = self.batches.seconds / (self.time_of_last_read - self.start)
        note = f"loss {math.fsum(values) / len(values):.4f}, {waiting:.0%} of the time waiting for data"
        self.progress.advance(len(values), note)


def _diverged(stage: Stage, what: str) -> TrainingError:
    train = stage.images.train
    return TrainingError(
        f"{stage.name} diverged: {what}; lower train.lr (now {train.lr}) or train.head_lr_multiplier (now "
        f"{train.head_lr_multiplier}), or set train.precision to float32. The last good checkpoint, if any, is kept"
    )


def _ends_epoch_to_validate(step: int, stage: Stage, validate_every: int) -> bool:
    epoch, rest = divmod(step, stage.steps_per_epoch)
    return rest == 0 and (epoch % validate_every == 0 or epoch == stage.num_epochs)


def _add_to_history(state: TrainingState, stage: Stage, miou: float | None) -> None:
    loss = math.fsum(state.losses) / len(state.losses)
    epoch = state.step // stage.steps_per_epoch
    state.history.append({"epoch": epoch, "step": state.step, "loss": loss, "miou": miou})
    state.losses = []
    text = "no class in the val masks" if miou is None else f"mIoU {miou:.4f} on val"
    log.info("%s: epoch %d of %d, loss %.4f, %s", stage.name, epoch, stage.num_epochs, loss, text)
