"""A run with labels, for the tools that ask for them."""

import pytest
from stage_runs import run_stages
from tiny_run import write_run_file, write_sample_files

from pipeline.exchange.labels import open_exported
from pipeline.run_file import load_settings


@pytest.fixture(scope="module")
def run_file(tmp_path_factory):
    folder = tmp_path_factory.mktemp("served")
    write_sample_files(folder / "data", [f"im{i:02d}" for i in range(12)])
    path = write_run_file(folder)
    run_stages(load_settings(path))
    return path


@pytest.fixture
def exported(run_file):
    return open_exported(load_settings(run_file).folder / "labels.zarr")
