"""No student annotates an image whose mask it was trained on, and the student of a fold is trained once."""

import json
import os
import shutil
import time
from dataclasses import replace

import numpy as np
import pytest
import torch
from round_runs import Rounds, run_stage, train

from pipeline.annotators.build import build_annotator
from pipeline.datasets import image_to_grid, load_samples, save_samples
from pipeline.errors import AnnotatorError, ConfigError, StoreError
from pipeline.folder import stage_command
from pipeline.marks import mark_of, update_marks
from pipeline.rounds.base import refuse_other_images
from pipeline.rounds.folds import folds_of
from pipeline.rounds.workflow import fold_named, folds_for, update_fold_marks
from pipeline.run import Run
from pipeline.run_file import load_settings
from pipeline.store import open_probabilities

STAGES = ["calibrate", "pseudolabel", "stage1", "stage2"]


@pytest.fixture
def copied(finished, tmp_path):
    """A copy of the results of both rounds."""
    shutil.copytree(finished.first.results, tmp_path / "results", symlinks=True)
    results = {"results": str(tmp_path / "results")}
    first, second = (load_settings(one.origin.run, {**one.origin.overrides, **results}) for one in finished)
    return Rounds(first, second)


def test_every_image_is_in_one_fold_and_no_student_was_trained_on_a_mask_of_its_fold(finished):
    index, folds = Run(finished.first).samples(), folds_for(finished.second)
    assert [fold.name for fold in folds] == ["1_of_2", "2_of_2"]
    assert sorted(i for fold in folds for i in fold.ids) == sorted(one.id for one in index.of("labeled", "unlabeled"))
    for fold in folds:
        own = load_samples(fold.folder / "samples.json")
        assert {one.id for one in own.of("labeled")} == {one.id for one in index.of("labeled")} - fold.ids
        assert {one.id for one in own.of("unlabeled")} > fold.ids
        assert [one.mask for one in own.of("unlabeled")] == [None] * 7
        assert own.of("val") == index.of("val")
        trained = json.loads((fold.folder / "stage1.json").read_text())
        assert (trained["num_labeled"], trained["num_pseudolabeled"]) == (3, 7)
        assert json.loads((fold.folder / "calibrate.json").read_text())["num_labeled"] == 3


def test_the_map_of_an_image_is_the_prediction_of_its_folds_student(finished):
    from train.machine.device import compute_of
    from train.student import load_student

    index, store = Run(finished.second).samples(), open_probabilities(finished.second.folder / "probs.zarr")
    folds = folds_for(finished.second)
    students = [load_student(fold.folder / "stage2/student", compute_of(finished.first.train)) for fold in folds]
    for student in students:
        student.model.eval()
    for i, sample_id in enumerate(store.sample_ids):
        image = image_to_grid(index.image(next(one for one in index.samples if one.id == sample_id)), (16, 24))
        with torch.no_grad():
            pixels = torch.from_numpy(image.transpose(2, 0, 1)[None].copy())
            own, other = (student.logits(pixels).softmax(dim=1)[0].numpy() for student in students)
        if sample_id in folds[1].ids:
            own, other = other, own
        stored = store.probabilities(i).rows(slice(None))
        np.testing.assert_allclose(stored, own, atol=1 / 65535)
        assert np.abs(stored - other).max() > 1e-3


def test_a_student_does_not_depend_on_the_masks_of_its_fold(copied):
    base = Run(copied.first)
    held_out, other = folds_of(base, 2)
    changed = held_out.labeled()[0]
    samples = [replace(one, mask_digest="0" * 16) if one == changed else one for one in base.samples().samples]
    save_samples(base.folder.samples, replace(base.samples(), samples=tuple(samples)))
    assert held_out.unfinished() == []
    assert other.unfinished() == STAGES


def test_a_fold_goes_on_where_it_stopped_and_a_finished_one_does_nothing(copied):
    fold, called = folds_for(copied.second)[0], []

    def record(package, stage, run_file, changes):
        called.append(stage)
        run_stage(package, stage, run_file, changes)

    weights = fold.folder / "stage2/student/model.safetensors"
    before = weights.read_bytes()
    train(fold, copied.second, record)
    assert called == []
    (fold.folder / "stage2.json").unlink()
    assert fold.unfinished() == ["stage2"]
    train(fold, copied.second, record)
    assert called == ["stage2"]
    assert weights.read_bytes() == before
    assert fold.unfinished() == []


def test_a_fold_is_labeled_again_after_its_maps_were_made_again(copied):
    fold = folds_for(copied.second)[1]
    base, receipt = Run(copied.first), copied.first.folder / "annotate.json"
    for moment in (1, time.time_ns() + 3600 * 10**9):
        os.utime(receipt, ns=(moment, moment))
        assert fold.unfinished() == []
    base.finish("annotate", base.recorded("annotate") | {"seconds": 7.0})
    os.utime(receipt, ns=(1, 1))
    assert fold.unfinished() == STAGES


def test_a_round_is_annotated_again_after_a_student_was_trained_again(copied):
    folds, run = folds_for(copied.second), Run(copied.second)
    receipt = folds[0].run.folder.receipt("stage2")

    def is_annotated():
        update_fold_marks(folds)
        return update_marks(run)["annotate"]

    for moment in (1, time.time_ns() + 3600 * 10**9):
        os.utime(receipt, ns=(moment, moment))
        assert is_annotated()
        times = [mark_of(one).stat().st_mtime_ns for one in (receipt, run.folder.receipt("annotate"))]
        assert times == sorted(times)
    folds[0].run.finish("stage2", folds[0].run.recorded("stage2") | {"num_steps": 7})
    os.utime(receipt, ns=(1, 1))
    assert not is_annotated()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"annotate.student.run": "other"}, r"no student in .*/other: .* run snakemake --cores 8 stage2 --config run="),
        ({"annotate.student.folds": 7}, r"folds is 7, but run tiny has 6 labeled images; lower it"),
        ({"data.classes": ["background", "dog", "cat"]}, r"of run tiny have the classes .*; give both the same"),
    ],
)
def test_a_run_that_cannot_annotate_is_refused_in_one_line(finished, changes, message):
    settings = load_settings(finished.second.origin.run, changes)
    with pytest.raises(AnnotatorError, match=message) as refused:
        folds_for(settings)
    assert "\n" not in str(refused.value)


def test_a_run_is_not_annotated_by_its_own_students(finished):
    with pytest.raises(ConfigError, match="tiny, this run itself; set it to the run of the last round"):
        load_settings(finished.second.origin.run, {"name": "tiny"})


def test_a_run_whose_training_has_not_finished_does_not_annotate(copied):
    receipt = copied.first.folder / "stage2.json"
    receipt.unlink()
    with pytest.raises(AnnotatorError, match=r"run snakemake --cores 8 stage2 --config run=/.*tiny.yaml"):
        folds_for(copied.second)


def test_students_that_are_not_trained_are_named_with_the_command_that_trains_them(finished):
    settings = load_settings(finished.second.origin.run, {"annotate.student.folds": 3})
    message = r"student of fold 1 of 3 in .*folds/1_of_3 is not trained; run snakemake --cores 8 annotate --config run="
    with pytest.raises(AnnotatorError, match=message):
        build_annotator(settings)


def test_changed_weights_are_refused_and_the_command_trains_them_again(copied):
    fold = folds_for(copied.second)[0]
    weights = fold.folder / "stage2/student/model.safetensors"
    weights.write_bytes(weights.read_bytes() + b" ")
    message = (
        r"not as stage2 wrote it: .* run rm \S*folds/1_of_2/stage2.json && snakemake --cores 8 annotate --config run="
    )
    with pytest.raises(StoreError, match=message):
        build_annotator(copied.second)
    assert stage_command(weights.parents[2] / "x", "stage1").startswith("snakemake --cores 8 annotate --config run=")


def test_images_that_the_students_were_not_trained_on_are_refused(copied):
    path = copied.second.folder / "samples.json"
    index = load_samples(path)
    first, *rest = index.samples
    save_samples(path, replace(index, samples=(replace(first, image_digest="0" * 16), *rest)))
    message = rf"1 of 10 images to annotate, {first.id} the first, .*; train it on them: run snakemake --cores 8 all"
    with pytest.raises(AnnotatorError, match=message):
        refuse_other_images(copied.second, Run(copied.first))


def test_an_unknown_fold_is_refused_with_the_known_ones(finished):
    with pytest.raises(ConfigError, match="no fold 'x'; give one of 1_of_2, 2_of_2"):
        fold_named(finished.second, "x")
    assert folds_for(finished.first) == []


def test_no_group_is_divided_and_unlabeled_images_are_in_the_fold_of_their_group(copied):
    base = Run(copied.first)
    index = base.samples()
    labeled, unlabeled = index.of("labeled"), index.of("unlabeled")
    group_of = dict(zip([one.id for one in [*labeled, *unlabeled]], "aabbcc" + "axyy", strict=True))
    samples = (replace(one, group=group_of.get(one.id, "val")) for one in index.samples)
    save_samples(base.folder.samples, replace(index, samples=tuple(samples)))
    folds = folds_of(base, 3)
    assert sorted(i for fold in folds for i in fold.ids) == sorted(group_of)
    assert all(
        len({k for k, fold in enumerate(folds) for i in fold.ids if group_of[i] == group}) == 1 for group in "abcxy"
    )
    assert [len(fold.labeled()) for fold in folds] == [2, 2, 2]
    with pytest.raises(AnnotatorError, match=r"folds is 4, but run tiny has 6 labeled images in 3 groups; lower it"):
        folds_of(base, 4)
