"""The state of training: everything that a training step changes, and its initial values."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from pipeline.settings import TrainSettings
from train.engine.average import MovingAverage
from train.optimizers import SGD, AdamW
from train.student import Student

MEASURES = ("loss", "loss_labeled", "loss_unlabeled", "loss_sets", "confident")


@dataclass
class TrainingState:
    """Everything that a training step changes."""

    student: Student
    optimizer: torch.optim.Optimizer
    scaler: torch.amp.GradScaler
    average: MovingAverage | None
    num_predicted: Tensor
    """int64 [K], pixels that the student predicted to be of each class since the last point of the history."""
    num_labeled: Tensor
    """int64 [K], pixels of each class in the labeled images since the last point of the history."""
    step: int = 0
    """Number of steps done."""
    seconds: float = 0.0
    """Training time, over all resumed runs."""
    score_threshold: float = 0.0
    """Threshold of the conformal confidence (`train.self_labels.Confidence`)."""
    measures: list[list[float]] = field(default_factory=list)
    """MEASURES of this process in the steps since the last point of the history."""
    history: list[dict[str, Any]] = field(default_factory=list)
    """Points of the learning curve: epoch, step, MEASURES (means since the previous point), lr, miou, warnings."""
    best: dict[str, Any] | None = None
    """Epoch and mIoU of the point with the highest mIoU."""
    class_fractions: list[float] | None = None
    """Fraction of each class in the predictions up to the last point of the history."""
    time_of_last_tick: float = field(default_factory=time.monotonic)

    @property
    def final_student(self) -> Student:
        """The student that is validated, saved and used as the teacher: the averaged one if there is an average."""
        return self.student if self.average is None else self.average.student

    def tick(self) -> None:
        """Add the time since the last tick to `seconds`."""
        now = time.monotonic()
        self.seconds += now - self.time_of_last_tick
        self.time_of_last_tick = now

    def weights(self) -> dict[str, Any]:
        """What Stage II continues from: weights, state of the optimiser and of the loss scaling, moving average."""
        return {
            "model": self.student.model.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "scaler": self.scaler.state_dict(),
            "average": None if self.average is None else self.average.state_dict(),
        }

    def load_weights(self, content: dict[str, Any]) -> None:
        """Restore what `weights` returned."""
        self.student.model.load_state_dict(content["model"])
        self.optimizer.load_state_dict(content["optimizer"])
        if content["scaler"]:  # empty unless it was written with precision float16
            self.scaler.load_state_dict(content["scaler"])
        if self.average is not None:
            self.average.load_state_dict(content["average"])

    def progress(self) -> dict[str, Any]:
        """How far the stage has come, and what it has measured."""
        fields = ("step", "seconds", "score_threshold", "measures", "history", "best")
        counts = ("class_fractions", "num_predicted", "num_labeled")
        return {name: getattr(self, name) for name in (*fields, *counts)}

    def load_progress(self, content: dict[str, Any]) -> None:
        """Restore what `progress` returned."""
        device = self.student.compute.device
        for name in self.progress():
            value = content[name]
            setattr(self, name, value.to(device) if isinstance(value, Tensor) else value)


def new_state(student: Student, settings: TrainSettings, num_classes: int) -> TrainingState:
    """The state before the first step: optimiser, loss scaling if the precision is float16, moving average."""
    student.prepare_training(settings.compile)
    device = student.compute.device
    scaler = torch.amp.GradScaler(device.type, enabled=student.compute.dtype == torch.float16)
    average = None if settings.ema is None else MovingAverage(student, settings.ema, settings.compile)
    counts = torch.zeros((2, num_classes), dtype=torch.int64, device=device)
    return TrainingState(student, optimizer_of(student, settings), scaler, average, *counts)


def optimizer_of(student: Student, settings: TrainSettings) -> torch.optim.Optimizer:
    """SGD or AdamW over encoder and decode head; the schedule multiplies each group's `initial_lr`."""
    groups = parameter_groups(student, settings)
    options: dict[str, Any] = {"lr": settings.lr, "fused": True}
    if settings.optimizer == "adamw":
        return AdamW(groups, **options)
    return SGD(groups, momentum=settings.momentum, **options)


def parameter_groups(student: Student, settings: TrainSettings) -> list[dict[str, Any]]:
    """Parameter groups of encoder and decode head, each divided into parameters with and without weight decay."""
    lrs = {False: settings.lr, True: settings.lr * settings.head_lr_multiplier}
    groups: dict[tuple[bool, bool], list[torch.nn.Parameter]] = {}
    for name, parameter in student.model.named_parameters():
        if parameter.requires_grad:
            decays = settings.decay_norms or parameter.ndim > 1
            groups.setdefault((student.model.is_head(name), decays), []).append(parameter)
    return [
        {"params": groups[key], "initial_lr": lrs[key[0]], "weight_decay": settings.weight_decay if key[1] else 0.0}
        for key in sorted(groups)
    ]
