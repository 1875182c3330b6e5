"""The prediction sets in labels.zarr: what they hold, and that nothing else changes."""

import logging
import shutil

import numpy as np
import pytest
from stage_runs import digest_of, labels_of, probabilities_of, run_stages
from store_damage import make_unfinished
from tiny_run import write_run_file, write_sample_files

from calib import unpack_sets
from pipeline.datasets import load_samples
from pipeline.run import Run
from pipeline.run_file import load_settings
from pipeline.store import open_calibration, open_labels

NAME = "sets"
PER_IMAGE = ("label", "label_by_alpha", "best_foreground", "p_foreground", "p_second", "p_background", "set")
CLASS_WISE = {"class_thresholds": "each", "variant": "image", "uncalibrated": "accept"}


@pytest.fixture(scope="module")
def labeled(tmp_path_factory):
    """A run file, and the folder of its run, labeled under rule singleton without sets."""
    folder = tmp_path_factory.mktemp("labeled")
    write_sample_files(folder / "data", [f"im{i:02d}" for i in range(11)])
    sections = {"calibrate": {"alpha": 0.3, "alphas": [0.2]}, "pseudolabel": {"rule": "singleton"}}
    run_file = write_run_file(folder, name=NAME, **sections)
    run_stages(load_settings(run_file))
    return run_file, folder / "results" / NAME


@pytest.fixture
def of_copy(labeled, tmp_path):
    """Settings of a copy of the labeled run, with changes."""
    run_file, folder = labeled
    shutil.copytree(folder, tmp_path / "results" / NAME)
    return lambda **changes: load_settings(run_file, {"results": str(tmp_path / "results"), **changes})


def labels_path(settings):
    return settings.folder / "labels.zarr"


@pytest.mark.parametrize(
    "change", [{}, {"rule": "raw"}, pytest.param(CLASS_WISE, marks=pytest.mark.slow)], ids=["singleton", "raw", "each"]
)
def test_the_sets_are_those_of_the_maps_and_the_thresholds_beside_the_same_labels(of_copy, change):
    stages = ["calibrate", "pseudolabel"] if change == CLASS_WISE else ["pseudolabel"]
    run_stages(of_copy(**change), *stages)
    labels = labels_of(of_copy(**change))
    assert not {"set", "abstained_pixels"} & set(open_labels(labels_path(of_copy())).array_names)

    settings = of_copy(**change, keep_sets=True)
    run_stages(settings, "pseudolabel")
    assert np.array_equal(labels_of(settings), labels, equal_nan=True)
    store, unlabeled = (
        open_labels(labels_path(settings)),
        load_samples(settings.folder / "samples.json").of("unlabeled"),
    )
    q_hat = open_calibration(settings.folder / "calibration.zarr").q_hat(0.3, store.state["variant"])
    if change != CLASS_WISE:  # else a class without a threshold is in every set
        q_hat = np.where(np.isinf(q_hat), -1, q_hat)
    sets = np.stack([unpack_sets(store.sets(i), 3) for i in range(len(unlabeled))])
    assert np.array_equal(sets, 1 - probabilities_of(settings, unlabeled) <= q_hat)

    sizes = sets.sum(axis=1)
    by_size = [[np.sum((sizes[i] == size) & np.isnan(labels[i])) for size in range(4)] for i in range(len(unlabeled))]
    assert store.read("abstained_pixels").tolist() == by_size
    assert store.teaching_pixels.tolist() == [counts[2] for counts in by_size]
    assert Run(settings).recorded("pseudolabel")["teaching_pixels"] == sum(store.teaching_pixels)
    assert (sum(store.teaching_pixels) > 0) == (change != {"rule": "raw"})


def test_labels_after_labels_with_sets_come_from_the_planes_to_the_same_bytes(of_copy):
    plain, with_sets = of_copy(), of_copy(keep_sets=True)
    expected = digest_of(labels_path(plain))
    run_stages(with_sets, "pseudolabel")
    assert digest_of(labels_path(plain)) != expected
    (plain.folder / "probs.zarr").rename(plain.folder / "put away")
    run_stages(plain, "pseudolabel")
    assert digest_of(labels_path(plain)) == expected


def test_an_interrupted_stage_ends_with_the_same_bytes(of_copy):
    settings = of_copy(keep_sets=True)
    run_stages(settings, "pseudolabel")
    expected = digest_of(labels_path(settings))
    for arrays in (PER_IMAGE, ("set",)):  # killed before and after its other arrays were written
        make_unfinished(labels_path(settings), open_labels(labels_path(settings)), 2, arrays)
        assert digest_of(labels_path(settings)) != expected
        run_stages(settings, "pseudolabel")
        assert digest_of(labels_path(settings)) == expected


def test_the_log_names_the_pixels_that_teach_or_the_rule_that_leaves_none(of_copy, caplog):
    settings = of_copy(keep_sets=True)
    with caplog.at_level(logging.INFO):
        run_stages(settings, "pseudolabel")
        store = open_labels(labels_path(settings))
        fraction = sum(store.teaching_pixels) / store.outcome_pixels[:, 0].sum()
        assert f"{100 * fraction:.1f} % of the pixels have no label, but a set of 2 to 2 classes" in caplog.text
        assert "prediction sets need the probability maps of all classes" in caplog.text
        caplog.clear()
        run_stages(of_copy(keep_sets=True, rule="paper"), "pseudolabel")
    assert "no set can teach" in caplog.text
    assert "Rule paper labels most pixels whose set has several classes; rule singleton" in caplog.text
