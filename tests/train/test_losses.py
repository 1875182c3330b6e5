import math

import pytest
import torch

from train.losses import pixel_cross_entropy, self_reliance_loss


def test_is_minus_the_log_of_the_probability_of_the_true_class():
    logits = torch.tensor([math.log(1.0), math.log(3.0)]).reshape(1, 2, 1, 1)
    assert pixel_cross_entropy(logits, torch.tensor([[[1]]])).item() == pytest.approx(-math.log(3 / 4))


def test_averages_over_the_pixels_that_have_a_class():
    logits = torch.tensor([[math.log(1.0), 50.0], [math.log(3.0), -50.0]]).reshape(1, 2, 1, 2)
    ignored_second = torch.tensor([[[1, 255]]])
    both = torch.tensor([[[1, 0]]])
    assert pixel_cross_entropy(logits, ignored_second).item() == pytest.approx(-math.log(3 / 4))
    assert pixel_cross_entropy(logits, both).item() == pytest.approx(-math.log(3 / 4) / 2)


def test_is_zero_with_a_gradient_if_no_pixel_has_a_class():
    logits = torch.randn(2, 3, 4, 4, requires_grad=True)
    loss = pixel_cross_entropy(logits, torch.full((2, 4, 4), 255))
    loss.backward()
    assert loss.item() == 0
    assert logits.grad is not None
    assert not logits.grad.any()


def test_computes_in_float32_whatever_the_type_of_the_logits():
    logits, target = torch.randn(1, 3, 4, 4), torch.randint(0, 3, (1, 4, 4), dtype=torch.uint8)
    half = pixel_cross_entropy(logits.bfloat16(), target)
    assert half.dtype == torch.float32
    assert half == pixel_cross_entropy(logits.bfloat16().float(), target)


def test_weighs_the_two_losses_as_in_eq_5():
    assert self_reliance_loss(torch.tensor(2.0), torch.tensor(10.0), 0.25).item() == 0.75 * 2 + 0.25 * 10
