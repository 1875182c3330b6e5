"""The fixed views."""

import numpy as np
import pytest
import torch

from pipeline.datasets import Sample
from train.augment import weak_view
from train.probe.targets import label_targets, view_targets
from train.probe.views import ViewPlan, thinned, view_plan


def test_views_are_as_in_training(make_run):
    plan = view_plan(make_run(train={"crop": 64, "scale": [0.5, 1.0], "flip": 0.25}, probe={"crop": 96, "views": 3}))
    assert plan == ViewPlan(64, (0.5, 1.0), 0.25, 3, 0)
    assert plan.whole_size((100, 60)) == (75, 45)


def test_larger_crops_and_the_images_are_shrunk_by_the_same_factor(make_run):
    plan = view_plan(make_run(train={"crop": 128, "scale": [0.5, 2.0]}, probe={"crop": 32}))
    assert (plan.crop, plan.scale) == (32, (0.125, 0.5))


def test_views_depend_on_the_image_and_the_seed_alone():
    plan = ViewPlan(32, (0.5, 2.0), 0.5, 4, seed=0)
    views = plan.geometries("abc", (50, 40))
    assert views == plan.geometries("abc", (50, 40))
    assert views != plan.geometries("abd", (50, 40))
    assert views != plan._replace(seed=1).geometries("abc", (50, 40))
    assert plan._replace(num=2).geometries("abc", (50, 40)) == views[:2]


def test_targets_are_those_of_the_views_of_the_image():
    plan, target = ViewPlan(32, (0.5, 1.5), 0.5, 4, 0), np.random.default_rng(0).integers(0, 5, (50, 40), np.uint8)
    geometries = plan.geometries("abc", (50, 40))
    image = torch.zeros((3, 50, 40), dtype=torch.uint8)
    expected = [weak_view(image, torch.from_numpy(target), geometry, 32)[1] for geometry in geometries]
    assert torch.equal(view_targets(target, geometries, 32), torch.stack(expected))


def test_labels_are_brought_to_the_size_of_the_image_and_abstain_as_void():
    label = np.array([[1.0, np.nan]])
    (geometry,) = ViewPlan(8, (1.0, 1.0), 0.0, 1, 0).geometries("abc", (8, 8))
    (target,) = label_targets(label, (8, 8), [geometry], 8)
    assert torch.equal(target, torch.tensor([[1] * 4 + [255] * 4] * 8, dtype=torch.uint8))


@pytest.mark.parametrize(("most", "expected"), [(100, (6, 9)), (15, (6, 9)), (5, (2, 3))])
def test_images_are_thinned_in_proportion(most, expected):
    labeled, unlabeled = ([Sample(f"{i}", "", None, "labeled") for i in range(num)] for num in (6, 9))
    kept = thinned(labeled, unlabeled, most)
    assert tuple(len(samples) for samples in kept) == expected
    assert [sample.id for sample in kept[0]] == (["0", "3"] if most == 5 else [str(i) for i in range(6)])
