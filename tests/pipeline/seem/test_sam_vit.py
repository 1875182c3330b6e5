"""The image encoder of the SAM variants: transformers' SAM is the oracle of its blocks, einsum that of its pyramid."""

import math

import pytest
import torch
from reference_data import published_keys
from transformers import SamVisionConfig
from transformers.models.sam.modeling_sam import SamVisionEncoder

from pipeline.seem.sam_vit import Pyramid, SamVitBackbone

PUBLISHED = {
    "seem_samvitb_v1.pt": {"width": 768, "depth": 12, "num_heads": 12, "global_blocks": (2, 5, 8, 11)},
    "seem_samvitl_v1.pt": {"width": 1024, "depth": 24, "num_heads": 16, "global_blocks": (5, 11, 17, 23)},
}
NUM_PARAMETERS = {"seem_samvitb_v1.pt": 98_358_464, "seem_samvitl_v1.pt": 323_333_504}
# 7 x 7 patches of which two blocks see windows of 3 x 3, so the last row and column of windows is filled up
TINY = {"width": 32, "depth": 3, "num_heads": 4, "global_blocks": (1,), "image_size": 112, "window_size": 3}


def published_shapes(width, depth, num_heads, global_blocks):
    """Name to shape of the published tensors, as SEEM.md A.6 and 6.3 have them for 1024 x 1024 images."""
    norm = {"weight": [width], "bias": [width]}
    shapes = {"pos_embed": [1, 64, 64, width]}
    shapes |= {"patch_embed.proj.weight": [width, 3, 16, 16], "patch_embed.proj.bias": [width]}
    for index in range(depth):
        num_distances = 127 if index in global_blocks else 27
        parts = {
            "norm1": norm,
            "attn": {f"rel_pos_{axis}": [num_distances, width // num_heads] for axis in "hw"},
            "attn.qkv": {"weight": [3 * width, width], "bias": [3 * width]},
            "attn.proj": {"weight": [width, width], "bias": [width]},
            "norm2": norm,
            "mlp.lin1": {"weight": [4 * width, width], "bias": [4 * width]},
            "mlp.lin2": {"weight": [width, 4 * width], "bias": [width]},
        }
        shapes |= {
            f"blocks.{index}.{part}.{name}": shape for part, named in parts.items() for name, shape in named.items()
        }
    half, double = width // 2, 2 * width
    convolutions = {
        "down_4.0": ([width, half, 2, 2], half),
        "down_4.3": ([half, half // 2, 2, 2], half // 2),
        "down_4.5": ([128, half // 2, 1, 1], 128),
        "down_8.0": ([width, half, 2, 2], half),
        "down_8.2": ([256, half, 1, 1], 256),
        "down_16.0": ([512, width, 1, 1], 512),
        "down_32.0": ([double, width, 2, 2], double),
        "down_32.2": ([1024, double, 1, 1], 1024),
    }
    for name, (weight, channels) in convolutions.items():
        branch, index = name.split(".")
        shapes |= {f"neck.{name}.weight": weight, f"neck.{name}.bias": [channels]}
        shapes |= {f"neck.{branch}.{int(index) + 1}.{kind}": [channels] for kind in ("weight", "bias")}
    return shapes


def shapes_of(module):
    return {name: list(tensor.shape) for name, tensor in module.state_dict().items()}


def on_meta(name):
    with torch.device("meta"):
        return SamVitBackbone(**PUBLISHED[name])


@torch.no_grad()
def randomise(module, seed):
    """Give every parameter normal values, those that start as zeros or ones too."""
    generator = torch.Generator().manual_seed(seed)
    for name, parameter in module.named_parameters():
        scale = 0.5 if parameter.ndim == 1 or "pos" in name else parameter[0].numel() ** -0.5
        centre = 1.0 if parameter.ndim == 1 and name.endswith("weight") else 0.0
        parameter.normal_(centre, scale, generator=generator)
    return module


def draw(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def transformers_encoder(ours):
    """SamVisionEncoder with the weights of `ours`, without its neck."""
    config = SamVisionConfig(
        hidden_size=TINY["width"],
        mlp_dim=4 * TINY["width"],
        num_hidden_layers=TINY["depth"],
        num_attention_heads=TINY["num_heads"],
        global_attn_indexes=list(TINY["global_blocks"]),
        image_size=TINY["image_size"],
        window_size=TINY["window_size"],
        layer_norm_eps=1e-6,
        attn_implementation="eager",
    )
    encoder = SamVisionEncoder(config).eval()
    encoder.neck = torch.nn.Identity()
    renamed = {"blocks.": "layers.", "norm": "layer_norm", "patch_embed.proj": "patch_embed.projection"}
    weights = {}
    for name, tensor in ours.state_dict().items():
        for old, new in renamed.items():
            name = name.replace(old, new)
        weights[name] = tensor
    encoder.load_state_dict(weights)
    return encoder


@pytest.fixture
def backbone():
    return randomise(SamVitBackbone(**TINY), seed=1)


@pytest.mark.parametrize("name", PUBLISHED)
def test_has_the_parameters_of_the_published_file(name):
    backbone = on_meta(name)
    assert shapes_of(backbone) == published_shapes(**PUBLISHED[name])
    assert sum(parameter.numel() for parameter in backbone.parameters()) == NUM_PARAMETERS[name]


@pytest.mark.parametrize("name", PUBLISHED)
def test_has_exactly_the_keys_that_were_read_from_the_published_file(name):
    prefix = "backbone."
    listed = {
        key.removeprefix(prefix): shape for key, shape in published_keys()[name].items() if key.startswith(prefix)
    }
    assert shapes_of(on_meta(name)) == listed


def test_norms_have_the_constants_of_the_release():
    modules = list(on_meta("seem_samvitb_v1.pt").modules())
    assert {module.eps for module in modules if isinstance(module, torch.nn.LayerNorm)} == {1e-6}
    group_norms = [module for module in modules if isinstance(module, torch.nn.GroupNorm)]
    assert {(norm.num_groups, norm.eps) for norm in group_norms} == {(1, 1e-5)}


@torch.no_grad()
def test_windowed_and_global_blocks_agree_with_transformers(backbone):
    backbone.neck = torch.nn.Identity()
    images = draw(2, 3, 112, 112)
    expected = transformers_encoder(backbone)(images).last_hidden_state.permute(0, 3, 1, 2)
    torch.testing.assert_close(backbone(images), expected, rtol=0, atol=1e-5 * expected.abs().max().item())


@torch.no_grad()
@pytest.mark.parametrize("index", range(TINY["depth"]))
def test_each_block_agrees_with_transformers_alone(backbone, index):
    backbone.neck = torch.nn.Identity()
    tokens = draw(2, 7, 7, TINY["width"])
    expected = transformers_encoder(backbone).layers[index](tokens)
    torch.testing.assert_close(backbone.blocks[index](tokens), expected, rtol=0, atol=1e-5)


@torch.no_grad()
def test_windows_do_not_see_each_other_but_a_global_block_does(backbone):
    tokens = draw(1, 7, 7, TINY["width"])
    changed = tokens.clone()
    changed[0, 0, 0, 0] += 1.0  # one channel only: the layer norm would take out a shift of all
    windowed, everywhere = (
        (block(changed) - block(tokens)).abs().amax(dim=-1)[0] > 1e-6 for block in backbone.blocks[:2]
    )
    assert windowed[:3, :3].all()
    assert windowed.sum() == 9
    assert everywhere.all()


@torch.no_grad()
def test_pyramid_agrees_with_its_formula():
    pyramid = randomise(Pyramid(32), seed=2)
    features = draw(2, 32, 4, 4, seed=3)

    def upsample(x, layer):
        blocks = torch.einsum("bchw,cdij->bdhiwj", x, layer.weight) + layer.bias[:, None, None, None, None]
        return blocks.flatten(4, 5).flatten(2, 3)

    def downsample(x, layer):
        blocks = x.unflatten(3, (-1, 2)).unflatten(2, (-1, 2))
        return torch.einsum("bchiwj,dcij->bdhw", blocks, layer.weight) + layer.bias[:, None, None]

    def project(x, layer):
        return torch.einsum("bchw,dc->bdhw", x, layer.weight[:, :, 0, 0]) + layer.bias[:, None, None]

    def normalise(x, layer):
        centred = x - x.mean(dim=(1, 2, 3), keepdim=True)
        unit = centred / (centred.square().mean(dim=(1, 2, 3), keepdim=True) + 1e-5).sqrt()
        return unit * layer.weight[:, None, None] + layer.bias[:, None, None]

    def gelu(x):
        return x * (1 + torch.erf(x / math.sqrt(2))) / 2

    def finish(x, branch):
        return gelu(normalise(project(x, branch[-3]), branch[-2]))

    four, eight, sixteen, thirty_two = pyramid.down_4, pyramid.down_8, pyramid.down_16, pyramid.down_32
    once = gelu(normalise(upsample(features, four[0]), four[1]))
    expected = [
        finish(normalise(upsample(once, four[3]), four[4]), four),
        finish(normalise(upsample(features, eight[0]), eight[1]), eight),
        finish(features, sixteen),
        finish(normalise(downsample(features, thirty_two[0]), thirty_two[1]), thirty_two),
    ]
    for ours, theirs in zip(pyramid(features), expected, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-5)


@torch.no_grad()
def test_gives_four_maps_at_strides_4_to_32():
    backbone = SamVitBackbone(width=32, depth=1, num_heads=2, global_blocks=(), image_size=64, window_size=2)
    shapes = [tuple(level.shape) for level in backbone(draw(2, 3, 64, 64))]
    assert shapes == [(2, 128, 16, 16), (2, 256, 8, 8), (2, 512, 4, 4), (2, 1024, 2, 2)]
    assert backbone.channels == (128, 256, 512, 1024)


@torch.no_grad()
def test_an_image_does_not_depend_on_its_neighbours_in_the_batch(backbone):
    images = draw(2, 3, 112, 112)
    for together, alone in zip(backbone(images), backbone(images[1:]), strict=True):
        torch.testing.assert_close(together[1:], alone, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("size", [(112, 96), (128, 128)])
def test_refuses_images_of_another_size(backbone, size):
    with pytest.raises(ValueError, match=rf"112 x 112 pixels, got {size[0]} x {size[1]}"):
        backbone(torch.zeros(1, 3, *size))


def test_every_parameter_gets_a_gradient(backbone):
    sum(level.square().mean() for level in backbone.train()(draw(1, 3, 112, 112))).backward()
    without = [name for name, parameter in backbone.named_parameters() if not parameter.grad.abs().sum() > 0]
    assert without == []
