"""Runs one stage and dies by SIGKILL when a file of a store is about to get its name for the n-th time.

python killed_stage.py RUN_FILE STAGE PATH_FRAGMENT N: every chunk is written beside its place and then renamed, so each
rename into a path with the fragment is a moment at which the last chunk is written, but not yet there.
"""

import importlib
import os
import signal
import sys
from typing import Any

from pipeline.run_file import load_settings

run_file, stage, fragment, moment = sys.argv[1:]
remaining = int(moment)


def watch_renames(event: str, arguments: tuple[Any, ...]) -> None:
    global remaining
    if event == "os.rename" and fragment in str(arguments[1]):
        remaining -= 1
        if remaining == 0:
            os.kill(os.getpid(), signal.SIGKILL)


sys.addaudithook(watch_renames)
getattr(importlib.import_module(f"pipeline.stages.{stage}"), stage)(load_settings(run_file))
