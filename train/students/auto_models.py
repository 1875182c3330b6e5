"""Our students as classes of transformers, registered with its Auto classes by `train.students.registration`."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from transformers import AutoConfig, AutoModelForSemanticSegmentation, PreTrainedConfig, PreTrainedModel

from pipeline.pretrained import quiet
from train.students import dino  # registers itself
from train.students.efficientnet import EfficientNetLite, EfficientNetLiteConfig

__all__ = ["AutoEfficientNetLite", "AutoEfficientNetLiteConfig", "dino"]


class AutoEfficientNetLiteConfig(PreTrainedConfig):  # type: ignore[no-untyped-call]
    """The fields of `EfficientNetLiteConfig`."""

    model_type = EfficientNetLiteConfig.model_type

    def __init__(self, **kwargs: Any):
        own = EfficientNetLiteConfig.of(kwargs)
        super().__init__(**own.content() | kwargs)


class AutoEfficientNetLite(PreTrainedModel):  # type: ignore[no-untyped-call]
    """`EfficientNetLite` with the same parameters, names and logits."""

    config_class = AutoEfficientNetLiteConfig
    base_model_prefix = "encoder"
    main_input_name = "pixels"

    def __init__(self, config: AutoEfficientNetLiteConfig):
        super().__init__(config)
        network = EfficientNetLite(EfficientNetLiteConfig.of(config.to_dict()))
        self.encoder, self.decode_head = network.encoder, network.decode_head
        self.post_init()  # type: ignore[no-untyped-call]

    def forward(self, pixels: Tensor) -> Tensor:
        """float [B, 3, H, W], normalised -> logits, float [B, K, h, w]."""
        logits: Tensor = self.decode_head(self.encoder(pixels.contiguous(memory_format=torch.channels_last)))
        return logits

    def _init_weights(self, module: nn.Module) -> None:
        """Nothing: `EfficientNetLite` has initialised its weights."""


quiet()  # of the tensors that are missing, `check_fit` of files.py names one

AutoConfig.register(AutoEfficientNetLiteConfig.model_type, AutoEfficientNetLiteConfig, exist_ok=True)
AutoModelForSemanticSegmentation.register(AutoEfficientNetLiteConfig, AutoEfficientNetLite, exist_ok=True)
