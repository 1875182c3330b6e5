"""The decoder and its loss."""

import numpy as np
import pytest
import torch
from torch.nn import functional

from pipeline.datasets import IGNORE_INDEX
from train.losses import upsampled
from train.probe.decoder import PyramidDecoder
from train.probe.features import flattened, unflattened
from train.probe.fit import Examples, Recipe, batch_loss, judged_areas, trained_decoder

SHAPES = [(4, 4, 6), (2, 2, 10)]
CROP, CLASSES = 16, 3
CPU = torch.device("cpu")


def examples(num, seed, views=2):
    rng = np.random.default_rng(seed)
    length = sum(h * w * d for h, w, d in SHAPES)
    features = [rng.normal(size=(views, length)).astype(np.float16) for _ in range(num)]
    targets = [
        torch.from_numpy(rng.choice([0, 1, 2, IGNORE_INDEX], (views, CROP, CROP)).astype(np.uint8)) for _ in range(num)
    ]
    return Examples(features, targets)


def test_maps_survive_the_file_up_to_half_precision():
    maps = [torch.randn(3, d, h, w) for h, w, d in SHAPES]
    for map_, back in zip(maps, unflattened(flattened(maps), SHAPES), strict=True):
        assert back.is_contiguous(memory_format=torch.channels_last)
        torch.testing.assert_close(back, map_, rtol=1e-3, atol=1e-3)


def test_the_loss_is_a_mean_over_labeled_pixels_and_weight_times_one_over_the_others():
    labeled, unlabeled = examples(3, 0), examples(4, 1)
    recipe = Recipe(steps=1, batch_size=5, lr=0.01, seed=0)
    groups = recipe.groups(labeled, unlabeled, 0.25)
    assert [group.size for group in groups] == [3, 2]
    torch.manual_seed(0)
    decoder = PyramidDecoder([6, 10], CLASSES).eval()  # no dropout, and batch norms with fixed statistics
    means = []
    for group in groups:
        rows, targets = group.examples.batch(group.order.draws(0, group.size), group.order.key)
        logits = upsampled(decoder(unflattened(rows, SHAPES)), (CROP, CROP))
        means.append(functional.cross_entropy(logits, targets.long(), ignore_index=IGNORE_INDEX))
    expected = means[0] + 0.25 * means[1]
    torch.testing.assert_close(batch_loss(decoder, SHAPES, groups, 0, CPU), expected)


def test_unlabeled_views_without_any_label_do_not_change_the_loss():
    void = Examples(examples(2, 1).features, [torch.full((2, CROP, CROP), IGNORE_INDEX, dtype=torch.uint8)] * 2)
    recipe = Recipe(steps=1, batch_size=4, lr=0.01, seed=0)
    decoder = PyramidDecoder([6, 10], CLASSES).eval()
    groups = recipe.groups(examples(3, 0), void, 1.0)
    torch.testing.assert_close(
        batch_loss(decoder, SHAPES, groups, 0, CPU), batch_loss(decoder, SHAPES, groups[:1], 0, CPU)
    )


def test_batches_are_the_same_every_time_and_each_pass_sees_each_image_once():
    some = examples(5, 0)
    (group,) = Recipe(1, 5, 0.01, 0).groups(some, None, 0.0)
    draws = group.order.draws(0, 5)
    assert sorted(draw.image for draw in draws) == list(range(5))
    first, again = (some.batch(draws, group.order.key) for _ in range(2))
    assert np.array_equal(first[0], again[0])
    assert torch.equal(first[1], again[1])


def test_a_decoder_learns_from_the_features_and_is_the_same_every_time():
    # the first channel of the finest map encodes the class
    rng, truths = np.random.default_rng(0), []
    features = []
    for _ in range(4):
        truth = rng.integers(0, CLASSES, (4, 4))
        maps = [torch.from_numpy(rng.normal(size=(1, d, h, w)).astype(np.float32)) for h, w, d in SHAPES]
        maps[0][0, 0] = torch.from_numpy(4.0 * truth)
        features.append(flattened(maps))
        truths.append(torch.from_numpy(truth.repeat(4, 0).repeat(4, 1).astype(np.uint8))[None])
    some, recipe = Examples(features, truths), Recipe(40, 4, 0.02, 0)
    decoders = [
        trained_decoder(CLASSES, SHAPES, recipe.groups(some, None, 0.0), recipe, CPU, lambda: None) for _ in range(2)
    ]
    for one, other in zip(*(decoder.state_dict().values() for decoder in decoders), strict=True):
        assert torch.equal(one, other)
    areas = judged_areas(decoders[0], unflattened(features[0], SHAPES), truths[0][0].numpy(), CPU)
    correct, true, predicted = areas
    assert true.sum() == predicted.sum() == CROP**2
    assert correct.sum() > 0.7 * CROP**2


@pytest.mark.parametrize("num_levels", [1, 2])
def test_logits_have_the_size_of_the_finest_map(num_levels):
    maps = [torch.randn(2, d, h, w) for h, w, d in SHAPES[:num_levels]]
    assert PyramidDecoder([d for _, _, d in SHAPES[:num_levels]], CLASSES)(maps).shape == (2, CLASSES, 4, 4)
