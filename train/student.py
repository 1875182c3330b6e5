"""The student: SegFormer of transformers in its published sizes, from random or given weights."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
import transformers
from huggingface_hub import snapshot_download
from huggingface_hub.errors import HfHubHTTPError
from torch import Tensor, nn
from torch.nn import functional
from transformers import SegformerConfig, SegformerForSemanticSegmentation, SegformerImageProcessorPil

from pipeline.config import TrainSettings
from pipeline.datasets import IGNORE_INDEX
from pipeline.errors import TrainingError
from train.compute import Compute
from train.transforms import MEAN, STD

log = logging.getLogger(__name__)

# What a log file has no use for: bars, and tables of tensors that `_check_fit` turns into one line.
transformers.utils.logging.disable_progress_bar()  # type: ignore[no-untyped-call]
transformers.utils.logging.set_verbosity_error()  # type: ignore[no-untyped-call]

SMALLEST_SIDE = 32  # pixels: what the encoder's strides and sequence reductions need
HEAD = "decode_head."
CLASSIFIER = "decode_head.classifier."


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


class Student:
    """The network on its device: images in, logits or class indices at the images' size out."""

    def __init__(self, model: SegformerForSemanticSegmentation, compute: Compute):
        self.model = model
        self.model.to(device=compute.device)  # type: ignore[call-arg]
        self.compute = compute

    def logits(self, images: Tensor) -> Tensor:
        """uint8 [B, 3, H, W] RGB -> float32 [B, K, H, W]."""
        height, width = images.shape[-2:]
        images = functional.pad(images, (0, max(0, SMALLEST_SIDE - width), 0, max(0, SMALLEST_SIDE - height)))
        with self.compute.autocast():
            logits = self.model(normalised(images.to(self.compute.device, non_blocking=True))).logits
        logits = functional.interpolate(logits.float(), size=images.shape[-2:], mode="bilinear", align_corners=False)
        return logits[..., :height, :width]

    @torch.no_grad()
    def classes(self, images: Tensor) -> Tensor:
        """uint8 [B, 3, H, W] RGB -> uint8 [B, H, W], the most probable class, in evaluation mode."""
        was_training = self.model.training
        self.model.train(False)
        classes = self.logits(images).argmax(dim=1).to(torch.uint8)
        self.model.train(was_training)
        return classes


def normalised(images: Tensor) -> Tensor:
    """uint8 [B, 3, H, W] -> float32 with ImageNet's mean and standard deviation."""
    mean, std = (torch.tensor(values, device=images.device)[:, None, None] for values in (MEAN, STD))
    return (images.float() / 255 - mean) / std


def new_model(settings: TrainSettings, class_names: Sequence[str], seed: int) -> SegformerForSemanticSegmentation:
    """A SegFormer for the classes, with the weights that the settings name; what they lack is seeded.

    raises: TrainingError for weights that cannot be found or do not fit `train.size`
    """
    torch.manual_seed(seed)
    if settings.weights == "random":
        return random_model(settings.size, class_names)
    return _pretrained(settings, config_of(settings.size, class_names))


def random_model(size: str, class_names: Sequence[str]) -> SegformerForSemanticSegmentation:
    """A SegFormer with weights from torch's global generator."""
    return SegformerForSemanticSegmentation(config_of(size, class_names))


def config_of(size: str, class_names: Sequence[str]) -> SegformerConfig:
    architecture = ARCHITECTURES[size]
    return SegformerConfig(
        hidden_sizes=architecture.widths,
        depths=architecture.depths,
        num_attention_heads=architecture.heads,
        decoder_hidden_size=architecture.head_width,
        semantic_loss_ignore_index=IGNORE_INDEX,
        id2label=dict(enumerate(class_names)),
        label2id={name: index for index, name in enumerate(class_names)},
    )


def _pretrained(settings: TrainSettings, config: SegformerConfig) -> SegformerForSemanticSegmentation:
    model, info = _read(_weights_folder(settings.weights), config=config, ignore_mismatched_sizes=True)
    _check_fit(settings, info)
    return model


def _weights_folder(weights: str) -> Path:
    """A local folder as it is; a hub name from the local cache, downloaded first if need be."""
    if Path(weights).is_dir():
        return Path(weights)
    try:
        return Path(snapshot_download(weights, allow_patterns=["config.json", "*.safetensors", "*.bin"]))
    except (OSError, ValueError, HfHubHTTPError) as error:
        raise TrainingError(
            f"train.weights is {weights}, which is no folder, and the hub gave no such model ({_first_line(error)}); "
            "give train.weights a folder in transformers format (on a machine with a network: "
            "hf download nvidia/mit-b0 --local-dir weights/mit-b0), or random"
        ) from None


def _read(folder: Path, **kwargs: Any) -> tuple[SegformerForSemanticSegmentation, dict[str, Any]]:
    try:
        loaded: Any = SegformerForSemanticSegmentation.from_pretrained(
            folder, dtype=torch.float32, local_files_only=True, output_loading_info=True, **kwargs
        )
    except (OSError, ValueError) as error:
        raise TrainingError(
            f"{folder} holds no SegFormer in transformers format ({_first_line(error)}); expected config.json and "
            "model.safetensors"
        ) from None
    model, info = loaded
    return model, info


def _first_line(error: Exception) -> str:
    return str(error).strip().partition("\n")[0].removeprefix("Got: ").rstrip(".")


def _check_fit(settings: TrainSettings, info: dict[str, Any]) -> None:
    """The encoder must be all there; the decode head may be absent or made for other classes."""
    mismatched = sorted(key for key, *_ in info["mismatched_keys"])
    absent = sorted(info["missing_keys"])
    unfit = [key for key in mismatched if not key.startswith(CLASSIFIER)]
    unfit += [key for key in absent if not key.startswith(HEAD)]
    if unfit:
        raise TrainingError(
            f"the weights {settings.weights} do not fit train.size {settings.size}: {len(unfit)} tensors are missing "
            f"or of another shape, e.g. {unfit[0]}; set train.size to the size of the weights"
        )
    if mismatched or absent:
        log.info(
            "%s: encoder loaded; %d tensors of the decode head start afresh", settings.weights, len(mismatched + absent)
        )


def save_model(model: SegformerForSemanticSegmentation, folder: Path) -> None:
    """Write `folder` so that SegformerForSemanticSegmentation.from_pretrained and AutoImageProcessor read it."""
    model.save_pretrained(folder)
    SegformerImageProcessorPil(do_resize=False, image_mean=list(MEAN), image_std=list(STD)).save_pretrained(folder)


def load_model(folder: Path) -> SegformerForSemanticSegmentation:
    """Read what `save_model` wrote; TrainingError if it is not there."""
    return _read(folder)[0]


def parameter_groups(model: nn.Module, lr: float, head_lr_multiplier: float) -> list[dict[str, Any]]:
    """Encoder and decode head; `initial_lr` is what the schedule multiplies."""
    head = [parameter for name, parameter in model.named_parameters() if name.startswith(HEAD)]
    encoder = [parameter for name, parameter in model.named_parameters() if not name.startswith(HEAD)]
    return [
        {"params": encoder, "initial_lr": lr},
        {"params": head, "initial_lr": lr * head_lr_multiplier},
    ]


def num_parameters(model: nn.Module) -> int:
    return sum(parameter.numel() for parameter in model.parameters())
