import dataclasses
import pickle

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from calib import unpack_sets
from pipeline.datasets import load_samples, resize_nearest
from train.data import (
    NUM_VIEWS,
    Draw,
    Passes,
    TrainingImages,
    WholeImages,
    passes,
    pseudo_label_to_target,
    training_batches,
)
from train.stage1 import open_run_labels, training_images


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
def test_abstaining_becomes_ignore_and_classes_stay(dtype):
    label = np.array([[0, np.nan, 20], [np.nan, 254, 1]], dtype)
    target = pseudo_label_to_target(label, (2, 3))
    assert target.dtype == np.uint8
    assert target.tolist() == [[0, 255, 20], [255, 254, 1]]


def test_labels_go_to_the_images_own_size_by_nearest():
    label = np.array([[0, np.nan], [2, 1]], np.float32)
    assert pseudo_label_to_target(label, (4, 2)).tolist() == [[0, 255], [0, 255], [2, 1], [2, 1]]
    assert (
        pseudo_label_to_target(label, (3, 5)).tolist() == resize_nearest(np.array([[0, 255], [2, 1]]), (3, 5)).tolist()
    )


@given(st.integers(1, 40), st.integers(1, 12))
def test_each_pass_shows_whole_batches_of_different_images(num, batch_size):
    order, num_batches = passes(num, batch_size, "key")
    assert num_batches == max(1, num // batch_size)
    for epoch in range(3):
        draws = order.draws(epoch * order.num_drawn, order.num_drawn)
        assert {draw.epoch for draw in draws} == {epoch}
        assert len({draw.image for draw in draws}) == len(draws)
    if num >= batch_size:
        assert order.num_drawn == num_batches * batch_size


def test_a_list_shorter_than_a_batch_fills_it_from_the_next_pass():
    order, num_batches = passes(2, 5, "key")
    draws = order.draws(0, 5)
    assert num_batches == 1
    assert [draw.epoch for draw in draws] == [0, 0, 1, 1, 2]
    assert {draws[0].image, draws[1].image} == {draws[2].image, draws[3].image} == {0, 1}


def test_every_image_is_left_out_now_and_then():
    order, _ = passes(5, 2, "key")
    left_out = [set(range(5)) - {d.image for d in order.draws(epoch * 4, 4)} for epoch in range(60)]
    assert set().union(*left_out) == set(range(5))


def test_the_order_is_a_pure_function_of_key_and_number():
    order = Passes(7, 7, "key", first=10)
    whole = order.draws(0, 28)
    assert order.draws(9, 6) == whole[9:15]
    assert all(10 <= draw.image < 17 for draw in whole)
    assert Passes(7, 7, "other key", first=10).draws(0, 28) != whole
    assert [d.image for d in whole[:7]] != [d.image for d in whole[7:14]]


WITH_SETS = {"pseudolabel": {"rule": "singleton", "keep_sets": True}, "stage1": {"set_loss": "partial"}}


@pytest.fixture
def images(make_run):
    settings = make_run(failed=(1,))
    index = load_samples(settings.folder / "samples.json")
    return training_images(settings, index, open_run_labels(settings))


def test_stage_one_sees_labeled_and_pseudo_labeled_images_but_no_failed_one(images):
    assert [sample.id for sample in images.samples] == [
        *("labeled_00", "labeled_01", "labeled_02"),
        *("unlabeled_00", "unlabeled_02", "unlabeled_03", "unlabeled_04"),
    ]


def test_targets_come_from_the_mask_or_from_the_label_store(images):
    labeled, pseudolabeled = images.samples[0], images.samples[4]
    assert np.array_equal(images.target(labeled, (64, 64)), images.index.mask(labeled, images.data))
    store, index_of = images.labels
    assert index_of[pseudolabeled.id] == 2
    expected = pseudo_label_to_target(store.label(2), (pseudolabeled.height, pseudolabeled.width))
    assert np.array_equal(images.target(pseudolabeled, expected.shape), expected)
    assert 0.02 < (expected == 255).mean() < 0.3


def test_sets_come_from_the_label_store_where_a_pixel_has_no_label(make_run):
    settings = make_run(failed=(1,), **WITH_SETS)
    index = load_samples(settings.folder / "samples.json")
    images = training_images(settings, index, open_run_labels(settings))
    labeled, pseudolabeled = images.samples[0], images.samples[4]
    assert images.sets(labeled, (64, 64)).shape == (1, 64, 64)
    assert not images.sets(labeled, (64, 64)).any()
    store, size = images.labels[0], (pseudolabeled.height, pseudolabeled.width)
    sets, label = unpack_sets(store.sets(2), 3), store.label(2)
    teaches = np.isnan(label) & (sets.sum(axis=0) == 2)
    expected = resize_nearest(sets * teaches, size)
    assert np.array_equal(unpack_sets(images.sets(pseudolabeled, size), 3), expected)
    assert 0.01 < expected.any(axis=0).mean() < 0.15
    assert not (expected.any(axis=0) & (images.target(pseudolabeled, size) != 255)).any()
    assert np.array_equal(images[Draw(0, 4)].sets.numpy(), images.sets(pseudolabeled, size))


def test_without_set_loss_no_set_is_read(images):
    assert images.sets(images.samples[4], (64, 64)).shape == (0, 64, 64)


def test_without_labels_an_unlabeled_target_is_0_everywhere(images):
    unlabeled = TrainingImages(images.index, images.index.of("unlabeled"), images.data, images.train, "key")
    example = unlabeled[Draw(0, 0)]
    assert not example.target.any()
    assert not example.is_labeled


def test_an_example_is_the_image_as_it_is_with_what_was_drawn_for_it(images):
    example = images[Draw(0, 0)]
    assert np.array_equal(example.image.numpy().transpose(1, 2, 0), images.index.image(images.samples[0]))
    assert np.array_equal(example.target.numpy(), images.index.mask(images.samples[0], images.data))
    assert example.is_labeled
    assert len(example.photometrics) == len(example.boxes) == NUM_VIEWS
    assert example.boxes == (None, None)
    mixing = dataclasses.replace(images, cutmix=1.0)[Draw(0, 0)]
    assert None not in mixing.boxes
    assert mixing.geometry == example.geometry


def equal(one, other):
    """Whether two examples have the same tensors and numbers."""
    return all(torch.equal(a, b) if isinstance(a, torch.Tensor) else a == b for a, b in zip(one, other, strict=True))


def test_items_are_a_pure_function_of_the_draw(images):
    first, again, other = images[Draw(0, 3)], images[Draw(0, 3)], images[Draw(1, 3)]
    assert equal(first, again)
    assert first.geometry != other.geometry
    assert first.photometrics != other.photometrics
    assert first.photometrics[0] != first.photometrics[1]
    assert first.seed != other.seed


def test_images_survive_pickling_as_spawned_workers_need(images):
    again = pickle.loads(pickle.dumps(images))
    for number in (0, 4):
        assert equal(images[Draw(0, number)], again[Draw(0, number)])


def batches_of(images, steps, workers):
    images = dataclasses.replace(images, train=images.train.model_copy(update={"workers": workers}))
    order, _ = passes(len(images), 2, "order")
    return list(training_batches(images, lambda step: order.draws(2 * step, 2), steps, pin_memory=False))


def test_batches_are_the_same_for_any_number_of_workers_and_any_first_step(images):
    alone, with_workers = batches_of(images, range(5), 0), batches_of(images, range(2, 5), 2)
    assert len(with_workers) == 3
    for one, other in zip(alone[2:], with_workers, strict=True):
        assert len(one) == len(other) == 2
        assert all(equal(a, b) for a, b in zip(one, other, strict=True))
    assert one[0].image.dtype == one[0].target.dtype == torch.uint8


def test_loading_draws_nothing_from_the_global_generator(images):
    torch.manual_seed(3)
    before = torch.get_rng_state()
    batches_of(images, range(2), 2)
    assert torch.equal(torch.get_rng_state(), before)


def test_whole_images_keep_their_size_and_an_unlabeled_one_is_all_ignored(images):
    whole = WholeImages(images.index, images.index.of("val", "unlabeled"), images.data)
    sizes = {tuple(image.shape[1:]) for image, _ in whole}
    assert sizes == {(64, 64), (56, 72)}
    is_ignored = [bool((target == 255).all()) for _, target in whole]
    assert is_ignored == [sample.split == "unlabeled" for sample in whole.samples]
