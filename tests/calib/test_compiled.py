"""Compiled loops give the bits that Python itself computes from the same code, with numpy's numbers."""

import importlib
import logging
import os
import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from calib.compiled import _announce, compiled
from calib.judgement import CODES, _count
from calib.labels import _label
from calib.planes import _reduce
from calib.rules import find_rule
from calib.shift import _add_up
from calib.sketch import _merge
from pipeline.resample import _interpolate_columns, _interpolate_rows, _softmax, bilinear_taps


def filled_by(loop, *arguments):
    """The bytes of all arrays after the loop, compiled and not compiled."""
    results = []
    for call in (loop, loop.function):
        copies = [argument.copy() if isinstance(argument, np.ndarray) else argument for argument in arguments]
        with np.errstate(over="ignore"):  # integers wrap around
            call(*copies)
        results.append([array.tobytes() for array in copies if isinstance(array, np.ndarray)])
    return results


@settings(max_examples=10)
@given(st.integers(1, 9), st.integers(1, 40), st.sampled_from([0.1, 5, 60]))
def test_the_bits_are_those_of_python(classes, pixels, scale):
    rng = np.random.default_rng(classes)
    logits = rng.normal(scale=scale, size=(classes, pixels)).astype(np.float32)
    compiled_bytes, python_bytes = filled_by(_softmax, logits)
    assert compiled_bytes == python_bytes
    foreground = np.arange(classes, dtype=np.uint8)
    planes = np.empty(pixels, np.uint8), *np.empty((2, pixels), np.float32)
    compiled_bytes, python_bytes = filled_by(_reduce, logits.round(), foreground, *planes)
    assert compiled_bytes == python_bytes
    taps = bilinear_taps(pixels, 30)
    for loop, source, target in (
        (_interpolate_columns, logits[:, None], (classes, 1, 30)),
        (_interpolate_rows, logits[:, :, None], (classes, 30, 1)),
    ):
        compiled_bytes, python_bytes = filled_by(loop, source, *taps, np.empty(target, np.float32))
        assert compiled_bytes == python_bytes
    first, second = np.sort(logits.T, axis=1), np.sort(rng.normal(size=(pixels, 3)).astype(np.float32), axis=1)
    compiled_bytes, python_bytes = filled_by(_merge, first, second, np.empty((pixels, 3), np.float32))
    assert compiled_bytes == python_bytes


@given(st.integers(1, 30), st.booleans(), st.sampled_from([-1, 0, 2]))
def test_the_bits_of_labels_and_counts_are_those_of_python(pixels, is_open, background):
    rng = np.random.default_rng(pixels)
    best = rng.integers(0, 3, pixels).astype(np.uint8)
    first, second, p_background, score, q_hat = rng.choice(
        np.float32([0, 0.25, 0.5, 1, np.nan, np.inf]), (5, pixels), p=[0.2, 0.2, 0.2, 0.2, 0.1, 0.1]
    )
    planes = best, first, second, p_background
    table, label = find_rule("singleton").table.ravel(), np.empty(pixels, np.float32)
    compiled_bytes, python_bytes = filled_by(_label, planes, q_hat, is_open, table, background, label)
    assert compiled_bytes == python_bytes
    codes = best.astype(np.int16) * np.int16(CODES), best.astype(np.int16) * np.int16(2)
    counts = np.zeros(3 * CODES, np.int64), np.zeros(8, np.int64)
    compiled_bytes, python_bytes = filled_by(_count, planes, score, *codes, q_hat, is_open, background >= 0, *counts)
    assert compiled_bytes == python_bytes
    compiled_bytes, python_bytes = filled_by(_add_up, best, first, np.zeros(3, np.int64), np.zeros(3))
    assert compiled_bytes == python_bytes


def test_a_compiled_function_keeps_its_name_and_documentation():
    @compiled
    def double(values):
        """Double the values."""
        for i in range(len(values)):
            values[i] *= 2

    values = np.ones(3)
    double(values)
    assert (double.__name__, double.__doc__, values.tolist()) == ("double", "Double the values.", [2, 2, 2])


def test_the_first_run_says_why_it_waits(tmp_path, monkeypatch, caplog):
    (tmp_path / "loop_of_first_run.py").write_text("def halve(values):\n    values[0] /= 2\n")
    monkeypatch.syspath_prepend(tmp_path)
    function = importlib.import_module("loop_of_first_run").halve
    for _ in range(2):
        _announce.cache_clear()
        with caplog.at_level(logging.INFO):
            compiled(function)(np.ones(1))
    assert caplog.messages == ["compiling loops for this processor takes a few seconds, once; the machine code is kept"]


@pytest.mark.slow
def test_without_a_folder_for_machine_code_it_is_compiled_in_every_process(tmp_path):
    """numba finds no folder if neither that of the source nor the user's can be written."""
    (tmp_path / "loop.py").write_text(
        "from calib.compiled import compiled\n@compiled\ndef halve(values):\n"
        "    for i in range(len(values)):\n        values[i] /= 2\n"
    )
    code = (
        "import logging, sys, numpy as np\nfrom numba.core import caching\nlogging.basicConfig(level=logging.INFO)\n"
        "caching.CacheImpl._locator_classes = []\n"
        f"sys.path.insert(0, {str(tmp_path)!r})\nfrom loop import halve\nvalues = np.ones(2)\nhalve(values)\n"
        "print(values.tolist())"
    )
    environment = os.environ | {"PYTHONPATH": os.getcwd()}
    printed = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment, check=True)
    assert printed.stdout == "[0.5, 0.5]\n"
    assert "in every process: no folder can keep the machine code; set the environment variable NUMBA" in printed.stderr
