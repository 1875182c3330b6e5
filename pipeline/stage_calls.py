"""Runs a stage in a process of its own, for commands that run several stages."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Mapping
from typing import Any

from pipeline.errors import StageError
from pipeline.overrides import as_arguments


def call(
    package: str,
    stage: str,
    run_file: str,
    changes: Mapping[str, Any],
    environment: Mapping[str, str] | None = None,
) -> None:
    """Run a stage in a process of its own.

    package:     `pipeline` or `train`
    changes:     overrides, full name -> value
    environment: variables to add
    raises:      StageError if it fails; its own message is printed before
    """
    command = [sys.executable, "-P", "-m", package, stage, run_file, *as_arguments(changes)]
    finished = subprocess.run(command, env={**os.environ, **(environment or {})}, check=False)
    if finished.returncode:
        raise StageError(
            f"{stage} of {changes['name']} failed; fix the error above, then run the same command again to resume"
        )
