"""Our students as classes of transformers, registered with its Auto classes by `train.students.registration`."""

from __future__ import annotations

from typing import Any

import torch
import transformers
from torch import Tensor, nn
from transformers import AutoConfig, AutoModelForSemanticSegmentation, PreTrainedConfig, PreTrainedModel

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


# No progress bars in log files, and no tables of tensors, which `check_fit` of files.py summarises in one line.
transformers.utils.logging.disable_progress_bar()  # type: ignore[no-untyped-call]
transformers.utils.logging.set_verbosity_error()  # type: ignore[no-untyped-call]

AutoConfig.register(AutoEfficientNetLiteConfig.model_type, AutoEfficientNetLiteConfig, exist_ok=True)
AutoModelForSemanticSegmentation.register(AutoEfficientNetLiteConfig, AutoEfficientNetLite, exist_ok=True)
