"""The text encoder: token ids to vectors, which are compared with queries (classes) or added to them (prompts)."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor
from transformers import CLIPTextModelWithProjection

EPSILON = 1e-7


class TextFeatures(NamedTuple):
    """Projected features of a batch of texts."""

    tokens: Tensor  # float [N, L, P], of every position
    ends: Tensor  # float [N, P], of the end token


def encode_texts(encoder: CLIPTextModelWithProjection, token_ids: Tensor) -> TextFeatures:
    """Encode token ids, int64 [N, L], padded with end tokens.

    Attention is causal and the padding is at the end, so the results do not depend on the length of the padding. They
    are computed in float32: texts are encoded once, and half precision cannot represent the LayerNorm epsilon of 1e-12.
    """
    with torch.autocast(token_ids.device.type, enabled=False):
        hidden = encoder.text_model(token_ids).last_hidden_state
        tokens = encoder.text_projection(hidden)
    # The end token has the largest id. argmax gives its first occurrence; later ones are padding.
    ends = tokens[torch.arange(len(tokens), device=tokens.device), token_ids.argmax(dim=-1)]
    return TextFeatures(tokens, ends)


def unit_length(vectors: Tensor) -> Tensor:
    """Vectors float [..., P] scaled to unit length, in float32. A zero vector stays zero."""
    vectors = vectors.float()
    return vectors / (vectors.norm(dim=-1, keepdim=True) + EPSILON)
