"""Held-out estimates in `inspect`: from the receipt of calibrate, and only if it belongs to the store."""

import json
import re

import pytest
from receipts import facts_of
from stage_runs import run_stages

from pipeline.datasets import Sample
from pipeline.inspect import format_summary, inspect_store
from pipeline.inspect.held_out import held_out_facts
from pipeline.inspect.lines import class_lines, held_out_lines
from pipeline.receipt import read_receipt, write_receipt
from pipeline.store import create_store, open_calibration, open_labels

NAMES = ["background", "cat", "dog"]
SAMPLES = [Sample("im_0", "im_0.png", None, "unlabeled", 4, 6)]


@pytest.fixture
def labels(tmp_path):
    """Labels at alpha 0.1 by rule no_background, made by the calibration `f3`."""
    facts = {"fingerprint": "f1", "class_names": NAMES, "calibration": "f3"}
    facts |= {"alpha": 0.1, "rule": "no_background", "variant": "pixel"}
    facts |= {"background": None, "grid": [4, 6], "alphas": [0.1]}
    create_store(tmp_path / "labels.zarr", "labels", facts, SAMPLES)
    return open_labels(tmp_path / "labels.zarr", writable=True)


@pytest.fixture
def calibration(tmp_path):
    """The calibration `f3`."""
    facts = {
        "fingerprint": "f3",
        "class_names": NAMES,
        "variant": "pixel",
        "variants": ["pixel"],
        "rules": ["paper"],
    }
    facts |= {"background": None, "grid": [4, 6], "alphas": [0.1], "class_thresholds": "pooled"}
    create_store(tmp_path / "calibration.zarr", "calibration", facts, SAMPLES)
    return open_calibration(tmp_path / "calibration.zarr", writable=True)


def estimate(value):
    return {"value": value, "low": round(value - 0.1, 3), "high": round(value + 0.1, 3)}


def row(alpha, rule, coverage, precision):
    """A row of the receipt of calibrate; the classes differ, and no image has a dog."""
    difference = {"value": 0.05, "low": -0.02, "high": 0.1}
    return {
        "variant": "pixel",
        "alpha": alpha,
        "rule": rule,
        "target": 1 - alpha,
        "coverage": estimate(coverage),
        "coverage_per_class": {"background": estimate(0.75), "cat": estimate(0.25), "dog": None},
        "coverage_per_image": [0.5] * 11,
        "image_coverage": estimate(coverage),
        "uncalibrated": 0.0,
        "set_sizes": {"empty": estimate(0.2), "one": estimate(0.7), "several": estimate(0.1)},
        "precision": None if precision is None else estimate(precision),
        "precision_per_class": {"background": estimate(0.8), "cat": estimate(0.4), "dog": None},
        "recall_per_class": {"background": estimate(0.7), "cat": estimate(0.3), "dog": None},
        "fractions_per_class": {
            "background": {"labels": 0.9, "masks": 0.8},
            "cat": {"labels": 0.1, "masks": 0.2},
            "dog": {"labels": 0.0, "masks": 0.0},
        },
        "keep_rate": estimate(0.6),
        "miou": estimate(0.5),
        "against_raw": {
            "same_keep": estimate(0.65),
            "precision": difference,
            "precision_same_keep": difference,
            "miou": difference,
            "miou_is_larger": 0.97,
        },
    }


RAW = row(0.1, "raw", 0.9, 0.6) | {"against_raw": None, "miou": estimate(0.45), "keep_rate": estimate(1.0)}
ROWS = (row(0.1, "paper", 0.9, 0.7), row(0.1, "argmax", 0.9, 0.8), row(0.3, "paper", 0.71, None))


@pytest.fixture
def write_calibrate_receipt(tmp_path):
    """calibrate.json beside the stores, of the calibration `f3` unless told otherwise."""

    def write(rows=ROWS, **facts):
        held_out = {"folds": 5, "num_images": 7, "raw": RAW, "rows": list(rows)} if rows else None
        known = {"fingerprint": "f3", "variant": "pixel", "alphas": [0.1, 0.3], "held_out": held_out} | facts
        write_receipt(tmp_path / "calibrate.json", "calibrate", facts_of("calibrate", **known), {})

    return write


def text_of(store):
    return "\n".join(text for _, text in held_out_lines(held_out_facts(store)))


def table_of(store):
    """The table of classes, its cells a space apart."""
    facts = {"classes": NAMES, "held_out": held_out_facts(store)}
    return [" ".join(text.split()) for _, text in class_lines(facts)]


def test_thresholds_come_with_a_row_for_every_alpha_and_rule(calibration, write_calibrate_receipt):
    write_calibrate_receipt()
    found = held_out_facts(calibration)
    assert [(r["alpha"], r["rule"]) for r in found["rows"]] == [(0.1, "paper"), (0.1, "argmax"), (0.3, "paper")]
    assert found["rows"][1]["precision"] == {"value": 0.8, "low": 0.7, "high": 0.9}
    cat = {"coverage": estimate(0.25), "precision": estimate(0.4), "under_covered": True}
    assert found["per_class"]["cat"] == cat | {"fractions": {"labels": 0.1, "masks": 0.2}}
    assert (found["problem"], found["num_images"], found["folds"]) == (None, 7, 5)


def test_a_row_is_a_line_and_so_is_a_class(calibration, write_calibrate_receipt):
    write_calibrate_receipt()
    text = text_of(calibration)
    assert "7 labeled images in 5 folds" in text
    said = "coverage 0.900 [0.800, 1.000], precision 0.800 [0.700, 0.900], keep rate 0.600 [0.500, 0.700]"
    beside = "argmax at that keep rate 0.650 [0.550, 0.750], mIoU of labels 0.500 [0.400, 0.600]"
    assert f"variant pixel  alpha 0.1   rule argmax        {said}, {beside}, target coverage 0.9" in text
    assert "alpha 0.3   rule paper         coverage 0.710 [0.610, 0.810], precision -, keep" in text
    assert "annotator's own argmax, every pixel: precision 0.600 [0.500, 0.700], mIoU 0.450 [0.350, 0.550]" in text
    assert "no threshold exists" not in text
    assert table_of(calibration)[0] == "held out at variant pixel, alpha 0.1, rule paper"
    assert table_of(calibration)[3] == "cat 10.00 % 20.00 % 0.250 [0.150, 0.350] 0.400 [0.300, 0.500] under-covered"


def test_a_class_is_under_covered_if_its_whole_interval_lies_below_the_target(calibration, write_calibrate_receipt):
    reaching = {"value": 0.7, "low": 0.5, "high": 0.9}
    below = {"value": 0.7, "low": 0.5, "high": 0.89}
    classes = {"background": reaching, "cat": below, "dog": None}
    write_calibrate_receipt(rows=[row(0.1, "paper", 0.9, 0.7) | {"coverage_per_class": classes}])
    per_class = held_out_facts(calibration)["per_class"]
    assert [name for name in NAMES if per_class[name]["under_covered"]] == ["cat"]
    assert table_of(calibration)[4] == "dog 0.00 % 0.00 % - -"


def test_risk_control_guarantees_no_coverage_so_no_class_falls_short_of_it(calibration, write_calibrate_receipt):
    write_calibrate_receipt(variant="risk")
    found = held_out_facts(calibration)
    assert not any(facts["under_covered"] for facts in found["per_class"].values())
    assert found["rows"][0]["target"] is None
    assert "target" not in text_of(calibration)


def test_coverage_for_want_of_a_threshold_is_told(calibration, write_calibrate_receipt):
    write_calibrate_receipt(rows=[row(0.1, "paper", 0.9, 0.7) | {"uncalibrated": 0.25}])
    assert "25.0 % covered because no threshold exists" in text_of(calibration)


@pytest.mark.parametrize("kind", ["labels", "calibration"])
def test_the_verdict_stands_below_the_numbers(request, write_calibrate_receipt, kind):
    write_calibrate_receipt()
    lines = dict(held_out_lines(held_out_facts(request.getfixturevalue(kind))))
    precision = "80.0 %" if kind == "labels" else "70.0 %"  # of all thresholds, the first among equals would be taken
    assert lines["verdict"] == (
        f"the calibrated labels have a held-out precision of {precision}, the annotator's own argmax of 60.0 % (all "
        "pixels) and 65.0 % (at the same keep rate, 60.0 %); mIoU of the labels 50.0 against 45.0 (+5.0, 95 % "
        "interval -2.0 to +10.0, above zero in 97 % of the bootstrap samples): no difference beyond noise"
    )


def test_labels_come_with_the_row_of_their_alpha_and_rule(labels, write_calibrate_receipt):
    write_calibrate_receipt()
    rows = held_out_facts(labels)["rows"]
    assert [(r["alpha"], r["rule"]) for r in rows] == [(0.1, "argmax")]  # no_background is the same rule


@pytest.mark.parametrize("kind", ["labels", "calibration"])
def test_a_receipt_of_another_calibration_is_ignored(request, write_calibrate_receipt, kind):
    store = request.getfixturevalue(kind)
    assert re.fullmatch(r"no receipt .*calibrate.json yet", text_of(store))
    write_calibrate_receipt(fingerprint="other")
    assert held_out_facts(store)["rows"] == []
    assert text_of(store).endswith("calibrate.json belongs to other thresholds")


CHANGES = [({}, True), ({"variant": "image"}, False), ({"alphas": [0.2]}, False)]


@pytest.mark.parametrize(("changed", "belongs"), CHANGES)
def test_labels_that_do_not_name_their_calibration_are_told_by_variant_and_alpha(
    labels, write_calibrate_receipt, changed, belongs
):
    del labels.state["calibration"]
    write_calibrate_receipt(fingerprint="any", **changed)
    assert bool(held_out_facts(labels)["rows"]) == belongs


def test_a_single_labeled_image_cannot_be_held_out(calibration, write_calibrate_receipt):
    write_calibrate_receipt(rows=None)
    assert text_of(calibration) == "a single labeled image, or group of images: none can be held out"


def test_labels_of_an_alpha_that_was_not_judged_have_no_row(labels, write_calibrate_receipt):
    write_calibrate_receipt(rows=[row(0.3, "paper", 0.7, 0.7)])
    assert "has no estimates at the alpha and rule of these labels" in text_of(labels)


def test_the_stores_of_a_real_run_say_what_its_receipt_says(make_settings, write_images, tmp_path):
    write_images(tmp_path / "data", [f"im{i:02}" for i in range(12)])
    settings = make_settings(variant="image", class_thresholds="each", alpha=0.4, alphas=[0.5], rule="singleton")
    run_stages(settings)
    receipt = read_receipt(settings.folder / "calibrate.json", "calibrate")
    chosen = read_receipt(settings.folder / "pseudolabel.json", "pseudolabel")
    thresholds, labels = (inspect_store(settings.folder / f"{name}.zarr") for name in ("calibration", "labels"))
    assert len(thresholds["held_out"]["rows"]) == 2 * 4
    assert thresholds["thresholds"]["is_class_wise"]
    (used,) = labels["held_out"]["rows"]
    assert (used["alpha"], used["rule"]) == (chosen["alpha"], chosen["rule"])
    assert used in thresholds["held_out"]["rows"]
    expected = next(r for r in receipt["held_out"]["rows"] if (r["alpha"], r["rule"]) == (used["alpha"], used["rule"]))
    assert used["precision"] == expected["precision"]
    assert labels["held_out"]["per_class"]["cat"]["precision"] == expected["precision_per_class"]["cat"]
    assert labels["labels"]["alphas"][0] == chosen["alpha"]
    assert f"precision {used['precision']['value']:.3f} [" in format_summary(labels)
    json.dumps([thresholds, labels], allow_nan=False)
