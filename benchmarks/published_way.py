"""SEEM's semantic maps as its published scripts compute them, with which `annotate.py` compares our code.

The same weights and the same results as `pipeline.seem`, but computed as published: channels-first maps that are
copied, class and mask heads in full after every layer, every mask resized for every layer and repeated for every head,
texts padded to 77 tokens, and all masks at full size before they are summed.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from pipeline.seem import SeemModel
from pipeline.seem.attention import Attention
from pipeline.seem.focal import FocalBlock, FocalModulation
from pipeline.seem.fpn import FpnPixelDecoder
from pipeline.seem.position import sine_position
from pipeline.seem.text_encoder import unit_length

CONTEXT_LENGTH = 77


class PublishedWay:
    """The published computation on a network, which is converted to torch's default memory format."""

    def __init__(self, model: SeemModel):
        self.model = model.to(memory_format=torch.contiguous_format)

    def class_embedding(self, token_ids: Tensor) -> Tensor:
        """int64 [templates, 77] of one name -> float [P]; the published code embeds name after name."""
        tower = self.model.text_encoder
        hidden = tower.text_model(token_ids)
        ends = hidden[torch.arange(len(hidden)), token_ids.argmax(dim=-1)] @ tower.text_projection.weight.T
        mean = unit_length(ends).mean(dim=0)
        return mean / mean.norm()

    def semantic_map(self, pixels: Tensor, embeddings: Tensor, size: tuple[int, int]) -> Tensor:
        """pixels float [1, 3, H, W], embeddings float [K + 1, P] -> float [K, *size]."""
        maps, mask_features = self._pixel_decoder(self._backbone(pixels))
        text_logits, mask_logits = self._decode(maps, mask_features, embeddings)
        large = F.interpolate(mask_logits, pixels.shape[-2:], mode="bilinear", align_corners=False)
        large = F.interpolate(large, size, mode="bicubic", align_corners=False, antialias=True)[0]
        scores = text_logits[0].softmax(dim=-1)[:, :-1]
        return torch.einsum("qk,qyx->kyx", scores, large.sigmoid())

    def _backbone(self, pixels: Tensor) -> list[Tensor]:
        backbone = self.model.backbone
        x = backbone.patch_embed(pixels)
        maps = []
        for stage, layer in enumerate(backbone.layers):
            for block in layer.blocks:
                x = _block(block, x)
            maps.append(_first(getattr(backbone, f"norm{stage}")(x)))
            if layer.downsample is not None:
                x = layer.downsample(_first(x))
        return maps

    def _pixel_decoder(self, features: list[Tensor]) -> tuple[list[Tensor], Tensor]:
        decoder: FpnPixelDecoder = self.model.pixel_decoder
        y = F.relu(decoder.layer_4(decoder.encode(features[-1])))
        maps = [y]
        for number in (3, 2, 1):
            lateral = getattr(decoder, f"adapter_{number}")(features[number - 1])
            y = lateral + F.interpolate(y, size=lateral.shape[-2:], mode="nearest")
            y = F.relu(getattr(decoder, f"layer_{number}")(y))
            maps.append(y)
        return maps[:3], decoder.mask_features(y)

    def _decode(self, maps: list[Tensor], mask_features: Tensor, embeddings: Tensor) -> tuple[Tensor, Tensor]:
        decoder = self.model.mask_decoder
        queries, position = decoder.query_feat.weight[None], decoder.query_embed.weight[None]
        text_logits, mask_logits = self._heads(queries, mask_features, embeddings)
        for i, layer in enumerate(decoder.layers):
            level = i % len(maps)
            blocked = _blocked(mask_logits, maps[level].shape[-2:], layer.cross_attention.num_heads)
            values = maps[level].flatten(2).transpose(1, 2) + decoder.level_embed.weight[level]
            height, width = maps[level].shape[-2:]
            code = sine_position(height, width, values.shape[-1], values.device, values.dtype).flatten(1).T
            read = _attend(layer.cross_attention, queries + position, values + code, values, blocked)
            queries = layer.cross_norm(queries + read)
            placed = queries + position
            queries = layer.self_norm(queries + _attend(layer.self_attention, placed, placed, queries))
            queries = layer.feedforward(queries)
            text_logits, mask_logits = self._heads(queries, mask_features, embeddings)
        return text_logits, mask_logits

    def _heads(self, queries: Tensor, mask_features: Tensor, embeddings: Tensor) -> tuple[Tensor, Tensor]:
        decoder = self.model.mask_decoder
        vectors = unit_length(decoder.class_vectors(queries))
        text_logits = self.model.logit_scale.exp() * vectors @ embeddings.T
        return text_logits, torch.einsum("bqm,bmyx->bqyx", decoder.mask_vectors(queries), mask_features)


def _block(block: FocalBlock, x: Tensor) -> Tensor:
    """One focal block on [B, H, W, C], its depthwise convolutions on channels-first copies."""
    if hasattr(block, "dw1"):
        x = x + _last(block.dw1(_first(x)))
        x = block.norm1(x + block.gamma_1 * _modulate(block.modulation, x))
        x = x + _last(block.dw2(_first(x)))
        return block.norm2(x + block.gamma_2 * block.mlp(x))
    x = x + block.gamma_1 * block.norm1(_modulate(block.modulation, x))
    return x + block.gamma_2 * block.norm2(block.mlp(x))


def _modulate(modulation: FocalModulation, x: Tensor) -> Tensor:
    width, levels = modulation.width, modulation.levels
    query, context, gates = _first(modulation.f(x)).split([width, width, levels + 1], dim=1)
    gathered: Tensor | float = 0.0
    for level, layer in enumerate(modulation.focal_layers):
        context = layer(context)
        gathered = gathered + context * gates[:, level : level + 1]
    everywhere = F.gelu(context.mean(dim=(2, 3), keepdim=True))
    gathered = (gathered + everywhere * gates[:, levels:]) / (levels + 1)
    return modulation.proj(_last(query * modulation.h(gathered)))


def _first(x: Tensor) -> Tensor:
    return x.permute(0, 3, 1, 2).contiguous()


def _last(x: Tensor) -> Tensor:
    return x.permute(0, 2, 3, 1).contiguous()


def _blocked(mask_logits: Tensor, size: torch.Size, num_heads: int) -> Tensor:
    """bool [B heads, Q, L], True where a query must not attend; a query without any allowed location attends to all."""
    resized = F.interpolate(mask_logits, size, mode="bilinear", align_corners=False)
    blocked = (resized.sigmoid().flatten(2) < 0.5).repeat_interleave(num_heads, dim=0)
    blocked[blocked.all(dim=-1)] = False
    return blocked


def _attend(
    attention: Attention, queries: Tensor, keys: Tensor, values: Tensor, blocked: Tensor | None = None
) -> Tensor:
    """torch's own multi-head attention, with averaged attention weights as nn.MultiheadAttention returns by default."""
    output, _ = F.multi_head_attention_forward(
        queries.transpose(0, 1), keys.transpose(0, 1), values.transpose(0, 1), attention.dim, attention.num_heads,
        attention.in_proj_weight, attention.in_proj_bias, None, None, False, 0.0,
        attention.out_proj.weight, attention.out_proj.bias, training=False, need_weights=True, attn_mask=blocked,
    )  # fmt: skip
    return output.transpose(0, 1)
