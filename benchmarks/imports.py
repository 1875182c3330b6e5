"""CPU-seconds that commands spend on imports: `python benchmarks/imports.py [CODE ...]`, by default all of them.

Every entry is a process of its own that imports what a command imports; a student or an annotator of its own is named
behind it. The rounds go over all entries in turn, so that other work on the cores meets all alike. Beside each entry is
its excess over torch alone.
"""

from __future__ import annotations

import os
import resource
import statistics
import subprocess
import sys

ROUNDS = 3
TORCH = "import torch"
STUDENT = "from train.students import random_network; random_network"
ENTRIES = {
    "nothing": "pass",
    "numpy": "import numpy",
    "torch": TORCH,
    "settings": "import pipeline.settings",
    "help": "import pipeline.__main__",
    "convert-seem, no such file": """
from click.testing import CliRunner
from pipeline.__main__ import main
CliRunner().invoke(main, ["convert-seem", "missing.pt", "out"])""",
    "annotate, onnx": "import pipeline.stages.annotate, pipeline.annotators.onnx, onnxruntime",
    "annotate, seem": "import pipeline.stages.annotate, pipeline.annotators.seem",
    "stage1, efficientnet-lite0": f"import train.stage1; {STUDENT}('efficientnet-lite0', ['a', 'b'])",
    "stage1, tiny": f"import train.stage1; {STUDENT}('tiny', ['a', 'b'])",
    "stage1, dinov2-tiny": f"import train.stage1; {STUDENT}('dinov2-tiny', ['a', 'b'])",
    "stage2": "import train.stage2",
    "evaluate": "import train.evaluate",
    "predict": "import train.predict",
    "probe": "import train.probe.probe",
}


def cpu_seconds(code: str) -> float:
    """User and system time of a process that runs the code."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run(
        [sys.executable, "-c", code],
        check=True,
        stdout=subprocess.DEVNULL,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def main() -> None:
    entries = {code: code for code in sys.argv[1:]} or ENTRIES
    entries = {"torch": TORCH, **entries}
    for code in entries.values():
        cpu_seconds(code)  # so that all files are in memory, and compiled
    rounds = [{name: cpu_seconds(code) for name, code in entries.items()} for _ in range(ROUNDS)]
    medians = {name: statistics.median(one[name] for one in rounds) for name in entries}
    print("| entry | CPU s | over torch alone |", "|---|---|---|", sep="\n")
    for name, seconds in medians.items():
        print(f"| {name} | {seconds:.2f} | {seconds - medians['torch']:+.2f} |")


if __name__ == "__main__":
    main()
