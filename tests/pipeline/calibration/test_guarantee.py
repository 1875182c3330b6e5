"""The guarantee by variant, and its caveats."""

import pytest

from pipeline.calibration.guarantee import exact_percent, guarantee_of
from pipeline.settings import CalibrateSettings


def calibrated(fallen_back=0, **settings):
    """A receipt of calibrate."""
    chosen = CalibrateSettings(**settings)
    facts = {name: getattr(chosen, name) for name in ("variant", "class_thresholds", "quantile")}
    return facts | {"fallen_back": fallen_back, "settings": {"calibrate": chosen.tracked()}}


GUARANTEES = {
    ("pixel", "pooled"): "At each location, a new image has its true class",
    ("kernel", "pooled"): "A random pixel around each location of a new image has",
    ("image", "pooled"): "A random pixel of a new image has its true class",
    ("image", "each"): "A random pixel of each class of a new image has its true class",
    ("kmeans", "clustered"): "A random pixel of each cluster of classes of each region of a new image",
    ("genann", "pooled"): "A random pixel of each ring of a new image",
}


@pytest.mark.parametrize("variant", GUARANTEES)
def test_coverage_is_guaranteed_for_what_the_variant_pools(variant):
    guarantee = guarantee_of(calibrated(variant=variant[0], class_thresholds=variant[1]), 0.05)
    assert guarantee.text.startswith(GUARANTEES[variant])
    assert guarantee.text.endswith("with a probability of 95\u00a0% or more.")
    assert (guarantee.is_risk, guarantee.target, guarantee.target_name) == (False, 0.95, "target coverage 95\u00a0%")
    assert ("each class with its own" in guarantee.shared_by) == (variant[1] == "each")


def test_risk_bounds_the_fraction_of_wrong_pixels_and_guarantees_no_coverage():
    guarantee = guarantee_of(calibrated(variant="risk"), 0.05)
    assert guarantee.text == "On average over new images, at most 5\u00a0% of an image's pixels are labeled wrong."
    assert (guarantee.is_risk, guarantee.target) == (True, 0.05)
    assert "coverage" not in guarantee.text + guarantee.target_name


def test_partly_pooled_classes_have_no_guaranteed_coverage():
    guarantee = guarantee_of(calibrated(variant="image", class_thresholds="partial"), 0.05)
    assert "covers 95\u00a0% of the class or more, and the pooled one" in guarantee.text
    assert guarantee.text.endswith("No coverage is guaranteed.")
    assert (guarantee.target, guarantee.target_name) == (None, "no guarantee")
    assert guarantee.shared_by == "one for the whole image, each class with its own, partly pooled"


CAVEATS = {
    "plain quantile": {"quantile": "paper"},
    "Naive pooling": {"variant": "image", "pooling": "naive"},
    "the largest score is the threshold": {"uncalibrated": "max"},
    "does not account for this reuse": {"variant": "kmeans"},
    "Locations with fewer than 3 labeled images (8 locations) use the threshold of their whole image": {
        "n_min": 3, "fallback": "image", "fallen_back": 8
    },
}  # fmt: skip


@pytest.mark.parametrize("caveat", CAVEATS)
def test_what_weakens_the_guarantee_is_a_caveat(caveat):
    (sentence,) = guarantee_of(calibrated(**CAVEATS[caveat]), 0.1).caveats
    assert caveat in sentence


def test_by_default_nothing_weakens_it():
    assert guarantee_of(calibrated(), 0.1).caveats == []
    for variant in ("pixel", "kernel"):  # pooling is of the other variants
        assert guarantee_of(calibrated(variant=variant, pooling="naive"), 0.1).caveats == []


def test_only_the_mean_over_images_is_guaranteed_where_an_image_is_the_unit():
    assert guarantee_of(calibrated(variant="image"), 0.1).is_of_images
    assert not guarantee_of(calibrated(variant="image", pooling="naive"), 0.1).is_of_images
    assert not guarantee_of(calibrated(), 0.1).is_of_images


@pytest.mark.parametrize(("target", "text"), [(1 - 0.05, "95"), (1 - 0.025, "97.5"), (0.001, "0.1"), (1 - 0.3, "70")])
def test_a_target_has_no_needless_digits(target, text):
    assert exact_percent(target) == f"{text}\u00a0%"
