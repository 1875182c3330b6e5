"""The cache of features."""

import numpy as np
import pytest
import torch

from pipeline.datasets import load_samples
from train.augment import weak_view
from train.probe.features import feature_key, unflattened


@pytest.fixture
def run(make_run, cache_of):
    """Settings, samples and an empty cache of a tiny run."""
    settings = make_run({"labeled": 2, "unlabeled": 2, "val": 1}, train={"crop": 64}, probe={"views": 2})
    return settings, load_samples(settings.folder / "samples.json"), cache_of(settings)


def test_the_file_holds_the_features_of_each_view(run):
    _, index, cache = run
    sample = index.of("labeled")[1]
    cache.fill(index, [sample], [])
    maps = unflattened(np.array(cache.views(sample)), cache.shapes())
    image = torch.from_numpy(index.image(sample).transpose(2, 0, 1).copy())
    for view, geometry in enumerate(cache.geometries(sample)):
        view_image, _ = weak_view(image, torch.zeros(image.shape[1:], dtype=torch.uint8), geometry, 64)
        fresh = cache.student.features(view_image[None])
        assert [one.shape[-1] for one in fresh] == [16, 8, 4, 2]
        assert [one.shape[-1] for one in maps] == [8, 4, 2]  # stride 4 is left out
        for kept, expected in zip(maps, fresh[1:], strict=True):
            torch.testing.assert_close(kept[view], expected[0], rtol=2e-3, atol=2e-3)


def test_a_whole_image_has_the_middle_of_the_training_sizes(run):
    settings, index, cache = run
    sample = index.of("labeled")[1]  # 56 x 72
    cache.fill(index, [], [sample])
    assert settings.train.scale == [0.5, 2.0]  # the middle is 1.25: 70 x 90
    assert [tuple(one.shape[-2:]) for one in cache.whole(sample)] == [(9, 12), (5, 6), (3, 3)]


def test_existing_files_are_kept_and_unneeded_ones_deleted(run):
    _, index, cache = run
    labeled, unlabeled = index.of("labeled"), index.of("unlabeled")
    cache.fill(index, [*labeled, unlabeled[0]], labeled)
    before = {path: path.stat().st_mtime_ns for path in cache.folder.iterdir()}
    assert len(before) == 5
    cache.fill(index, [*labeled, unlabeled[1]], labeled)
    after = {path: path.stat().st_mtime_ns for path in cache.folder.iterdir()}
    kept = before.keys() & after.keys()
    assert len(kept) == 4
    assert len(after) == 5
    assert all(before[path] == after[path] for path in kept)


def test_another_encoder_or_other_views_are_another_cache(run, cache_of):
    settings, _, cache = run
    assert cache_of(settings).key == cache.key
    assert cache_of(settings, seed=1).key != cache.key
    assert feature_key(cache.student.model, cache.plan._replace(num=3)) != cache.key


def test_the_key_does_not_depend_on_the_decode_head(run):
    _, _, cache = run
    network = cache.student.model
    with torch.no_grad():
        for name, parameter in network.named_parameters():
            if network.is_head(name):
                parameter.add_(1)
    assert feature_key(network, cache.plan) == cache.key
