"""Detectors that are prompted with words -> boxes, and the score of each class for each box: Grounding DINO and OWLv2.

Non-maximum suppression is not needed: a class takes the maximum over its boxes, so equal boxes change nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from pipeline.annotators.hub.prompted import token_tensors
from pipeline.errors import AnnotatorError

SEPARATORS = ".?"  # end a phrase of Grounding DINO

Groups = Sequence[Sequence[str]]


class Detections(NamedTuple):
    """Boxes of images, and what they show.

    boxes:  left, top, right and bottom as fractions of the width and the height of the image, float32 [B, Q, 4]
    scores: in [0, 1], float32 [B, Q, K]
    """

    boxes: Tensor
    scores: Tensor


class Text(NamedTuple):
    """One text of Grounding DINO, which has several prompts.

    ids:   of its tokens, int64 [1, T]
    spans: tokens of each of its prompts
    """

    ids: Tensor
    spans: dict[str, slice]


class GroundingDino:
    """Grounding DINO, which reads many prompts in one text and scores each token of it for each box.

    The score of a prompt is the mean over its tokens, as in the evaluation of its authors (`PostProcessCocoGrounding`),
    so that a box with the score of `traffic` alone is no traffic light. Prompts that do not fit into one text are
    divided among several, each of which has boxes of its own.

    groups: prompts of each class
    raises: AnnotatorError for a prompt that is too long, or that has a separator
    """

    def __init__(self, model: Any, tokenizer: Any, groups: Groups):
        self.model, self.groups = model, groups
        prompts = sorted({prompt for group in groups for prompt in group})  # so that their order changes no map
        self.texts = texts_of(tokenizer, prompts, model.config.max_text_len)

    def __call__(self, pixels: Tensor) -> Detections:
        """Input of the network, float32 [B, 3, h, w] -> its boxes, those of each text in turn."""
        found = [self._detected(pixels, text) for text in self.texts]
        return Detections(*(torch.cat(parts, dim=1) for parts in zip(*found, strict=True)))

    def _detected(self, pixels: Tensor, text: Text) -> Detections:
        ids = text.ids.to(pixels.device).expand(len(pixels), -1)
        outputs = self.model(pixel_values=pixels, input_ids=ids)
        tokens = outputs.logits.float().sigmoid()  # [B, Q, T]
        scores = {prompt: tokens[..., span].mean(dim=-1) for prompt, span in text.spans.items()}
        return Detections(corners(outputs.pred_boxes.float()), of_classes(scores, self.groups, tokens[..., 0]))


class Owlv2:
    """OWLv2, which scores each prompt by itself.

    groups: prompts of each class
    texts:  embeddings of all prompts, float32 [P] by prompt
    extent: width and height of the padded input, as multiples of those of the image in it
    """

    def __init__(self, model: Any, groups: Groups, texts: dict[str, Tensor], extent: tuple[float, float]):
        self.model, self.groups = model, groups
        self.prompts, self.texts = list(texts), torch.stack(list(texts.values()))
        self.extent = torch.tensor([*extent, *extent], device=self.texts.device)

    def __call__(self, pixels: Tensor) -> Detections:
        """Input of the network, float32 [B, 3, h, w] -> its boxes, one for each patch."""
        grid, _ = self.model.image_embedder(pixels, interpolate_pos_encoding=True)  # [B, h', w', D]
        with torch.autocast(pixels.device.type, enabled=False):  # the position of a box needs more than 8 bits
            grid = grid.float()
            features = grid.flatten(1, 2)
            boxes = self.model.box_predictor(features, grid, interpolate_pos_encoding=True)
            logits, _ = self.model.class_predictor(features, self.texts)  # [B, Q, N]
        scores = dict(zip(self.prompts, logits.sigmoid().unbind(dim=-1), strict=True))
        return Detections(corners(boxes) * self.extent, of_classes(scores, self.groups, logits[..., 0]))


def owlv2_texts(model: Any, tokenizer: Any, prompts: Sequence[str]) -> Tensor:
    """Embeddings of prompts by OWLv2, float32 [N, P]; AnnotatorError for a prompt that is too long."""
    longest = model.config.text_config.max_position_embeddings
    tokens = token_tensors(tokenizer, prompts, longest, model.device)
    features: Tensor = model.owlv2.get_text_features(**tokens).pooler_output
    return F.normalize(features.float(), dim=-1)


def texts_of(tokenizer: Any, prompts: Sequence[str], longest: int) -> list[Text]:
    """The texts with all prompts, in their order: `a cat. a dog.`, each as long as possible.

    longest: largest number of tokens of a text
    raises:  AnnotatorError for a prompt that is too long for a text, or that has a separator
    """
    start, end, stop = tokenizer.convert_tokens_to_ids([tokenizer.cls_token, tokenizer.sep_token, SEPARATORS[0]])
    texts: list[Text] = []
    ids, spans = [start], dict[str, slice]()
    for prompt in prompts:
        own = _phrase(tokenizer, prompt, longest)
        if spans and len(ids) + len(own) + 2 > longest:
            texts.append(Text(torch.tensor([[*ids, end]]), spans))
            ids, spans = [start], {}
        spans[prompt] = slice(len(ids), len(ids) + len(own))
        ids += [*own, stop]
    return [*texts, Text(torch.tensor([[*ids, end]]), spans)]


def _phrase(tokenizer: Any, prompt: str, longest: int) -> list[int]:
    """Ids of the tokens of a prompt; AnnotatorError if it cannot be used."""
    if any(separator in prompt for separator in SEPARATORS):
        raise AnnotatorError(
            f"data.classes: the prompt {prompt!r} has one of the characters {SEPARATORS}, which end a phrase of "
            "Grounding DINO; remove it"
        )
    ids: list[int] = tokenizer(prompt.strip().lower(), add_special_tokens=False)["input_ids"]
    if len(ids) + 3 > longest:
        raise AnnotatorError(
            f"data.classes: the prompt {prompt!r} has {len(ids)} tokens, the text encoder takes at most {longest - 3}; "
            "shorten it"
        )
    return ids


def of_classes(scores: dict[str, Tensor], groups: Groups, like: Tensor) -> Tensor:
    """Scores of boxes by prompt, float32 [B, Q] each -> those of the classes, float32 [B, Q, K].

    The score of a class is the maximum over those of its prompts that have scores, 0 without any.

    like: a tensor of the shape [B, Q]
    """
    none = torch.zeros_like(like)
    known = [[scores[prompt] for prompt in group if prompt in scores] for group in groups]
    return torch.stack([torch.stack(of_class).amax(dim=0) if of_class else none for of_class in known], dim=-1)


def corners(boxes: Tensor) -> Tensor:
    """Centre x and y, width and height -> left, top, right and bottom, float32 [..., 4]."""
    centres, halves = boxes[..., :2], boxes[..., 2:] / 2
    return torch.cat([centres - halves, centres + halves], dim=-1)
