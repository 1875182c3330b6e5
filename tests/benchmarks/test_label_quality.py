"""benchmarks/label_quality.py finds a run by its folder, and prints what its receipts claim and what its masks show."""

import click
import numpy as np
import pytest
from label_quality import row_of, run_in
from stage_runs import labels_of, run_stages
from tiny_run import write_run_file

from pipeline.datasets import IGNORE_INDEX, read_mask, resize_nearest
from pipeline.run_file import load_settings


def test_a_row_has_the_true_precision_and_the_settings_of_the_folder(tmp_path, write_images):
    write_images(tmp_path / "data", [f"im{i:02d}" for i in range(12)])
    settings = load_settings(write_run_file(tmp_path), {"calibrate.alpha": 0.3, "name": "other"})
    run_stages(settings)
    run = run_in(settings.folder)
    assert (run.settings.name, run.settings.calibrate.alpha) == ("other", 0.3)
    cells = [cell.strip() for cell in row_of(run).strip("| ").split("|")]
    assert (cells[0], cells[1], cells[6]) == ("other", "noisy", "paper, pixel, alpha 0.3")
    labels, right, num = labels_of(settings), 0, 0
    for label, sample in zip(labels, run.samples().of("unlabeled"), strict=True):
        truth = resize_nearest(read_mask(tmp_path / f"data/masks/{sample.id}.png", settings.data), settings.data.grid)
        kept = (truth != IGNORE_INDEX) & ~np.isnan(label)
        right, num = right + int((label == truth)[kept].sum()), num + int(kept.sum())
    assert cells[8] == f"{100 * right / num:.1f}"
    with pytest.raises(click.UsageError, match="has no labels; run its stages up to pseudolabel"):
        run_in(tmp_path / "data")
