"""SegFormer in its published sizes: the networks of transformers, computed with fewer and cheaper operations."""

from __future__ import annotations

import re
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional

from pipeline.datasets import IGNORE_INDEX
from pipeline.errors import TrainingError
from train.students.drop import ChannelDropout, DropPath, keep_mask
from train.students.norm import BatchNorm2d
from train.students.plain import PlainConfig, PlainNetwork


class Architecture(NamedTuple):
    """A size of SegFormer; widths, depths and heads of its four encoder stages."""

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


@dataclass(frozen=True, kw_only=True)
class SegFormerConfig(PlainConfig):
    """The fields of SegformerConfig of transformers; sequences have one number per encoder stage."""

    model_type = "segformer"
    architecture = "SegformerForSemanticSegmentation"

    num_channels: int = 3
    num_encoder_blocks: int = 4
    depths: Sequence[int] = (2, 2, 2, 2)
    sr_ratios: Sequence[int] = (8, 4, 2, 1)
    hidden_sizes: Sequence[int] = (32, 64, 160, 256)
    patch_sizes: Sequence[int] = (7, 3, 3, 3)
    strides: Sequence[int] = (4, 2, 2, 2)
    num_attention_heads: Sequence[int] = (1, 2, 5, 8)
    mlp_ratios: Sequence[float] = (4, 4, 4, 4)
    hidden_act: str = "gelu"
    hidden_dropout_prob: float = 0.0
    attention_probs_dropout_prob: float = 0.0
    classifier_dropout_prob: float = 0.1
    initializer_range: float = 0.02
    drop_path_rate: float = 0.1
    layer_norm_eps: float = 1e-6
    decoder_hidden_size: int = 256
    semantic_loss_ignore_index: int = IGNORE_INDEX
    reshape_last_stage: bool = True


def segformer_config(size: str, class_names: Sequence[str], drop_path: float) -> SegFormerConfig:
    architecture = ARCHITECTURES[size]
    return SegFormerConfig(
        hidden_sizes=architecture.widths,
        depths=architecture.depths,
        num_attention_heads=architecture.heads,
        decoder_hidden_size=architecture.head_width,
        drop_path_rate=drop_path,
        id2label=dict(enumerate(class_names)),
    )


class SegFormer(PlainNetwork):
    """SegformerForSemanticSegmentation of transformers, with the same parameters, names, files and logits.

    Differences: the linear maps of the decode head are folded (`DecodeHead`); feature maps stay in memory as tokens
    (`Stage`); random draws and batch statistics are those of the whole batch; the head drops whole channels, as in the
    published code. Dropout of hidden values is left out, because it is 0 in all published configurations.
    """

    config_class = SegFormerConfig
    config: SegFormerConfig
    multiple = 1
    smallest_side = 32  # needed by the encoder's strides and sequence reductions

    def __init__(self, config: SegFormerConfig):
        super().__init__(config)
        if config.hidden_act != "gelu":
            raise TrainingError(
                f"config.json has hidden_act {config.hidden_act}, expected gelu; set train.student to another network"
            )
        self.segformer = Encoder(config).apply(self.initialise)
        self.decode_head = DecodeHead(config).apply(self.initialise)

    def encode(self, pixels: Tensor) -> list[Tensor]:
        features: list[Tensor] = self.segformer(pixels)
        return features

    def decode(self, features: list[Tensor]) -> Tensor:
        logits: Tensor = self.decode_head(features)
        return logits

    def feature_widths(self) -> list[int]:
        return list(self.config.hidden_sizes)

    def encoder_stages(self) -> list[nn.Module]:
        return list(self.segformer.stages)

    def is_head(self, parameter_name: str) -> bool:
        return parameter_name.startswith("decode_head.")

    def initialise(self, module: nn.Module) -> None:
        """Initialise weights as normal with standard deviation `initializer_range`, biases as 0, norms as identity."""
        if isinstance(module, nn.Linear | nn.Conv2d):
            nn.init.normal_(module.weight, std=self.config.initializer_range)
            if module.bias is not None:
                nn.init.zeros_(module.bias)
        elif isinstance(module, nn.LayerNorm | nn.BatchNorm2d):
            module.reset_parameters()

    @staticmethod
    def saved_name(name: str) -> str:
        for pattern, replacement in SAVED_NAMES:
            name = re.sub(pattern, replacement, name)
        return name

    @staticmethod
    def own_name(name: str) -> str:
        for pattern, replacement in OWN_NAMES:
            name = re.sub(pattern, replacement, name)
        return name


# Parameter names in published files and in those that transformers writes (left), and in our network (right).
NAMES = (
    ("segformer.encoder.patch_embeddings.N.", "segformer.stages.N.patch_embeddings."),
    ("segformer.encoder.block.N.", "segformer.stages.N.blocks."),
    ("segformer.encoder.layer_norm.N.", "segformer.stages.N.layer_norm."),
    (".attention.self.query.", ".attention.q_proj."),
    (".attention.self.key.", ".attention.k_proj."),
    (".attention.self.value.", ".attention.v_proj."),
    (".attention.self.sr.", ".attention.sequence_reduction.sequence_reduction."),
    (".attention.self.layer_norm.", ".attention.sequence_reduction.layer_norm."),
    (".attention.output.dense.", ".attention.o_proj."),
    (".mlp.dense", ".mlp.fc"),
    (".layer_norm_1.", ".layernorm_before."),
    (".layer_norm_2.", ".layernorm_after."),
    ("decode_head.linear_c.", "decode_head.linear_projections."),
)


def _renaming(old: str, new: str) -> tuple[str, str]:
    """Pattern and replacement of a renaming, in which N stands for a number."""
    return re.escape(old).replace("N", r"(\d+)"), new.replace("N", r"\1")


SAVED_NAMES = [_renaming(own, saved) for saved, own in NAMES]
OWN_NAMES = [
    (r"^(?=(encoder|stages)\.)", "segformer."),  # in a file of the encoder alone
    *(_renaming(saved, own) for saved, own in NAMES),
]


def as_tokens(map_: Tensor) -> Tensor:
    """[B, D, h, w] -> [B, h, w, D]; no copy in the memory format channels last."""
    return map_.permute(0, 2, 3, 1)


def as_map(tokens: Tensor) -> Tensor:
    """[B, h, w, D] -> [B, D, h, w] in the memory format channels last; no copy."""
    return tokens.permute(0, 3, 1, 2)


class Encoder(nn.Module):
    """Mix Transformer: four stages, each with a coarser and wider feature map."""

    def __init__(self, config: SegFormerConfig):
        super().__init__()
        num_blocks = sum(config.depths)
        drop_paths = [config.drop_path_rate * i / max(num_blocks - 1, 1) for i in range(num_blocks)]
        self.stages = nn.ModuleList(
            Stage(config, index, drop_paths[sum(config.depths[:index]) :]) for index in range(config.num_encoder_blocks)
        )

    def forward(self, pixels: Tensor) -> list[Tensor]:
        """float [B, 3, H, W] -> the feature map of each stage, float [B, D, h, w], finest first."""
        features = []
        for stage in self.stages:
            pixels = stage(pixels)
            features.append(pixels)
        return features


class Stage(nn.Module):
    """Patch embedding of a feature map, transformer blocks, layer norm.

    Tokens keep their two spatial axes and are channels last, so convolutions and linear maps read the same memory.
    """

    def __init__(self, config: SegFormerConfig, index: int, drop_paths: Sequence[float]):
        super().__init__()
        self.patch_embeddings = PatchEmbeddings(config, index)
        self.blocks = nn.ModuleList(Block(config, index, drop_path) for drop_path in drop_paths[: config.depths[index]])
        self.layer_norm = nn.LayerNorm(config.hidden_sizes[index])

    def forward(self, map_: Tensor) -> Tensor:
        """float [B, D, H, W] -> float [B, D', h, w]."""
        tokens = self.patch_embeddings(map_)
        for block in self.blocks:
            tokens = block(tokens)
        return as_map(self.layer_norm(tokens))


class PatchEmbeddings(nn.Module):
    """Embedding of overlapping patches by a convolution with a stride."""

    def __init__(self, config: SegFormerConfig, index: int):
        super().__init__()
        width_before, width = [config.num_channels, *config.hidden_sizes][index : index + 2]
        size, stride = config.patch_sizes[index], config.strides[index]
        self.proj = nn.Conv2d(width_before, width, size, stride, padding=size // 2)
        self.layer_norm = nn.LayerNorm(width)

    def forward(self, map_: Tensor) -> Tensor:
        """float [B, D, H, W] -> float [B, h, w, D']."""
        tokens: Tensor = self.layer_norm(as_tokens(self.proj(map_.contiguous(memory_format=torch.channels_last))))
        return tokens


class Block(nn.Module):
    """Attention and a feed-forward layer, each after a layer norm, and added to its input."""

    def __init__(self, config: SegFormerConfig, index: int, drop_path: float):
        super().__init__()
        width = config.hidden_sizes[index]
        self.layernorm_before = nn.LayerNorm(width)
        self.attention = Attention(config, index)
        self.drop_path = DropPath(drop_path)
        self.layernorm_after = nn.LayerNorm(width)
        self.mlp = FeedForward(width, int(width * config.mlp_ratios[index]))

    def forward(self, tokens: Tensor) -> Tensor:
        """float [B, h, w, D] -> float of the same shape."""
        tokens = self.drop_path.onto(tokens, self.attention(self.layernorm_before(tokens)))
        return self.drop_path.onto(tokens, self.mlp(self.layernorm_after(tokens)))


class Attention(nn.Module):
    """Attention to keys of reduced resolution."""

    def __init__(self, config: SegFormerConfig, index: int):
        super().__init__()
        width, reduction = config.hidden_sizes[index], config.sr_ratios[index]
        self.head_dim = width // config.num_attention_heads[index]
        self.dropout = config.attention_probs_dropout_prob
        self.q_proj, self.k_proj, self.v_proj, self.o_proj = (nn.Linear(width, width) for _ in range(4))
        self.sequence_reduction = SequenceReduction(width, reduction) if reduction > 1 else nn.Identity()

    def forward(self, tokens: Tensor) -> Tensor:
        """float [B, h, w, D] -> float of the same shape."""
        context = self.sequence_reduction(tokens)
        mixture = functional.scaled_dot_product_attention(
            self._by_head(self.q_proj(tokens)),
            self._by_head(self.k_proj(context)),
            self._by_head(self.v_proj(context)),
            dropout_p=self.dropout if self.training else 0.0,
        )
        out: Tensor = self.o_proj(mixture.transpose(1, 2).reshape(tokens.shape))
        return out

    def _by_head(self, projected: Tensor) -> Tensor:
        batch_size, _, _, width = projected.shape
        heads = projected.view(batch_size, -1, width // self.head_dim, self.head_dim)
        return heads.transpose(1, 2)  # [B, heads, N, d]


class SequenceReduction(nn.Module):
    """Reduces the number of tokens by a convolution whose stride equals its size."""

    def __init__(self, width: int, ratio: int):
        super().__init__()
        self.sequence_reduction = nn.Conv2d(width, width, ratio, stride=ratio)
        self.layer_norm = nn.LayerNorm(width)

    def forward(self, tokens: Tensor) -> Tensor:
        """float [B, H, W, D] -> float [B, h, w, D]."""
        reduced: Tensor = self.layer_norm(as_tokens(self.sequence_reduction(as_map(tokens))))
        return reduced


class FeedForward(nn.Module):
    """Two linear maps with a depth-wise convolution between them."""

    def __init__(self, width: int, hidden: int):
        super().__init__()
        self.fc1 = nn.Linear(width, hidden)
        self.dwconv = nn.Sequential(OrderedDict(dwconv=nn.Conv2d(hidden, hidden, 3, padding=1, groups=hidden)))
        self.fc2 = nn.Linear(hidden, width)

    def forward(self, tokens: Tensor) -> Tensor:
        """float [B, h, w, D] -> float of the same shape."""
        hidden = self.dwconv(as_map(self.fc1(tokens)))
        out: Tensor = self.fc2(functional.gelu(as_tokens(hidden)))
        return out


class DecodeHead(nn.Module):
    """Decode head: maps all levels to one width and the finest resolution, fuses them, and classifies."""

    def __init__(self, config: SegFormerConfig):
        super().__init__()
        width, widths = config.decoder_hidden_size, config.hidden_sizes
        self.linear_projections = nn.ModuleList(
            nn.Sequential(OrderedDict(proj=nn.Linear(level, width))) for level in widths
        )
        self.linear_fuse = nn.Conv2d(width * len(widths), width, 1, bias=False)
        self.batch_norm = BatchNorm2d(width)
        self.dropout = ChannelDropout(config.classifier_dropout_prob)
        self.classifier = nn.Conv2d(width, len(config.id2label), 1)

    def forward(self, features: Sequence[Tensor]) -> Tensor:
        """Feature maps, float [B, D, h, w] each, finest first -> logits, float [B, K, h, w], of the finest size."""
        return self._classified(torch.relu_(self.batch_norm(self._fused(features))))

    def _fused(self, features: Sequence[Tensor]) -> Tensor:
        """The head before its batch norm: float [B, D, h, w] per level -> float [B, E, h, w], of the finest size.

        Published: a linear map to E channels per level, bilinear up-sampling, concatenation (coarsest first), a linear
        map from 4 E to E. All of these are linear, and up-sampling acts on each channel separately, with weights that
        sum to 1. So the two linear maps of each level are multiplied first (E x E x D) and applied at the resolution of
        the level. At 513 pixels and E = 768 this needs 2.5 instead of 41 billion multiplications per image, with the
        same result up to rounding.
        """
        size = features[0].shape[-2:]
        finest, *coarse = (
            as_map(functional.linear(as_tokens(map_), weight, bias))
            for map_, (weight, bias) in zip(features, self._folded_maps(), strict=True)
        )
        fused, *others = (functional.interpolate(map_, size, mode="bilinear", align_corners=False) for map_ in coarse)
        for other in (*others, finest):
            fused.add_(other)  # in place: at these sizes a new tensor costs as much as the sum
        return fused

    def _folded_maps(self) -> list[tuple[Tensor, Tensor]]:
        """Weight [E, D] and bias [E] of each level, finest first: its slice of the fusing map times its linear map."""
        with torch.autocast(self.linear_fuse.weight.device.type, enabled=False):
            slices = self.linear_fuse.weight[:, :, 0, 0].chunk(len(self.linear_projections), dim=1)[::-1]
            linears: list[Any] = [projection.proj for projection in self.linear_projections]
            pairs = zip(slices, linears, strict=True)
            return [(fusing @ linear.weight, fusing @ linear.bias) for fusing, linear in pairs]

    def _classified(self, map_: Tensor) -> Tensor:
        """Channel dropout and the classifier: float [B, E, h, w] -> logits, float [B, K, h, w].

        Channels are dropped as zero columns of the classifier, which saves two passes over the feature map.
        """
        weight, bias = self.classifier.weight[:, :, 0, 0], self.classifier.bias  # [K, E], [K]
        assert bias is not None
        tokens, dropout = as_tokens(map_), self.dropout
        if not dropout.is_active():
            return as_map(functional.linear(tokens, weight, bias))
        of_images = weight * keep_mask(weight.new_empty(len(map_)), weight.shape[1:], dropout.probability)[:, None]
        logits = torch.baddbmm(bias, tokens.flatten(1, 2), of_images.mT)  # [B, h w, K]
        return as_map(logits.view(*tokens.shape[:3], -1))
