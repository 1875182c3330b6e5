"""Counts of the gallery in a browser are those that numpy finds in the stores, to the pixel."""

from itertools import product

import numpy as np
from gallery_pages import SHOWN, written_run

import calib
from pipeline.datasets import resize_nearest
from pipeline.store import open_labels

NUM_ALPHAS = 5


def assert_counts_are_numpys(page, run, num_alphas=NUM_ALPHAS):
    """Of every image at some alphas, under every rule: the page's own pixels, and the tables of the whole grid."""
    store = open_labels(run.settings.folder / "labels.zarr")
    background = store.state["background"]
    policy = "accept" if run.settings.calibrate.uncalibrated == "accept" else "abstain"
    rules, ids, alphas = (page.evaluate(f"() => window.conformalGallery.{name}") for name in ("rules", "ids", "alphas"))
    assert alphas == list(run.sweep.alphas)
    stops = np.linspace(0, len(alphas) - 1, num_alphas).round().astype(int).tolist()
    num_kept = []
    for stop, rule in product(stops, rules):
        q, of_run = run.sweep.thresholds.map(stop), 0
        for i, sample_id in enumerate(store.sample_ids):
            label, raw = calib.label_pixels(store.planes(i), q, rule, background, policy), store.raw_argmax(i)
            of_run += np.count_nonzero(~np.isnan(label))
            on_grid = page.evaluate("(of) => window.conformalGallery.keptOf(...of)", [sample_id, stop, rule])
            assert on_grid == np.count_nonzero(~np.isnan(label))
            if sample_id in ids:
                small = resize_nearest(label, SHOWN)
                counts = page.evaluate("(of) => window.conformalGallery.counts(...of)", [sample_id, stop, rule])
                assert counts == numpy_counts(small, resize_nearest(raw, SHOWN)), (sample_id, stop, rule)
                on_grid = page.evaluate("(of) => window.conformalGallery.gridCounts(...of)", [sample_id, stop, rule])
                assert {name: on_grid[name] for name in counts} == numpy_counts(label, raw), (sample_id, stop, rule)
        assert page.evaluate("(of) => window.conformalGallery.runCounts(...of)", [stop, rule])["kept"] == of_run
        num_kept.append(of_run)
    assert len(set(num_kept)) >= num_alphas  # the stops differ, or nothing was tested


def numpy_counts(label, raw):
    kept = ~np.isnan(label)
    by_class = np.bincount(label[kept].astype(int), minlength=3).tolist()
    return {
        "pixels": label.size,
        "kept": np.count_nonzero(kept),
        "byClass": by_class,
        "changed": np.count_nonzero(kept & (label != raw)),
    }


def test_counts_equal_numpys_to_the_pixel(open_page, run):
    assert_counts_are_numpys(open_page(run.path), run)


def test_counts_equal_numpys_where_alpha_bounds_wrong_labels(open_page, risk_run):
    assert_counts_are_numpys(open_page(risk_run.path), risk_run, num_alphas=3)


def test_counts_equal_numpys_without_a_background(open_page, tmp_path):
    chosen = {"uncalibrated": "accept", "background": None, "classes": ["a", "b", "c"], "variant": "image"}
    run = written_run(tmp_path, **{"gallery.num_images": 3}, **chosen)
    assert_counts_are_numpys(open_page(run.path), run, num_alphas=3)


def test_class_wise_labels_are_those_of_the_store(open_page, tmp_path):
    chosen = {"variant": "image", "class_thresholds": "each", "rule": "argmax", "alpha": 0.4, "alphas": [0.6, 0.2]}
    run = written_run(tmp_path, **chosen)
    page = open_page(run.path)
    store = open_labels(run.settings.folder / "labels.zarr")
    assert page.evaluate("() => window.conformalGallery.alphas") == [0.2, 0.4, 0.6]
    labels = store.array("label_by_alpha")[...].astype(np.float32)[[2, 0, 1]]
    for sample_id in page.evaluate("() => window.conformalGallery.ids"):
        i = store.sample_ids.index(sample_id)
        for stop in range(3):
            small, raw = resize_nearest(labels[stop, i], SHOWN), resize_nearest(store.raw_argmax(i), SHOWN)
            counts = page.evaluate("(of) => window.conformalGallery.counts(...of)", [sample_id, stop, "argmax"])
            assert counts == numpy_counts(small, raw)
    assert "Every class has thresholds of its own here" in page.inner_text(".gallery")
