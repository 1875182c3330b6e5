"""The labeled images: their classes, and the possible alphas."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

import calib
from pipeline.sources.labeled_set import is_too_small


@pytest.fixture
def show_only(data):
    """Give the masks of these samples these values."""

    def write(samples, *values):
        for sample in samples:
            row = np.resize(np.array(values, np.uint8), 32)
            Image.fromarray(np.tile(row, (24, 1))).save(data / sample.mask)

    return write


def test_images_per_class_are_counted(show_only, labeled, only):
    show_only(labeled, 0, 1)
    show_only(labeled[:2], 0, 1, 2)
    assert "background: 6, cat: 6, dog: 2" in str(only("labeled images with each class"))


def test_a_class_in_no_labeled_image_is_named(show_only, labeled, only):
    show_only(labeled, 0, 1)
    finding = only("1 class in no labeled image")
    assert (finding.level, finding.where) == ("warning", ("dog",))


def test_a_class_in_no_val_image_is_named(data, show_only, labeled, only):
    for path in set((data / "masks").glob("*.png")) - {data / sample.mask for sample in labeled}:
        Image.new("L", (32, 24), 1).save(path)
    finding = only("2 classes in no val image")
    assert (finding.level, finding.where) == ("warning", ("background", "dog"))


# 6 labeled images: the smallest alpha is 1/7
@pytest.mark.parametrize(
    ("policy", "level", "text"),
    [
        ("abstain", "error", "no pixel gets a pseudo-label"),
        ("raise", "error", "calibrate stops"),
        ("accept", "warning", "every label is accepted"),
        ("max", "warning", "the largest score is the threshold"),
    ],
)
def test_an_alpha_that_so_few_images_cannot_guarantee_is_found_with_its_effect(data, only, policy, level, text):
    finding = only(
        "the smallest alpha possible with 6 labeled images is 0.1429; below it", alpha=0.14, uncalibrated=policy
    )
    assert (finding.level, finding.where) == (level, ("calibrate.alpha: 0.14",))
    assert text in finding.what
    assert finding.fix.startswith("set calibrate.alpha to 0.1429 or more")


@pytest.mark.parametrize(
    "settings",
    [
        {"calibrate.quantile": "paper"},
        {"calibrate.variant": "image", "calibrate.pooling": "naive"},
    ],
)
def test_thresholds_that_do_not_count_images_have_no_smallest_alpha(data, findings, settings):
    assert not any("the smallest alpha possible" in str(finding) for finding in findings(alpha=0.05, **settings))


def test_further_alphas_that_are_too_small_are_named(data, only):
    finding = only("smaller alphas", alpha=0.2, alphas=[0.05, 0.1, 0.3])
    assert (finding.level, finding.where) == ("warning", ("0.05", "0.1"))


def test_class_wise_thresholds_need_images_of_every_class(show_only, labeled, only):
    show_only(labeled, 0, 1)
    show_only(labeled[:2], 0, 1, 2)
    settings = {"calibrate.variant": "image", "calibrate.class_thresholds": "each"}
    finding = only("too few labeled images for a class-wise threshold", **settings)
    assert (finding.level, finding.where) == ("warning", ("dog (2 images, alpha 0.3334)",))
    assert only("too few labeled images for a class-wise guarantee").level == "note"


def test_a_holdout_of_all_labeled_images_is_an_error(data, only, findings):
    finding = only("train.holdout 6 leaves stage1 none of the 6 labeled images", **{"train.holdout": 6})
    assert (finding.level, finding.fix) == ("error", "set train.holdout below 6, or label more images")
    assert not any("leaves stage1 none" in str(f) for f in findings(**{"train.holdout": 5}))


@given(st.integers(1, 500), st.floats(1e-3, 0.999))
def test_an_alpha_is_too_small_exactly_below_one_in_n_plus_one(n, alpha):
    assert is_too_small(alpha, n) == (alpha * (n + 1) < 1 - 1e-12) or abs(alpha * (n + 1) - 1) < 1e-9
    assert not is_too_small(calib.smallest_alpha(n), n)
