"""Reads the published checkpoint files: detects the variant of a file, and maps its tensor names to ours, strictly."""

from __future__ import annotations

import hashlib
import pickle
import re
import warnings
import zipfile
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from pipeline.seem.configuration import SeemConfig
from pipeline.seem.errors import SeemError
from pipeline.seem.model import SeemModel, Undrawn

Weights = Mapping[str, Tensor]

PREDICTOR = "sem_seg_head.predictor."
PIXEL_DECODER = "sem_seg_head.pixel_decoder."
CROSS, SELF = (PREDICTOR + rf"transformer_{kind}_attention_layers.(\d+)." for kind in ("cross", "self"))
TEXT_BLOCK = PREDICTOR + r"lang_encoder.lang_encoder.resblocks.(\d+)."
CLIP_TEXT = "text_encoder.text_model."
FPN_ENCODER = PIXEL_DECODER + r"transformer.encoder.layers.(\d+)."
# Pattern of a published name -> our name. The first match is used; names without a match are unexpected.
FPN_RENAMES: list[tuple[str, str]] = [
    (FPN_ENCODER + r"self_attn.((in|out)_proj.+)", r"pixel_decoder.encoder.\1.attention.\2"),
    (FPN_ENCODER + r"norm1.(\w+)", r"pixel_decoder.encoder.\1.norm.\2"),
    (FPN_ENCODER + r"(linear[12].\w+)", r"pixel_decoder.encoder.\1.feedforward.\2"),
    (FPN_ENCODER + r"norm2.(\w+)", r"pixel_decoder.encoder.\1.feedforward.norm.\2"),
]  # fmt: skip
RENAMES: list[tuple[str, str]] = [
    (r"backbone.(.+)", r"backbone.\1"),
    (PIXEL_DECODER + r"(.+)", r"pixel_decoder.\1"),
    (CROSS + r"multihead_attn.(.+)", r"mask_decoder.layers.\1.cross_attention.\2"),
    (CROSS + r"norm.(\w+)", r"mask_decoder.layers.\1.cross_norm.\2"),
    (SELF + r"self_attn.(.+)", r"mask_decoder.layers.\1.self_attention.\2"),
    (SELF + r"norm.(\w+)", r"mask_decoder.layers.\1.self_norm.\2"),
    (PREDICTOR + r"transformer_ffn_layers.(\d+).(.+)", r"mask_decoder.layers.\1.feedforward.\2"),
    (PREDICTOR + r"decoder_norm.(\w+)", r"mask_decoder.norm.\1"),
    (PREDICTOR + r"mask_embed.layers.(.+)", r"mask_decoder.mask_embed.\1"),
    (PREDICTOR + r"(class_embed|(query_feat|query_embed|level_embed).weight)", r"mask_decoder.\1"),
    (PREDICTOR + r"lang_encoder.logit_scale", r"logit_scale"),
    (PREDICTOR + r"lang_encoder.lang_proj", r"text_encoder.text_projection.weight"),
    (TEXT_BLOCK + r"ln_([12]).(\w+)", CLIP_TEXT + r"encoder.layers.\1.layer_norm\2.\3"),
    (TEXT_BLOCK + r"mlp.c_fc.(\w+)", CLIP_TEXT + r"encoder.layers.\1.mlp.fc1.\2"),
    (TEXT_BLOCK + r"mlp.c_proj.(\w+)", CLIP_TEXT + r"encoder.layers.\1.mlp.fc2.\2"),
    (TEXT_BLOCK + r"attn.(in_proj_\w+|out_proj.\w+)", CLIP_TEXT + r"encoder.layers.\1.self_attn.\2"),
    (PREDICTOR + r"lang_encoder.lang_encoder.ln_final.(\w+)", CLIP_TEXT + r"final_layer_norm.\1"),
    (PREDICTOR + r"lang_encoder.lang_encoder.token_embedding.weight", CLIP_TEXT + "embeddings.token_embedding.weight"),
    (PREDICTOR + r"lang_encoder.lang_encoder.positional_embedding", CLIP_TEXT + "embeddings.position_embedding.weight"),
]  # fmt: skip
# Tensors used only for clicks, scribbles and training. The misspelling is that of the published files.
UNUSED = re.compile(
    PREDICTOR + r"(mask_sptial_embed\.\d+|(spatial_embed|spatial_featured|pn_indicator)\.weight)"
    r"|dilation_kernel|criterion\.empty_weight"
)
PUBLISHED_VARIANTS = {  # backbone block and width of the four published networks, by the word in their file names
    "focalt": ("focal_dw", 96),
    "focall": ("focal", 192),
    "samvitb": ("sam_vit", 768),
    "samvitl": ("sam_vit", 1024),
}
MAX_LISTED = 8


def load_published(path: Path, text_heads: int = 8, **dimensions: Any) -> SeemModel:
    """Load the network of a published file.

    path:       a `seem_*.pt`
    text_heads: attention heads of the text encoder, which do not follow from the shapes
    dimensions: other fields of SeemConfig that do not follow from the shapes, if they differ from the published ones
    raises:     SeemError if the file is damaged, contains anything but tensors, or is not a known SEEM network
    """
    weights = read_weights(path)
    config = detect_config(weights, path, text_heads, **dimensions)
    config.source_sha256 = file_sha256(path)
    renamed = rename_weights(weights, config, path)
    return SeemModel.with_weights(config, renamed)


def file_sha256(path: Path) -> str:
    """SHA-256 of a file, 64 hex digits."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def read_weights(path: Path) -> dict[str, Tensor]:
    """The tensors of a published file by name. Only tensors are unpickled.

    raises: SeemError if the file is missing, truncated, or contains anything else
    """
    if not path.is_file():
        raise SeemError(f"no checkpoint {path}; get one with: conformalsam download seem-focall-v0")
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="Detected pickle protocol")  # our own error is more specific
            # the file is memory-mapped if its format allows it
            content = torch.load(path, map_location="cpu", weights_only=True, mmap=zipfile.is_zipfile(path))
    except pickle.UnpicklingError as error:
        reason = _foreign_class(str(error))
        raise SeemError(
            f"{path} contains {reason}, which could run code when loaded, expected only tensors; download the "
            "published file: conformalsam download seem-focall-v0"
        ) from None
    except (RuntimeError, OSError, EOFError, ValueError) as error:
        raise SeemError(
            f"{path} ({path.stat().st_size} bytes) is truncated or not a torch checkpoint ({first_line(error)}); "
            "download it again: conformalsam download seem-focall-v0"
        ) from None
    if not isinstance(content, dict) or not all(isinstance(value, Tensor) for value in content.values()):
        keys = ", ".join(map(str, list(content)[:5])) if isinstance(content, dict) else type(content).__name__
        raise SeemError(
            f"{path} contains {keys}, expected a flat dict of tensors; download a published file: conformalsam "
            "download seem-focall-v0"
        )
    return dict(content)


def first_line(error: Exception) -> str:
    """The first line of a library's error message, at most 100 characters."""
    return (str(error).strip() or type(error).__name__).splitlines()[0][:100]


def _foreign_class(message: str) -> str:
    """What the file contains besides tensors, from the message of torch's unpickler."""
    match = re.search(r"GLOBAL ([\w.]+)|([\w.]+) was not an allowed global", message)
    return f"the class {match[1] or match[2]}" if match else "objects other than tensors"


def detect_config(weights: Weights, path: Path, text_heads: int, **dimensions: Any) -> SeemConfig:
    """The configuration that follows from the shapes. Numbers of heads are the published ones, or in `dimensions`.

    raises: SeemError if the tensors are not those of a known SEEM network, or of another one than the file name has
    """
    try:
        from_shapes = _shape_dimensions(weights)
        from_shapes["text_config"]["num_attention_heads"] = text_heads
        config = SeemConfig(**from_shapes | dimensions)
    except KeyError as error:
        raise SeemError(
            f"{path} is not a known SEEM checkpoint: it lacks {error.args[0]}, and has for instance "
            f"{', '.join(list(weights)[:3])}; use a published Focal-T, Focal-L, SAM-ViT-B or SAM-ViT-L file: "
            "conformalsam download seem-focall-v0"
        ) from None
    variant = variant_name(config)
    for word in PUBLISHED_VARIANTS:
        if word in path.name.lower() and word != variant:
            raise SeemError(f"{path} is named {word}, but contains {variant}; rename it, or download the other file")
    return config


def variant_name(config: SeemConfig) -> str:
    """The word of the published file names, e.g. `focall`; backbone and width for other networks."""
    names = {variant: word for word, variant in PUBLISHED_VARIANTS.items()}
    return names.get((config.backbone, config.width), f"{config.backbone} of width {config.width}")


def _shape_dimensions(weights: Weights) -> dict[str, Any]:
    """Fields of SeemConfig that follow from the shapes; KeyError names a tensor that is missing."""
    shape = {name: tuple(tensor.shape) for name, tensor in weights.items()}
    text = PREDICTOR + "lang_encoder."
    vocabulary, text_width = shape[text + "lang_encoder.token_embedding.weight"]
    is_sam = "backbone.pos_embed" in weights
    encoder = PIXEL_DECODER + "transformer.encoder.layers."
    queries, hidden_dim = shape[PREDICTOR + "query_feat.weight"]
    return {
        **(_sam_dimensions(weights, shape) if is_sam else _focal_dimensions(weights, shape)),
        "hidden_dim": hidden_dim,
        "mask_dim": shape[PIXEL_DECODER + "mask_features.weight"][0],
        "encoder_layers": _count(weights, encoder),
        "encoder_ffn_dim": shape[encoder + "0.linear1.weight"][0],
        "decoder_layers": _count(weights, PREDICTOR + "transformer_ffn_layers."),
        "decoder_ffn_dim": shape[PREDICTOR + "transformer_ffn_layers.0.linear1.weight"][0],
        "num_queries": queries,
        "text_config": {
            "vocab_size": vocabulary,
            "hidden_size": text_width,
            "intermediate_size": shape[text + "lang_encoder.resblocks.0.mlp.c_fc.weight"][0],
            "projection_dim": shape[text + "lang_proj"][1],
            "num_hidden_layers": _count(weights, text + "lang_encoder.resblocks."),
            "max_position_embeddings": shape[text + "lang_encoder.positional_embedding"][0],
            "eos_token_id": vocabulary - 1,
            "bos_token_id": vocabulary - 2,
        },
    }


def _focal_dimensions(weights: Weights, shape: Mapping[str, tuple[int, ...]]) -> dict[str, Any]:
    blocks = "backbone.layers.{}.blocks."
    stages = _count(weights, "backbone.layers.")
    return {
        "backbone": "focal_dw" if "backbone.layers.0.blocks.0.dw1.weight" in weights else "focal",
        "width": shape["backbone.patch_embed.norm.weight"][0],
        "depths": [_count(weights, blocks.format(stage)) for stage in range(stages)],
        "focal_levels": [
            _count(weights, blocks.format(stage) + "0.modulation.focal_layers.") for stage in range(stages)
        ],
    }


def _sam_dimensions(weights: Weights, shape: Mapping[str, tuple[int, ...]]) -> dict[str, Any]:
    _, side, _, width = shape["backbone.pos_embed"]
    patch = shape["backbone.patch_embed.proj.weight"][-1]
    depth = _count(weights, "backbone.blocks.")
    # Blocks with global attention have a relative-position table for the whole map, the others for one window.
    tables = {i: shape[f"backbone.blocks.{i}.attn.rel_pos_h"] for i in range(depth)}
    return {
        "backbone": "sam_vit",
        "width": width,
        "depths": [depth],
        "vit_heads": width // tables[0][1],
        "vit_global_blocks": [i for i, table in tables.items() if table[0] == 2 * side - 1],
        "image_size": side * patch,
        "short_side": 1000 * side * patch // 1024,  # SEEM resizes to 1000 / 1024 for SAM
    }


def _count(weights: Weights, prefix: str) -> int:
    """Number of different words between a prefix and the next dot; KeyError if there is none."""
    numbers = {name[len(prefix) :].partition(".")[0] for name in weights if name.startswith(prefix)}
    if not numbers:
        raise KeyError(f"{prefix}*")
    return len(numbers)


def rename_weights(weights: Weights, config: SeemConfig, path: Path) -> dict[str, Tensor]:
    """The tensors by our names; SeemError lists tensors that are missing, unexpected or of another shape."""
    renamed: dict[str, Tensor] = {}
    unexpected = []
    # The names in the pixel decoder of the SAM variants are kept.
    renames = RENAMES if config.backbone == "sam_vit" else FPN_RENAMES + RENAMES
    for name, tensor in weights.items():
        ours = _our_name(name, renames)
        if ours is not None:
            renamed |= _in_our_form(ours, tensor)
        elif not UNUSED.fullmatch(name):
            unexpected.append(name)
    if found := differences(renamed, config, unexpected):
        raise SeemError(
            f"the tensors of {path} differ from those of the SEEM network with its shapes: {found}; "
            "download a published file: conformalsam download seem-focall-v0"
        )
    return renamed


def unused_names(weights: Weights) -> list[str]:
    """Names of the tensors that are used only for clicks and training, and are left out."""
    return sorted(name for name in weights if UNUSED.fullmatch(name))


def _our_name(name: str, renames: Iterable[tuple[str, str]]) -> str | None:
    for pattern, ours in renames:
        match = re.fullmatch(pattern, name)
        if match:
            return match.expand(ours)
    return None


def _in_our_form(name: str, tensor: Tensor) -> dict[str, Tensor]:
    """Convert to transformers' CLIP, which has separate queries, keys and values, and a transposed projection."""
    if name == "text_encoder.text_projection.weight":
        return {name: tensor.T.contiguous()}
    if name.startswith(CLIP_TEXT) and "in_proj_" in name:
        chunks = zip("qkv", tensor.chunk(3), strict=True)
        return {name.replace("in_proj_", f"{letter}_proj."): chunk.contiguous() for letter, chunk in chunks}
    return {name: tensor}


def differences(weights: Weights, config: SeemConfig, unexpected: Iterable[str] = ()) -> str:
    """How tensors by our names differ from those of the network of a configuration; empty if they do not.

    unexpected: names of further tensors that the network does not have
    """
    with Undrawn():
        expected = SeemModel(config).state_dict()
    problems = {
        "missing": sorted(expected.keys() - weights.keys()),
        "unexpected": sorted([*unexpected, *(weights.keys() - expected.keys())]),
        "of another shape": [
            f"{name} {list(weights[name].shape)} instead of {list(expected[name].shape)}"
            for name in sorted(expected.keys() & weights.keys())
            if weights[name].shape != expected[name].shape
        ],
    }
    return ", ".join(f"{len(names)} {what}: {_listed(names)}" for what, names in problems.items() if names)


def _listed(names: list[str]) -> str:
    more = f" and {len(names) - MAX_LISTED} more" if len(names) > MAX_LISTED else ""
    return ", ".join(names[:MAX_LISTED]) + more
