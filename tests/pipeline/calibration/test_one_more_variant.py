"""A new variant needs one entry only: settings, thresholds, judgement, guarantee, gallery and report follow."""

from functools import partial

import numpy as np
import pytest
from literal import literal_group_quantile
from report_run import run_with_receipts
from tiny_run import write_run_file, write_sample_files

import calib
from calib.groups import fit_regions
from pipeline.calibration.guarantee import guarantee_of
from pipeline.errors import ConfigError
from pipeline.gallery.content import page_content
from pipeline.gallery.labeled_run import open_labeled_run
from pipeline.receipt import read_receipt
from pipeline.run_file import load_settings
from pipeline.store import open_calibration


def upper_and_lower_half(variant, features):
    height, width = features.shape[1:]
    return np.repeat(np.arange(height) >= height // 2, width).reshape(height, width).astype(np.int32)


@pytest.fixture
def halves(monkeypatch):
    kind = calib.Kind(
        "halves",
        "one for each half of the image",
        partial(fit_regions, upper_and_lower_half),
        covered="A random pixel{of_class} of each half of a new image",
        of_classes=True,
    )
    monkeypatch.setitem(calib.VARIANTS, kind.name, kind)
    return kind.name


def test_a_run_of_one_more_variant(halves, tmp_path):
    write_sample_files(tmp_path / "data", [f"im{i:02}" for i in range(12)])
    settings = load_settings(write_run_file(tmp_path), {"variant": halves, "alpha": 0.3})
    run_with_receipts(settings)
    store = open_calibration(settings.folder / "calibration.zarr")
    scores, q_hat = store.read("score"), store.q_hat(0.3)
    middle = settings.data.grid[0] // 2
    for half in (slice(middle), slice(middle, None)):
        of_images = [image[half][~np.isnan(image[half])] for image in scores]
        assert np.unique(q_hat[half]).tolist() == [np.float32(literal_group_quantile(of_images, 0.3))]
    receipt = read_receipt(settings.folder / "calibrate.json", "calibrate")
    assert {row["variant"] for row in receipt["held_out"]["rows"]} == {halves}
    guarantee = guarantee_of(receipt, 0.3)
    assert guarantee.shared_by == "one for each half of the image"
    assert guarantee.text.startswith("A random pixel of each half of a new image has its true class")
    content = page_content(open_labeled_run(settings))
    assert content["ownStop"] == content["alphas"].index(0.3)


def test_settings_accept_it_by_its_entry(halves, tmp_path):
    path = write_run_file(tmp_path)
    assert load_settings(path, {"variant": halves, "class_thresholds": "each"}).calibrate.kind.name == halves
    with pytest.raises(ConfigError, match=r"calibrate.variant: unknown variant 'halfs', .*; did you mean halves\?"):
        load_settings(path, {"variant": "halfs"})
    with pytest.raises(ConfigError, match=r"n_min is 3, but variant is halves"):
        load_settings(path, {"variant": halves, "n_min": 3})
