from contextlib import nullcontext

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from train.students import dropout_rows, random_network
from train.students.drop import ChannelDropout, Dropout, DropPath, share_draws

KINDS = [DropPath, ChannelDropout, Dropout]


def dropped(module, x, seed=0, rows=None, num_rows=0):
    torch.manual_seed(seed)
    with nullcontext() if rows is None else dropout_rows(rows, num_rows):
        return module(x)


@pytest.mark.parametrize("kind", KINDS)
@settings(max_examples=20, deadline=None)
@given(part_of=st.lists(st.integers(0, 2), min_size=1, max_size=12), seed=st.integers(0, 99))
def test_the_parts_of_a_batch_together_drop_what_one_pass_over_it_drops(kind, part_of, seed):
    module, batch = kind(0.4), torch.rand(len(part_of), 3, 2, 2) + 1
    together = torch.zeros_like(batch)
    for part in set(part_of):
        rows = [row for row, of in enumerate(part_of) if of == part]
        together[rows] = dropped(module, batch[rows], seed, rows, len(batch))
    assert torch.equal(together, dropped(module, batch, seed))


def test_two_parts_of_one_batch_drop_different_images():
    x = torch.ones(64, 1)
    one, other = (dropped(DropPath(0.5), x, 0, range(start, start + 64), 128) for start in (0, 64))
    assert not torch.equal(one, other)


def test_every_part_leaves_the_generator_where_the_whole_batch_leaves_it():
    dropped(DropPath(0.5), torch.ones(12, 1))
    expected = torch.get_rng_state()
    for rows in ([0, 5], [7], list(range(12))):
        dropped(DropPath(0.5), torch.ones(len(rows), 1), 0, rows, 12)
        assert torch.equal(torch.get_rng_state(), expected)


def test_the_rows_end_with_their_context_even_after_an_error():
    x = torch.ones(8, 1)
    expected = dropped(DropPath(0.5), x)
    with pytest.raises(KeyError), dropout_rows([1], 2):
        raise KeyError
    assert torch.equal(dropped(DropPath(0.5), x), expected)


@pytest.mark.parametrize(("kind", "num_masks"), [(DropPath, 1), (ChannelDropout, 5), (Dropout, 5 * 6)])
def test_drops_images_channels_or_values_as_a_whole(kind, num_masks):
    out = dropped(kind(0.5), torch.ones(200, 5, 2, 3))
    assert set(out.unique().tolist()) == {0.0, 2.0}
    by_unit = out.reshape(200, num_masks, -1)
    assert (by_unit == by_unit[..., :1]).all()
    assert len(by_unit[..., 0].unique(dim=0)) > 1


@pytest.mark.parametrize("kind", KINDS)
def test_keeps_the_mean_and_drops_at_the_given_rate(kind):
    out = dropped(kind(0.3), torch.ones(20_000, 1, 1, 1))
    assert (out == 0).float().mean().item() == pytest.approx(0.3, abs=0.015)
    assert out.mean().item() == pytest.approx(1, abs=0.02)


@pytest.mark.parametrize("kind", KINDS)
def test_does_nothing_in_evaluation_mode_or_at_rate_0_and_draws_nothing(kind):
    x = torch.rand(4, 3, 2, 2)
    before = torch.get_rng_state()
    assert kind(0.5).eval()(x) is x
    assert kind(0.0)(x) is x
    assert torch.equal(torch.get_rng_state(), before)


def test_dropping_onto_a_residual_is_dropping_and_adding():
    residual, branch, module = torch.rand(32, 3, 4), torch.rand(32, 3, 4), DropPath(0.5)
    expected = residual + dropped(module, branch)
    torch.manual_seed(0)
    torch.testing.assert_close(module.onto(residual, branch), expected)
    assert torch.equal(module.eval().onto(residual, branch), residual + branch)


def test_masks_are_drawn_alike_in_half_precision():
    x = torch.ones(64, 8, 1, 1)
    single, half = (dropped(ChannelDropout(0.5), x.to(dtype)) for dtype in (torch.float32, torch.bfloat16))
    assert half.dtype == torch.bfloat16
    assert torch.equal(single, half.float())


def test_replaces_the_random_modules_of_any_network():
    network = nn.Sequential(nn.Linear(2, 2), nn.Dropout(0.2), nn.Sequential(nn.Dropout(0.3)))
    share_draws(network)
    assert [m.probability for m in network.modules() if isinstance(m, Dropout)] == [0.2, 0.3]


def test_a_student_computes_halves_of_a_batch_as_it_would_the_whole():
    network = random_network("tiny", ["a", "b"], drop_path=0.5)
    network.segformer.train()
    network.decode_head.dropout.train()
    network.decode_head.batch_norm.eval()
    pixels = torch.randn(4, 3, 32, 32)
    whole = dropped(network, pixels)
    halves = [dropped(network, pixels[rows], 0, rows, 4) for rows in ([0, 1], [2, 3])]
    torch.testing.assert_close(torch.cat(halves), whole, atol=1e-5, rtol=1e-4)
