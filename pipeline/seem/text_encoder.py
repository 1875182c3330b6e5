"""The text tower: token ids to vectors that queries are compared with (classes) or that join them (prompts)."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor
from transformers import CLIPTextModelWithProjection

EPSILON = 1e-7


class TextFeatures(NamedTuple):
    """Projected features of a batch of texts."""

    tokens: Tensor  # float [N, L, P], every position
    ends: Tensor  # float [N, P], at the end token


def encode_texts(tower: CLIPTextModelWithProjection, token_ids: Tensor) -> TextFeatures:
    """Run the tower on int64 [N, L] ids, padded with end tokens.

    Attention is causal and padding comes last, so the length that texts are padded to changes no result. Always in
    float32: texts are encoded once, and the LayerNorm epsilon of 1e-12 is lost in half precision.
    """
    with torch.autocast(token_ids.device.type, enabled=False):
        hidden = tower.text_model(token_ids).last_hidden_state
        tokens = tower.text_projection(hidden)
    # The end token has the largest id; argmax gives its first occurrence, the later ones are padding.
    ends = tokens[torch.arange(len(tokens), device=tokens.device), token_ids.argmax(dim=-1)]
    return TextFeatures(tokens, ends)


def unit_length(vectors: Tensor) -> Tensor:
    """float [..., P] divided by its length, in float32; a vector of zeros stays zero."""
    vectors = vectors.float()
    return vectors / (vectors.norm(dim=-1, keepdim=True) + EPSILON)
