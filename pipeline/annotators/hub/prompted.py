"""Networks that are prompted with words: a mask per prompt, from features that are computed once per image and prompt.

Each network encodes prompts (`embed`) and images (`features`), and decodes rows, which are pairs of an image and a
prompt (`masks`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from pipeline.annotators.batches import FittingParts
from pipeline.errors import AnnotatorError

NUM_TOKENS = 32  # to which SAM 3's processor pads each prompt

Features = tuple[Tensor, ...]


class Prompted:
    """Maps of classes. The probability of a class is the maximum over its prompts, 0 without any.

    texts:  embeddings of all prompts, float32 [N, ...]
    groups: numbers of the prompts of each class; a prompt may be in several
    """

    def __init__(self, network: ClipSeg | Sam3, texts: Tensor, groups: Sequence[Sequence[int]]):
        self.network, self.texts, self.groups = network, texts, groups
        self.parts = FittingParts("masks", network.max_rows)

    def __call__(self, pixels: Tensor) -> Tensor:
        """Input of the network, float32 [B, 3, h, w] -> float32 [B, K, h', w']."""
        features = self.network.features(pixels)
        images, prompts = torch.cartesian_prod(torch.arange(len(pixels)), torch.arange(len(self.texts))).unbind(1)

        def decoded(part: slice) -> Tensor:
            return self.network.masks(tuple(one[images[part]] for one in features), self.texts[prompts[part]])

        rows = torch.cat(self.parts.results(decoded, len(images)))
        masks = rows.reshape(len(pixels), -1, *rows.shape[1:])  # [B, N, h', w']
        none = torch.zeros_like(masks[:, 0])
        return torch.stack([masks[:, list(group)].amax(dim=1) if group else none for group in self.groups], dim=1)


class ClipSeg:
    """CLIPSeg: features of layers of CLIP's image encoder, and a decoder that the embedding of a prompt modulates."""

    max_rows = 64

    def __init__(self, model: Any):
        self.model = model

    def embed(self, tokenizer: Any, prompts: Sequence[str]) -> Tensor:
        """Embeddings of prompts, float32 [N, P]; AnnotatorError for a prompt that is too long."""
        longest = self.model.config.text_config.max_position_embeddings
        tokens = token_tensors(tokenizer, prompts, longest, self.model.device)
        features: Tensor = self.model.clip.get_text_features(**tokens).pooler_output
        return features.float()

    def features(self, pixels: Tensor) -> Features:
        """Features of images, [B, T, D] each."""
        states = self.model.clip.get_image_features(pixels, output_hidden_states=True).hidden_states
        return tuple(states[layer + 1] for layer in self.model.config.extract_layers)  # the input comes first

    def masks(self, features: Features, texts: Tensor) -> Tensor:
        """Features [R, T, D] each and embeddings [R, P] -> probabilities, float32 [R, h, w]."""
        logits: Tensor = self.model.decoder(features, texts).logits
        return logits.float().sigmoid()


class Sam3:
    """SAM 3: the probability that a prompt is present in an image, its mask, and the masks and scores of its instances.

    The probability of a pixel is presence * max(semantic mask, max over instances of score * mask). Instances whose
    score, which includes the presence, is not above the threshold are left out.

    threshold: in [0, 1]
    """

    max_rows = 4  # 0.4 GB each in float32, measured with an input of 1008 x 1008

    def __init__(self, model: Any, threshold: float):
        self.model, self.threshold = model, threshold

    def embed(self, tokenizer: Any, prompts: Sequence[str]) -> Tensor:
        """Features of the tokens of prompts, float32 [N, NUM_TOKENS, D], NaN at padding.

        raises: AnnotatorError for a prompt that is too long
        """
        tokens = token_tensors(tokenizer, prompts, NUM_TOKENS, self.model.device, num_tokens=NUM_TOKENS)
        features: Tensor = self.model.get_text_features(**tokens).pooler_output
        return features.float().masked_fill(tokens["attention_mask"][..., None] == 0, torch.nan)

    def features(self, pixels: Tensor) -> Features:
        """Features of images at each resolution, and then their position encodings, [B, D, h, w] each."""
        vision = self.model.get_vision_features(pixels)
        return (*vision.fpn_hidden_states, *vision.fpn_position_encoding)

    def masks(self, features: Features, texts: Tensor) -> Tensor:
        """Features [R, D, h, w] each and texts [R, NUM_TOKENS, D] -> probabilities, float32 [R, h', w']."""
        from transformers.modeling_outputs import BaseModelOutputWithPooling
        from transformers.models.sam3.modeling_sam3 import Sam3VisionEncoderOutput

        states, positions = features[: len(features) // 2], features[len(features) // 2 :]
        outputs = self.model(
            vision_embeds=Sam3VisionEncoderOutput(fpn_hidden_states=states, fpn_position_encoding=positions),
            text_embeds=BaseModelOutputWithPooling(pooler_output=texts.nan_to_num(0)),
            attention_mask=texts.isfinite().all(dim=-1),
        )
        presence = outputs.presence_logits.float().sigmoid()  # [R, 1]
        scores = outputs.pred_logits.float().sigmoid() * presence  # [R, Q]
        probabilities = outputs.semantic_seg.float().sigmoid()[:, 0]  # [R, h', w']
        for row, (masks, score) in enumerate(zip(outputs.pred_masks, scores, strict=True)):
            found = score > self.threshold
            instances = masks[found].float().sigmoid() * score[found, None, None]
            probabilities[row] = torch.cat([probabilities[row, None], instances]).amax(dim=0)
        present: Tensor = presence[..., None] * probabilities
        return present


def token_tensors(
    tokenizer: Any, prompts: Sequence[str], longest: int, device: torch.device, num_tokens: int | None = None
) -> Mapping[str, Tensor]:
    """The tokenizer's `input_ids` and `attention_mask` of prompts, int64 [N, T]; AnnotatorError for too long a prompt.

    longest:    largest number of tokens of a prompt
    num_tokens: T; None: as many as the longest prompt has
    """
    lengths = [len(ids) for ids in tokenizer(list(prompts))["input_ids"]]
    too_long = next((i for i, length in enumerate(lengths) if length > longest), None)
    if too_long is not None:
        raise AnnotatorError(
            f"data.classes: the prompt {prompts[too_long]!r} has {lengths[too_long]} tokens, the text encoder takes at "
            f"most {longest}; shorten it"
        )
    padding = True if num_tokens is None else "max_length"
    tokens: Any = tokenizer(list(prompts), padding=padding, max_length=num_tokens, return_tensors="pt")
    on_device: Mapping[str, Tensor] = tokens.to(device)
    return on_device
