import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional

from calib import pack_sets
from train.losses import num_with_class, num_with_set, summed_cross_entropy, summed_partial_loss, unpacked_sets


def uint8(*values):
    return torch.tensor(values, dtype=torch.uint8)


def test_is_minus_the_log_of_the_probability_of_the_true_class():
    logits = torch.tensor([math.log(1.0), math.log(3.0)]).reshape(1, 2, 1, 1)
    assert summed_cross_entropy(logits, uint8([[1]])).tolist() == pytest.approx([-math.log(3 / 4)])


def test_sums_over_the_pixels_of_each_image_that_have_a_class():
    logits = torch.tensor([[math.log(1.0), math.log(1.0)], [math.log(3.0), math.log(3.0)]]).reshape(1, 2, 1, 2)
    sums = summed_cross_entropy(logits.expand(3, -1, -1, -1), uint8([[1, 255]], [[1, 0]], [[255, 255]]))
    assert sums.tolist() == pytest.approx([-math.log(3 / 4), -math.log(3 / 4) - math.log(1 / 4), 0])


@settings(deadline=None)
@given(
    st.integers(1, 3), st.integers(2, 6), st.integers(1, 7), st.integers(1, 9), st.integers(1, 4), st.integers(0, 99)
)
def test_equals_up_sampling_the_whole_batch_with_its_gradient(batch, classes, height, width, factor, seed):
    generator = torch.Generator().manual_seed(seed)
    logits = torch.randn((batch, classes, height, width), generator=generator, requires_grad=True)
    size = (factor * height - (factor > 1), factor * width)
    targets = torch.randint(0, classes + 1, (batch, *size), generator=generator)
    targets[targets == classes] = 255
    weights = torch.rand(batch, generator=generator)

    sums = summed_cross_entropy(logits, targets.to(torch.uint8))
    (gradient,) = torch.autograd.grad((weights * sums).sum(), logits)

    fine = functional.interpolate(logits, size=size, mode="bilinear", align_corners=False)
    expected = functional.cross_entropy(fine, targets, ignore_index=255, reduction="none").sum(dim=(1, 2))
    (expected_gradient,) = torch.autograd.grad((weights * expected).sum(), logits)
    torch.testing.assert_close(sums, expected, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(gradient, expected_gradient, rtol=1e-5, atol=1e-5)


def test_computes_in_float32_whatever_the_type_of_the_logits():
    logits, targets = torch.randn(1, 3, 4, 4), torch.randint(0, 3, (1, 4, 4), dtype=torch.uint8)
    half = summed_cross_entropy(logits.bfloat16(), targets)
    assert half.dtype == torch.float32
    assert half == summed_cross_entropy(logits.bfloat16().float(), targets)


def test_counts_the_pixels_that_have_a_class():
    assert num_with_class(uint8([[0, 255], [7, 254]], [[255, 255], [255, 255]])).item() == 3


def packed(sets):
    """bool [B, K, H, W] -> uint8 [B, bytes, H, W]."""
    return torch.from_numpy(np.stack([pack_sets(one) for one in sets.numpy()]))


def drawn_sets(shape, generator):
    """bool [B, K, H, W] of all sizes, the empty set and the set of all classes included."""
    density = torch.rand((shape[0], 1, *shape[2:]), generator=generator) * 1.4 - 0.2
    return torch.rand(shape, generator=generator) < density


def test_the_partial_loss_is_minus_the_log_of_the_mass_on_the_set():
    logits = torch.tensor([1.0, 2.0, 5.0]).log().reshape(1, 3, 1, 1).expand(1, 3, 1, 5)
    sets = torch.tensor([[1, 1, 0], [0, 1, 0], [0, 1, 1], [1, 1, 1], [0, 0, 0]], dtype=torch.bool).T.reshape(1, 3, 1, 5)
    for pixel, expected in enumerate([-math.log(3 / 8), -math.log(2 / 8), -math.log(7 / 8), 0, 0]):
        alone = packed(sets * (torch.arange(5) == pixel))
        assert summed_partial_loss(logits, alone).tolist() == pytest.approx([expected])
    assert num_with_set(packed(sets)) == 4
    assert summed_partial_loss(logits[:0], packed(sets)[:0]).shape == (0,)


@settings(deadline=None, max_examples=40)
@given(st.integers(1, 3), st.integers(2, 20), st.integers(1, 5), st.integers(1, 3), st.integers(0, 99))
def test_the_partial_loss_and_its_gradient_are_those_of_autograd(batch, classes, side, factor, seed):
    generator = torch.Generator().manual_seed(seed)
    logits = (4 * torch.randn((batch, classes, side, side), generator=generator)).requires_grad_()
    sets = drawn_sets((batch, classes, factor * side, factor * side), generator)
    weights = torch.rand(batch, generator=generator)

    sums = summed_partial_loss(logits, packed(sets))
    (gradient,) = torch.autograd.grad((weights * sums).sum(), logits)

    exact = logits.detach().double().requires_grad_()
    fine = functional.interpolate(exact, size=sets.shape[-2:], mode="bilinear", align_corners=False)
    mass = (fine.softmax(dim=1) * sets).sum(dim=1)
    expected = -mass[torch.arange(batch)].where(sets.any(dim=1), 1).log().sum(dim=(1, 2))
    (expected_gradient,) = torch.autograd.grad((weights * expected).sum(), exact)
    torch.testing.assert_close(sums, expected.float(), rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(gradient, expected_gradient.float(), rtol=1e-4, atol=1e-4)


@settings(deadline=None, max_examples=20)
@given(st.integers(2, 30), st.integers(0, 99))
def test_the_partial_loss_of_one_class_is_the_cross_entropy_and_of_all_classes_0(classes, seed):
    generator = torch.Generator().manual_seed(seed)
    logits = torch.randn((2, classes, 3, 3), generator=generator, requires_grad=True)
    targets = torch.randint(0, classes, (2, 6, 6), generator=generator)
    single = functional.one_hot(targets, classes).permute(0, 3, 1, 2).bool()
    losses = summed_partial_loss(logits, packed(single)), summed_cross_entropy(logits, targets.to(torch.uint8))
    torch.testing.assert_close(*losses, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(*(torch.autograd.grad(loss.sum(), logits)[0] for loss in losses), rtol=1e-4, atol=1e-5)
    assert summed_partial_loss(logits, packed(torch.ones_like(single))).tolist() == [0, 0]


def test_the_partial_loss_is_finite_and_accurate_for_masses_near_0_and_1():
    logits = torch.tensor([300.0, -300.0, 280.0]).reshape(1, 3, 1, 1).requires_grad_()
    near_0, near_1 = (packed(torch.tensor(one, dtype=torch.bool).reshape(1, 3, 1, 1)) for one in ([0, 1, 0], [1, 1, 0]))
    assert summed_partial_loss(logits, near_0).item() == pytest.approx(600)
    loss = summed_partial_loss(logits, near_1)
    assert loss.item() == pytest.approx(math.exp(-20), rel=1e-3)  # 1 + e^-20 is 1 in float32
    (gradient,) = torch.autograd.grad(loss, logits)
    assert gradient.flatten().tolist() == pytest.approx([-math.exp(-20), 0, math.exp(-20)], rel=1e-3)


def test_the_device_unpacks_sets_as_calib_packs_them():
    sets = drawn_sets((1, 150, 3, 4), torch.Generator().manual_seed(1))
    assert torch.equal(unpacked_sets(packed(sets)[0], 150), sets[0])
