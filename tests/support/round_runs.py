"""A tiny run and its next round, whose stages run in the process of the test."""

from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import torch
from stage_runs import STAGES
from tiny_run import write_run_file, write_sample_files

from pipeline.overrides import as_workflow_config
from pipeline.rounds.folds import Fold
from pipeline.rounds.training import train_fold
from pipeline.run import Run
from pipeline.run_file import load_settings
from pipeline.settings import Settings

SHORT = {"student": "tiny", "crop": 32, "workers": 0, "threads": 1, "device": "cpu"}


class Rounds(NamedTuple):
    """Settings of a finished run and of its next round."""

    first: Settings
    second: Settings


def run_stage(package: str, stage: str, run_file: str | Path, changes: dict[str, Any]) -> None:
    """Run a stage in this process, with the arguments of `pipeline.stage_calls.call`."""
    from train.stage1 import stage1
    from train.stage2 import stage2

    settings = load_settings(run_file, changes)
    function = {**STAGES, "stage1": stage1, "stage2": stage2}[stage]
    Run(settings).finish(stage, function(settings))


def train(fold: Fold, second: Settings, run: Callable[..., None] = run_stage) -> None:
    train_fold(fold, as_workflow_config(second, {}), run)


def write_first(folder: Path) -> Path:
    """Run file of the first round, and its images: 6 labeled, 4 unlabeled and 2 val images."""
    torch.set_num_threads(1)
    write_sample_files(folder / "data", [f"im{i:02d}" for i in range(12)])
    return write_run_file(
        folder,
        train=SHORT,
        stage1={"batch_size": 2, "epochs": 1},
        stage2={"batch_labeled": 1, "batch_unlabeled": 1, "epochs": 1},
    )
