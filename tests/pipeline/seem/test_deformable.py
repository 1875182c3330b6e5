"""The pixel decoder of the SAM variants: loops over single samples and transformers' Mask2Former are its oracles."""

import itertools
import math

import pytest
import torch
from reference_data import published_keys
from transformers import Mask2FormerConfig
from transformers.models.mask2former.modeling_mask2former import Mask2FormerPixelDecoder

from pipeline.seem.deformable import DeformableAttention, DeformablePixelDecoder, pixel_centres

PUBLISHED = {"conv_dim": 512, "mask_dim": 512, "num_layers": 6, "num_heads": 8, "feedforward_dim": 1024}
PUBLISHED_CHANNELS = (128, 256, 512, 1024)
NUM_PARAMETERS = 13_964_480
TINY_CHANNELS = (6, 8, 10, 12)
TINY = {"conv_dim": 64, "mask_dim": 20, "num_layers": 2, "num_heads": 4, "feedforward_dim": 48}


def published_shapes():
    """Name to shape of the published tensors, as SEEM.md A.7 has them."""
    vector = [512]
    layer = {
        "self_attn.sampling_offsets": ([192, 512], [192]),
        "self_attn.attention_weights": ([96, 512], [96]),
        "self_attn.value_proj": ([512, 512], vector),
        "self_attn.output_proj": ([512, 512], vector),
        "norm1": (vector, vector),
        "linear1": ([1024, 512], [1024]),
        "linear2": ([512, 1024], vector),
        "norm2": (vector, vector),
    }
    modules = {f"transformer.encoder.layers.{index}.{part}": layer[part] for index in range(6) for part in layer}
    for index, channels in enumerate((1024, 512, 256)):
        modules |= {f"input_proj.{index}.0": ([512, channels, 1, 1], vector), f"input_proj.{index}.1": (vector, vector)}
    modules |= {"mask_features": ([512, 512, 1, 1], vector)}
    modules |= {"adapter_1.norm": (vector, vector), "layer_1.norm": (vector, vector)}
    shapes = {
        f"{module}.{kind}": shape
        for module, pair in modules.items()
        for kind, shape in zip(("weight", "bias"), pair, strict=True)
    }
    convolutions = {"adapter_1.weight": [512, 128, 1, 1], "layer_1.weight": [512, 512, 3, 3]}
    return shapes | convolutions | {"transformer.level_embed": [3, 512]}


def shapes_of(module):
    return {name: list(tensor.shape) for name, tensor in module.state_dict().items()}


def published_decoder():
    with torch.device("meta"):
        return DeformablePixelDecoder(PUBLISHED_CHANNELS, **PUBLISHED)


@torch.no_grad()
def randomise(module, seed):
    """Give every parameter normal values, those that start as zeros or ones too; offsets reach over several pixels."""
    generator = torch.Generator().manual_seed(seed)
    for name, parameter in module.named_parameters():
        scale = 0.5 if parameter.ndim == 1 or "level" in name else parameter[0].numel() ** -0.5
        centre = 1.0 if parameter.ndim == 1 and name.endswith("weight") else 0.0
        parameter.normal_(centre, scale * (3 if "offsets" in name else 1), generator=generator)
    return module


def draw(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def tiny_features(num=2, rows=3, columns=4):
    """res2..res5 of an image of 32 * rows x 32 * columns pixels."""
    scales = (8, 4, 2, 1)
    return [
        draw(num, channels, scale * rows, scale * columns, seed=channels)
        for channels, scale in zip(TINY_CHANNELS, scales, strict=True)
    ]


@pytest.fixture
def decoder():
    return randomise(DeformablePixelDecoder(TINY_CHANNELS, **TINY), seed=1)


def bilinear(image, x, y):
    """float [D]: `image`, float [h, w, D], at x, y in pixels, where a pixel's centre is at its index plus a half."""
    height, width, _ = image.shape
    left, top = math.floor(x - 0.5), math.floor(y - 0.5)
    found = torch.zeros(image.shape[-1], dtype=image.dtype)
    for row, column in itertools.product((top, top + 1), (left, left + 1)):
        if 0 <= row < height and 0 <= column < width:
            found += image[row, column] * (1 - abs(x - 0.5 - column)) * (1 - abs(y - 0.5 - row))
    return found


def attention_by_loops(attention, queries, tokens, sizes):
    """What DeformableAttention computes for one image, sample by sample in float64."""
    num_tokens, dim = tokens.shape
    heads, levels, points = attention.num_heads, attention.num_levels, attention.num_points
    values = attention.value_proj(tokens).reshape(num_tokens, heads, dim // heads)
    offsets = attention.sampling_offsets(queries).reshape(num_tokens, heads, levels, points, 2)
    weights = attention.attention_weights(queries).reshape(num_tokens, heads, levels * points).softmax(-1)
    cells = [
        (level, row, column)
        for level, (h, w) in enumerate(sizes)
        for row, column in itertools.product(range(h), range(w))
    ]
    starts = [sum(h * w for h, w in sizes[:level]) for level in range(levels)]
    mixed = torch.zeros(num_tokens, heads, dim // heads, dtype=tokens.dtype)
    for token, head, level, point in itertools.product(*map(range, (num_tokens, heads, levels, points))):
        own, row, column = cells[token]
        height, width = sizes[level]
        x = (column + 0.5) / sizes[own][1] * width + offsets[token, head, level, point, 0].item()
        y = (row + 0.5) / sizes[own][0] * height + offsets[token, head, level, point, 1].item()
        image = values[starts[level] : starts[level] + height * width, head].reshape(height, width, -1)
        mixed[token, head] += weights[token, head, level * points + point] * bilinear(image, x, y)
    return attention.output_proj(mixed.flatten(1))


def transformers_decoder(ours):
    """Mask2FormerPixelDecoder with the weights of `ours`."""
    config = Mask2FormerConfig(
        feature_size=TINY["conv_dim"],
        mask_feature_size=TINY["mask_dim"],
        encoder_layers=TINY["num_layers"],
        num_attention_heads=TINY["num_heads"],
        encoder_feedforward_dim=TINY["feedforward_dim"],
        dropout=0.0,
    )
    renamed = {
        "input_proj.": "input_projections.",
        "transformer.": "",
        "norm1": "self_attn_layer_norm",
        "norm2": "final_layer_norm",
        "linear": "fc",
        "adapter_1.weight": "adapter_1.0.weight",
        "adapter_1.norm": "adapter_1.1",
        "layer_1.weight": "layer_1.0.weight",
        "layer_1.norm": "layer_1.1",
        "mask_features": "mask_projection",
    }
    weights = {}
    for name, tensor in ours.state_dict().items():
        for old, new in renamed.items():
            name = name.replace(old, new)
        weights[name] = tensor
    theirs = Mask2FormerPixelDecoder(config, TINY_CHANNELS).eval()
    theirs.load_state_dict(weights)
    return theirs


def test_has_the_parameters_of_the_published_file():
    decoder = published_decoder()
    assert shapes_of(decoder) == published_shapes()
    assert sum(parameter.numel() for parameter in decoder.parameters()) == NUM_PARAMETERS


@pytest.mark.parametrize("name", ["seem_samvitb_v1.pt", "seem_samvitl_v1.pt"])
def test_has_exactly_the_keys_that_were_read_from_the_published_file(name):
    prefix = "sem_seg_head.pixel_decoder."
    listed = {
        key.removeprefix(prefix): shape for key, shape in published_keys()[name].items() if key.startswith(prefix)
    }
    assert shapes_of(published_decoder()) == listed


@torch.no_grad()
def test_an_offset_of_one_pixel_fetches_the_right_neighbour_and_nothing_beyond_the_border():
    attention = DeformableAttention(dim=1, num_heads=1, num_levels=1, num_points=1)
    for name, parameter in attention.named_parameters():
        parameter.fill_(1.0 if name in ("value_proj.weight", "output_proj.weight") else 0.0)
    attention.sampling_offsets.bias.copy_(torch.tensor([1.0, 0.0]))  # x, y
    tokens = torch.tensor([2.0, 3.0, 5.0, 7.0, 11.0, 13.0]).reshape(1, 6, 1)
    sizes = [(2, 3)]
    found = attention(tokens, tokens, pixel_centres(sizes, tokens), sizes)
    torch.testing.assert_close(found.flatten(), torch.tensor([3.0, 5.0, 0.0, 11.0, 13.0, 0.0]))


@torch.no_grad()
def test_attention_agrees_with_loops_over_single_samples():
    attention = randomise(DeformableAttention(dim=8, num_heads=2, num_levels=3, num_points=2), seed=4).double()
    sizes = [(1, 2), (2, 3), (4, 5)]
    tokens, queries = draw(2, 28, 8, seed=5).double(), draw(2, 28, 8, seed=6).double()
    ours = attention(queries, tokens, pixel_centres(sizes, tokens), sizes)
    expected = torch.stack(
        [attention_by_loops(attention, *image, sizes) for image in zip(queries, tokens, strict=True)]
    )
    torch.testing.assert_close(ours, expected, rtol=0, atol=1e-12)


@torch.no_grad()
def test_all_maps_agree_with_transformers(decoder):
    features = tiny_features()
    maps, finest = decoder(features)
    theirs = transformers_decoder(decoder)(features)
    expected = [*theirs.multi_scale_features, theirs.mask_features]
    for ours, oracle in zip([*maps, decoder.mask_features(finest)], expected, strict=True):
        torch.testing.assert_close(ours, oracle, rtol=0, atol=1e-5 * oracle.abs().max().item())


def test_group_norms_have_the_constants_of_the_release():
    norms = [module for module in published_decoder().modules() if isinstance(module, torch.nn.GroupNorm)]
    assert {(norm.num_groups, norm.eps) for norm in norms} == {(32, 1e-5)}


@torch.no_grad()
def test_maps_come_from_coarse_to_fine(decoder):
    maps, finest = decoder(tiny_features())
    shapes = [tuple(level.shape) for level in [*maps, finest]]
    assert shapes == [(2, 64, 3, 4), (2, 64, 6, 8), (2, 64, 12, 16), (2, 64, 24, 32)]


@torch.no_grad()
def test_computes_in_float32_under_autocast(decoder):
    features = tiny_features()
    plain_maps, plain_finest = decoder(features)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        maps, finest = decoder(features)
    for ours, plain in zip([*maps, finest], [*plain_maps, plain_finest], strict=True):
        assert ours.dtype == torch.float32
        torch.testing.assert_close(ours, plain, rtol=0, atol=0)


def test_half_precision_features_are_widened(decoder):
    features = [feature.bfloat16() for feature in tiny_features()]
    maps, finest = decoder(features)
    assert {level.dtype for level in [*maps, finest]} == {torch.float32}


def test_every_parameter_but_the_mask_convolution_gets_a_gradient(decoder):
    maps, finest = decoder.train()(tiny_features())
    sum(level.pow(3).mean() for level in [*maps, finest]).backward()
    without = {name for name, parameter in decoder.named_parameters() if parameter.grad is None}
    assert without == {"mask_features.weight", "mask_features.bias"}
    assert all(parameter.grad.abs().sum() > 0 for parameter in decoder.parameters() if parameter.grad is not None)
