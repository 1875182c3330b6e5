"""SegFormer in its published sizes: the networks of transformers, computed in fewer and cheaper operations."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional
from transformers import SegformerConfig, SegformerForSemanticSegmentation
from transformers.conversion_mapping import get_checkpoint_conversion_mapping, register_checkpoint_conversion_mapping

from pipeline.datasets import IGNORE_INDEX
from train.students.drop import ChannelDropout, DropPath, keep_mask
from train.students.network import Network
from train.students.norm import share_statistics


class Architecture(NamedTuple):
    """What tells one SegFormer size from another; four encoder stages each."""

    widths: list[int]
    depths: list[int]
    heads: list[int]
    head_width: int


B1_WIDTHS, B1_HEADS = [64, 128, 320, 512], [1, 2, 5, 8]
ARCHITECTURES = {
    "tiny": Architecture([16, 32, 64, 96], [1, 1, 1, 1], [1, 2, 4, 6], 64),
    "b0": Architecture([32, 64, 160, 256], [2, 2, 2, 2], [1, 2, 5, 8], 256),
    "b1": Architecture(B1_WIDTHS, [2, 2, 2, 2], B1_HEADS, 256),
    "b2": Architecture(B1_WIDTHS, [3, 4, 6, 3], B1_HEADS, 768),
    "b3": Architecture(B1_WIDTHS, [3, 4, 18, 3], B1_HEADS, 768),
    "b4": Architecture(B1_WIDTHS, [3, 8, 27, 3], B1_HEADS, 768),
    "b5": Architecture(B1_WIDTHS, [3, 6, 40, 3], B1_HEADS, 768),
}


def segformer_config(size: str, class_names: Sequence[str], drop_path: float) -> SegformerConfig:
    architecture = ARCHITECTURES[size]
    return SegformerConfig(
        hidden_sizes=architecture.widths,
        depths=architecture.depths,
        num_attention_heads=architecture.heads,
        decoder_hidden_size=architecture.head_width,
        drop_path_rate=drop_path,
        semantic_loss_ignore_index=IGNORE_INDEX,
        id2label=dict(enumerate(class_names)),
        label2id={name: index for index, name in enumerate(class_names)},
    )


class SegFormer(Network, SegformerForSemanticSegmentation):  # type: ignore[no-untyped-call]
    """SegformerForSemanticSegmentation with the same parameters, names, files and logits.

    What differs: the decode head's linear maps are folded (`fused_levels`), maps stay in memory as the tokens they are
    made of (`encoded`), random draws and batch statistics are those of the whole batch, and the head drops whole
    channels, as the published code does. Dropout of hidden values, 0 in every published configuration, is left out.
    """

    multiple = 1
    smallest_side = 32  # what the encoder's strides and sequence reductions need

    def __init__(self, config: SegformerConfig):
        super().__init__(config)
        stages: Any = self.segformer.stages
        for block in (block for stage in stages for block in stage.blocks):
            block.drop_path = DropPath(getattr(block.drop_path, "drop_prob", 0.0))
        self.decode_head.dropout = ChannelDropout(config.classifier_dropout_prob)  # type: ignore[assignment]
        share_statistics(self.decode_head)

    def encode(self, pixels: Tensor) -> list[Tensor]:
        features = []
        for stage in self.segformer.stages:
            pixels = encoded(stage, pixels)
            features.append(pixels)
        return features

    def decode(self, features: list[Tensor]) -> Tensor:
        head = self.decode_head
        return classified(head, torch.relu_(head.batch_norm(fused_levels(head, features))))

    def feature_widths(self) -> list[int]:
        return list(self.config.hidden_sizes)

    def encoder_stages(self) -> list[nn.Module]:
        return list(self.segformer.stages)

    def is_head(self, parameter_name: str) -> bool:
        return parameter_name.startswith("decode_head.")


# transformers renames weights of published files, and finds the renamings by the name of the class
register_checkpoint_conversion_mapping(
    SegFormer.__name__,
    get_checkpoint_conversion_mapping(SegformerForSemanticSegmentation.__name__),  # type: ignore[no-untyped-call]
    overwrite=True,
)


def as_tokens(map_: Tensor) -> Tensor:
    """[B, D, h, w] -> [B, h, w, D]; no copy in the memory format channels last."""
    return map_.permute(0, 2, 3, 1)


def as_map(tokens: Tensor) -> Tensor:
    """[B, h, w, D] -> [B, D, h, w] in the memory format channels last; no copy."""
    return tokens.permute(0, 3, 1, 2)


def encoded(stage: Any, map_: Tensor) -> Tensor:
    """One stage of the encoder: float [B, D, H, W] -> float [B, D', h, w].

    Tokens keep their two axes and are channels last, so that convolutions and linear maps read the same memory.
    """
    embedding = stage.patch_embeddings
    map_ = embedding.proj(map_.contiguous(memory_format=torch.channels_last))
    tokens = embedding.layer_norm(as_tokens(map_))
    for block in stage.blocks:
        tokens = block.drop_path.onto(tokens, attended(block.attention, block.layernorm_before(tokens)))
        tokens = block.drop_path.onto(tokens, mixed(block.mlp, block.layernorm_after(tokens)))
    return as_map(stage.layer_norm(tokens))


def attended(attention: Any, tokens: Tensor) -> Tensor:
    """Attention to keys of reduced resolution: float [B, h, w, D] -> the same."""
    context = tokens
    if attention.sequence_reduction_ratio > 1:
        reduction = attention.sequence_reduction
        context = reduction.layer_norm(as_tokens(reduction.sequence_reduction(as_map(tokens))))

    def by_head(projected: Tensor) -> Tensor:
        batch_size, _, _, width = projected.shape
        heads = projected.view(batch_size, -1, width // attention.head_dim, attention.head_dim)
        return heads.transpose(1, 2)  # [B, heads, N, d]

    mixture = functional.scaled_dot_product_attention(
        by_head(attention.q_proj(tokens)),
        by_head(attention.k_proj(context)),
        by_head(attention.v_proj(context)),
        dropout_p=attention.attention_dropout if attention.training else 0.0,
    )
    out: Tensor = attention.o_proj(mixture.transpose(1, 2).reshape(tokens.shape))
    return out


def mixed(mlp: Any, tokens: Tensor) -> Tensor:
    """Feed-forward layer with a depth-wise convolution: float [B, h, w, D] -> the same."""
    hidden = mlp.dwconv.dwconv(as_map(mlp.fc1(tokens)))
    out: Tensor = mlp.fc2(mlp.activation_fn(as_tokens(hidden)))
    return out


def fused_levels(head: Any, features: Sequence[Tensor]) -> Tensor:
    """The head up to its batch norm: float [B, D, h, w] for each level -> float [B, E, h, w], finest resolution.

    Published: a linear map to E channels per level, bilinear up-sampling, concatenation (coarsest first), a linear map
    from 4 E to E. All of it is linear, and up-sampling acts on each channel alone with weights that sum to 1, so each
    level's two linear maps are multiplied first (E x E x D) and applied at its own resolution: at 513 pixels and
    E = 768 2.5 instead of 41 billion multiplications an image, the same result up to rounding.
    """
    size = features[0].shape[-2:]
    finest, *coarse = (
        as_map(functional.linear(as_tokens(map_), weight, bias))
        for map_, (weight, bias) in zip(features, folded_maps(head), strict=True)
    )
    fused, *others = (functional.interpolate(map_, size, mode="bilinear", align_corners=False) for map_ in coarse)
    for other in (*others, finest):
        fused.add_(other)  # in place: at these sizes a new tensor costs as much as the sum
    return fused


def folded_maps(head: Any) -> list[tuple[Tensor, Tensor]]:
    """Weight [E, D] and bias [E] of each level, finest first: its slice of the fusing map times its own linear map."""
    with torch.autocast(head.linear_fuse.weight.device.type, enabled=False):
        slices = head.linear_fuse.weight[:, :, 0, 0].chunk(len(head.linear_projections), dim=1)[::-1]
        linears = [projection.proj for projection in head.linear_projections]
        return [(part @ one.weight, part @ one.bias) for part, one in zip(slices, linears, strict=True)]


def classified(head: Any, map_: Tensor) -> Tensor:
    """Channel dropout and the classifier: float [B, E, h, w] -> logits, float [B, K, h, w].

    A dropped channel is a column of zeros in the classifier: dropping it there spares two passes over the map.
    """
    weight, bias = head.classifier.weight[:, :, 0, 0], head.classifier.bias  # [K, E], [K]
    tokens, dropout = as_tokens(map_), head.dropout
    if not dropout.is_active():
        return as_map(functional.linear(tokens, weight, bias))
    of_images = weight * keep_mask(weight.new_empty(len(map_)), weight.shape[1:], dropout.probability)[:, None]
    logits = torch.baddbmm(bias, tokens.flatten(1, 2), of_images.mT)  # [B, h w, K]
    return as_map(logits.view(*tokens.shape[:3], -1))
