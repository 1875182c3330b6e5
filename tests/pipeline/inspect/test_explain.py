"""explain: every number is the stores', and the decision is the stored label, for all variants and rules."""

import json
import shutil

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from stage_runs import STAGES, probabilities_of
from tiny_run import write_run_file, write_sample_files

import calib
from pipeline.cli import CommandGroup
from pipeline.commands.explain import explain as command
from pipeline.datasets import load_samples
from pipeline.errors import ConfigError, StoreError
from pipeline.inspect.evidence import open_evidence
from pipeline.inspect.explain import explain, explain_location, has_problem, nearest
from pipeline.inspect.explain_lines import format_explanation
from pipeline.run import Run
from pipeline.run_file import load_settings
from pipeline.store import open_calibration, open_labels

GRID = (5, 7)
SIZE = (13, 9)  # of the images: the grid has other sides, and is stretched the other way
NAMES = ["background", "cat", "dog"]
VARIANTS = {
    "pixel": {},
    "pixel, plain quantile": {"quantile": "paper"},
    "pixel, pooled where scores are few": {"n_min": 6},
    "pixel, the whole map where scores are few": {"n_min": 6, "fallback": "image"},
    "image": {"variant": "image"},
    "image, naive": {"variant": "image", "pooling": "naive"},
    "kmeans": {"variant": "kmeans", "regions": 2},
    "genann": {"variant": "genann", "regions": 2},
    "each class": {"variant": "image", "class_thresholds": "each"},
    "clusters of classes": {"variant": "kmeans", "regions": 2, "class_thresholds": "clustered", "class_clusters": 2},
    "risk": {"variant": "risk"},
}


@pytest.fixture(scope="module")
def annotated(tmp_path_factory):
    """A run file, and its results as far as annotate."""
    folder = tmp_path_factory.mktemp("explained")
    write_sample_files(folder / "data", [f"im{i:02d}" for i in range(14)], size=SIZE)
    data = {"root": str(folder / "data"), "classes": NAMES, "background": "background", "grid": list(GRID)}
    data |= {"splits": {"num_labeled": 8, "num_val": 2}}
    annotator = {"factory": "noisy_annotator:build", "arguments": {"stride": 1}}
    run_file = write_run_file(folder, data=data, annotate={"annotator": "python", "python": annotator})
    settings = load_settings(run_file)
    for stage in ("prepare", "annotate"):
        Run(settings).finish(stage, STAGES[stage](settings))
    return run_file, settings.folder


@pytest.fixture
def make_run(annotated, tmp_path):
    """Calibrate and label a copy of the annotated run with these settings."""
    run_file, folder = annotated

    def make(name="run", **overrides):
        settings = load_settings(run_file, {"results": str(tmp_path), "name": name, "alpha": 0.3, **overrides})
        copy_run(folder, settings)
        label(settings)
        return settings

    return make


def copy_run(folder, settings, stages=("prepare", "annotate")):
    """The finished stages of a run under other settings, which do not change their results."""
    shutil.copytree(folder, settings.folder)
    for stage in stages:
        Run(settings).finish(stage, Run(settings).recorded(stage))


def label(settings):
    for stage in ("calibrate", "pseudolabel"):
        Run(settings).finish(stage, STAGES[stage](settings))


def ids_of(settings, split):
    return [sample.id for sample in load_samples(settings.folder / "samples.json").of(split)]


def label_at(intervals, alpha, step):
    """What the intervals say, found without the code under test."""
    for interval in intervals:
        if interval["low"] <= alpha and (alpha <= interval["high"] if step else alpha < interval["high"]):
            return interval["label"]
    return "not listed"


@pytest.mark.slow
@given(
    variant=st.sampled_from(sorted(VARIANTS)),
    rule=st.sampled_from(list(calib.RULES)),
    uncalibrated=st.sampled_from(["abstain", "accept", "max"]),
    alpha=st.sampled_from([0.15, 0.3, 0.5]),
    background=st.sampled_from(["background", "dog", None]),
)
@hypothesis_settings(max_examples=2, deadline=None)
def test_it_agrees_with_the_stored_labels_of_every_pixel(
    annotated, tmp_path_factory, variant, rule, uncalibrated, alpha, background
):
    run_file, folder = annotated
    results = tmp_path_factory.mktemp("results")
    rule = "argmax" if variant == "risk" else rule  # it bounds the errors of that rule alone
    chosen = {"rule": rule, "uncalibrated": uncalibrated, "alpha": alpha, "alphas": [0.2, 0.6], "folds": 2}
    chosen |= {"results": str(results), "data.background": background, "keep_sets": True}
    settings = load_settings(run_file, chosen | VARIANTS[variant])
    copy_run(folder, settings)
    label(settings)
    labels = open_labels(settings.folder / "labels.zarr")
    evidence = open_evidence(settings, ids_of(settings, "unlabeled")[1])
    stored = labels.array("label_by_alpha")[:, 1].astype(np.float32)
    alphas = labels.array("alpha")[:].tolist()
    for row, column in np.ndindex(GRID):
        facts = explain_location(evidence, row, column)
        assert not has_problem(facts), (facts["threshold_problem"], facts["label_problem"])
        named = [None if np.isnan(k) else NAMES[int(k)] for k in stored[:, row, column]]
        assert (facts["decision"], facts["stored"]["label"]) == (named[0], named[0])
        for known, expected in zip(alphas, named, strict=True):
            assert label_at(facts["intervals"], known, facts["step"]) == expected
        json.dumps(facts, allow_nan=False)
        format_explanation(facts | {"id": "a", "x": 0, "y": 0, "width": 1, "height": 1, "grid": GRID})
    shutil.rmtree(results)


@pytest.mark.parametrize("variant", ["pixel", "each class"])
def test_the_numbers_of_a_pixel_are_those_of_the_stores(make_run, variant):
    settings = make_run(**VARIANTS[variant])
    index = load_samples(settings.folder / "samples.json")
    calibration = open_calibration(settings.folder / "calibration.zarr")
    scores = np.stack([calibration.read_chunk("score", i) for i in range(8)])
    q_hat = np.broadcast_to(calibration.q_hat(0.3), (3, *GRID))
    sample = index.of("unlabeled")[2]
    maps = probabilities_of(settings, [sample])[0]
    evidence = open_evidence(settings, sample.id)
    for a, b in ((0, 0), (2, 3), (4, 6)):
        facts = explain_location(evidence, a, b)
        valid = scores[:, a, b][~np.isnan(scores[:, a, b])]
        assert facts["num_scores"] == len(valid)
        order = sorted(range(3), key=lambda j: (-maps[j, a, b], j))
        assert [row["class"] for row in facts["classes"]] == [NAMES[j] for j in order]
        for row, j in zip(facts["classes"], order, strict=True):
            score = np.float32(1) - maps[j, a, b]
            at_least = sum(s >= score for s in valid)
            assert (row["probability"], row["score"]) == (maps[j, a, b], score)
            assert (row["at_least"], row["p_value"]) == (at_least, pytest.approx((at_least + 1) / (len(valid) + 1)))
            assert row["threshold"] == (q_hat[j, a, b] if np.isfinite(q_hat[j, a, b]) else None)
            assert row["in_set"] == bool(np.isfinite(q_hat[j, a, b]) and score <= q_hat[j, a, b])
        assert facts["raw_argmax"] == NAMES[int(np.argmax(maps[:, a, b]))]
        assert facts["by_rule"][facts["rule"]] == facts["decision"]


def test_a_pixel_of_the_image_is_looked_up_as_its_label_goes_back(make_run):
    settings = make_run()
    evidence = open_evidence(settings, ids_of(settings, "unlabeled")[0])
    assert evidence.size == SIZE
    for source, target in ((5, 13), (7, 9), (16, 5), (3, 3)):
        places = torch.arange(source, dtype=torch.float32).reshape(1, 1, 1, -1)
        expected = torch.nn.functional.interpolate(places, (1, target), mode="nearest-exact")[0, 0, 0].long().tolist()
        assert [nearest(source, target, position) for position in range(target)] == expected
    facts = explain(evidence, 8, 12)
    assert (facts["row"], facts["column"]) == (4, 6)
    for x, y in ((9, 0), (0, 13)):
        with pytest.raises(ConfigError, match=f"--xy {x},{y} is not in im.*, which is 9 x 13: give x from 0 to 8 and"):
            explain(evidence, x, y)


def test_a_labeled_image_comes_with_its_truth_and_score(make_run):
    settings = make_run()
    calibration = open_calibration(settings.folder / "calibration.zarr")
    evidence = open_evidence(settings, ids_of(settings, "labeled")[3])
    truth, score = calibration.read_chunk("truth", 3), calibration.read_chunk("score", 3)
    seen = set()
    for a, b in np.ndindex(GRID):
        facts = explain_location(evidence, a, b)
        assert not has_problem(facts)
        assert facts["truth"] == ("void" if truth[a, b] == 255 else NAMES[truth[a, b]])
        assert facts["stored_score"] == (None if truth[a, b] == 255 else score[a, b])
        assert facts["stored"] is None
        seen.add(facts["truth"])
    assert seen == {"void", *NAMES}
    assert "this image is labeled, so its own score was used for the threshold" in format_explanation(
        explain(evidence, 0, 0)
    )


@pytest.fixture(scope="module")
def labeled(annotated, tmp_path_factory):
    """The annotated run with labels at alpha 0.3."""
    run_file, folder = annotated
    settings = load_settings(run_file, {"results": str(tmp_path_factory.mktemp("labeled")), "alpha": 0.3})
    copy_run(folder, settings)
    label(settings)
    return settings.folder


@pytest.fixture
def explained(annotated, labeled, tmp_path):
    """Call the command on a copy of the run with labels."""
    run_file, _ = annotated
    settings = load_settings(run_file, {"results": str(tmp_path), "name": "run", "alpha": 0.3})
    copy_run(labeled, settings, STAGES)
    common = ["--set", f"results={settings.results}", "--set", "name=run", "--set", "alpha=0.3"]

    def call(*arguments):
        words = ["explain", str(run_file), *common, *arguments]
        return CliRunner().invoke(CommandGroup(commands=[command]), words)

    return settings, call


def test_the_command_tells_it_in_lines_or_as_json(explained):
    settings, call = explained
    sample_id = ids_of(settings, "unlabeled")[0]
    told = call("--id", sample_id, "--xy", "4, 6")
    assert told.exit_code == 0
    assert f"pixel        {sample_id} (9 x 13), x 4, y 6: row 2, column 3 of the 7 x 5 grid" in told.stdout
    assert "rule         paper: the most probable foreground class of the set" in told.stdout
    assert ": the same" in told.stdout
    facts = json.loads(call("--id", sample_id, "--xy", "4,6", "--json").stdout)
    n, k = facts["num_scores"], facts["rank"]
    assert f"rank k = ceil(({n} + 1)(1 - 0.3)) = {k}" in told.stdout
    assert f"exact. Below 1/{n + 1} = " in told.stdout


def test_another_alpha_in_the_settings_is_answered_from_the_intervals(explained):
    settings, call = explained
    sample_id = ids_of(settings, "unlabeled")[0]
    facts = json.loads(call("--id", sample_id, "--xy", "4,6", "--json", "--set", "alpha=0.6").stdout)
    assert (facts["alpha"], facts["settings_alpha"]) == (0.3, 0.6)
    expected = label_at(facts["intervals"], 0.6, facts["step"])
    assert facts["at_settings_alpha"] == expected
    told = call("--id", sample_id, "--xy", "4,6", "--set", "alpha=0.6").stdout
    assert f"at the settings' 0.6: {expected or 'no label'}" in told


@pytest.mark.parametrize("xy", ["4", "4,", "a,b", "-1,2", "1.5,2"])
def test_what_is_no_pixel_is_refused(explained, xy):
    _, call = explained
    result = call("--id", "im00", f"--xy={xy}")
    assert result.exit_code == 1
    assert f"error: --xy {xy} is not a pixel; write two integers separated by a comma" in result.stderr


def test_an_image_that_is_not_there_is_named(explained):
    settings, call = explained
    assert "has no image im0; did you mean im" in call("--id", "im0", "--xy", "1,1").stderr
    val = ids_of(settings, "val")[0]
    assert f"{val} is a val image, which gets no label" in call("--id", val, "--xy", "1,1").stderr


def test_a_label_that_does_not_follow_is_told_loudly(explained):
    settings, call = explained
    store = open_labels(settings.folder / "labels.zarr", writable=True)
    label = store.array("label")[0]
    changed = np.where(label == 1, 2, 1).astype(np.float16)  # no pixel keeps its label
    store.array("label")[0] = changed
    result = call("--id", store.sample_ids[0], "--xy", "4,6")
    assert result.exit_code == 1
    assert "DISAGREES    the stored label is " in result.stdout
    assert "but maps, threshold and rule give " in result.stdout


def test_a_set_that_does_not_follow_is_a_problem(make_run):
    settings = make_run(keep_sets=True)
    store = open_labels(settings.folder / "labels.zarr", writable=True)
    bits = store.sets(0)
    before = [NAMES[k] for k in np.flatnonzero(calib.unpack_sets(bits, 3)[:, 2, 3])]
    store.array("set")[0] = bits ^ np.uint8(1)  # background in where it was out, and out where it was in
    problem = explain_location(open_evidence(settings, store.sample_ids[0]), 2, 3)["label_problem"]
    after = [name for name in NAMES if (name in before) != (name == NAMES[0])]
    stored, expected = (", ".join(names) or "none" for names in (after, before))
    assert problem == f"the stored set is {{{stored}}}, but maps and thresholds give {{{expected}}}"


def test_a_threshold_that_does_not_follow_from_the_scores_is_told_loudly(explained):
    settings, call = explained
    store = open_calibration(settings.folder / "calibration.zarr", writable=True)
    store.array("q_hat")[0] = np.full(GRID, 0.125, np.float32)
    result = call("--id", store.sample_ids[0], "--xy", "4,6")
    assert result.exit_code == 1
    assert "DISAGREES    the stored threshold is [0.125], but the stored scores give [" in result.stdout


def test_a_score_that_does_not_follow_from_the_maps_is_told_loudly(explained):
    settings, call = explained
    store = open_calibration(settings.folder / "calibration.zarr", writable=True)
    store.array("score")[0] = np.full(GRID, 2, np.float32)
    result = call("--id", store.sample_ids[0], "--xy", "4,6")
    assert result.exit_code == 1
    assert "DISAGREES    the stored score 2.0 is not 1 - P of the true class: " in result.stdout


def test_settings_that_calibration_was_not_made_with_are_refused(explained):
    settings, call = explained
    result = call("--id", ids_of(settings, "unlabeled")[0], "--xy", "4,6", "--set", "variant=image")
    message = "was made with other settings (calibrate.variant pixel, now image); change them back, or run snakemake"
    assert message in result.stderr


def test_labels_of_other_thresholds_are_refused(make_run, annotated):
    settings = make_run()
    again = load_settings(annotated[0], {"results": settings.results, "name": settings.name, "alpha": 0.5})
    Run(again).finish("calibrate", STAGES["calibrate"](again))
    with pytest.raises(StoreError, match=r"was made by other thresholds .* run snakemake .* pseudolabel"):
        open_evidence(again, ids_of(again, "unlabeled")[0])


def test_before_there_are_labels_the_settings_say_what_they_would_be(make_run):
    settings = make_run(rule="argmax")
    expected = explain(open_evidence(settings, ids_of(settings, "unlabeled")[0]), 1, 1)
    shutil.rmtree(settings.folder / "labels.zarr")
    facts = explain(open_evidence(settings, ids_of(settings, "unlabeled")[0]), 1, 1)
    assert facts["stored"] is None
    assert facts["decision"] == expected["decision"]
    assert "none yet: labels.zarr does not have this image" in format_explanation(facts)
