"""Students of all arms and folds, on scenes that can be learnt; the raw labels exchange two classes."""

from dataclasses import replace

import numpy as np
import pytest
from digests import with_digests
from PIL import Image

from pipeline.datasets import load_samples
from pipeline.store import open_labels
from train.probe.arms import NO_LABELS, RAW, Arm, Labels
from train.probe.cross_fit import CrossFit, Fit
from train.probe.fit import Recipe
from train.probe.verdict import chosen, outcomes

CALIBRATED = Labels("calibrated", "pixel", 0.1, "paper")
ARMS = [Arm(NO_LABELS, 0.0), Arm(RAW, 1.0), Arm(CALIBRATED, 1.0)]
SHORT = Recipe(steps=3, batch_size=4, lr=0.01, seed=0)
SWAPPED = np.array([0, 2, 1], np.float32)


@pytest.fixture
def students(make_run, cache_of):
    settings = make_run({"labeled": 4, "unlabeled": 6, "val": 1}, train={"crop": 64, "scale": [1.0, 1.0]})
    index, store = load_samples(settings.folder / "samples.json"), open_labels(settings.folder / "labels.zarr")
    index_of = {sample_id: i for i, sample_id in enumerate(store.sample_ids)}

    def label_of(labels, sample):
        label = store.label(index_of[sample.id])
        if labels == RAW:
            label = np.where(np.isnan(label), label, SWAPPED[np.nan_to_num(label).astype(int)])
        return label

    return CrossFit(
        data=settings.data,
        index=index,
        labeled=index.of("labeled"),
        unlabeled=index.of("unlabeled"),
        fold=np.array([0, 1, 0, 1]),
        arms=ARMS,
        label_of=label_of,
        made_by={"raw": "a", "calibrated": "b"},
        recipe=Recipe(steps=40, batch_size=4, lr=0.01, seed=0),
        cache=cache_of(settings),
        folder=settings.folder / "probe/students",
    )


def kept_files(students):
    return {path: path.stat().st_mtime_ns for path in students.folder.iterdir()}


@pytest.mark.slow
def test_right_labels_teach_more_than_wrong_ones_and_a_second_call_trains_nothing(students):
    areas = students.judged().areas
    assert areas.shape == (3, 4, 3, 3)
    masks = [np.array(Image.open(students.index.root / sample.mask)) for sample in students.labeled]
    for image, mask in enumerate(masks):
        assert (areas[:, image, 1] == np.bincount(mask.ravel(), minlength=3)).all()
        assert (areas[:, image, 2].sum(axis=1) == mask.size).all()
    results = outcomes(ARMS, areas, students.fold, seed=0)
    assert results[2].miou > results[1].miou + 0.1
    assert chosen(results).arm != ARMS[1]
    before = kept_files(students)
    assert len(before) == 6
    assert np.array_equal(students.judged().areas, areas)
    assert kept_files(students) == before


def test_after_an_interruption_only_missing_students_are_trained(students):
    students = replace(students, recipe=SHORT)
    areas = students.judged().areas
    before = kept_files(students)
    lost = sorted(before)[2]
    lost.unlink()
    assert np.array_equal(students.judged().areas, areas)  # the same student again
    after = kept_files(students)
    assert [path for path in before if before[path] != after[path]] == [lost]


def test_a_held_out_mask_is_not_trained_on(students):
    students = replace(students, recipe=SHORT, arms=ARMS[:1])
    areas = students.judged().areas
    path = students.index.root / students.labeled[0].mask
    Image.fromarray(np.zeros_like(np.array(Image.open(path)))).save(path)
    index = with_digests(students.index)
    students = replace(students, index=index, labeled=index.of("labeled"))
    for kept in students.folder.iterdir():
        kept.unlink()
    again = students.judged().areas
    # predictions for fold 0 do not depend on its masks; students of fold 1 were trained on the changed mask
    assert np.array_equal(again[:, students.fold == 0, 2], areas[:, students.fold == 0, 2])
    assert not np.array_equal(again[:, students.fold == 1, 2], areas[:, students.fold == 1, 2])


def test_the_key_of_a_student_changes_with_everything_that_it_depends_on(students):
    fit = Fit(ARMS[2], 0)
    others = [
        replace(students, recipe=replace(students.recipe, steps=41)),
        replace(students, made_by={"raw": "a", "calibrated": "c"}),
        replace(students, labeled=students.labeled[:3], fold=students.fold[:3]),
        replace(students, unlabeled=students.unlabeled[:3]),
    ]
    assert students.key(fit) not in {other.key(fit) for other in others}
    assert students.key(fit) != students.key(Fit(ARMS[2], 1))
    alone = Fit(ARMS[0], 0)
    assert students.key(alone) == others[1].key(alone) == others[3].key(alone)  # no labels, no unlabeled images


def test_students_of_a_fold_see_no_image_of_its_groups_and_other_unlabeled_images_change_nothing(students):
    """Labeled images of the groups a, b, a, b, which are folds 0 and 1; unlabeled ones of a, b, c, a, none, none."""
    labeled = [replace(one, group=group) for one, group in zip(students.labeled, "abab", strict=True)]
    unlabeled = [
        replace(one, group=group) for one, group in zip(students.unlabeled, ["a", "b", "c", "a", "", ""], strict=True)
    ]
    grouped = replace(students, labeled=labeled, unlabeled=unlabeled)
    assert students.others(0) == [0, 1, 2, 3, 4, 5]
    assert [grouped.others(fold) for fold in (0, 1)] == [[1, 2, 4, 5], [0, 2, 3, 4, 5]]
    fit = Fit(ARMS[1], 0)
    seen = replace(students, unlabeled=[students.unlabeled[i] for i in (1, 2, 4, 5)])
    assert grouped.key(fit) == seen.key(fit) != students.key(fit)
    grouped, seen = (replace(one, recipe=SHORT, arms=ARMS[1:2]) for one in (grouped, seen))
    areas = grouped.judged().areas
    for kept in grouped.folder.iterdir():
        kept.unlink()
    again = seen.judged().areas
    assert np.array_equal(areas[:, students.fold == 0], again[:, students.fold == 0])
