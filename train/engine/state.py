"""Everything that a training step changes, and how it starts."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from pipeline.settings import TrainSettings
from train.engine.average import MovingAverage
from train.student import Student

MEASURES = ("loss", "loss_labeled", "loss_unlabeled", "confident")


@dataclass
class TrainingState:
    """Everything that a step changes."""

    student: Student
    optimizer: torch.optim.Optimizer
    scaler: torch.amp.GradScaler
    average: MovingAverage | None
    num_predicted: Tensor
    """int64 [K] pixels of each class that the student predicted since the last entry of the history."""
    num_labeled: Tensor
    """int64 [K] pixels of each class in the labeled images since then."""
    step: int = 0
    seconds: float = 0.0
    level: float = 0.0
    """Of the conformal confidence (`train.self_labels.Confidence`)."""
    measures: list[list[float]] = field(default_factory=list)
    """MEASURES of the steps since the last entry of the history, this process's share."""
    history: list[dict[str, Any]] = field(default_factory=list)
    """Points of the learning curve: epoch, step, MEASURES (means since the point before), lr, miou, warnings."""
    best: dict[str, Any] | None = None
    """The point of the curve with the highest mIoU."""
    shares: list[float] | None = None
    """Of the classes in the predictions before the last entry of the history."""
    time_of_last_tick: float = field(default_factory=time.monotonic)

    @property
    def final_student(self) -> Student:
        """The teacher, and what is validated and saved: the averaged student if there is one."""
        return self.student if self.average is None else self.average.student

    def tick(self) -> None:
        """Count the seconds since the last tick as training."""
        now = time.monotonic()
        self.seconds += now - self.time_of_last_tick
        self.time_of_last_tick = now

    def weights(self) -> dict[str, Any]:
        """What Stage II goes on with: weights, momentum, moving average."""
        return {
            "model": self.student.model.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "scaler": self.scaler.state_dict(),
            "average": None if self.average is None else self.average.state_dict(),
        }

    def load_weights(self, content: dict[str, Any]) -> None:
        self.student.model.load_state_dict(content["model"])
        self.optimizer.load_state_dict(content["optimizer"])
        if content["scaler"]:  # empty unless it was float16 that wrote it
            self.scaler.load_state_dict(content["scaler"])
        if self.average is not None:
            self.average.load_state_dict(content["average"])

    def progress(self) -> dict[str, Any]:
        """Where in the stage this is."""
        names = ("step", "seconds", "level", "measures", "history", "best", "shares", "num_predicted", "num_labeled")
        return {name: getattr(self, name) for name in names}

    def load_progress(self, content: dict[str, Any]) -> None:
        device = self.student.compute.device
        for name in self.progress():
            value = content[name]
            setattr(self, name, value.to(device) if isinstance(value, Tensor) else value)


def new_state(student: Student, settings: TrainSettings, num_classes: int) -> TrainingState:
    """Step 0: an optimiser with two learning rates, loss scaling if the precision is float16, the moving average."""
    student.prepare_training(settings.compile)
    device = student.compute.device
    scaler = torch.amp.GradScaler(device.type, enabled=student.compute.dtype == torch.float16)
    average = None if settings.ema is None else MovingAverage(student, settings.ema, settings.compile)
    counts = torch.zeros((2, num_classes), dtype=torch.int64, device=device)
    return TrainingState(student, optimizer_of(student, settings), scaler, average, *counts)


def optimizer_of(student: Student, settings: TrainSettings) -> torch.optim.Optimizer:
    """SGD or AdamW over encoder and decode head; `initial_lr` is what the schedule multiplies."""
    groups = parameter_groups(student, settings)
    common: dict[str, Any] = {"lr": settings.lr, "fused": True}
    if settings.optimizer == "adamw":
        return torch.optim.AdamW(groups, **common)
    return torch.optim.SGD(groups, momentum=settings.momentum, **common)


def parameter_groups(student: Student, settings: TrainSettings) -> list[dict[str, Any]]:
    """Encoder and decode head with their learning rates, each divided into what decays and what does not."""
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
