import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional

from train.losses import num_with_class, summed_cross_entropy


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
