from dataclasses import asdict, replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch._dynamo.testing import CompileCounterWithBackend
from transformers import SegformerConfig, SegformerForSemanticSegmentation

from train.students import dropout_rows, num_parameters, random_network
from train.students.drop import ChannelDropout, DropPath
from train.students.norm import BatchNorm2d
from train.students.segformer import ARCHITECTURES, SegFormer, segformer_config

NAMES = ["background", "cat", "dog"]
SIDES = st.integers(32, 75)


@pytest.fixture(autouse=True, scope="module")
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def ours_and_theirs(dtype=torch.float64, is_training=False):
    """The same random weights, biases and norms included, in both implementations; nothing is dropped."""
    config = segformer_config("tiny", NAMES, drop_path=0.0)
    config = replace(config, classifier_dropout_prob=0.0)
    torch.manual_seed(0)
    theirs = SegformerForSemanticSegmentation(SegformerConfig(**asdict(config)))
    for name, value in theirs.state_dict().items():
        if value.is_floating_point():
            noise = 0.2 * torch.randn_like(value)
            value.add_(noise.abs() if "running_var" in name else noise)
    ours = SegFormer(config)
    ours.load_state_dict(theirs.state_dict())
    return ours.to(dtype).train(is_training), theirs.to(dtype).train(is_training)


def relative_difference(one, other):
    return ((one - other).abs().max() / other.abs().max().clamp(min=1e-30)).item()


def differences(dtype, is_training, shape):
    """Largest relative differences of logits and of the parameters' gradients."""
    ours, theirs = ours_and_theirs(dtype, is_training)
    pixels = torch.randn(shape, dtype=dtype)
    logits, expected = ours(pixels), theirs(pixels).logits
    weight = torch.randn_like(expected)
    (logits * weight).sum().backward()
    (expected * weight).sum().backward()
    scale = max(p.grad.abs().max() for p in theirs.parameters())
    gradients = [((p.grad - q.grad).abs().max() / scale).item() for p, q in zip(*parameters(ours, theirs), strict=True)]
    return relative_difference(logits, expected), max(gradients)


def parameters(ours, theirs):
    return [network.parameters() for network in (ours, theirs)]


@pytest.mark.parametrize(
    ("size", "millions"), [("b0", 3.7), ("b1", 13.7), ("b2", 27.4), ("b3", 47.2), ("b4", 64.0), ("b5", 84.6)]
)
def test_sizes_have_as_many_parameters_as_published(size, millions):
    with torch.device("meta"):
        network = random_network(size, [str(i) for i in range(21)])
    assert num_parameters(network) / 1e6 == pytest.approx(millions, abs=0.05)


def test_tiny_stays_tiny_and_has_every_kind_of_layer():
    network = random_network("tiny", NAMES)
    assert num_parameters(network) < 400_000
    assert len(network.segformer.stages) == 4
    assert set(ARCHITECTURES) == {"tiny", "b0", "b1", "b2", "b3", "b4", "b5"}


@settings(max_examples=12, deadline=None)
@given(batch=st.integers(1, 3), height=SIDES, width=SIDES, is_training=st.booleans())
def test_logits_and_gradients_are_those_of_transformers_for_any_size(batch, height, width, is_training):
    shape = (batch + is_training, 3, height, width)
    assert max(differences(torch.float64, is_training, shape)) < 1e-11


@pytest.mark.parametrize("is_training", [False, True])
def test_logits_and_gradients_are_those_of_transformers_in_single_precision(is_training):
    assert max(differences(torch.float32, is_training, (2, 3, 65, 97))) < 1e-5


def test_feature_maps_are_those_of_transformers_finest_first():
    ours, theirs = ours_and_theirs()
    pixels = torch.randn(2, 3, 64, 96, dtype=torch.float64)
    features = ours.encode(pixels)
    expected = theirs(pixels, output_hidden_states=True).hidden_states
    assert [tuple(f.shape) for f in features] == [(2, 16, 16, 24), (2, 32, 8, 12), (2, 64, 4, 6), (2, 96, 2, 3)]
    assert [f.shape[1] for f in features] == ours.feature_widths()
    for one, other in zip(features, expected, strict=True):
        torch.testing.assert_close(one, other, atol=1e-12, rtol=0)


def test_channel_masks_are_multiplied_onto_the_feature_maps():
    ours, theirs = ours_and_theirs()
    pixels = torch.randn(2, 3, 64, 64, dtype=torch.float64)
    masks = [2.0 * (torch.rand(2, width, 1, 1) < 0.5) for width in ours.feature_widths()]
    hidden = theirs(pixels, output_hidden_states=True).hidden_states
    expected = theirs.decode_head([map_ * mask for map_, mask in zip(hidden, masks, strict=True)])
    torch.testing.assert_close(ours(pixels, channel_masks=masks), expected, atol=1e-12, rtol=0)


def test_a_level_without_a_mask_is_noticed():
    network = random_network("tiny", NAMES)
    with pytest.raises(ValueError, match="zip"):
        network(torch.randn(1, 3, 32, 32), channel_masks=[torch.ones(1, 16, 1, 1)])


def test_modules_that_draw_or_see_the_whole_batch_take_the_place_of_those_of_transformers():
    network = random_network("b2", NAMES, drop_path=0.3)
    rates = [m.probability for m in network.modules() if isinstance(m, DropPath)]
    assert rates == pytest.approx([0.3 * i / 15 for i in range(16)])
    assert type(network.decode_head.batch_norm) is BatchNorm2d
    assert type(network.decode_head.dropout) is ChannelDropout
    assert network.decode_head.dropout.probability == 0.1
    active = [m for m in network.modules() if isinstance(m, nn.Dropout) and m.p > 0]
    assert active == []
    assert not any(type(m).__name__ == "SegformerDropPath" for m in network.modules())


def test_half_precision_is_close_and_leaves_gradients_in_single_precision():
    network = random_network("tiny", NAMES).eval()
    pixels = torch.randn(2, 3, 64, 64)
    exact = network(pixels)
    with torch.autocast("cpu", torch.bfloat16):
        half = network(pixels)
    torch.testing.assert_close(half.float(), exact, atol=0.05, rtol=0.05)
    half.float().square().mean().backward()
    assert all(p.grad.dtype == torch.float32 and p.grad.any() for p in network.parameters())


def test_every_parameter_learns():
    network = random_network("tiny", NAMES).train()
    network(torch.randn(2, 3, 64, 64)).square().mean().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in network.parameters())


def test_the_head_is_the_decode_head():
    network = random_network("tiny", NAMES)
    head = sum(p.numel() for name, p in network.named_parameters() if network.is_head(name))
    assert head == num_parameters(network.decode_head)


@pytest.mark.slow
def test_compiles_as_one_graph_whatever_the_rows():
    network = random_network("tiny", NAMES).train()
    pixels = torch.randn(2, 3, 32, 32)
    counter = CompileCounterWithBackend("aot_eager")
    compiled = torch.compile(network, backend=counter, fullgraph=True)
    for rows in ([0, 3], [1, 2], [2, 0]):
        with dropout_rows(rows, 4):
            compiled(pixels).square().mean().backward()
    assert counter.frame_count == 1
