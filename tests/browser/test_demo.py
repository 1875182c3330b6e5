"""The report of the demo, if it exists: the counts of its gallery are those of the stores."""

from pathlib import Path
from types import SimpleNamespace

import pytest
from gallery_counts import assert_counts_are_numpys

from pipeline.calibration.sweep import sweep_run
from pipeline.run_file import load_settings
from pipeline.store import open_labels

REPORT = Path(__file__).parents[2] / "results" / "demo" / "report.html"


@pytest.mark.skipif(not REPORT.is_file(), reason="no results/demo/report.html: run make demo first")
def test_the_gallery_of_the_demo_counts_to_the_pixel(open_page, monkeypatch):
    monkeypatch.chdir(REPORT.parents[2])
    settings = load_settings("demo")
    variant = open_labels(settings.folder / "labels.zarr").state["variant"]  # that rule auto took
    run = SimpleNamespace(settings=settings, sweep=sweep_run(settings, variant))
    assert_counts_are_numpys(open_page(REPORT), run, shown=settings.data.grid)
