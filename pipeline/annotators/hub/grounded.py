"""Grounded-SAM 2: a detector that is prompted with words gives boxes, SAM 2 the mask of each box."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from pipeline.annotators.batches import FittingParts
from pipeline.annotators.hub.detectors import Detections, GroundingDino, Owlv2
from pipeline.annotators.hub.prompted import Features


class Grounded:
    """Maps of classes: the maximum over the boxes of a class of score times mask probability, 0 without any box.

    A box is of every class whose score for it exceeds the threshold. Its mask is computed once.

    detectors: for the classes of one list each; the maps are those of one list after the other
    threshold: in [0, 1]
    """

    def __init__(self, detectors: Sequence[GroundingDino | Owlv2], masks: Sam2, threshold: float):
        self.detectors, self.masks, self.threshold = detectors, masks, threshold
        self.parts = FittingParts("boxes", masks.max_rows)

    def __call__(self, pixels: Tensor, pixels_of_masks: Tensor) -> Tensor:
        """Inputs of the detectors, float32 [B, 3, h, w], and of SAM 2, float32 [B, 3, S, S].

        returns: float32 [B, K, h', w']
        """
        features = self.masks.features(pixels_of_masks)
        return torch.cat([self._maps(detector(pixels), features) for detector in self.detectors], dim=1)

    def _maps(self, found: Detections, features: Features) -> Tensor:
        """Maps of the classes of a list, float32 [B, K, h', w']."""
        boxes = found.boxes.clamp(0, 1)
        is_inside = (boxes[..., 2:] > boxes[..., :2]).all(dim=-1)  # OWLv2 can find boxes in the padding
        counts = (found.scores > self.threshold) & is_inside[..., None]
        images, queries = counts.any(dim=-1).nonzero(as_tuple=True)
        scores = found.scores.where(counts, 0)[images, queries]  # [R, K]
        maps = scores.new_zeros(len(boxes), scores.shape[-1], *self.masks.size_of(features))

        def add(part: slice) -> None:
            rows = images[part]
            masks = self.masks.masks(tuple(one[rows] for one in features), boxes[rows, queries[part]])
            for image, score, mask in zip(rows.tolist(), scores[part], masks, strict=True):
                classes = score.nonzero()[:, 0]
                maps[image, classes] = torch.maximum(maps[image, classes], score[classes, None, None] * mask)

        self.parts.results(add, len(images))  # a part that is computed again after it ran out of memory changes nothing
        return maps


class Sam2:
    """SAM 2: masks of boxes, from features that are computed once per image."""

    max_rows = 16

    def __init__(self, model: Any):
        self.model, self.side = model, model.config.prompt_encoder_config.image_size

    def features(self, pixels: Tensor) -> Features:
        """Features of images at each resolution, [B, D, h, w] each, the finest first."""
        return tuple(self.model.get_image_embeddings(pixels))

    def size_of(self, features: Features) -> tuple[int, int]:
        """Height and width of the masks: those of the finest features."""
        return features[0].shape[-2], features[0].shape[-1]

    def masks(self, features: Features, boxes: Tensor) -> Tensor:
        """Features [R, D, h, w] each, boxes [R, 4] in fractions of the image -> probabilities, float32 [R, h', w']."""
        outputs = self.model(
            image_embeddings=list(features), input_boxes=self.side * boxes[:, None], multimask_output=False
        )
        probabilities: Tensor = outputs.pred_masks[:, 0, 0].float().sigmoid()
        return probabilities
