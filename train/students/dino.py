"""DINOv2 and DINOv3 with a DPT decode head, as in UniMatch-V2 (arXiv 2410.10777)."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional
from transformers import (
    AutoConfig,
    AutoModel,
    AutoModelForSemanticSegmentation,
    Dinov2Config,
    DINOv3ViTConfig,
    PreTrainedConfig,
    PreTrainedModel,
)

from train.students.drop import DropPath
from train.students.network import Network


class Architecture(NamedTuple):
    """Sizes of an encoder and of its published decode head."""

    width: int
    depth: int
    heads: int
    layers: list[int]
    """Layers whose outputs the head reads, counted from 0."""
    level_widths: list[int]
    """Number of channels to which the head projects each of these outputs."""
    head_width: int


ARCHITECTURES = {
    "tiny": Architecture(32, 4, 2, [0, 1, 2, 3], [8, 16, 24, 32], 16),  # for demonstrations and tests
    "s": Architecture(384, 12, 6, [2, 5, 8, 11], [48, 96, 192, 384], 64),
    "b": Architecture(768, 12, 12, [2, 5, 8, 11], [96, 192, 384, 768], 128),
    "l": Architecture(1024, 24, 16, [4, 11, 17, 23], [256, 512, 1024, 1024], 256),
}


class DinoDPTConfig(PreTrainedConfig):  # type: ignore[no-untyped-call]
    """The configuration of an encoder, and the sizes of the head."""

    model_type = "dino_dpt"
    sub_configs = {"encoder_config": AutoConfig}  # noqa: RUF012 - declared as in transformers

    def __init__(
        self,
        encoder_config: PreTrainedConfig | dict[str, Any] | None = None,
        layers: Sequence[int] = (2, 5, 8, 11),
        level_widths: Sequence[int] = (48, 96, 192, 384),
        head_width: int = 64,
        drop_path_rate: float = 0.0,
        **kwargs: Any,
    ):
        if isinstance(encoder_config, dict):
            encoder_config = AutoConfig.for_model(**encoder_config)
        self.encoder_config = encoder_config or Dinov2Config()
        self.layers = list(layers)
        self.level_widths = list(level_widths)
        self.head_width = head_width
        self.drop_path_rate = drop_path_rate
        super().__init__(**kwargs)


def dino_config(family: str, size: str, class_names: Sequence[str], drop_path: float) -> DinoDPTConfig:
    architecture = ARCHITECTURES[size]
    return DinoDPTConfig(
        encoder_config=_encoder_config(family, architecture),
        layers=architecture.layers,
        level_widths=architecture.level_widths,
        head_width=architecture.head_width,
        drop_path_rate=drop_path,
        id2label=dict(enumerate(class_names)),
        label2id={name: index for index, name in enumerate(class_names)},
    )


def _encoder_config(family: str, architecture: Architecture) -> PreTrainedConfig:
    width, depth, heads, *_ = architecture
    sizes: dict[str, Any] = {"hidden_size": width, "num_hidden_layers": depth, "num_attention_heads": heads}
    if family == "dinov2":
        return Dinov2Config(**sizes, image_size=518)
    return DINOv3ViTConfig(**sizes, intermediate_size=4 * width, num_register_tokens=4)


class DinoDPT(Network, PreTrainedModel):  # type: ignore[no-untyped-call]
    """A vision transformer, four of whose layer outputs are feature maps of one resolution, and a DPT head."""

    config_class = DinoDPTConfig
    config: DinoDPTConfig
    base_model_prefix = "encoder"
    main_input_name = "pixels"
    _supports_sdpa = True

    def __init__(self, config: DinoDPTConfig):
        super().__init__(config)
        encoder_config, num_classes = config.encoder_config, len(config.id2label or {})
        self.encoder: Any = AutoModel.from_config(encoder_config)  # type: ignore[no-untyped-call]
        self.decode_head = DPTHead(encoder_config.hidden_size, config.level_widths, config.head_width, num_classes)
        self.multiple = encoder_config.patch_size
        self.smallest_side = 2 * encoder_config.patch_size  # the coarsest level has half the resolution of the tokens
        self._add_drop_paths(config.drop_path_rate)
        self.freeze_unused()
        self.post_init()  # type: ignore[no-untyped-call]

    def _add_drop_paths(self, rate: float) -> None:
        """Set the drop path probability of the layers, from 0 in the first to `rate` in the last."""
        layers = self._layers()
        for index, layer in enumerate(layers):
            layer.drop_path = DropPath(rate * index / max(len(layers) - 1, 1))

    def _layers(self) -> nn.ModuleList:
        layers: nn.ModuleList = (self.encoder.encoder if self._is_dinov2() else self.encoder.model).layer
        return layers

    def _is_dinov2(self) -> bool:
        return bool(self.encoder.config.model_type == "dinov2")

    def encode(self, pixels: Tensor) -> list[Tensor]:
        tokens = self.encoder.embeddings(pixels)  # [B, N, D]
        positions = {} if self._is_dinov2() else {"position_embeddings": self.encoder.rope_embeddings(pixels)}
        norm = self.encoder.layernorm if self._is_dinov2() else self.encoder.norm
        size = [side // self.multiple for side in pixels.shape[-2:]]
        features = []
        for index, layer in enumerate(self._layers()):
            tokens = layer(tokens, **positions)
            if index in self.config.layers:
                patches = norm(tokens)[:, -size[0] * size[1] :]  # without the class token and the registers
                features.append(patches.transpose(1, 2).unflatten(2, size))
        return features

    def decode(self, features: list[Tensor]) -> Tensor:
        logits: Tensor = self.decode_head(features)
        return logits

    def feature_widths(self) -> list[int]:
        return [self.config.encoder_config.hidden_size] * len(self.config.layers)

    def encoder_stages(self) -> list[nn.Module]:
        return [self.encoder.embeddings, *self._layers()]

    def is_head(self, parameter_name: str) -> bool:
        return parameter_name.startswith("decode_head.")

    def save(self, folder: Path) -> None:
        self.save_pretrained(folder)

    def freeze_unused(self) -> None:
        self.encoder.embeddings.mask_token.requires_grad_(False)  # only used in pre-training

    def _init_weights(self, module: nn.Module) -> None:
        """Initialise the head as torch does; the encoder initialises itself."""
        if isinstance(module, nn.Conv2d | nn.ConvTranspose2d):
            module.reset_parameters()


class DPTHead(nn.Module):
    """Levels at 4, 2, 1 and 1/2 times the resolution of the tokens, fused from the coarsest to the finest.

    Ranftl, Bochkovskiy & Koltun, "Vision Transformers for Dense Prediction", ICCV 2021; with the sizes of UniMatch-V2,
    and like there without batch norm.
    """

    def __init__(self, encoder_width: int, level_widths: Sequence[int], width: int, num_classes: int):
        super().__init__()
        first, second, _, last = level_widths
        self.projections = nn.ModuleList(nn.Conv2d(encoder_width, level, 1) for level in level_widths)
        self.resizes = nn.ModuleList(
            [
                nn.ConvTranspose2d(first, first, 4, stride=4),
                nn.ConvTranspose2d(second, second, 2, stride=2),
                nn.Identity(),
                nn.Conv2d(last, last, 3, stride=2, padding=1),
            ]
        )
        self.narrow = nn.ModuleList(nn.Conv2d(level, width, 3, padding=1, bias=False) for level in level_widths)
        self.fusions = nn.ModuleList(Fusion(width, is_first=level == len(level_widths) - 1) for level in range(4))
        self.classifier = nn.Sequential(
            nn.Conv2d(width, width, 3, padding=1), nn.ReLU(), nn.Conv2d(width, num_classes, 1)
        )

    def forward(self, features: Sequence[Tensor]) -> Tensor:
        """Four feature maps, float [B, D, h, w] each -> logits, float [B, K, 8 h, 8 w]."""
        stages = zip(self.projections, self.resizes, self.narrow, features, strict=True)
        levels = [narrow(resize(project(map_))) for project, resize, narrow, map_ in stages]
        fused = None
        for index in reversed(range(len(levels))):
            size = levels[index - 1].shape[-2:] if index > 0 else [2 * side for side in levels[0].shape[-2:]]
            fused = self.fusions[index](levels[index], fused, size)
        logits: Tensor = self.classifier(fused)
        return logits


class Fusion(nn.Module):
    """Adds a level to the fused coarser levels, and resizes the sum to the resolution of the next level."""

    def __init__(self, width: int, is_first: bool):
        super().__init__()
        self.level = None if is_first else Residual(width)
        self.sum = Residual(width)
        self.project = nn.Conv2d(width, width, 1)

    def forward(self, level: Tensor, coarser: Tensor | None, size: Sequence[int]) -> Tensor:
        """A level and the fused coarser ones, float [B, E, h, w] each -> float [B, E, *size]."""
        total = level if coarser is None or self.level is None else coarser + self.level(level)
        # Published after the up-sampling; a 1 x 1 convolution commutes with that, and is 4 times cheaper here.
        projected = self.project(self.sum(total))
        return functional.interpolate(projected, tuple(size), mode="bilinear", align_corners=True)


class Residual(nn.Module):
    """Two convolutions, each after a ReLU, whose result is added to the input."""

    def __init__(self, width: int):
        super().__init__()
        self.first = nn.Conv2d(width, width, 3, padding=1)
        self.second = nn.Conv2d(width, width, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        """float [B, E, h, w] -> float of the same shape."""
        change: Tensor = self.second(torch.relu(self.first(torch.relu(x))))
        return x + change


AutoConfig.register(DinoDPTConfig.model_type, DinoDPTConfig, exist_ok=True)
AutoModelForSemanticSegmentation.register(DinoDPTConfig, DinoDPT, exist_ok=True)
