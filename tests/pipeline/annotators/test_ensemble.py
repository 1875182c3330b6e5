"""Annotator ensemble: members fill stores of their own, and the run stores their weighted mean."""

import re
import sys

import numpy as np
import pytest
from stage_runs import contents, forget_maps, kill_stage, probabilities_of, run_stages
from tiny_run import UNTRAINED, write_run_file

from pipeline.annotators.mixture import log_loss
from pipeline.datasets import IGNORE_INDEX, image_to_grid, resize_nearest
from pipeline.doctor import examine
from pipeline.errors import AnnotatorError, ConfigError, StoreError
from pipeline.inspect.check import repair
from pipeline.inspect.run_check import check_run
from pipeline.resample import resize_bilinear, softmax
from pipeline.run import Run
from pipeline.run_file import load_settings
from pipeline.shards import shards
from pipeline.stages.annotate import annotate, annotate_shard
from pipeline.store import DONE, create_store, open_for_inspection, open_probabilities

IDS = [f"im{i:02d}" for i in range(12)]


def noisy(factory="noisy_annotator:build", **arguments):
    return {"annotator": "python", "python": {"factory": factory, "arguments": arguments}, "batch_size": 2}


LOGITS, ROUGH = noisy(), noisy(space="probability", stride=4)


@pytest.fixture
def make(tmp_path, write_images):
    """Function that makes the settings of a prepared run of an ensemble: (members, weights, overrides)."""
    write_images(tmp_path / "data", IDS)

    def make_settings(members, weights="equal", annotator=None, **overrides):
        chosen = {"annotator": "ensemble", "ensemble": {"members": members, "weights": weights}}
        path = write_run_file(tmp_path, annotate=chosen | {"class_check": "warn", "batch_size": 2} | (annotator or {}))
        settings = load_settings(path, overrides)
        if not Run(settings).has_receipt("prepare"):
            run_stages(settings, "prepare")
        return settings

    return make_settings


def samples_of(settings):
    return Run(settings).samples().of("labeled", "unlabeled")


def stored(path):
    store = open_probabilities(path)
    return {name: store.probabilities(i).maps for i, name in enumerate(store.sample_ids)}


def written(path):
    return {chunk.name: chunk.stat().st_mtime_ns for chunk in next(path.glob("*/c/0/0/0/0")).parents[3].iterdir()}


def test_the_run_stores_the_mean_of_what_the_members_store(make):
    settings = make({"fine": LOGITS, "rough": ROUGH}, {"fine": 3, "rough": 1.0})
    facts = annotate(settings)
    assert facts["annotator"] == "ensemble of fine 0.75, rough 0.25"
    assert (facts["maps"], facts["dtype"], facts["space"]) == ([10, 3, 8, 12], "uint16", "probability")
    fine, rough = (stored(Run(settings).folder.member(name)) for name in ("fine", "rough"))
    for name, mean in stored(settings.folder / "probs.zarr").items():
        expected = 0.75 * softmax(fine[name]) + 0.25 * resize_bilinear(rough[name], (8, 12))
        assert np.abs(mean - expected).max() <= 1e-5
    assert {name: one["weight"] for name, one in facts["members"].items()} == {"fine": 0.75, "rough": 0.25}
    assert [one["fingerprint"] for one in facts["members"].values()] == [
        open_probabilities(Run(settings).folder.member(name)).fingerprint for name in ("fine", "rough")
    ]


def test_one_member_is_that_annotator(make, tmp_path):
    settings = make({"only": LOGITS}, annotator={"resolution": "grid"})
    annotate(settings)
    alone = load_settings(write_run_file(tmp_path, annotate={**LOGITS, "class_check": "warn"}), {"name": "alone"})
    run_stages(alone, "prepare")
    assert annotate(alone)["fingerprint"] == open_probabilities(Run(settings).folder.member("only")).fingerprint
    samples = samples_of(settings)
    assert np.abs(probabilities_of(settings, samples) - probabilities_of(alone, samples)).max() <= 1e-5


def test_other_weights_annotate_nothing_again(make):
    members = {"fine": LOGITS, "rough": ROUGH}
    settings = make(members)
    before = annotate(settings)
    folder = Run(settings).folder
    kept = {name: written(folder.member(name)) for name in members}
    other = make(members, {"fine": 1, "rough": 4})
    after = annotate(other)
    assert before["fingerprint"] != after["fingerprint"]
    assert {name: written(folder.member(name)) for name in members} == kept
    fine, rough = (stored(folder.member(name)) for name in members)
    for name, mean in stored(folder.probabilities).items():
        expected = 0.2 * softmax(fine[name]) + 0.8 * resize_bilinear(rough[name], (8, 12))
        assert np.abs(mean - expected).max() <= 1e-5


def test_a_changed_file_of_a_member_changes_the_mean_of_that_image_alone(make, tmp_path):
    folder = tmp_path / "written"
    folder.mkdir()
    maps = np.random.default_rng(0).dirichlet([1, 1, 1], (8, 12)).transpose(2, 0, 1).astype(np.float32)
    for name in IDS:
        np.save(folder / f"{name}.npy", maps)
    settings = make({"fine": LOGITS, "files": {"annotator": "maps", "maps": {"folder": str(folder)}}})
    annotate(settings)
    before = stored(settings.folder / "probs.zarr")
    changed = next(iter(before))
    np.save(folder / f"{changed}.npy", maps[::-1])
    annotate(settings)
    after, fine = stored(settings.folder / "probs.zarr"), stored(Run(settings).folder.member("fine"))
    assert np.abs(after[changed] - (softmax(fine[changed]) + maps[::-1]) / 2).max() <= 2e-5
    assert all(np.array_equal(after[name], before[name]) for name in before if name != changed)


def test_fitted_weights_have_the_smallest_loss_on_labeled_images(make):
    settings = make({"fine": LOGITS, "rough": ROUGH}, "fitted")
    facts = annotate(settings)
    weights = [one["weight"] for one in facts["members"].values()]
    assert sum(weights) == pytest.approx(1, abs=2e-3)
    index, columns, importance = Run(settings).samples(), [], []
    fine, rough = (stored(Run(settings).folder.member(name)) for name in ("fine", "rough"))
    for sample in index.of("labeled"):
        truth = resize_nearest(index.mask(sample, settings.data), (8, 12))
        rows, places = np.nonzero(truth != IGNORE_INDEX)
        maps = np.stack([softmax(fine[sample.id]), resize_bilinear(rough[sample.id], (8, 12))])
        columns.append(maps[:, truth[rows, places], rows, places])
        importance += [1 / len(rows)] * len(rows)
    probabilities, importance = np.concatenate(columns, axis=1), np.array(importance) / len(columns)
    losses = [log_loss(probabilities, importance, [one, 1 - one]) for one in np.linspace(0, 1, 201)]
    assert facts["log_losses"]["fitted"] == pytest.approx(min(losses), abs=2e-4)
    assert facts["log_losses"]["equal"] == pytest.approx(losses[100], abs=1e-4)
    assert facts["log_losses"]["fine alone"] == pytest.approx(losses[-1], abs=1e-4)


class WithoutDog:
    """Knows no dog; the other two classes have probabilities 0.6 and 0.4."""

    name, fingerprint, space, without_prompt = "without dog", "without dog", "probability", ["dog"]

    def prepare(self, class_prompts):
        pass

    def __call__(self, images):
        maps = np.array([0.6, 0.4, 0], np.float32)[None, :, None, None]
        return np.broadcast_to(maps, (len(images), 3, 8, 12)).copy()


def test_a_class_that_a_member_lacks_comes_from_the_others(make, monkeypatch):
    monkeypatch.setitem(sys.modules, "without_dog", sys.modules[__name__])
    settings = make({"fine": LOGITS, "few": noisy("without_dog:WithoutDog")})
    facts = annotate(settings)
    assert facts["without_prompt"] == []
    assert facts["members"]["few"]["without_prompt"] == ["dog"]
    assert any(text.startswith("member few: no prompt or channel means dog") for text in facts["warnings"])
    fine = stored(Run(settings).folder.member("fine"))
    for name, mean in stored(settings.folder / "probs.zarr").items():
        own = softmax(fine[name])
        completed = np.stack([0.6 * (1 - own[2]), 0.4 * (1 - own[2]), own[2]])
        assert np.abs(mean - (own + completed) / 2).max() <= 1e-4


def test_an_image_that_a_member_fails_on_fails(make):
    settings = make({"fine": LOGITS, "rough": ROUGH})
    index = Run(settings).samples()
    sample = index.of("unlabeled")[0]
    red = int(image_to_grid(index.image(sample), settings.data.grid)[0, 0, 0])
    members = {"fine": noisy(bad_red=red), "rough": ROUGH}
    with pytest.raises(AnnotatorError, match=r"^member fine: 1 of 10 images failed"):
        annotate(make(members))
    facts = annotate(make(members, annotator={"max_failed_fraction": 0.2}))
    assert list(facts["failed"]) == [sample.id] == list(facts["members"]["fine"]["failed"])
    assert facts["failed"][sample.id].startswith(
        f"AnnotatorError: member fine has no maps of {sample.id} (RuntimeError: cannot digest this image); run conform"
    )


def test_errors_of_a_member_name_it_and_its_settings(make):
    with pytest.raises(
        AnnotatorError,
        match=r"^member own: annotate\.ensemble\.members\.own\.python\.factory gone:build cannot be loaded",
    ):
        annotate(make({"own": noisy("gone:build")}))


def test_maps_of_other_settings_of_a_member_are_kept_in_the_cache(make):
    settings = make({"fine": LOGITS, "rough": ROUGH})
    annotate(settings)
    before = contents(settings.folder)
    other = annotate(make({"fine": noisy(stride=4), "rough": ROUGH}))
    assert other["members"]["fine"]["fingerprint"] != other["members"]["rough"]["fingerprint"]
    assert annotate(settings)["cache"]["num_made"] == 0
    assert contents(settings.folder) == before


@pytest.mark.parametrize(
    ("members", "weights", "message"),
    [
        ({}, "equal", "annotate.ensemble.members has the wrong length"),
        ({"../up": LOGITS}, "equal", "members has the name '../up', expected at most 40 lower-case letters"),
        ({"a": LOGITS}, {"b": 1.0}, "weights has 'b', which is not among the members a"),
        ({"a": LOGITS, "b": ROUGH}, {"a": 1.0}, "weights has no number for the member 'b'; add it, or remove"),
        ({"a": LOGITS}, {"a": 0}, "annotate.ensemble.weights: the weight of a is 0, expected a number above 0"),
        ({"a": LOGITS}, "best", "annotate.ensemble.weights: got 'best', expected equal, fitted, or a number"),
        ({"a": {"annotator": "onnx"}}, "equal", "the section 'onnx' is missing; add it"),
        ({"a": {"annotator": "ensemble"}}, "equal", "annotate.ensemble.members.a.annotator must be 'seem', "),
        ({"a": {**LOGITS, "ensemble": {"members": {"b": LOGITS}}}}, "equal", "members.a.ensemble is not a setting"),
    ],
)
def test_unsuitable_members_and_weights_are_refused(make, members, weights, message):
    with pytest.raises(ConfigError, match=re.escape(message)):
        make(members, weights)


def test_a_kill_in_the_store_of_a_member_loses_nothing(make, tmp_path):
    members = {"fine": LOGITS, "rough": ROUGH}
    settings = make(members, "fitted")
    run = Run(settings)
    annotate(settings)
    expected = {path: contents(path) for path in (*map(run.folder.member, members), run.folder.probabilities)}
    for path in expected:
        path.rename(tmp_path / f"{len(list(tmp_path.iterdir()))}.zarr")
    forget_maps(settings)
    kill_stage(tmp_path / "tiny.yaml", "annotate", "rough/probs.zarr/probability/c", 9)
    fine, rough, mean = expected
    kept = written(fine)
    half_done = open_for_inspection(rough)
    assert not half_done.state["complete"]
    done = [str(i) for i in np.flatnonzero(half_done.status == DONE)]
    assert done
    times = {name: written(rough)[name] for name in done}
    assert not mean.exists()
    annotate(settings)
    assert {path: contents(path) for path in expected} == expected
    assert written(fine) == kept
    assert {name: written(rough)[name] for name in done} == times


def test_damaged_maps_of_a_member_are_found_and_made_again(make):
    settings = make({"fine": LOGITS, "rough": ROUGH})
    run_stages(settings, "annotate")
    run = Run(settings)
    path = run.folder.member("rough")
    before = contents(path)
    assert check_run(settings)["findings"] == []
    chunk = path / "probability/c/4/0/0/0"
    chunk.write_bytes(chunk.read_bytes()[:-1] + b"!")
    (finding,) = check_run(settings)["findings"]
    assert finding["command"].startswith("conformalsam inspect ")
    assert "members/rough/probs.zarr --repair && snakemake --cores 8 annotate --config run=" in finding["command"]
    repair(path)
    assert not run.has_receipt("annotate")
    annotate(settings)
    assert contents(path) == before


def test_lost_facts_of_a_member_come_from_the_receipt(make):
    settings = make({"fine": LOGITS})
    run_stages(settings, "annotate")
    path = Run(settings).folder.member("fine")
    before = contents(path)
    (path / "zarr.json").write_bytes(b"{")
    repair(path)
    assert contents(path) == before


def test_a_run_in_a_folder_named_members_is_no_member(make, tmp_path):
    settings = make({"fine": LOGITS}, results=str(tmp_path / "members"))
    path = settings.folder / "probs.zarr"
    create_store(
        path,
        "probabilities",
        {
            "fingerprint": "12",
            "class_names": ["a"],
            "grid": [2, 2],
            "maps": [1, 2, 2],
            "space": "logits",
            "dtype": "float16",
        },
        [],
    )
    with pytest.raises(
        StoreError, match=r"is incomplete; to finish it, run snakemake .* annotate --config run=\S*tiny"
    ):
        open_probabilities(path)


def test_the_doctor_checks_each_member(make):
    settings = make({"own": noisy("gone:build"), "fine": LOGITS})
    errors = [str(finding) for finding in examine(settings) if finding.level == "error"]
    assert any("annotate.ensemble.members.own.python.factory: gone:build" in error for error in errors)
    trial = make({"fine": LOGITS, "rough": ROUGH}, **UNTRAINED)
    times = [one.what for one in examine(trial, timed=True) if one.what.startswith("time of annotate")]
    assert "for 10 images (measured on 4: " in times[0]


def test_parts_of_the_images_are_annotated_by_every_member_and_an_error_names_it(make):
    settings = make({"fine": LOGITS, "rough": ROUGH})
    for shard in shards(2):
        annotate_shard(settings, shard)
    facts = annotate(settings)
    assert [one["cache"]["num_made"] for one in facts["members"].values()] == [0, 0]
    broken = make({"fine": LOGITS, "broken": noisy(stride=0)})
    with pytest.raises(AnnotatorError, match="member broken: annotator noisy failed on each of the first"):
        annotate_shard(broken, shards(2)[0])
