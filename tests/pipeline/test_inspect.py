"""A look into stores: what a summary counts, of whole, half-done and damaged ones; and the pictures."""

import json

import numpy as np
import pytest
from PIL import Image

import calib
from pipeline.datasets import Sample, SampleIndex
from pipeline.errors import DatasetError, StoreError
from pipeline.inspect import format_summary, inspect_store, write_picture
from pipeline.inspect.summary import sparks
from pipeline.palette import class_colours, scale_colours
from pipeline.receipt import write_json
from pipeline.report.pictures import OPACITY, hatch
from pipeline.store import (
    DONE,
    FAILED,
    OUTCOMES,
    calibration_arrays,
    create_store,
    label_arrays,
    open_calibration,
    open_labels,
    open_probabilities,
    probability_arrays,
)

NAMES = ["background", "cat", "dog"]
GRID = (4, 10)
NAN = float("nan")
PHOTO = np.full((8, 40, 3), 100, np.uint8)  # enlarged 8 times in a picture, so that its legend fits
ENLARGED = 8


def samples_in(folder, num=3):
    """Three images with a samples.json that knows them."""
    samples = [Sample(f"im_{i}", f"im_{i}.png", None, "unlabeled", *PHOTO.shape[:2]) for i in range(num)]
    for sample in samples:
        Image.fromarray(PHOTO).save(folder / sample.image)
    write_json(folder / "samples.json", SampleIndex(folder, tuple(samples)).as_json())
    return samples


@pytest.fixture
def labels(tmp_path):
    """A half-done label store: the first image keeps 30 of its 40 pixels, the second 10; the third is absent."""
    path = tmp_path / "labels.zarr"
    facts = {"fingerprint": "f1", "class_names": NAMES, "background": 0}
    facts |= {"alpha": 0.1, "rule": "no_background", "variant": "pixel"}
    arrays = label_arrays(3, GRID, 3, has_background=True, num_alphas=2)
    create_store(path, "labels", facts, samples_in(tmp_path), arrays)
    store = open_labels(path, writable=True)
    store.write_alphas([0.1, 0.3])
    for index, kept in enumerate((30, 10)):
        write_label(store, index, kept)
    return store


def write_label(store, index, kept):
    """Cat in the first `kept` pixels, abstention in the others."""
    label = np.where(np.arange(40) < kept, 1.0, NAN).reshape(GRID)
    plane = np.full(GRID, 0.5, np.float32)
    store.write(index, np.stack([label, label]), calib.Planes(np.ones(GRID, np.uint8), plane, plane, plane))
    store.write_counts(index, np.array([40, kept, 40 - kept, 0, 0, 0]), np.array([0, kept, 0]))
    store.mark(index, DONE)


@pytest.fixture
def probabilities(tmp_path):
    """A probability store whose first image is dog on the left and cat on the right; the second failed."""
    path = tmp_path / "probs.zarr"
    facts = {"fingerprint": "f2", "class_names": NAMES, "annotator": "x", "space": "probability", "grid": list(GRID)}
    create_store(path, "probabilities", facts, samples_in(tmp_path), probability_arrays(3, (3, *GRID), "uint16"))
    store = open_probabilities(path, writable=True)
    maps = np.full((3, *GRID), 0.1, np.float32)
    maps[2, :, :5] = maps[1, :, 5:] = 0.8
    store.write(0, maps)
    store.mark(0, DONE)
    store.mark(1, FAILED)
    return store


@pytest.fixture
def calibration(tmp_path):
    """A calibration store with one score map that is void in its left half, otherwise 1; no thresholds yet."""
    path = tmp_path / "calibration.zarr"
    facts = {"fingerprint": "f3", "class_names": NAMES, "alpha": 0.1, "quantile": "exact", "variant": "pixel"}
    create_store(path, "calibration", facts, samples_in(tmp_path, 1), calibration_arrays(1, GRID, False))
    store = open_calibration(path, writable=True)
    score = np.ones(GRID, np.float32)
    score[:, :5] = NAN
    plane = np.full(GRID, 0.5, np.float32)
    truth = np.where(np.isnan(score), 255, 1)
    store.write_image(
        0,
        {"score": score, "truth": truth, "best_foreground": plane, "p_foreground": plane, "p_second": plane},
    )
    store.mark(0, DONE)
    return store


def finish_with(store, alphas, q, num_images=9):
    """Thresholds q, float32 [A, C, H * W]: every location its own."""
    region = np.arange(GRID[0] * GRID[1], dtype=np.int32).reshape(GRID)
    images = np.full(q.shape[1:], num_images, np.int64)
    store.write_thresholds(alphas, [calib.Thresholds(region, q, images, np.ones(q.shape[1:], np.float32))], np.zeros(1))
    store.finish()


def test_half_done_labels_are_counted_as_far_as_they_go(labels):
    facts = inspect_store(labels.path)
    assert not facts["complete"]
    assert facts["images"] == {"total": 3, "done": 2, "failed": [], "absent": 1}
    assert facts["labels"]["keep_rate"] == 40 / 80
    assert facts["labels"]["keep_rate_deciles"][::5] == [0.25, 0.5, 0.75]
    assert facts["labels"]["outcomes"] == dict(zip(OUTCOMES, [80, 40, 40, 0, 0, 0], strict=True))
    assert facts["labels"]["pixels_per_class"] == {"background": 0, "cat": 40, "dog": 0}
    assert facts["missing_chunks"] == {}
    json.dumps(facts, allow_nan=False)


def test_the_summary_says_it_in_lines(labels):
    text = format_summary(inspect_store(labels.path))
    assert "labels, incomplete (snakemake --cores 8 pseudolabel goes on with it)" in text
    assert "alpha 0.1, variant pixel, rule no_background, fingerprint f1" in text
    assert "alpha 0.1, 0.3; rule no_background, variant pixel" in text
    assert "2 of 3 done, 0 failed, 1 to come" in text
    assert "label (sample 3, y 4, x 10) float16" in text
    assert "0.500; deciles over the images: 0.25" in text
    assert "cat                  40 pixels 100.00 %" in text


def test_an_empty_store_is_no_error(tmp_path):
    facts = {"fingerprint": "f1", "class_names": NAMES, "background": 0}
    path = tmp_path / "labels.zarr"
    create_store(path, "labels", facts, samples_in(tmp_path), label_arrays(3, GRID, 3, True, num_alphas=1))
    found = inspect_store(path)
    assert "no image is done yet" in format_summary(found)
    assert found["labels"]["alphas"] == []
    json.dumps(found, allow_nan=False)


def test_a_finished_store_is_called_complete(labels):
    write_label(labels, 2, 0)
    labels.finish()
    facts = inspect_store(labels.path)
    assert facts["complete"]
    assert facts["images"]["absent"] == 0
    assert "labels, complete" in format_summary(facts)


def test_lost_chunks_are_named_with_what_to_do(labels):
    (labels.path / "label/c/1/0/0").unlink()
    facts = inspect_store(labels.path)
    assert facts["missing_chunks"] == {"label": ["im_1"]}
    text = format_summary(facts)
    assert f"label: 1 (im_1). Make them anew: rm -r {labels.path} && snakemake --cores 8 pseudolabel" in text


def test_failed_images_are_named(probabilities):
    facts = inspect_store(probabilities.path)
    assert facts["images"] == {"total": 3, "done": 1, "failed": ["im_1"], "absent": 1}
    text = format_summary(facts)
    assert "1 of 3 done, 1 (im_1) failed, 1 to come" in text
    assert "prob (sample 3, class 3, y 4, x 10) uint16" in text
    assert "annotator x, space probability, fingerprint f2" in text


def test_thresholds_are_summed_up_once_they_are_there(calibration):
    assert "not computed yet" in format_summary(inspect_store(calibration.path))
    q_hat = np.full((2, 1, 40), 0.5, np.float32)
    q_hat[0, 0, :10], q_hat[0, 0, 10], q_hat[1] = np.inf, NAN, 0.25
    finish_with(calibration, [0.1, 0.3], q_hat)
    found = inspect_store(calibration.path)["thresholds"]
    first, second = found["by_alpha"]
    assert first == {
        "alpha": 0.1, "q_hat": {"min": 0.5, "median": 0.5, "max": 0.5}, "uncalibrated_share": 10 / 40
    }  # fmt: skip
    assert (second["alpha"], second["q_hat"]["median"], second["uncalibrated_share"]) == (0.3, 0.25, 0)
    assert (found["alphas"], found["variant"], found["is_class_wise"]) == ([0.1, 0.3], "pixel", False)
    assert found["never_labeled_share"] == 0
    text = format_summary(inspect_store(calibration.path))
    assert "variant pixel, alpha 0.1, 0.3" in text
    assert "alpha 0.1   0.500 to 0.500, median 0.500; 25.0 % uncalibrated" in text
    assert "alpha 0.3   0.250 to 0.250, median 0.250; 0.0 % uncalibrated" in text
    assert "9 to 9 labelled images, median 9, behind each location; 0.0 % have none" in text


def test_class_wise_thresholds_are_counted_over_classes_and_locations(calibration):
    q_hat = np.full((1, 3, 40), 0.5, np.float32)
    q_hat[0, 2] = np.inf
    finish_with(calibration, [0.1], q_hat)
    facts = inspect_store(calibration.path)
    assert facts["thresholds"]["is_class_wise"]
    assert facts["thresholds"]["by_alpha"][0]["uncalibrated_share"] == pytest.approx(1 / 3)
    assert "each class has its own" in format_summary(facts)
    assert "behind each class and location" in format_summary(facts)


def test_spark_bars_grow_with_the_share():
    assert sparks([0, 0.5, 1]) == "▁▅█"


def picture(path, sample_id, out):
    """The drawn picture, one pixel for each of the photograph, without its legend."""
    write_picture(path, sample_id, out)
    with Image.open(out) as image:
        drawn = np.asarray(image.convert("RGB"))
    assert drawn.shape[0] > 8 * ENLARGED  # there is a legend
    return drawn[: 8 * ENLARGED : ENLARGED, ::ENLARGED]


def blended(colour):
    return np.rint((1 - OPACITY) * 100 + OPACITY * np.asarray(colour, float)).tolist()


def test_a_picture_of_labels_paints_classes_and_hatches_abstention(labels, tmp_path):
    drawn = picture(labels.path, "im_0", tmp_path / "new" / "p.png")
    cat = class_colours(3, background=0)[1]
    assert (drawn[:6] == blended(cat)).all()  # 30 of 40 pixels: three of four rows of the grid
    np.testing.assert_array_equal(drawn[6:], hatch(PHOTO)[6:])


def test_a_picture_of_probabilities_shows_the_most_probable_class(probabilities, tmp_path):
    drawn = picture(probabilities.path, "im_0", tmp_path / "p.png")
    assert (drawn[:, :20] == blended(class_colours(3)[2])).all()
    assert (drawn[:, 20:] == blended(class_colours(3)[1])).all()


def test_a_picture_of_scores_is_light_where_the_annotator_was_wrong(calibration, tmp_path):
    drawn = picture(calibration.path, "im_0", tmp_path / "p.png")
    assert (drawn[:, 20:] == blended(scale_colours()[-1])).all()
    np.testing.assert_array_equal(drawn[:, :20], hatch(PHOTO)[:, :20])


@pytest.mark.parametrize(
    ("sample_id", "message"),
    [
        ("im0", r"has no image im0; did you mean im_[012]\?"),
        ("zebra", "has no image zebra; e.g. im_0"),
        ("im_1", "im_1 of .* failed; its stage's receipt says why"),
        ("im_2", "im_2 of .* is not done yet"),
    ],
)
def test_an_image_that_cannot_be_drawn_is_a_one_line_error(probabilities, tmp_path, sample_id, message):
    with pytest.raises(StoreError, match=message) as error:
        write_picture(probabilities.path, sample_id, tmp_path / "p.png")
    assert "\n" not in str(error.value)


def test_a_lost_chunk_is_not_drawn_as_abstention(labels, tmp_path):
    (labels.path / "label/c/1/0/0").unlink()
    with pytest.raises(StoreError, match="label of im_1 is not on disk; run rm -r"):
        write_picture(labels.path, "im_1", tmp_path / "p.png")


def test_a_picture_needs_the_samples_and_the_photograph(labels, tmp_path):
    (tmp_path / "im_0.png").unlink()
    with pytest.raises(StoreError, match=r"im_0.png cannot be read .*; run this in the folder"):
        write_picture(labels.path, "im_0", tmp_path / "p.png")
    (tmp_path / "samples.json").unlink()
    with pytest.raises(DatasetError, match="no sample index"):
        write_picture(labels.path, "im_0", tmp_path / "p.png")


def test_what_is_no_store_is_refused(labels, tmp_path):
    with pytest.raises(StoreError, match=r"no store at .*nowhere; name a probs.zarr, calibration.zarr or labels.zarr"):
        inspect_store(tmp_path / "nowhere")
    with pytest.raises(StoreError, match="label is one array of a store"):
        inspect_store(labels.path / "label")
