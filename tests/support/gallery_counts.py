"""What a gallery in a browser counts, against numpy on the stores."""

from itertools import product

import numpy as np
from gallery_pages import SHOWN

import calib
from pipeline.datasets import resize_nearest
from pipeline.store import open_labels

NUM_ALPHAS = 5


def assert_counts_are_numpys(page, run, num_alphas=NUM_ALPHAS, shown=SHOWN):
    """Of every image at some alphas, under every rule: the page's own pixels, and the tables of the whole grid."""
    store = open_labels(run.settings.folder / "labels.zarr")
    background, num_classes = store.state["background"], len(store.class_names)
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
                small = resize_nearest(label, shown)
                counts = page.evaluate("(of) => window.conformalGallery.counts(...of)", [sample_id, stop, rule])
                assert counts == numpy_counts(small, resize_nearest(raw, shown), num_classes), (sample_id, stop, rule)
                on_grid = page.evaluate("(of) => window.conformalGallery.gridCounts(...of)", [sample_id, stop, rule])
                assert {name: on_grid[name] for name in counts} == numpy_counts(label, raw, num_classes), (
                    sample_id,
                    stop,
                    rule,
                )
        assert page.evaluate("(of) => window.conformalGallery.runCounts(...of)", [stop, rule])["kept"] == of_run
        num_kept.append(of_run)
    assert len(set(num_kept)) >= num_alphas  # the stops differ, or nothing was tested


def numpy_counts(label, raw, num_classes):
    kept = ~np.isnan(label)
    by_class = np.bincount(label[kept].astype(int), minlength=num_classes).tolist()
    return {
        "pixels": label.size,
        "kept": np.count_nonzero(kept),
        "byClass": by_class,
        "changed": np.count_nonzero(kept & (label != raw)),
    }
