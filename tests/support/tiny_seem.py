"""Tiny SEEM checkpoints in the published format, their weights a function of name and shape, and a byte tokenizer."""

import itertools
import json
import zlib
from pathlib import Path

import numpy as np
import torch
from tokenizers.pre_tokenizers import ByteLevel
from transformers import CLIPTokenizer

from pipeline.seem import SeemConfig, SeemModel

DIM, MASK_DIM, FFN, QUERIES, LAYERS = 32, 16, 24, 7, 3
TEXT_WIDTH, TEXT_LAYERS, POSITIONS = 16, 2, 77
WIDTH, DEPTHS, LEVELS = 8, (1, 1, 2, 1), (2, 2, 3, 2)
# What the shapes of a checkpoint do not tell.
UNTOLD = {"text_heads": 2, "encoder_heads": 4, "decoder_heads": 4, "num_groups": 8}
# Looked up or added, not multiplied.
TABLES = ("query_feat", "query_embed", "level_embed", "token_embedding", "positional_embedding", "pos_embed", "rel_pos")
PREDICTOR, PIXEL_DECODER = "sem_seg_head.predictor.", "sem_seg_head.pixel_decoder."


def write_tokenizer(folder: Path) -> Path:
    """CLIP's tokenizer with no merges: every byte is a token, and another one at the end of a word."""
    symbols = sorted(ByteLevel.alphabet())
    entries = [*symbols, *(f"{symbol}</w>" for symbol in symbols), "<|startoftext|>", "<|endoftext|>"]
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "vocab.json").write_text(json.dumps({entry: i for i, entry in enumerate(entries)}))
    (folder / "merges.txt").write_text("#version: 0.2\n")
    return folder


def write_checkpoint(path: Path, backbone: str) -> Path:
    """A published-format file of a tiny network."""
    tokenizer = CLIPTokenizer.from_pretrained(write_tokenizer(path.parent / "tokenizer"))
    shapes = published_shapes(backbone, len(tokenizer))
    torch.save({name: seeded(name, shape) for name, shape in shapes.items()}, path)
    return path


def seeded(name: str, shape: tuple[int, ...]) -> torch.Tensor:
    """Weights that keep signals at a size of about one through every layer."""
    if name.endswith("logit_scale"):
        return torch.tensor(2.0)
    noise = np.random.RandomState(zlib.crc32(name.encode())).standard_normal(shape).astype(np.float32)
    if len(shape) == 1:
        is_scale = name.endswith("weight") or "gamma" in name
        return torch.from_numpy(is_scale + 0.1 * noise).float()
    if any(table in name for table in TABLES):
        return torch.from_numpy(noise)
    fan_in = shape[0] if name.endswith(("lang_proj", "class_embed")) else int(np.prod(shape[1:]))
    return torch.from_numpy(noise / np.float32(np.sqrt(fan_in)))


def published_shapes(backbone: str, vocabulary: int) -> dict[str, tuple[int, ...]]:
    """Names and shapes of every tensor of a published file, as its appendix lists them."""
    image = _sam_shapes() if backbone == "sam_vit" else {**_focal_shapes(backbone), **_fpn_shapes()}
    return {**image, **_predictor_shapes(), **_text_shapes(vocabulary), **_unused_shapes()}


def _linear(name, width_out, width_in, *kernel):
    return {f"{name}.weight": (width_out, width_in, *kernel), f"{name}.bias": (width_out,)}


def _norm(name, width):
    return {f"{name}.weight": (width,), f"{name}.bias": (width,)}


def _attention(name, dim):
    return {
        f"{name}.in_proj_weight": (3 * dim, dim), f"{name}.in_proj_bias": (3 * dim,),
        **_linear(f"{name}.out_proj", dim, dim),
    }  # fmt: skip


def _focal_shapes(backbone):
    shapes = {**_linear("backbone.patch_embed.proj", WIDTH, 3, 7, 7), **_norm("backbone.patch_embed.norm", WIDTH)}
    for stage, (depth, levels) in enumerate(zip(DEPTHS, LEVELS, strict=True)):
        width, layer = WIDTH * 2**stage, f"backbone.layers.{stage}"
        for block in (f"{layer}.blocks.{i}" for i in range(depth)):
            shapes |= {f"{block}.gamma_1": (width,), f"{block}.gamma_2": (width,)}
            shapes |= {**_norm(f"{block}.norm1", width), **_norm(f"{block}.norm2", width)}
            shapes |= _linear(f"{block}.modulation.f", 2 * width + levels + 1, width)
            shapes |= _linear(f"{block}.modulation.h", width, width, 1, 1)
            shapes |= _linear(f"{block}.modulation.proj", width, width)
            for level in range(levels):
                kernel = 3 + 2 * level
                shapes[f"{block}.modulation.focal_layers.{level}.0.weight"] = (width, 1, kernel, kernel)
            shapes |= {
                **_linear(f"{block}.mlp.fc1", 4 * width, width),
                **_linear(f"{block}.mlp.fc2", width, 4 * width),
            }
            if backbone == "focal_dw":
                shapes |= {**_linear(f"{block}.dw1", width, 1, 3, 3), **_linear(f"{block}.dw2", width, 1, 3, 3)}
        if stage < 3:
            shapes |= {
                **_linear(f"{layer}.downsample.proj", 2 * width, width, 3, 3),
                **_norm(f"{layer}.downsample.norm", 2 * width),
            }
        shapes |= _norm(f"backbone.norm{stage}", width)
    return shapes


def _fpn_shapes():
    shapes = {
        **_linear(f"{PIXEL_DECODER}input_proj", DIM, 8 * WIDTH, 1, 1),
        **_linear(f"{PIXEL_DECODER}mask_features", MASK_DIM, DIM, 3, 3),
    }
    convolutions = [
        *((f"adapter_{i}", WIDTH * 2 ** (i - 1), 1) for i in (1, 2, 3)),
        *((f"layer_{i}", DIM, 3) for i in (1, 2, 3, 4)),
    ]
    for name, width, kernel in convolutions:
        shapes[f"{PIXEL_DECODER}{name}.weight"] = (DIM, width, kernel, kernel)
        shapes |= _norm(f"{PIXEL_DECODER}{name}.norm", DIM)
    for layer in (f"{PIXEL_DECODER}transformer.encoder.layers.{i}" for i in range(2)):
        shapes |= {**_attention(f"{layer}.self_attn", DIM), **_linear(f"{layer}.linear1", FFN, DIM)}
        shapes |= {
            **_linear(f"{layer}.linear2", DIM, FFN),
            **_norm(f"{layer}.norm1", DIM),
            **_norm(f"{layer}.norm2", DIM),
        }
    return shapes


def _sam_shapes():
    """Our own names: that these are the published ones is held by the tests of the two modules."""
    config = SeemConfig(
        backbone="sam_vit", width=16, depths=[2], vit_heads=2, vit_global_blocks=[1], image_size=64, hidden_dim=DIM,
        mask_dim=MASK_DIM, encoder_layers=2, encoder_heads=4, encoder_ffn_dim=FFN, decoder_heads=4, num_groups=8,
    )  # fmt: skip
    with torch.device("meta"):
        model = SeemModel(config)
    modules = (("backbone.", model.backbone), (PIXEL_DECODER, model.pixel_decoder))
    return {f"{p}{n}": tuple(t.shape) for p, module in modules for n, t in module.state_dict().items()}


def _predictor_shapes():
    shapes = {f"{PREDICTOR}class_embed": (DIM, DIM), f"{PREDICTOR}level_embed.weight": (3, DIM)}
    shapes |= {f"{PREDICTOR}{name}.weight": (QUERIES, DIM) for name in ("query_feat", "query_embed")}
    shapes |= _norm(f"{PREDICTOR}decoder_norm", DIM)
    for i, width in enumerate((DIM, DIM, MASK_DIM)):
        shapes |= _linear(f"{PREDICTOR}mask_embed.layers.{i}", width, DIM)
    kinds = (("self_attention", "self_attn"), ("cross_attention", "multihead_attn"))
    for i, (kind, attention) in itertools.product(range(LAYERS), kinds):
        layer = f"{PREDICTOR}transformer_{kind}_layers.{i}"
        shapes |= {**_attention(f"{layer}.{attention}", DIM), **_norm(f"{layer}.norm", DIM)}
    for layer in (f"{PREDICTOR}transformer_ffn_layers.{i}" for i in range(LAYERS)):
        shapes |= {
            **_linear(f"{layer}.linear1", FFN, DIM),
            **_linear(f"{layer}.linear2", DIM, FFN),
            **_norm(f"{layer}.norm", DIM),
        }
    return shapes


def _text_shapes(vocabulary):
    encoder, tower = f"{PREDICTOR}lang_encoder.", f"{PREDICTOR}lang_encoder.lang_encoder."
    shapes = {
        f"{encoder}lang_proj": (TEXT_WIDTH, DIM), f"{encoder}logit_scale": (),
        f"{tower}positional_embedding": (POSITIONS, TEXT_WIDTH),
        f"{tower}token_embedding.weight": (vocabulary, TEXT_WIDTH), **_norm(f"{tower}ln_final", TEXT_WIDTH),
    }  # fmt: skip
    for block in (f"{tower}resblocks.{i}" for i in range(TEXT_LAYERS)):
        shapes |= {
            **_attention(f"{block}.attn", TEXT_WIDTH),
            **_norm(f"{block}.ln_1", TEXT_WIDTH),
            **_norm(f"{block}.ln_2", TEXT_WIDTH),
            **_linear(f"{block}.mlp.c_fc", 4 * TEXT_WIDTH, TEXT_WIDTH),
            **_linear(f"{block}.mlp.c_proj", TEXT_WIDTH, 4 * TEXT_WIDTH),
        }
    return shapes


def _unused_shapes():
    clicks = {f"{PREDICTOR}mask_sptial_embed.{i}": (DIM, DIM) for i in range(3)}
    clicks |= {f"{PREDICTOR}{name}.weight": (4, DIM) for name in ("spatial_embed", "spatial_featured", "pn_indicator")}
    return {**clicks, "dilation_kernel": (1, 1, 3, 3), "criterion.empty_weight": (134,)}
