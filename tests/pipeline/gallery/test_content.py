"""The data in the page: every count equals that of labels computed again from the stores."""

import base64
import json
import zlib

import numpy as np
import pytest
from report_run import run_with_receipts
from tiny_run import write_run_file, write_sample_files

import calib
from pipeline.calibration.rows import find_row
from pipeline.calibration.sweep import sweep_run
from pipeline.datasets import load_samples, read_mask, resize_nearest
from pipeline.errors import DatasetError, StoreError
from pipeline.exchange.labels import open_exported
from pipeline.gallery.content import page_content
from pipeline.gallery.labeled_run import open_labeled_run
from pipeline.run import Run
from pipeline.run_file import load_settings
from pipeline.store import FAILED, OUTCOMES, open_labels

IDS = [f"im{i:02}" for i in range(12)]  # 6 labeled, 2 val, 4 unlabeled


def labeled_run(folder, **overrides):
    """A run up to its labels; its grid is larger than what the gallery shows of it."""
    write_sample_files(folder / "data", IDS)
    small = {"gallery.num_images": 3, "gallery.longest_side": 32, "data.grid": [20, 40]}
    settings = load_settings(write_run_file(folder), small | overrides)
    run_with_receipts(settings)
    return settings


@pytest.fixture(scope="module")
def with_background(tmp_path_factory):
    return labeled_run(tmp_path_factory.mktemp("background"))


def content_of(settings):
    content = page_content(open_labeled_run(settings))
    json.dumps(content, allow_nan=False)
    return content


def unpack(text, dtype):
    return np.frombuffer(zlib.decompress(base64.b64decode(text)), dtype)


def table_of(content, image):
    shape = len(content["rules"]), len(content["classes"]) + 3, len(content["alphas"])
    return unpack(image["table"], "<i4").reshape(shape).cumsum(axis=-1)


def labels_anew(settings, content, rule):
    """float32 [N, A, H, W] of every unlabeled image, from planes and the thresholds of the sweep."""
    store, sweep = open_labels(settings.folder / "labels.zarr"), sweep_run(settings)
    policy = "accept" if settings.calibrate.uncalibrated == "accept" else "abstain"
    background = store.state["background"]
    maps = [sweep.thresholds.map(a) for a in range(len(sweep.alphas))]
    assert list(sweep.alphas) == content["alphas"]
    return np.stack(
        [
            [calib.label_pixels(store.planes(i), q, rule, background, policy) for q in maps]
            for i in range(len(store.sample_ids))
        ]
    )


def assert_counts_agree(settings, content):
    """Counts of the run and of the images shown against labels computed again, at every stop, under every rule."""
    store = open_labels(settings.folder / "labels.zarr")
    raw = np.stack([store.raw_argmax(i) for i in range(len(store.sample_ids))])
    index = load_samples(settings.folder / "samples.json")
    kept_of_all = unpack(content["keptOfAll"], "<i4").reshape(len(raw), len(content["rules"]), -1).cumsum(axis=-1)
    classes = range(len(content["classes"]))
    assert content["rawPixels"] == [np.count_nonzero(raw == k) for k in classes]
    for r, rule in enumerate(content["rules"]):
        labels = labels_anew(settings, content, rule)
        totals, kept = content["totals"][r], ~np.isnan(labels)
        changed = kept & (labels != raw[:, None])
        by_stop = {"byLabel": lambda k, x=labels: x == k, "byRaw": lambda k, x=kept: x & (raw == k)[:, None]}
        for name, is_of in by_stop.items():
            assert totals[name] == [is_of(k).sum(axis=(0, 2, 3)).tolist() for k in classes], name
        assert totals["changed"] == changed.sum(axis=(0, 2, 3)).tolist()
        np.testing.assert_array_equal(kept_of_all[:, r], kept.sum(axis=(2, 3)))
        for image in content["images"]:
            i = store.sample_ids.index(image["id"])
            sample = next(sample for sample in index.samples if sample.id == image["id"])
            truth = read_mask(index.root / f"masks/{sample.id}.png", settings.data)
            truth = resize_nearest(truth, settings.data.grid)
            table = table_of(content, image)[r]
            assert table[: len(classes)].tolist() == [(labels[i] == k).sum(axis=(1, 2)).tolist() for k in classes]
            assert table[-3].tolist() == changed[i].sum(axis=(1, 2)).tolist()
            assert table[-2].tolist() == (kept[i] & (truth != 255)).sum(axis=(1, 2)).tolist()
            assert table[-1].tolist() == (labels[i] == truth).sum(axis=(1, 2)).tolist()


def test_counts_are_those_of_labels_made_anew(with_background):
    content = content_of(with_background)
    assert content["rules"] == ["paper", "argmax", "singleton", "raw"]
    assert_counts_agree(with_background, content)


@pytest.mark.slow
@pytest.mark.parametrize(
    "overrides",
    [
        {"uncalibrated": "accept", "background": None, "classes": ["a", "b", "c"]},
        {"uncalibrated": "max", "variant": "image", "rule": "no_background"},
        {"variant": "risk", "rule": "argmax", "alpha": 0.4},
        {"quantile": "paper", "rule": "raw"},
    ],
    ids=["accept without a background", "max of one map", "risk", "plain quantile, raw"],
)
def test_counts_agree_whatever_made_the_thresholds(tmp_path, overrides):
    settings = labeled_run(tmp_path, **overrides)
    assert_counts_agree(settings, content_of(settings))


def test_the_own_stop_is_what_the_store_holds(with_background):
    content, store = content_of(with_background), open_labels(with_background.folder / "labels.zarr")
    assert content["alphas"][content["ownStop"]] == 0.2
    assert content["ownRule"] == "paper"
    own = [row[content["ownStop"]] for row in content["totals"][0]["byLabel"]]
    assert own == store.class_pixels.sum(axis=0).tolist()
    assert sum(own) == store.outcome_pixels[:, OUTCOMES.index("kept")].sum()


def test_shown_planes_are_nearest_pixels_of_the_grid(with_background):
    content, store = content_of(with_background), open_labels(with_background.folder / "labels.zarr")
    assert content["size"] == [16, 32]
    assert len(content["images"]) == 3
    for image in content["images"]:
        planes = unpack(image["planes"], np.uint8).reshape(-1, 16, 32)
        own = store.planes(store.sample_ids.index(image["id"]))
        np.testing.assert_array_equal(planes[0], resize_nearest(own.best_foreground, (16, 32)))
        assert len(planes) == 6  # best, three levels, background_wins, truth
        assert image["photo"].startswith("data:image/webp;base64,")
        assert image["aspect"] == round(32 / 24, 4)


def test_truth_is_left_out_on_request(with_background):
    gallery = with_background.gallery.model_copy(update={"show_truth": False})
    content = content_of(with_background.model_copy(update={"gallery": gallery}))
    for image in content["images"]:
        assert not image["hasTruth"]
        assert len(unpack(image["planes"], np.uint8)) == 5 * 16 * 32
        assert (table_of(content, image)[:, -2:] == 0).all()


def test_an_image_without_a_readable_mask_is_shown_without_truth(tmp_path):
    settings = labeled_run(tmp_path, **{"gallery.num_images": 60})
    unlabeled = [sample.id for sample in load_samples(settings.folder / "samples.json").of("unlabeled")]
    (tmp_path / f"data/masks/{unlabeled[0]}.png").unlink()
    (tmp_path / f"data/masks/{unlabeled[1]}.png").write_bytes(b"no picture")
    assert [image["hasTruth"] for image in content_of(settings)["images"]] == [False, False, True, True]


def test_held_out_estimates_follow_the_rows_of_the_sweep(with_background):
    content, swept = content_of(with_background), sweep_run(with_background)
    held_out = content["heldOut"]
    assert (held_out["numImages"], held_out["folds"], held_out["isRisk"]) == (6, 6, False)
    for stop, alpha in enumerate(content["alphas"]):
        for r, rule in enumerate(content["rules"]):
            row = find_row(swept.held_out, "pixel", alpha, rule)
            for actual, expected in (
                (held_out["coverage"][stop], row["coverage"]),
                (held_out["byRule"][r]["precision"][stop], row["precision"]),
                (held_out["byRule"][r]["miou"][stop], row["miou"]),
                (held_out["byRule"][r]["sameKeep"][stop], (row["against_raw"] or {"same_keep": None})["same_keep"]),
                (held_out["byRule"][r]["precisionByClass"][1][stop], row["precision_per_class"]["cat"]),
                (held_out["coverageByClass"][2][stop], row["coverage_per_class"]["dog"]),
            ):
                assert actual == (None if expected is None else pytest.approx([*expected.values()], abs=1e-5))
    assert held_out["raw"][0] == pytest.approx([*swept.held_out["raw"]["precision"].values()], abs=1e-5)
    assert held_out["targets"] == pytest.approx([1 - alpha for alpha in content["alphas"]])


def test_class_wise_thresholds_give_a_stop_for_each_alpha_of_the_store(tmp_path):
    settings = labeled_run(
        tmp_path, variant="image", class_thresholds="each", rule="argmax", alpha=0.4, alphas=[0.6, 0.2]
    )
    content, store = content_of(settings), open_labels(settings.folder / "labels.zarr")
    assert content["isClassWise"]
    assert content["alphas"] == [0.2, 0.4, 0.6]
    assert content["ownStop"] == 1
    assert content["rules"] == ["argmax"]
    labels = store.array("label_by_alpha")[...].astype(np.float32)[[2, 0, 1]]  # the store has the chosen alpha first
    assert content["totals"][0]["byLabel"] == [(labels == k).sum(axis=(1, 2, 3)).tolist() for k in range(3)]
    for image in content["images"]:
        i = store.sample_ids.index(image["id"])
        planes = unpack(image["planes"], np.uint8).reshape(-1, 16, 32)
        shown = np.where(np.isnan(labels[:, i]), 255, labels[:, i])
        np.testing.assert_array_equal(planes[:3], resize_nearest(shown, (16, 32)))
        np.testing.assert_array_equal(planes[3], resize_nearest(store.raw_argmax(i), (16, 32)))
    assert content["heldOut"]["numImages"] == 6


def test_a_failed_image_is_neither_counted_nor_shown(tmp_path):
    settings = labeled_run(tmp_path, **{"gallery.num_images": 60})
    store = open_labels(settings.folder / "labels.zarr", writable=True)
    store.mark(1, FAILED)
    store.finish()
    content = content_of(settings)
    left = [sample_id for i, sample_id in enumerate(store.sample_ids) if i != 1]
    assert content["ids"] == left
    assert [image["id"] for image in content["images"]] == left
    assert sum(content["rawPixels"]) == 3 * 20 * 40


def test_labels_that_their_planes_do_not_give_are_refused(tmp_path):
    settings = labeled_run(tmp_path)
    store = open_labels(settings.folder / "labels.zarr", writable=True)
    store.write_counts(2, store.outcome_pixels[2], store.class_pixels[2] + [1, 0, -1])
    with pytest.raises(
        StoreError, match=f"labels of {store.sample_ids[2]} differ from those of its planes and the thresholds"
    ):
        content_of(settings)


def test_labels_of_another_calibration_are_refused(tmp_path):
    settings = labeled_run(tmp_path)
    again = settings.model_copy(update={"calibrate": settings.calibrate.model_copy(update={"alpha": 0.3})})
    from stage_runs import STAGES

    Run(again).finish("calibrate", STAGES["calibrate"](again))
    with pytest.raises(StoreError, match=r"was made by other thresholds .* run snakemake --cores 8 pseudolabel"):
        open_labeled_run(again)


def test_a_photograph_that_is_gone_is_a_user_error(tmp_path):
    settings = labeled_run(tmp_path)
    for path in (tmp_path / "data/images").iterdir():
        path.unlink()
    with pytest.raises(
        DatasetError, match=r"im\d+.png cannot be read .*, start this command in the folder in which prepare"
    ):
        content_of(settings)


def test_a_run_without_labels_is_a_user_error(tmp_path):
    write_sample_files(tmp_path / "data", IDS)
    with pytest.raises(StoreError, match="the stage annotate has not finished"):
        open_labeled_run(load_settings(write_run_file(tmp_path)))


def test_a_lost_label_of_another_alpha_is_refused_as_by_export(tmp_path):
    """A lost chunk reads as no label anywhere; where the gallery shows stored labels, its counts would be wrong."""
    settings = labeled_run(
        tmp_path, variant="image", class_thresholds="each", rule="argmax", alpha=0.4, alphas=[0.6, 0.2]
    )
    path = settings.folder / "labels.zarr"
    lost = open_labels(path).sample_ids[1]
    (path / "label_by_alpha/c/2/1/0/0").unlink()
    message = rf"labels.zarr: label_by_alpha of 1 images, e.g. {lost}, is not on disk; run conformalsam inspect"
    with pytest.raises(StoreError, match=message):
        content_of(settings)
    with pytest.raises(StoreError, match=message):
        open_exported(path, 0.2)
