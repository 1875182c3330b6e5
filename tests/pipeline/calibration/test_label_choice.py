"""The choice of a run's labels: computed from the rows of its receipt, and as the stages make them."""

import logging

import numpy as np
import pytest
from receipts import facts_of
from stage_runs import labels_of, run_stages
from tiny_run import write_run_file, write_sample_files

import calib
from pipeline.calibration.folds import variant_of
from pipeline.calibration.label_choice import choose, labeler, ranked_candidates
from pipeline.calibration.rows import candidates
from pipeline.errors import StoreError
from pipeline.inspect.run import format_run, inspect_run
from pipeline.receipt import read_receipt
from pipeline.run import Run
from pipeline.run_file import load_settings
from pipeline.stages.pseudolabel import pseudolabel
from pipeline.store import open_calibration, open_labels

AUTO = {"rule": "auto", "alpha": 0.3, "alphas": [0.2, 0.5, 0.7], "variants": ["image", "fixed"]}


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A run file, calibrated and labeled by rule auto."""
    folder = tmp_path_factory.mktemp("auto")
    write_sample_files(folder / "data", [f"im{i:02}" for i in range(12)])
    path = write_run_file(folder)
    run_stages(load_settings(path, AUTO))
    return path


def calibrated(run):
    return read_receipt(load_settings(run).folder / "calibrate.json", "calibrate")


def precision_of(row, name):
    of_classes = [precision["value"] for precision in row["precision_per_class"].values() if precision]
    return {"pixels": row["precision"]["value"], "macro": np.mean(of_classes), "every_class": min(of_classes)}[name]


def test_every_rule_alpha_and_variant_and_the_argmax_are_candidates(run):
    """But for variant pixel, because 6 labeled images are few."""
    found = ranked_candidates(load_settings(run, AUTO))
    assert len(found) == len(set(found)) == 1 + 4 * 3 + 3  # variant fixed is the same at all alphas
    assert {candidate.variant for candidate in found if candidate.rule != "raw"} == {"image", "fixed"}
    assert [candidate.rule for candidate in found].count("raw") == 1
    assert [candidate.miou for candidate in found] == sorted((c.miou for c in found), reverse=True)


def test_variant_pixel_is_a_candidate_with_many_images_or_without_another_that_bounds_the_coverage(run):
    held_out = calibrated(run)["held_out"]
    rows = {name: [row for row in held_out["rows"] if row["variant"] == name] for name in ("pixel", "image", "fixed")}
    for num_images, names, has_pixel in [
        (99, ("pixel", "image"), False),
        (100, ("pixel", "image"), True),
        (6, ("pixel",), True),
        (6, ("pixel", "fixed"), True),
    ]:
        shown = held_out | {"num_images": num_images, "rows": [row for name in names for row in rows[name]]}
        found = {candidate.variant for candidate in candidates(shown) if candidate.rule != "raw"}
        assert found == {*names} - (set() if has_pixel else {"pixel"})


def labeling_rows(run):
    """The rows of the candidates that label any pixel."""
    held_out = calibrated(run)["held_out"]
    rows = [row for row in (held_out["raw"], *held_out["rows"]) if row["keep_rate"]["value"] > 0]
    return [row for row in rows if row["variant"] != "pixel" or row["rule"] == "raw"]


def test_auto_chooses_the_largest_miou(run):
    rows = labeling_rows(run)
    most = max(row["miou"]["value"] for row in rows)
    labels = read_receipt(load_settings(run).folder / "pseudolabel.json", "pseudolabel")
    taken = {(row["variant"], row["alpha"], row["rule"]) for row in rows if row["miou"]["value"] == most}
    assert (labels["variant"], labels["alpha"], labels["rule"]) in taken
    assert labels["is_automatic"]


def test_the_log_compares_the_choice_with_the_best_labels_of_other_numbers(run, caplog):
    """Equal numbers are those of equal labels, as of two rules that agree on every pixel."""
    settings = load_settings(run, AUTO)
    best, *others = ranked_candidates(settings)
    runner_up = next(
        o for o in others if (o.miou, o.precision, o.keep_rate) != (best.miou, best.precision, best.keep_rate)
    )
    with caplog.at_level(logging.INFO):
        run_stages(settings, "pseudolabel")
    assert f": {100 * best.miou:.1f}, keep rate {best.keep_rate:.3f}\n" in caplog.text
    samples = [resampled_miou(settings, candidate) for candidate in (best, runner_up)]
    low, high = np.quantile(samples[0] - samples[1], [0.025, 0.975])
    is_larger = np.mean(samples[0] > samples[1]) + np.mean(samples[0] == samples[1]) / 2
    sentence = (
        f"the runner-up, variant {runner_up.variant}, alpha {runner_up.alpha:g}, rule {runner_up.rule}, has a mIoU of "
        f"{100 * runner_up.miou:.1f} and a keep rate of {runner_up.keep_rate:.3f}; the difference in mIoU is "
        f"{100 * (best.miou - runner_up.miou):+.1f}, 95 % interval {100 * low:+.1f} to {100 * high:+.1f}, "
        f"above zero in {100 * is_larger:.0f} % of the bootstrap samples"
    )
    assert f"pseudolabel: {sentence}\n" in caplog.text
    assert read_receipt(settings.folder / "pseudolabel.json", "pseudolabel")["runner_up"] == sentence
    assert f"runner-up   {sentence}\n" in format_run(inspect_run(settings))


def resampled_miou(settings, candidate):
    """mIoU of each bootstrap sample of the labeled images: each labeled by the thresholds of the other five."""
    store, fold = open_calibration(settings.folder / "calibration.zarr"), np.arange(6)
    maps = {name: np.stack([store.read_chunk(name, i) for i in fold]) for name in ("score", "truth")}
    own = settings.of_variant(candidate.variant)
    _, *fits = calib.fit(variant_of(own, [candidate.alpha]), calib.ArrayMaps(maps), fold)
    counts = []
    for i, fitted in enumerate(fits):
        q = np.ones_like(maps["score"][i]) if candidate.rule == "raw" else fitted.resolve("abstain").map(0)
        label = calib.label_pixels(store.planes(i), q, candidate.rule, 0, "abstain")
        label[np.isnan(maps["score"][i])] = 9
        is_of = [(label == k, (maps["truth"][i] == k) & (label != 9)) for k in range(3)]
        counts.append([[(kept & true).sum(), (kept | true).sum()] for kept, true in is_of])
    weights = np.random.default_rng(settings.seed).multinomial(6, np.full(6, 1 / 6), size=2000)
    right, union = np.moveaxis(np.tensordot(weights, np.array(counts), axes=1), -1, 0)
    return (right / union).mean(axis=1)


@pytest.mark.parametrize("name", ["pixels", "macro", "every_class"])
def test_a_target_leaves_only_labels_that_are_precise_enough(run, name, caplog):
    rows = labeling_rows(run)
    target = sorted(precision_of(row, name) for row in rows)[-5]
    choice = choose(
        load_settings(run, AUTO | {"target_precision": float(target), "precision_of": name}), calibrated(run)
    )
    reaching = [row for row in rows if precision_of(row, name) >= target]
    (taken,) = [row for row in rows if (row["variant"], row["alpha"], row["rule"]) == choice_of(choice)]
    assert taken["miou"]["value"] == max(row["miou"]["value"] for row in reaching)
    with caplog.at_level(logging.WARNING):
        pseudolabel(load_settings(run, AUTO | {"target_precision": 0.999, "precision_of": name}))
    assert f"NO LABELS REACH target_precision 0.999 ({name})" in caplog.text


def choice_of(choice):
    return choice.variant, choice.alphas[0], choice.rule


def test_the_labeler_labels_as_the_stage_does(run):
    settings = load_settings(run, AUTO)
    run_stages(settings, "pseudolabel")
    store, ranked = open_labels(settings.folder / "labels.zarr"), ranked_candidates(settings)
    planes = [store.planes(i) for i in range(len(store.sample_ids))]
    np.testing.assert_array_equal(np.stack(list(map(labeler(settings, ranked[0]), planes))), labels_of(settings))
    of_variant = {c.variant: c for c in ranked if c.rule == "paper" and c.alpha == 0.3}
    labels = {variant: labeler(settings, candidate)(planes[0]) for variant, candidate in of_variant.items()}
    assert len({label.tobytes() for label in labels.values()}) == 2
    expected = literal_labels_of(planes[0], threshold=0.5)
    np.testing.assert_array_equal(labels["fixed"], expected)


def literal_labels_of(planes, threshold):
    """Eq. 4 at a fixed probability."""
    background = np.where(planes.p_background >= threshold, np.float32(0), np.float32(np.nan))
    return np.where(planes.p_foreground >= threshold, planes.best_foreground, background)


def test_raw_labels_are_the_argmax_of_every_pixel(run):
    settings = load_settings(run, {"rule": "raw", "name": "raw"})
    run_stages(settings)
    store = open_labels(settings.folder / "labels.zarr")
    raw = np.stack([store.raw_argmax(i) for i in range(len(store.sample_ids))])
    np.testing.assert_array_equal(labels_of(settings), raw)
    facts = read_receipt(settings.folder / "pseudolabel.json", "pseudolabel")
    assert (facts["keep_rate"], facts["pixels"]["empty"], facts["pixels"]["uncalibrated"]) == (1, 0, 0)
    assert facts["verdict"].startswith("the labels are the annotator's own argmax; the best calibrated labels (")


def test_variant_fixed_has_a_fixed_threshold_and_no_guarantee(run):
    settings = load_settings(run, {"variant": "fixed", "fixed_threshold": 0.4, "rule": "paper", "name": "fixed"})
    run_stages(settings)
    assert (open_calibration(settings.folder / "calibration.zarr").q_hat(0.2) == np.float32(0.6)).all()
    rows = read_receipt(settings.folder / "calibrate.json", "calibrate")["held_out"]["rows"]
    assert [row["target"] for row in rows] == [None] * 3


def test_with_a_single_labeled_image_auto_chooses_raw_and_logs_why(run, caplog):
    settings = load_settings(run, {"rule": "auto", "num_labeled": 1, "alpha": 0.5, "name": "one"})
    with caplog.at_level(logging.WARNING):
        run_stages(settings)
    facts = read_receipt(settings.folder / "pseudolabel.json", "pseudolabel")
    assert (facts["rule"], facts["keep_rate"], facts["verdict"]) == ("raw", 1, None)
    assert "a single labeled image (or group) cannot be held out, so labels cannot be compared" in caplog.text


# --- rule probe ------------------------------------------------------------------------------------------------------


def probed(run, **chosen):
    """The choice of rule probe after a probe with this result."""
    settings = load_settings(run, AUTO | {"rule": "probe"})
    facts = {"fingerprint": calibrated(run)["fingerprint"], "chosen": {"weight": 1.0, **chosen}}
    Run(settings).finish("probe", facts_of("probe", **facts))
    return choose(settings, calibrated(run))


def test_a_probe_that_is_missing_or_of_another_calibration_is_named_with_its_command(run):
    settings = load_settings(run, AUTO | {"rule": "probe"})
    (settings.folder / "probe.json").unlink(missing_ok=True)
    with pytest.raises(StoreError, match=r"the stage probe has not finished; run snakemake --cores 8 probe --config"):
        choose(settings, calibrated(run))
    Run(settings).finish("probe", facts_of("probe", fingerprint="other"))
    with pytest.raises(StoreError, match=r"another calibration .*; run snakemake --cores 8 probe -R probe --config"):
        choose(settings, calibrated(run))


def test_the_choice_of_the_probe_is_used(run):
    calibrated_ones = probed(run, labels="calibrated", variant="image", alpha=0.5, rule="singleton")
    assert choice_of(calibrated_ones) == ("image", 0.5, "singleton")
    raw = probed(run, labels="raw", variant=None, alpha=None, rule=None)
    assert choice_of(raw) == ("pixel", 0.3, "raw")
    assert not raw.labels_alone_are_better
    nothing = probed(run, labels="none", variant=None, alpha=None, rule=None)
    assert nothing.labels_alone_are_better
    assert choice_of(nothing) == ranked_candidates(load_settings(run, AUTO))[0][:3]
    assert nothing.rule in calib.RULES


def test_without_a_probe_the_log_names_the_command_that_compares_with_the_labeled_images_alone(run, caplog):
    settings = load_settings(run, AUTO)
    (settings.folder / "probe.json").unlink(missing_ok=True)
    with caplog.at_level(logging.INFO):
        run_stages(settings, "pseudolabel")
        assert f"small students show it in minutes: conformalsam probe {run} " in caplog.text
        caplog.clear()
        Run(settings).finish("probe", facts_of("probe"))
        run_stages(settings, "pseudolabel")
        assert "small students" not in caplog.text
