"""The outputs of networks with labels -> probabilities of the classes, one class per kind of network.

Every class is called with the network's input, float32 [B, 3, h, w], and returns maps, float32 [B, K, h', w'].
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from pipeline.annotators.contract import Space
from pipeline.annotators.hub.labels import Groups, Labels
from pipeline.errors import AnnotatorError

MASK2FORMER_SIZE = (384, 384)  # to which transformers resizes the masks of Mask2Former
TASK = "the task is semantic"  # input of OneFormer besides the image

NUM_AXES = 4


class Semantic:
    """A network with a score per label and pixel: softmax over the labels, then the sum over the labels of a class.

    groups: numbers of the labels of each class
    space:  logits: only those of the classes, so that a softmax over them gives the probabilities
    """

    def __init__(self, model: Any, labels: Labels, groups: Groups, space: Space):
        self.model, self.num_labels, self.groups, self.space = model, len(labels), groups, space

    def __call__(self, pixels: Tensor) -> Tensor:
        logits: Tensor = self.model(pixel_values=pixels).logits.float()  # [B, L, h, w]
        if logits.ndim != NUM_AXES or logits.shape[1] != self.num_labels:
            raise AnnotatorError(
                f"the network gives scores of shape {list(logits.shape)}, expected [{len(pixels)}, {self.num_labels}, "
                "h, w] by id2label of its config.json; correct config.json"
            )
        if self.space == "logits":
            return logits[:, [number for (number,) in self.groups]]
        return sums_of(logits.softmax(dim=1), self.groups)


class Universal:
    """A network with queries, each a mask and a score per label and for "no object".

    The probability of a class is the sum over the queries of class probability times mask probability. It can exceed 1.

    inputs: further inputs of the network for one image
    """

    def __init__(self, model: Any, labels: Labels, groups: Groups, inputs: dict[str, Tensor]):
        self.model, self.num_labels, self.groups, self.inputs = model, len(labels), groups, inputs

    def __call__(self, pixels: Tensor) -> Tensor:
        further = {name: value.expand(len(pixels), -1) for name, value in self.inputs.items()}
        outputs = self.model(pixel_values=pixels, **further)
        scores: Tensor = outputs.class_queries_logits.float()  # [B, Q, L + 1]
        if scores.shape[-1] != self.num_labels + 1:
            raise AnnotatorError(
                f"the network gives scores of {scores.shape[-1] - 1} labels, expected {self.num_labels} by id2label of "
                "its config.json; correct config.json"
            )
        weights = sums_of(scores.softmax(dim=-1)[..., :-1].transpose(1, 2), self.groups)  # [B, K, Q]
        size = _size_of_masks(self.model.config, pixels)
        maps = [
            torch.einsum("kq,qhw->khw", weight, _resized(masks, size).sigmoid())
            for weight, masks in zip(weights, outputs.masks_queries_logits.float(), strict=True)
        ]
        return torch.stack(maps)


def sums_of(probabilities: Tensor, groups: Groups) -> Tensor:
    """Sums over the labels of each class: float32 [B, L, ...] -> float32 [B, K, ...], 0 for a class without labels."""
    return torch.stack([probabilities[:, group].sum(dim=1) for group in groups], dim=1)


def task_tokens(tokenizer: Any, length: int) -> Tensor:
    """Token ids of OneFormer's task, int64 [1, length], padded with 0."""
    tokens = tokenizer([TASK], padding="max_length", max_length=length, truncation=True, return_tensors="pt")
    ids: Tensor = tokens["input_ids"] * tokens["attention_mask"]
    return ids


def _size_of_masks(config: Any, pixels: Tensor) -> tuple[int, int] | None:
    """Height and width to which transformers resizes the masks before the sigmoid; None: it leaves them as they are."""
    if config.model_type == "mask2former":
        return MASK2FORMER_SIZE
    return (pixels.shape[-2], pixels.shape[-1]) if config.model_type.startswith("eomt") else None


def _resized(masks: Tensor, size: tuple[int, int] | None) -> Tensor:
    """Logits of masks, float32 [Q, h, w] -> float32 [Q, H, W]."""
    return masks if size is None else F.interpolate(masks[None], size, mode="bilinear", align_corners=False)[0]
