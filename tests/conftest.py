"""Tiny data sets and runs that several tests share."""

import gc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import hypothesis
import pytest
from tiny_run import write_run_file, write_sample_files

from pipeline.run_file import load_settings
from pipeline.settings import Settings

gc.disable()  # until all modules are imported: pytest_collection_finish

# The suite draws the same examples every time; tests/campaign.py searches at random, a seed after the other.
hypothesis.settings.register_profile("suite", max_examples=50, derandomize=True, database=None, deadline=None)
hypothesis.settings.register_profile("campaign", database=None, deadline=None, print_blob=True)
hypothesis.settings.load_profile("suite")

ON_REQUEST = {
    "full_size": "builds full-size networks, takes minutes and gigabytes; pytest -m full_size -s",
    "slurm": "needs the cluster of tests/slurm/start.sh; pytest -m slurm tests/slurm",
}
"""Marker -> why its tests run only when they are asked for, and how."""


@pytest.fixture
def write_images() -> Callable[..., None]:
    return write_sample_files


@pytest.fixture
def make_settings(tmp_path: Path) -> Callable[..., Settings]:
    """Settings of a run in `tmp_path`: data in tmp_path/data, results in tmp_path/results."""

    def make(**overrides: Any) -> Settings:
        return load_settings(write_run_file(tmp_path), overrides)

    return make


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Tests that need much run only when they are asked for, and say so otherwise."""
    for marker, reason in ON_REQUEST.items():
        if marker not in config.getoption("-m"):
            for item in items:
                if marker in item.keywords:
                    item.add_marker(pytest.mark.skip(reason=reason))


def pytest_collection_finish() -> None:
    """What all modules have imported stays until the end; no garbage collection shall search it again and again."""
    gc.freeze()
    gc.enable()


@pytest.fixture
def odd_rule(monkeypatch):
    """The name of one more labeling rule, which is registered for one test."""
    from odd_rule import ODD

    import calib

    monkeypatch.setitem(calib.RULES, ODD.name, ODD)
    return ODD.name
