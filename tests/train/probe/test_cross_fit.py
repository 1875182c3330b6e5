"""Students of all arms and folds, on scenes that can be learnt; raw labels take two classes for each other."""

from dataclasses import replace

import numpy as np
import pytest
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
def crossed(make_run, cache_of):
    settings = make_run({"labeled": 4, "unlabeled": 6, "val": 1}, train={"crop": 64, "scale": [1.0, 1.0]})
    index, store = load_samples(settings.folder / "samples.json"), open_labels(settings.folder / "labels.zarr")
    places = {sample_id: i for i, sample_id in enumerate(store.sample_ids)}

    def label_of(labels, sample):
        label = store.label(places[sample.id])
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


def kept_files(crossed):
    return {path: path.stat().st_mtime_ns for path in crossed.folder.iterdir()}


def test_right_labels_teach_more_than_wrong_ones_and_a_second_call_trains_nothing(crossed):
    areas = crossed.judged().areas
    assert areas.shape == (3, 4, 3, 3)
    masks = [np.array(Image.open(crossed.index.root / sample.mask)) for sample in crossed.labeled]
    for image, mask in enumerate(masks):
        assert (areas[:, image, 1] == np.bincount(mask.ravel(), minlength=3)).all()
        assert (areas[:, image, 2].sum(axis=1) == mask.size).all()
    found = outcomes(ARMS, areas, crossed.fold, seed=0)
    assert found[2].miou > found[1].miou + 0.1
    assert chosen(found).arm != ARMS[1]
    before = kept_files(crossed)
    assert len(before) == 6
    assert np.array_equal(crossed.judged().areas, areas)
    assert kept_files(crossed) == before


def test_after_an_interruption_only_what_is_missing_is_trained(crossed):
    crossed = replace(crossed, recipe=SHORT)
    areas = crossed.judged().areas
    before = kept_files(crossed)
    lost = sorted(before)[2]
    lost.unlink()
    assert np.array_equal(crossed.judged().areas, areas)  # the same student again
    after = kept_files(crossed)
    assert [path for path in before if before[path] != after[path]] == [lost]


def test_a_held_out_mask_teaches_nothing(crossed):
    crossed = replace(crossed, recipe=SHORT, arms=ARMS[:1])
    areas = crossed.judged().areas
    path = crossed.index.root / crossed.labeled[0].mask
    Image.fromarray(np.zeros_like(np.array(Image.open(path)))).save(path)
    for kept in crossed.folder.iterdir():
        kept.unlink()
    again = crossed.judged().areas
    # of fold 0 the same is predicted, whatever its mask says; students of fold 1 learnt from it
    assert np.array_equal(again[:, crossed.fold == 0, 2], areas[:, crossed.fold == 0, 2])
    assert not np.array_equal(again[:, crossed.fold == 1, 2], areas[:, crossed.fold == 1, 2])


def test_a_student_is_told_by_all_that_it_depends_on(crossed):
    fit = Fit(ARMS[2], 0)
    others = [
        replace(crossed, recipe=replace(crossed.recipe, steps=41)),
        replace(crossed, made_by={"raw": "a", "calibrated": "c"}),
        replace(crossed, labeled=crossed.labeled[:3], fold=crossed.fold[:3]),
        replace(crossed, unlabeled=crossed.unlabeled[:3]),
    ]
    assert crossed.key(fit) not in {other.key(fit) for other in others}
    assert crossed.key(fit) != crossed.key(Fit(ARMS[2], 1))
    alone = Fit(ARMS[0], 0)
    assert crossed.key(alone) == others[1].key(alone) == others[3].key(alone)  # no labels, no unlabeled images
