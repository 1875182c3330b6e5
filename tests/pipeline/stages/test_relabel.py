"""Other alphas, variants and rules: from the planes alone, to the bit what the probability maps give."""

import shutil

import numpy as np
import pytest
from stage_runs import labels_of, probabilities_of, run_stages

import calib
from pipeline.datasets import load_samples
from pipeline.errors import ConfigError
from pipeline.receipt import read_receipt
from pipeline.run import Run
from pipeline.stages.calibrate import calibrate
from pipeline.stages.pseudolabel import pseudolabel
from pipeline.store import open_calibration, open_labels, open_probabilities
from pipeline.store.metadata import write_metadata


@pytest.fixture
def data(tmp_path, write_images):
    write_images(tmp_path / "data", [f"im{i:02d}" for i in range(13)])


CHANGES = {
    "alpha": {"alpha": 0.4},
    "rule": {"rule": "singleton"},
    "variant image": {"variant": "image", "alpha": 0.3},
    "variant kmeans": {"variant": "kmeans", "alpha": 0.3, "calibrate.regions": 2},
    "variant genann": {"variant": "genann", "alpha": 0.3},
    "variant risk": {"variant": "risk", "rule": "argmax", "alpha": 0.4},
    "uncalibrated": {"uncalibrated": "accept", "alpha": 0.05},
}
ALWAYS = ("rule", "variant image")  # the other changes are slow tests


@pytest.mark.parametrize(
    "change",
    [name if name in ALWAYS else pytest.param(name, marks=pytest.mark.slow) for name in CHANGES],
)
def test_a_change_relabels_from_the_planes_what_the_maps_would_give(data, make_settings, change):
    before = make_settings()
    run_stages(before)
    changed = make_settings(**CHANGES[change])
    Run(changed).finish("calibrate", calibrate(changed))
    (changed.folder / "probs.zarr").rename(changed.folder / "put away")
    facts = pseudolabel(changed)
    (changed.folder / "put away").rename(changed.folder / "probs.zarr")
    from_planes, counts = labels_of(changed), open_labels(changed.folder / "labels.zarr").outcome_pixels

    shutil.rmtree(changed.folder / "labels.zarr")
    assert {**pseudolabel(changed), "seconds": 0} == {**facts, "seconds": 0}
    assert np.array_equal(labels_of(changed), from_planes, equal_nan=True)
    assert np.array_equal(open_labels(changed.folder / "labels.zarr").outcome_pixels, counts)


@pytest.mark.slow
def test_at_20_alphas_the_planes_say_what_the_maps_say(data, make_settings):
    alphas = [round(0.03 + 0.045 * i, 3) for i in range(20)]
    settings = make_settings(alpha=alphas[0], alphas=alphas[1:])
    run_stages(settings)
    store, calibration = (
        open_labels(settings.folder / "labels.zarr"),
        open_calibration(settings.folder / "calibration.zarr"),
    )
    unlabeled = load_samples(settings.folder / "samples.json").of("unlabeled")
    for i, maps in enumerate(probabilities_of(settings, unlabeled)):
        planes = calib.class_planes(maps, 0)
        for position, alpha in enumerate(alphas):
            for rule in calib.RULES:
                from_maps = calib.label_pixels(planes, calibration.q_hat(alpha), rule, 0, "abstain")
                from_store = calib.label_pixels(store.planes(i), calibration.q_hat(alpha), rule, 0, "abstain")
                assert np.array_equal(from_store, from_maps, equal_nan=True)
                if rule == "paper":
                    stored = store.array("label_by_alpha")[position, i].astype(np.float32)
                    assert np.array_equal(stored, from_maps, equal_nan=True)


def test_several_alphas_are_those_of_runs_of_one(data, make_settings):
    several = make_settings(name="several", alpha=0.4, alphas=[0.3, 0.2])
    run_stages(several)
    store = open_labels(several.folder / "labels.zarr")
    assert store.array("alpha")[:].tolist() == [0.4, 0.3, 0.2]
    assert np.array_equal(labels_of(several), store.array("label_by_alpha")[0].astype(np.float32), equal_nan=True)
    for position, alpha in enumerate([0.4, 0.3, 0.2]):
        one = make_settings(name=f"one{position}", alpha=alpha)
        run_stages(one)
        stored = store.array("label_by_alpha")[position].astype(np.float32)
        assert np.array_equal(labels_of(one), stored, equal_nan=True)


def test_a_kill_while_planes_are_kept_is_repaired(data, make_settings):
    """The store as it is after its fingerprint was taken away, before the labels were."""
    settings = make_settings()
    run_stages(settings)
    expected = labels_of(settings)
    store = open_labels(settings.folder / "labels.zarr", writable=True)
    write_metadata(store.path, {**store.state, "fingerprint": "", "complete": False, "relabel": True})
    shutil.rmtree(store.path / "label")
    (settings.folder / "probs.zarr").rename(settings.folder / "put away")
    pseudolabel(settings)
    assert np.array_equal(labels_of(settings), expected, equal_nan=True)


def test_other_maps_make_other_planes(data, make_settings):
    run_stages(make_settings())
    other = make_settings(**{"python.arguments": {"stride": 4}})
    shutil.rmtree(other.folder / "probs.zarr")
    run_stages(other)
    fresh = make_settings(name="fresh", **{"python.arguments": {"stride": 4}})
    run_stages(fresh)
    assert np.array_equal(labels_of(other), labels_of(fresh), equal_nan=True)


@pytest.mark.parametrize(
    "rule", [rule if rule == "paper" else pytest.param(rule, marks=pytest.mark.slow) for rule in calib.RULES]
)
@pytest.mark.parametrize("class_thresholds", ["each", pytest.param("clustered", marks=pytest.mark.slow)])
def test_class_wise_labels_are_those_of_the_sets_themselves(data, make_settings, rule, class_thresholds):
    settings = make_settings(
        variant="image", alpha=0.3, rule=rule, alphas=[0.5], class_thresholds=class_thresholds, class_clusters=2
    )
    run_stages(settings)
    calibration = open_calibration(settings.folder / "calibration.zarr")
    q_hat = calibration.q_hat(0.3)
    assert q_hat.shape == (3, 16, 24)
    assert (q_hat.min(axis=(1, 2)) == q_hat.max(axis=(1, 2))).all()
    unlabeled = load_samples(settings.folder / "samples.json").of("unlabeled")
    labels = labels_of(settings)
    for label, maps in zip(labels, probabilities_of(settings, unlabeled), strict=True):
        for (a, b), found in np.ndenumerate(label):
            pixel = maps[:, a, b]
            members = [j for j in range(3) if np.float32(1) - pixel[j] <= q_hat[j, a, b]]
            assert np.array_equal(found, EXPECTED[rule](members, pixel), equal_nan=True)


def best(classes, pixel):
    return min(classes, key=lambda j: (-pixel[j], j), default=np.nan)


EXPECTED = {
    "paper": lambda members, pixel: best([j for j in members if j] or members, pixel),
    "no_background": best,
    "argmax": lambda members, pixel: best(range(3), pixel) if best(range(3), pixel) in members else np.nan,
    "singleton": lambda members, pixel: members[0] if len(members) == 1 else np.nan,
    "raw": lambda members, pixel: best(range(3), pixel),
}


def test_a_risk_that_cannot_be_bounded_is_refused_with_one_that_can(data, make_settings):
    settings = make_settings(variant="risk", rule="argmax", alpha=0.1)
    run_stages(settings, "prepare", "annotate")
    with pytest.raises(ConfigError, match=r"alpha 0.1: 6 labeled images are too few to bound .* smallest .* is 0.1429"):
        calibrate(settings)


def test_held_out_facts_are_counts_of_the_labeled_images(data, make_settings):
    """Each image judged by hand with the thresholds of a run on the other folds' images."""
    settings = make_settings(folds=3, alpha=0.4)
    run_stages(settings, "prepare", "annotate", "calibrate")
    store = open_calibration(settings.folder / "calibration.zarr")
    scores = np.stack([store.read_chunk("score", i) for i in range(6)])
    truth = np.stack([store.read_chunk("truth", i) for i in range(6)])
    covered = valid = kept = right = 0
    for i in range(6):
        q_hat = calib.pixel_quantile(scores[np.arange(6) % 3 != i % 3], 0.4)
        label = calib.label_pixels(store.planes(i), q_hat, "paper", 0, "abstain")
        is_valid = truth[i] != 255
        valid += is_valid.sum()
        covered += (is_valid & ((scores[i] <= q_hat) | ~np.isfinite(q_hat))).sum()
        kept += (is_valid & ~np.isnan(label)).sum()
        right += (is_valid & (label == truth[i])).sum()
    (row,) = (
        r
        for r in read_receipt(settings.folder / "calibrate.json", "calibrate")["held_out"]["rows"]
        if r["rule"] == "paper"
    )
    assert row["coverage"]["value"] == pytest.approx(covered / valid)
    assert row["precision"]["value"] == pytest.approx(right / kept)
    assert row["keep_rate"]["value"] == pytest.approx(kept / valid)
    assert row["coverage"]["low"] <= row["coverage"]["value"] <= row["coverage"]["high"]


def test_the_maps_are_opened_once_for_all_alphas(data, make_settings, monkeypatch):
    settings = make_settings(alpha=0.4, alphas=[0.3, 0.2])
    run_stages(settings, "prepare", "annotate", "calibrate")
    read = []
    store_class = type(open_probabilities(settings.folder / "probs.zarr"))
    original = store_class.probabilities
    monkeypatch.setattr(store_class, "probabilities", lambda self, i: read.append(i) or original(self, i))
    pseudolabel(settings)
    assert sorted(read) == sorted(set(read))
    assert len(read) == 5
