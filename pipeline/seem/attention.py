"""Multi-head attention and the post-norm transformer sublayers around it."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class Attention(nn.Module):
    """Multi-head attention with one fused matrix for queries, keys and values."""

    def __init__(self, dim: int, num_heads: int):
        super().__init__()
        self.dim, self.num_heads = dim, num_heads
        self.in_proj_weight = nn.Parameter(torch.empty(3 * dim, dim))
        self.in_proj_bias = nn.Parameter(torch.zeros(3 * dim))
        self.out_proj = nn.Linear(dim, dim)
        nn.init.xavier_uniform_(self.in_proj_weight)

    def project_keys(self, keys: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
        """Keys and values for `forward`: float [B, L, D] each -> float [B, heads, L, D / heads] each."""
        _, key_weight, value_weight = self.in_proj_weight.chunk(3)
        _, key_bias, value_bias = self.in_proj_bias.chunk(3)
        projected = F.linear(keys, key_weight, key_bias), F.linear(values, value_weight, value_bias)
        return self._split_heads(projected[0]), self._split_heads(projected[1])

    def forward(self, queries: Tensor, keys: Tensor, values: Tensor, allowed: Tensor | None = None) -> Tensor:
        """Attend from every query to the keys.

        queries: float [B, N, D]
        keys, values: float [B, heads, L, D / heads], from `project_keys`
        allowed: bool, broadcastable to [B, heads, N, L]; False hides a key from a query. None: no key is hidden
        returns: float [B, N, D]
        """
        projected = F.linear(queries, self.in_proj_weight[: self.dim], self.in_proj_bias[: self.dim])
        attended = F.scaled_dot_product_attention(self._split_heads(projected), keys, values, attn_mask=allowed)
        return self.out_proj(attended.transpose(1, 2).flatten(2))

    def _split_heads(self, x: Tensor) -> Tensor:
        return x.unflatten(-1, (self.num_heads, -1)).transpose(1, 2)


class FeedForward(nn.Module):
    """x -> LayerNorm(x + two linear layers around a ReLU)."""

    def __init__(self, dim: int, hidden: int):
        super().__init__()
        self.linear1, self.linear2 = nn.Linear(dim, hidden), nn.Linear(hidden, dim)
        self.norm = nn.LayerNorm(dim)

    def forward(self, x: Tensor) -> Tensor:
        return self.norm(x + self.linear2(F.relu(self.linear1(x))))
