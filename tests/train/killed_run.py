"""Runs one training stage and dies by SIGKILL on the way.

`runpy.run_path` gives it `settings`, `stage` and `moment`: {"steps": n} dies right after the n-th optimisation step of
this process, {"renames": n} when the n-th checkpoint of this process is written, but not yet in its place.
"""

import importlib
import multiprocessing
import os
import signal
import sys
from collections import Counter
from typing import Any

import torch
from torch.optim.optimizer import register_optimizer_step_post_hook

settings, stage, moment = (globals()[name] for name in ("settings", "stage", "moment"))
counts: Counter[str] = Counter()


def count(what: str) -> None:
    counts[what] += 1
    if counts[what] == moment.get(what):
        os.kill(os.getpid(), signal.SIGKILL)


def watch_files(event: str, arguments: tuple[Any, ...]) -> None:
    if event == "os.rename" and str(arguments[1]).endswith("checkpoint.pt"):
        count("renames")


register_optimizer_step_post_hook(lambda *_: count("steps"))
sys.addaudithook(watch_files)
multiprocessing.set_start_method("fork", force=True)  # as on the command line; this process came from a fork server
torch.set_num_threads(1)
getattr(importlib.import_module(f"train.{stage}"), stage)(settings)
