"""The moving average of a student's weights and buffers: the teacher of Stage II, and the final model."""

from __future__ import annotations

from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel

from train.student import Student
from train.students import Network


class MovingAverage:
    """EMA of a student's weights and buffers; the decay after step t = 0, 1, ... is min(1 - 1/(t + 1), `decay`).

    As in UniMatch-V2: the first updates follow the student closely, so the average needs no special initial value.

    decay:       in (0, 1)
    is_compiled: whether the averaged network is compiled with torch.compile
    """

    def __init__(self, student: Student, decay: float, is_compiled: bool = False):
        self.decay, self.step = decay, 0
        self.averaged = AveragedModel(student.model, multi_avg_fn=self._average, use_buffers=True)
        # The counter stays on the CPU, because reading it from a GPU would wait for the end of the step.
        self.averaged.n_averaged = torch.tensor(1)
        self.averaged.requires_grad_(False).eval()
        self.student = Student(cast(Network, self.averaged.module), student.compute)
        self.student.compile(is_compiled)

    def update(self, model: nn.Module) -> None:
        """Update the average after an optimisation step. model: the student's network"""
        self.averaged.update_parameters(model)
        self.step += 1

    @torch.no_grad()
    def _average(self, averaged: Any, current: Any, _: Tensor | int) -> None:
        decay = min(1 - 1 / (self.step + 1), self.decay)
        if torch.is_floating_point(averaged[0]):
            torch._foreach_lerp_(averaged, current, 1 - decay)
        else:  # counters of batch norms
            torch._foreach_copy_(averaged, current)

    def state_dict(self) -> dict[str, Any]:
        return {"model": self.student.model.state_dict(), "step": self.step}

    def load_state_dict(self, content: dict[str, Any]) -> None:
        self.student.model.load_state_dict(content["model"])
        self.step = content["step"]
