"""Times a few training steps, in a process of their own, because no module imports `train`."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Mapping
from typing import NamedTuple

from pipeline.doctor.findings import Finding, from_message
from pipeline.settings import Settings

STAGES = ("stage1", "stage2")


class StepTimes(NamedTuple):
    """Measurements of three training steps of a stage."""

    num_steps: int
    """Number of steps of the whole stage."""
    seconds: float
    """Time of a step: the median."""
    bytes: int
    """Peak memory: of the process on a CPU, allocated by torch on a GPU."""
    on_gpu: bool
    device: str
    """Name of the device, for people."""


def try_training(settings: Settings, num_images: Mapping[str, int]) -> tuple[dict[str, StepTimes], list[Finding]]:
    """Time three steps of each stage that has epochs, on random images; and what went wrong.

    num_images: number of images by split
    """
    epochs = {"stage1": settings.stage1.epochs, "stage2": settings.stage2.epochs}
    stages = [stage for stage in STAGES if epochs[stage]]
    if stages and settings.train.processes > 1:
        what = f"time of {', '.join(stages)}: steps are timed in one process, but train.processes is above 1"
        return {}, [Finding("note", what, fix="--set train.processes=1 gives the time on one device")]
    request = json.dumps({"settings": settings.model_dump(mode="json"), "num_images": dict(num_images)})
    results = {stage: _measured(stage, request) for stage in stages}
    return (
        {stage: result for stage, result in results.items() if isinstance(result, StepTimes)},
        list({result: None for result in results.values() if isinstance(result, Finding)}),
    )


def _measured(stage: str, request: str) -> StepTimes | Finding:
    command = [sys.executable, "-P", "-m", "train", "step-times", stage, "-"]
    finished = subprocess.run(command, input=request, capture_output=True, text=True, check=False)
    if finished.returncode == 0:
        return StepTimes(**json.loads(finished.stdout))
    if finished.returncode < 0:
        what = f"a training step of {stage} was killed by signal {-finished.returncode}, probably for lack of memory"
        return Finding("error", what, fix="raise train.accumulate, or lower train.crop or the batch sizes of the stage")
    *_, last = finished.stderr.strip().splitlines() or [f"exit code {finished.returncode}"]
    is_ours = last.startswith("error: ")
    return from_message(last.removeprefix("error: ") if is_ours else f"a training step of {stage} failed ({last})")
