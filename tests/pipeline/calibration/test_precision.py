"""A run with a guaranteed precision: its labels, what states the guarantee, and the refusal of another one."""

import json
import logging
import shlex
import shutil

import numpy as np
import pytest
from stage_runs import STAGES, labels_of, run_stages
from tiny_run import write_run_file, write_sample_files

import calib
from calib.betting import log_evidence
from calib.curves import candidate_thresholds
from calib.precision import is_pilot, labeled_curves, log_capital
from pipeline.calibration.alpha_choice import Goal, choose_alpha
from pipeline.calibration.cross_fitting import fit_and_judge, labeled_maps
from pipeline.calibration.folds import variant_of
from pipeline.calibration.precision import guaranteed_labels
from pipeline.errors import ConfigError, StoreError
from pipeline.gallery.content import page_content
from pipeline.gallery.labeled_run import never_rising, open_labeled_run
from pipeline.inspect import format_summary, inspect_store
from pipeline.overrides import parse_workflow_config
from pipeline.receipt import read_receipt
from pipeline.run import Run
from pipeline.run_file import load_settings
from pipeline.store import open_calibration, open_labels

# the maps are noise, so a third of the labels of three classes are right
SPLITS = {"num_labeled": 12}
AUTO = SPLITS | {
    "rule": "auto",
    "guarantee": {"precision": 0.1, "confidence": 0.9},
    "alphas": [0.3],
    "variants": ["image"],
}


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A run file, calibrated and labeled with a guarantee."""
    folder = tmp_path_factory.mktemp("guarantee")
    write_sample_files(folder / "data", [f"im{i:02}" for i in range(18)])
    path = write_run_file(folder)
    run_stages(load_settings(path, AUTO))
    return path


def receipts(run):
    settings = load_settings(run, AUTO)
    return (read_receipt(settings.folder / f"{stage}.json", stage) for stage in ("calibrate", "pseudolabel"))


def test_the_labels_are_those_of_the_threshold_that_was_tested(run):
    settings, (calibrated, labels) = load_settings(run, AUTO), receipts(run)
    shown = {one["variant"]: one for one in calibrated["guarantee"]["shown"]}
    assert set(shown) == {"precision_argmax", "precision_paper"}
    assert calibrated["guarantee"] | {"shown": None} == {
        "precision": 0.1, "confidence": 0.9, "alpha": 0.9, "num_images": 12, "num_groups": None, "shown": None,
    }  # fmt: skip
    assert (labels["variant"], labels["alpha"]) in {(variant, 0.9) for variant in shown}
    store, threshold = open_labels(settings.folder / "labels.zarr"), shown[labels["variant"]]["threshold"]
    q = np.full(labels_of(settings).shape[1:], threshold, np.float32)
    planes = (store.planes(i) for i in range(len(store.sample_ids)))
    expected = [calib.label_pixels(of_image, q, labels["rule"], 0, "abstain") for of_image in planes]
    np.testing.assert_array_equal(labels_of(settings), np.stack(expected))


def test_each_of_two_tested_rules_has_half_of_the_error(run):
    settings = load_settings(run, AUTO)
    assert settings.error_of_each_test == 0.05
    assert load_settings(run, AUTO | {"rule": "argmax"}).error_of_each_test == 0.1
    store = open_calibration(settings.folder / "calibration.zarr")
    maps = {name: np.stack([store.read_chunk(name, i) for i in range(12)]) for name in ("truth", *calib.Planes._fields)}
    labeled = calib.ArrayMaps({"score": maps["p_second"], **maps})
    variant = calib.Variant("precision_argmax", (0.9,), background=0, error=0.05)
    (fitted,) = calib.fit(variant, labeled, np.zeros(12, np.int64))
    assert np.unique(store.q_hat(0.9, "precision_argmax")).tolist() == fitted.q.ravel().tolist()


def test_the_curves_that_are_stored_are_those_of_the_planes(run, tmp_path):
    settings = load_settings(run, AUTO)
    store = open_calibration(settings.folder / "calibration.zarr")
    assert store.tested_rules == ["argmax", "paper"]
    maps = {name: np.stack([store.read_chunk(name, i) for i in range(12)]) for name in ("truth", *calib.Planes._fields)}
    for rule in store.tested_rules:
        counted = labeled_curves(rule, 0, calib.ArrayMaps({"score": maps["p_second"], **maps}))
        stored = labeled_curves(rule, 0, labeled_maps(settings, store))
        for of_stored, of_counted in zip(stored, counted, strict=True):
            np.testing.assert_array_equal(of_stored, of_counted)
    assert store.label_curves("singleton", [0, 1]) is None
    damaged = open_calibration(shutil.copytree(store.path, tmp_path / "calibration.zarr"), writable=True)
    (damaged.path / "label_curves/c/3/0/0/0").unlink()
    with pytest.raises(StoreError, match=rf"label_curves of {store.sample_ids[3]} is not on disk; run "):
        damaged.label_curves("argmax", range(12))


def test_a_variant_has_the_same_numbers_whichever_are_judged_with_it(run):
    settings, (calibrated, _) = load_settings(run, AUTO), receipts(run)
    store = open_calibration(settings.folder / "calibration.zarr")
    alphas = {variant: settings.judged_alphas(variant) for variant in ("precision_paper", "image")}
    alone = fit_and_judge(settings, settings.alphas, "abstain", store, None, alphas)
    for variant, of_variant in alone.items():
        assert json.loads(json.dumps(of_variant.rows)) == [
            row for row in calibrated["held_out"]["rows"] if row["variant"] == variant
        ]


def test_auto_takes_the_guaranteed_labels_with_the_larger_held_out_miou(run):
    calibrated, labels = receipts(run)
    rows = {row["rule"]: row for row in calibrated["held_out"]["rows"] if row["variant"].startswith("precision_")}
    assert {row["alpha"] for row in rows.values()} == {0.9}  # other alphas are not judged
    others = [row for row in calibrated["held_out"]["rows"] if not row["variant"].startswith("precision_")]
    assert {(row["variant"], row["alpha"]) for row in others} == {
        (v, a) for v in ("pixel", "image") for a in (0.2, 0.3)
    }
    assert labels["rule"] == max(rows, key=lambda rule: rows[rule]["miou"]["value"])
    better = max(rows, key=lambda rule: rows[rule]["miou"]["value"])
    without_folds = calibrated | {"held_out": None}
    assert (guaranteed_labels(calibrated).rule, guaranteed_labels(without_folds).rule) == (better, "argmax")


def test_log_receipt_and_inspect_state_the_same_guarantee(run, caplog):
    settings, (calibrated, labels) = load_settings(run, AUTO), receipts(run)
    sentence = labels["guarantee"]
    assert sentence.startswith(
        "with a confidence of 90\u00a0%, at least 10\u00a0% of the labels of new images like the 12 labeled ones are "
        f"right (rule {labels['rule']}, threshold "
    )
    with caplog.at_level(logging.INFO):
        run_stages(settings, "calibrate", "pseudolabel")
    assert f"calibrate: {sentence}" in caplog.text
    assert f"pseudolabel: {sentence}" in caplog.text
    for name in ("labels.zarr", "calibration.zarr"):
        assert sentence in format_summary(inspect_store(settings.folder / name))
    assert read_receipt(settings.folder / "calibrate.json", "calibrate")["fingerprint"] == calibrated["fingerprint"]


def test_the_gallery_shows_other_precisions_and_the_tool_alpha_does_not(run):
    settings = load_settings(run, AUTO)
    labeled_run = open_labeled_run(settings)
    content = page_content(labeled_run)
    assert content["alphas"][content["ownStop"]] == 0.9
    assert (
        "at least 10\u00a0% of the labels of new images are right"
        in content["heldOut"]["guarantees"][content["ownStop"]]
    )
    assert content["heldOut"]["isDescending"]
    assert {row["variant"] for row in choose_alpha(settings, Goal())["rows"]} == {"pixel", "image"}


def test_the_gallery_marks_the_stops_between_the_first_and_the_last_threshold_that_were_shown(run):
    settings = load_settings(run, AUTO)
    labeled_run = open_labeled_run(settings)
    guaranteed = page_content(labeled_run)["guaranteed"]
    rule = labeled_run.rules[guaranteed["rule"]]
    assert rule == labeled_run.labels.rule
    curves = labeled_curves(rule, 0, labeled_maps(settings, labeled_run.calibration))
    is_shown = log_evidence(log_capital(curves, is_pilot(12), 0.9)) >= -np.log(settings.error_of_each_test)
    at = np.searchsorted(candidate_thresholds(), labeled_run.stops.q[:, 0, 0])
    assert is_shown[at[guaranteed["stops"]]].all()
    own = labeled_run.own_stop
    assert guaranteed["stops"][own]
    assert not np.array(guaranteed["stops"])[labeled_run.stops.q[:, 0, 0] > labeled_run.stops.q[own, 0, 0]].any()
    assert guaranteed["text"] == (
        f"a precision of at least 10\u00a0% under rule {rule}, with a confidence of 90\u00a0%"
    )


def test_the_gallery_has_commands_that_give_the_threshold_of_each_stop(run):
    labeled_run = open_labeled_run(load_settings(run, AUTO))
    commands, rules = page_content(labeled_run)["commands"], labeled_run.rules
    stop = labeled_run.own_stop - 1
    words = shlex.split(commands[rules.index(labeled_run.labels.rule)][stop])
    of_stop = load_settings(*parse_workflow_config(words[words.index("--config") + 1 :]))
    assert of_stop.pseudolabel.guarantee.alpha == labeled_run.stops.alphas[stop]
    (fitted,) = calib.fit(
        variant_of(of_stop.of_variant(*of_stop.guaranteed_variants), [labeled_run.stops.alphas[stop]]),
        labeled_maps(of_stop, labeled_run.calibration),
        np.zeros(12, np.int64),
    )
    assert fitted.q.item() == labeled_run.stops.q[stop, 0, 0]
    raw = shlex.split(commands[rules.index("raw")][stop])
    of_raw = load_settings(*parse_workflow_config(raw[raw.index("--config") + 1 :]))
    assert (of_raw.pseudolabel.rule, of_raw.pseudolabel.guarantee) == ("raw", None)


def test_stops_never_rise_and_contain_that_of_the_labels():
    q = np.array([0.5, 0.9, 0.6, 0.7, 0.4, 0.65], np.float32)[:, np.newaxis]
    assert never_rising(q, 2) == [1, 2, 4]
    assert never_rising(q, 4) == [1, 3, 4]


def test_another_confidence_makes_other_thresholds_and_is_refused_by_a_later_stage(run):
    other = load_settings(run, AUTO | {"guarantee": {"precision": 0.1, "confidence": 0.5}})
    assert Run(other).is_stale("calibrate")
    assert not Run(load_settings(run, AUTO)).is_stale("calibrate")


@pytest.mark.parametrize("rule", ["auto", pytest.param("argmax", marks=pytest.mark.slow)])
def test_refuses_a_precision_that_the_images_do_not_show(run, rule):
    strict = SPLITS | {"rule": rule, "guarantee": {"precision": 0.6, "confidence": 0.9}, "name": f"strict_{rule}"}
    settings = load_settings(run, strict)
    run_stages(settings, "prepare", "annotate")
    with pytest.raises(ConfigError) as error:
        STAGES["calibrate"](settings)
    assert str(error.value) == (
        "pseudolabel.guarantee: 12 labeled images do not show a precision of 0.6 at any threshold, with a confidence "
        "of 0.9; the largest precision that they show is below 0.5, and more labeled images like these would not "
        "suffice, because no threshold is precise enough on them; remove pseudolabel.guarantee"
    )
    assert not (settings.folder / "calibrate.json").exists()


REFUSED = {
    r"precision can be tested, auto, argmax, paper, singleton, got rule raw; set rule: auto": {"rule": "raw"},
    r"got rule probe; set rule: auto": {"rule": "probe"},
    r"calibrate.class_thresholds is each; set": {"rule": "paper", "variant": "image", "class_thresholds": "each"},
    r"calibrate.variant: unknown variant 'precision_argmax'": {"rule": "argmax", "variant": "precision_argmax"},
    r"guarantee.precision": {"rule": "auto", "guarantee": {"precision": 1.0}},
}


@pytest.mark.parametrize(("message", "changes"), REFUSED.items())
def test_refuses_settings_that_have_no_guarantee(run, message, changes):
    with pytest.raises(ConfigError, match=message):
        load_settings(run, {"guarantee": {"precision": 0.9}} | changes)
