"""Counts of the gallery in a browser are those that numpy finds in the stores, to the pixel."""

import numpy as np
from gallery_counts import assert_counts_are_numpys, numpy_counts
from gallery_pages import SHOWN, written_run

from pipeline.datasets import resize_nearest
from pipeline.store import open_labels


def test_counts_equal_numpys_to_the_pixel(open_page, run):
    assert_counts_are_numpys(open_page(run.path), run)


def test_counts_equal_numpys_where_alpha_bounds_wrong_labels(open_page, risk_run):
    assert_counts_are_numpys(open_page(risk_run.path), risk_run, num_alphas=3)


def test_counts_equal_numpys_without_a_background(open_page, tmp_path):
    chosen = {"uncalibrated": "accept", "background": None, "classes": ["a", "b", "c"], "variant": "image"}
    run = written_run(tmp_path, **{"gallery.num_images": 3}, **chosen)
    assert_counts_are_numpys(open_page(run.path), run, num_alphas=3)


def test_counts_of_one_more_rule_equal_numpys(open_page, tmp_path, odd_rule):
    run = written_run(tmp_path, rule=odd_rule, **{"gallery.num_images": 3})
    page = open_page(run.path)
    assert page.evaluate("() => window.conformalGallery.rules") == ["paper", "argmax", "singleton", odd_rule, "raw"]
    assert_counts_are_numpys(page, run, num_alphas=3)


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
            assert counts == numpy_counts(small, raw, num_classes=3)
    assert "Every class has its own thresholds" in page.inner_text(".gallery")
