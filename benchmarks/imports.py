"""CPU-seconds that commands spend on imports: `python benchmarks/imports.py [ENTRY ...]`, by default all entries.

Every measurement is a process of its own that imports what a command imports, and creates the student if one is named.
The rounds go over all entries in turn, so that other work on the cores slows all of them alike. Prints the median of
the rounds, beside the excess over torch's own import.
"""

from __future__ import annotations

import os
import resource
import statistics
import subprocess
import sys

ROUNDS = 3
STUDENT = "import train.stage1; from train.students import random_network; random_network({!r}, ['a', 'b'])"
ENTRIES = {
    "torch": "import torch",
    "settings": "import pipeline.settings",
    "convert-seem missing.pt": """
from click.testing import CliRunner
from pipeline.__main__ import main
CliRunner().invoke(main, ["convert-seem", "missing.pt", "out"])""",
    "annotate, onnx": "import pipeline.stages.annotate, pipeline.annotators.onnx, onnxruntime",
    "annotate, seem": "import pipeline.stages.annotate, pipeline.annotators.seem",
    "stage1, efficientnet-lite0": STUDENT.format("efficientnet-lite0"),
    "stage1, tiny": STUDENT.format("tiny"),
    "stage1, dinov2-tiny": STUDENT.format("dinov2-tiny"),
    "stage2": "import train.stage2",
    "evaluate": "import train.evaluate",
    "predict": "import train.predict",
    "probe": "import train.probe.probe",
    "an optimizer": "import torch; from train.optimizers import SGD; SGD([torch.zeros(1)])",
    "an optimizer of torch": "import torch; torch.optim.SGD([torch.zeros(1)])",
}


def cpu_seconds(code: str) -> float:
    """User and system time of a process that runs the code."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    subprocess.run([sys.executable, "-c", code], check=True, stdout=subprocess.DEVNULL, env=environment)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def main() -> None:
    names = ["torch", *(name for name in sys.argv[1:] or ENTRIES if name != "torch")]
    rounds = [{name: cpu_seconds(ENTRIES[name]) for name in names} for _ in range(ROUNDS)]
    medians = {name: statistics.median(one[name] for one in rounds) for name in names}
    print("| entry | CPU s | over torch alone |", "|---|---|---|", sep="\n")
    for name, seconds in medians.items():
        print(f"| {name} | {seconds:.2f} | {seconds - medians['torch']:+.2f} |")


if __name__ == "__main__":
    main()
