"""A sweep gives the same numbers at each alpha as calibrate."""

import json

import numpy as np
import pytest
from report_run import run_with_receipts

from pipeline.calibration import cross_fitting
from pipeline.calibration.sweep import sweep_run
from pipeline.errors import StoreError
from pipeline.receipt import read_receipt
from pipeline.store import open_calibration

VARIANTS = {
    "pixel": {},
    "pixel, cells": {"calibrate.n_min": 6},
    "pixel, largest": {"calibrate.uncalibrated": "max"},
    "pixel, folds": {"calibrate.folds": 3},
    "image, paper": {"calibrate.variant": "image", "calibrate.quantile": "paper"},
    "kmeans": {"calibrate.variant": "kmeans", "calibrate.regions": 2},
    "risk": {"calibrate.variant": "risk", "pseudolabel.rule": "argmax"},
    "image, each": {"calibrate.variant": "image", "calibrate.class_thresholds": "each"},
}
ALWAYS = ("pixel, folds", "image, paper", "risk")  # the others take a minute together: slow tests


@pytest.fixture
def data(tmp_path, write_images):
    write_images(tmp_path / "data", [f"im{i}" for i in range(12)])


def calibrated(make_settings, **overrides):
    settings = make_settings(**{"calibrate.alpha": 0.3, "calibrate.alphas": [0.15, 0.8], **overrides})
    run_with_receipts(settings)
    return settings


def rounded(rows):
    """Rounded to 12 digits: the last digits of a mean depend on the number of columns that are summed together."""
    return json.loads(json.dumps(rows), parse_float=lambda text: round(float(text), 12))


@pytest.mark.parametrize(
    "overrides",
    [VARIANTS[name] if name in ALWAYS else pytest.param(VARIANTS[name], marks=pytest.mark.slow) for name in VARIANTS],
    ids=VARIANTS,
)
@pytest.mark.usefixtures("data")
def test_alphas_of_the_run_have_the_numbers_of_calibrate_and_no_threshold_rises(make_settings, overrides):
    settings = calibrated(make_settings, **overrides)
    swept = sweep_run(settings)
    store = open_calibration(settings.folder / "calibration.zarr")
    receipt = read_receipt(settings.folder / "calibrate.json", "calibrate")["held_out"]
    assert set(store.alphas) <= set(swept.alphas)
    for alpha in store.alphas:
        np.testing.assert_array_equal(swept.thresholds.map(swept.alphas.index(alpha)), store.q_hat(alpha))
    np.testing.assert_array_equal(swept.n_valid, store.n_valid)
    in_order = sorted(receipt["rows"], key=lambda row: swept.alphas.index(row["alpha"]))
    assert rounded([row for row in swept.rows if row["alpha"] in store.alphas]) == rounded(in_order)
    assert [swept.held_out[name] for name in ("num_images", "folds")] == [receipt["num_images"], receipt["folds"]]
    assert rounded(swept.held_out["raw"]) == rounded(receipt["raw"])
    q = swept.thresholds.q
    assert (len(swept.alphas) > 35) == (not swept.thresholds.is_class_wise)
    assert np.isfinite(q).any(axis=(1, 2)).sum() > len(q) / 2
    assert not (q[1:] > q[:-1]).any()


@pytest.mark.slow
@pytest.mark.usefixtures("data")
def test_chunks_of_alphas_give_the_same_as_all_alphas_at_once(make_settings, monkeypatch):
    settings = calibrated(make_settings)
    at_once = sweep_run(settings)
    (settings.folder / "sweep.json").unlink()
    monkeypatch.setattr(cross_fitting, "FOLDS_MEGABYTES", 0)
    some = sweep_run(settings)
    assert rounded(some.rows) == rounded(at_once.rows)
    np.testing.assert_array_equal(some.thresholds.q, at_once.thresholds.q)


@pytest.mark.usefixtures("data")
def test_held_out_images_are_judged_once_per_calibration(make_settings):
    settings = calibrated(make_settings)
    first, file = sweep_run(settings), settings.folder / "sweep.json"
    kept = file.stat().st_mtime_ns
    again = sweep_run(settings)
    assert file.stat().st_mtime_ns == kept
    assert again.held_out == first.held_out
    np.testing.assert_array_equal(again.thresholds.q, first.thresholds.q)
    before = json.loads(file.read_text())["pixel"]["fingerprint"]
    sweep_run(settings, "image")  # in addition, not instead
    assert json.loads(file.read_text())["pixel"]["fingerprint"] == before
    assert {row["variant"] for row in sweep_run(settings, "image").rows} == {"image"}
    other = calibrated(make_settings, **{"calibrate.quantile": "paper"})
    assert sweep_run(other).rows != first.rows
    assert json.loads(file.read_text())["pixel"]["fingerprint"] != before


@pytest.mark.usefixtures("data")
def test_an_alpha_that_calibrate_would_refuse_labels_nothing(make_settings):
    overrides = {"calibrate.uncalibrated": "raise", "calibrate.alpha": 0.6, "calibrate.alphas": None}
    settings = calibrated(make_settings, **overrides)
    swept = sweep_run(settings)
    assert np.isposinf(swept.thresholds.map(swept.alphas.index(0.01))).all()
    kept = {row["keep_rate"]["value"] for row in swept.rows if row["alpha"] == 0.01}
    assert kept == {0.0}


@pytest.mark.usefixtures("data")
def test_a_run_without_calibration_or_with_another_one_is_refused_with_the_command(make_settings):
    with pytest.raises(StoreError, match=r"calibrate\.json: the stage calibrate has not finished; run snakemake"):
        sweep_run(make_settings())
    calibrated(make_settings)
    expected = r"\(calibrate.quantile exact, now paper\).*, or run snakemake .* calibrate .* quantile=paper"
    with pytest.raises(StoreError, match=expected):
        sweep_run(make_settings(**{"calibrate.quantile": "paper"}))


@pytest.mark.usefixtures("data")
def test_a_single_labeled_image_has_thresholds_but_no_rows(make_settings):
    settings = calibrated(make_settings, **{"data.splits.num_labeled": 1, "calibrate.alphas": None})
    swept = sweep_run(settings)
    assert swept.rows == []
    assert np.isfinite(swept.thresholds.map(swept.alphas.index(0.6))).any()
