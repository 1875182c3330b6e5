"""Commands import what the chosen annotator and student need, and nothing else: each test is a fresh process."""

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


def imported(code, *names):
    """Which of the modules a process has imported after running `code`."""
    printed = subprocess.run(
        [sys.executable, "-c", f"{code}\nimport sys\nprint([n for n in {names!r} if n in sys.modules])"],
        check=True,
        capture_output=True,
        text=True,
        cwd=ROOT,
    )
    return printed.stdout.splitlines()[-1]


PLAIN_STUDENTS = """
import tempfile, torch
import train.stage1, train.stage2, train.evaluate, train.predict, train.probe.probe
from pathlib import Path
from pipeline.settings import TrainSettings
from train.engine.state import new_state
from train.machine.device import compute_of
from train.student import Student, load_student
from train.students import class_names_of, new_network, save_network
settings = TrainSettings(device="cpu", optimizer="adamw")
for name in ("tiny", "efficientnet-lite0"):
    state = new_state(Student(new_network(name, "random", ["cat", "dog"]), compute_of(settings)), settings, 2)
    state.student.logits(torch.zeros(2, 3, 32, 32, dtype=torch.uint8)).mean().backward()
    state.optimizer.step()
    with tempfile.TemporaryDirectory() as folder:
        save_network(state.final_student.model, Path(folder))
        load_student(Path(folder), compute_of(settings))
        assert class_names_of(Path(folder)) == ["cat", "dog"]
"""


@pytest.mark.slow
def test_a_plain_student_is_trained_saved_and_read_without_other_students_and_without_the_compiler():
    foreign = ("transformers", "huggingface_hub", "torch._dynamo", "sympy", "scipy.ndimage", "dask", "onnxruntime")
    ours = ("train.students.dino", "train.students.any_network", "train.students.allspark")
    assert imported(PLAIN_STUDENTS, *foreign, *ours) == "[]"


def test_light_commands_answer_without_torch_and_transformers():
    code = """
from click.testing import CliRunner
from pipeline.__main__ import main
result = CliRunner().invoke(main, ["convert-seem", "missing.pt", "out"])
assert "error: no checkpoint missing.pt; get one with: conformalsam download" in result.output, result.output
import pipeline.annotators.onnx, pipeline.annotators.build, pipeline.stages.annotate, onnxruntime
import pipeline.annotators.hub.folder, pipeline.pretrained, pipeline.doctor.weights
import pipeline.stages.prepare, pipeline.stages.calibrate, pipeline.stages.pseudolabel, pipeline.stages.report
"""
    assert imported(code, "torch", "transformers", "huggingface_hub", "train") == "[]"


AUTO_CLASSES = """
import sys, tempfile, torch
from pathlib import Path
from train.students import random_network, save_network
assert "transformers" not in sys.modules
network = random_network("efficientnet-lite0", ["cat", "dog"]).eval()
with tempfile.TemporaryDirectory() as folder:
    save_network(network, Path(folder))
    from transformers import AutoModelForSemanticSegmentation
    theirs = AutoModelForSemanticSegmentation.from_pretrained(folder).eval()
pixels = torch.rand(1, 3, 32, 32)
assert torch.equal(theirs(pixels), network(pixels))
"""


@pytest.mark.slow
def test_transformers_that_is_imported_later_reads_our_students():
    assert imported(AUTO_CLASSES, "train.students.auto_models") == "['train.students.auto_models']"


SEEM = """
import pipeline.stages.annotate
from pipeline.annotators.seem import NANO_FOLDER
from pipeline.seem import Seem
Seem.from_pretrained(NANO_FOLDER, templates=["{}."]).text_embeddings(["cat"])
"""


@pytest.mark.slow
def test_seem_needs_the_configuration_and_the_tokenizer_of_transformers_but_none_of_its_networks():
    assert imported(SEEM, "transformers.modeling_utils", "torch._dynamo", "sympy", "scipy.ndimage", "train") == "[]"
