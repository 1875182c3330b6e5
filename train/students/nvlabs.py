"""Reads MiT encoders of NVlabs/SegFormer (mit_b*.pth), with the parameter names of transformers."""

from __future__ import annotations

import pickle
import re
from pathlib import Path

import torch
from torch import Tensor

from pipeline.errors import TrainingError, first_line

RENAMED = (
    (r"patch_embed(\d)\.proj", "patch_embeddings.proj"),
    (r"patch_embed(\d)\.norm", "patch_embeddings.layer_norm"),
    (r"block(\d)\.(\d+)\.norm1", r"blocks.\2.layernorm_before"),
    (r"block(\d)\.(\d+)\.norm2", r"blocks.\2.layernorm_after"),
    (r"block(\d)\.(\d+)\.attn\.q", r"blocks.\2.attention.q_proj"),
    (r"block(\d)\.(\d+)\.attn\.proj", r"blocks.\2.attention.o_proj"),
    (r"block(\d)\.(\d+)\.attn\.sr", r"blocks.\2.attention.sequence_reduction.sequence_reduction"),
    (r"block(\d)\.(\d+)\.attn\.norm", r"blocks.\2.attention.sequence_reduction.layer_norm"),
    (r"block(\d)\.(\d+)\.mlp\.(fc1|fc2|dwconv\.dwconv)", r"blocks.\2.mlp.\3"),
    (r"norm(\d)", "layer_norm"),
)
KEY_AND_VALUE = re.compile(r"block(\d)\.(\d+)\.attn\.kv\.(weight|bias)")


def read_nvlabs(path: Path) -> dict[str, Tensor]:
    """The weights in a file mit_b*.pth, with the names of SegformerModel; the image classifier is left out.

    raises: TrainingError for a missing file or one with other content
    """
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except (OSError, RuntimeError, EOFError, ValueError, pickle.UnpicklingError) as error:
        raise TrainingError(
            f"{path} is not a file of weights that torch can read ({first_line(error)}); set train.weights to a file "
            "mit_b*.pth of NVlabs/SegFormer"
        ) from None
    weights = content.get("state_dict", content) if isinstance(content, dict) else None
    renamed = transformers_weights(weights) if weights else {}
    if not renamed:
        raise TrainingError(
            f"{path} holds no MiT encoder, expected tensors named patch_embed1.proj.weight, block1.0.attn.q.weight and "
            "so on; set train.weights to a file mit_b*.pth of NVlabs/SegFormer"
        )
    return renamed


def transformers_weights(weights: dict[str, Tensor]) -> dict[str, Tensor]:
    """The encoder weights with their names in SegformerModel; NVlabs stores keys and values in one tensor."""
    renamed: dict[str, Tensor] = {}
    for name, weight in weights.items():
        name = name.removeprefix("backbone.")
        if match := KEY_AND_VALUE.fullmatch(name):
            stage, block, kind = match.groups()
            attention = f"stages.{int(stage) - 1}.blocks.{block}.attention"
            key, value = weight.chunk(2)
            renamed |= {f"{attention}.k_proj.{kind}": key, f"{attention}.v_proj.{kind}": value}
        elif new_name := _renamed(name):
            renamed[new_name] = weight
    return renamed


def _renamed(name: str) -> str | None:
    stem, _, kind = name.rpartition(".")
    for pattern, replacement in RENAMED:
        if match := re.fullmatch(pattern, stem):
            return f"stages.{int(match[1]) - 1}.{match.expand(replacement)}.{kind}"
    return None
