"""Runs both training stages as one of several processes. `runpy.run_path` gives it `settings` and `environment`."""

import os
from typing import Any

import torch

from pipeline.run import Run
from train.machine.processes import process_group, wait_for_all
from train.stage1 import stage1
from train.stage2 import stage2

settings, environment = (globals()[name] for name in ("settings", "environment"))
os.environ |= environment
torch.set_num_threads(1)
stages: dict[str, Any] = {"stage1": stage1, "stage2": stage2}
with process_group(settings.train.device) as world:
    for name, stage in stages.items():
        facts = stage(settings)
        if world.is_main:
            Run(settings).finish(name, facts)
        wait_for_all()
