"""Training steps like those of the public scripts of AllSpark and UniMatch-V2, for comparison by `train_step.py`.

SegFormer as transformers computes it, or a plain EfficientNet-Lite. The loader's workers augment one image at a time
with Pillow, and images are sent to the device as float32. The logits of the whole batch are up-sampled to full size.
Every step waits for its losses. Written from the description of those scripts. Two things are faster than there:
attention is the fused one of transformers, and loaders are endless, so that no epoch starts the workers again.
"""

from __future__ import annotations

import copy
import math
import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from PIL import Image, ImageEnhance, ImageFilter, ImageOps
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.data import DataLoader, Dataset, RandomSampler
from transformers import SegformerForSemanticSegmentation

IGNORE_INDEX = 255
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
SCALE = (0.5, 2.0)
NUM_DRAWS = 10**6  # from a list; more than any measurement needs
LR, HEAD_LR_MULTIPLIER, POWER, NUM_STEPS = 0.003, 10, 0.9, 200_000
ADAMW_LR = 1e-5
EMA, THRESHOLD = 0.996, 0.95


# Augmentation of single images


def weak_view(image: Image.Image, mask: Image.Image, crop: int) -> tuple[Image.Image, Image.Image]:
    """Random resize, padding, random crop, flip."""
    long_side = max(image.size)
    scale = random.randint(int(long_side * SCALE[0]), int(long_side * SCALE[1])) / long_side
    width, height = (int(side * scale + 0.5) for side in image.size)
    image = image.resize((width, height), Image.Resampling.BILINEAR)
    mask = mask.resize((width, height), Image.Resampling.NEAREST)
    border = (0, 0, max(0, crop - width), max(0, crop - height))
    image, mask = ImageOps.expand(image, border, fill=0), ImageOps.expand(mask, border, fill=IGNORE_INDEX)
    left, top = (random.randint(0, side - crop) for side in image.size)
    window = (left, top, left + crop, top + crop)
    image, mask = image.crop(window), mask.crop(window)
    if random.random() < 0.5:
        return image.transpose(Image.Transpose.FLIP_LEFT_RIGHT), mask.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    return image, mask


def strong_view(image: Image.Image) -> Image.Image:
    """Colour jitter, grey and blur, each with its own probability."""
    if random.random() < 0.8:
        image = jittered(image)
    if random.random() < 0.2:
        image = image.convert("L").convert("RGB")
    if random.random() < 0.5:
        image = image.filter(ImageFilter.GaussianBlur(random.uniform(0.1, 2.0)))
    return image


def jittered(image: Image.Image) -> Image.Image:
    """Brightness, contrast, saturation and hue in random order, as in torchvision for images of Pillow."""
    enhancers = [ImageEnhance.Brightness, ImageEnhance.Contrast, ImageEnhance.Color, None]
    random.shuffle(enhancers)
    for enhancer in enhancers:
        if enhancer is None:
            image = hue_turned(image, random.uniform(-0.25, 0.25))
        else:
            image = enhancer(image).enhance(random.uniform(0.5, 1.5))
    return image


def hue_turned(image: Image.Image, turn: float) -> Image.Image:
    """Rotate the hue. turn: fraction of a full circle"""
    hue, saturation, value = image.convert("HSV").split()
    turned = (np.asarray(hue, dtype=np.int16) + int(turn * 255)).astype(np.uint8)  # wraps around
    return Image.merge("HSV", (Image.fromarray(turned), saturation, value)).convert("RGB")


def normalised(image: Image.Image) -> Tensor:
    """float32 [3, H, W]."""
    pixels = torch.from_numpy(np.array(image)).permute(2, 0, 1).contiguous().float().div(255)
    return pixels.sub_(torch.tensor(MEAN)[:, None, None]).div_(torch.tensor(STD)[:, None, None])


def as_target(mask: Image.Image) -> Tensor:
    """int64 [H, W]."""
    return torch.from_numpy(np.array(mask)).long()


def cutmix_box(side: int) -> Tensor:
    """float32 [side, side], 1 where the view has the pixels of its partner."""
    box = torch.zeros(side, side)
    if random.random() > 0.5:
        return box
    area = random.uniform(0.02, 0.4) * side**2
    while True:
        ratio = random.uniform(0.3, 1 / 0.3)
        width, height = int(math.sqrt(area / ratio)), int(math.sqrt(area * ratio))
        left, top = random.randrange(side), random.randrange(side)
        if left + width <= side and top + height <= side:
            box[top : top + height, left : left + width] = 1
            return box


# Data


class Entry(NamedTuple):
    """Files of an image and of its mask; an unlabeled image has no mask."""

    image: Path
    mask: Path | None


@dataclass(frozen=True)
class PublishedImages(Dataset[tuple[Tensor, ...]]):
    """Images with targets.

    is_strong: whether the view is a strong one
    num_extra: number of further strong views, each with a CutMix box
    """

    entries: Sequence[Entry]
    crop: int
    is_strong: bool = False
    num_extra: int = 0

    def __len__(self) -> int:
        return len(self.entries)

    def __getitem__(self, number: int) -> tuple[Tensor, ...]:
        """The view float32 [3, crop, crop], its target int64 [crop, crop], strong views, boxes [crop, crop]."""
        entry = self.entries[number]
        image = Image.open(entry.image).convert("RGB")
        mask = Image.new("L", image.size) if entry.mask is None else Image.open(entry.mask)
        image, mask = weak_view(image, mask, self.crop)
        extra = [normalised(strong_view(image.copy())) for _ in range(self.num_extra)]
        boxes = [cutmix_box(self.crop) for _ in range(self.num_extra)]
        return (normalised(strong_view(image) if self.is_strong else image), as_target(mask), *extra, *boxes)


def batches_of(images: PublishedImages, batch_size: int, workers: int, on_gpu: bool) -> Iterator[list[Tensor]]:
    """Endless batches, collated by torch."""
    sampler = RandomSampler(images, replacement=True, num_samples=NUM_DRAWS)
    return iter(DataLoader(images, batch_size, sampler=sampler, num_workers=workers, pin_memory=on_gpu, drop_last=True))


class Lists(NamedTuple):
    """The images to train on."""

    labeled: Sequence[Entry]
    pseudolabeled: Sequence[Entry]
    unlabeled: Sequence[Entry]


def stage1_batches(lists: Lists, crop: int, size: int, workers: int, on_gpu: bool) -> Iterator[Any]:
    """Strong views of images from one list."""
    images = PublishedImages([*lists.labeled, *lists.pseudolabeled], crop, is_strong=True)
    return batches_of(images, size, workers, on_gpu)


def stage2_batches(lists: Lists, crop: int, size: int, workers: int, on_gpu: bool) -> Iterator[Any]:
    """Half of a batch are strong views of labeled images, half weak views of unlabeled ones; one loader for each."""
    labeled, unlabeled = PublishedImages(lists.labeled, crop, is_strong=True), PublishedImages(lists.unlabeled, crop)
    return _halves(labeled, unlabeled, size, workers, on_gpu)


def plus_batches(lists: Lists, crop: int, size: int, workers: int, on_gpu: bool) -> Iterator[Any]:
    """Half of a batch are weak views of labeled images, half unlabeled images with one weak and two strong views."""
    labeled, unlabeled = PublishedImages(lists.labeled, crop), PublishedImages(lists.unlabeled, crop, num_extra=2)
    return _halves(labeled, unlabeled, size, workers, on_gpu)


def _halves(
    labeled: PublishedImages, unlabeled: PublishedImages, size: int, workers: int, on_gpu: bool
) -> Iterator[Any]:
    loaders = (batches_of(images, size // 2, (workers + 1) // 2, on_gpu) for images in (labeled, unlabeled))
    return zip(*loaders, strict=True)


# Training


class PublishedTraining:
    """Network, optimiser and, for recipe plus, the EMA teacher.

    model:   has the interface of transformers' models, and a `decode_head`
    is_half: whether forward passes and losses use bfloat16 autocast
    """

    def __init__(self, model: nn.Module, device: torch.device, is_half: bool, is_plus: bool):
        self.device, self.is_half, self.step = device, is_half, 0
        self.model = model.to(device).train()
        encoder, head = getattr(model, model.base_model_prefix).parameters(), model.decode_head.parameters()
        lr = ADAMW_LR if is_plus else LR
        groups = [{"params": list(encoder), "lr": lr}, {"params": list(head), "lr": lr * HEAD_LR_MULTIPLIER}]
        self.initial_lrs = [group["lr"] for group in groups]
        if is_plus:
            self.optimizer: torch.optim.Optimizer = torch.optim.AdamW(groups, weight_decay=0.01)
        else:
            self.optimizer = torch.optim.SGD(groups, momentum=0.9, weight_decay=1e-4)
        self.teacher = copy.deepcopy(self.model).eval().requires_grad_(False) if is_plus else None

    def half(self) -> torch.autocast:
        return torch.autocast(self.device.type, torch.bfloat16, enabled=self.is_half)

    def sent(self, tensors: Sequence[Tensor]) -> list[Tensor]:
        return [tensor.to(self.device, non_blocking=True) for tensor in tensors]

    def optimise(self, loss: Tensor) -> None:
        self.optimizer.zero_grad()
        loss.backward()
        self.optimizer.step()
        self.step += 1
        factor = (1 - self.step / NUM_STEPS) ** POWER
        for group, initial in zip(self.optimizer.param_groups, self.initial_lrs, strict=True):
            group["lr"] = initial * factor

    @torch.no_grad()
    def average(self) -> None:
        """Update the EMA teacher, one tensor at a time."""
        assert self.teacher is not None
        decay = min(1 - 1 / (self.step + 1), EMA)
        for mean, value in zip(self.teacher.parameters(), self.model.parameters(), strict=True):
            mean.copy_(mean * decay + value * (1 - decay))
        for mean, value in zip(self.teacher.buffers(), self.model.buffers(), strict=True):
            mean.copy_(mean * decay + value * (1 - decay))


def full_size(coarse: Tensor, images: Tensor) -> Tensor:
    return functional.interpolate(coarse, size=images.shape[-2:], mode="bilinear", align_corners=False)


def stage1_step(training: PublishedTraining, batch: Any) -> float:
    """A step on the cross-entropy of masks and pseudo-labels; returns the loss."""
    images, targets = training.sent(batch)
    with training.half():
        logits = full_size(training.model(pixel_values=images).logits, images)
        loss = nn.CrossEntropyLoss(ignore_index=IGNORE_INDEX)(logits, targets)
    training.optimise(loss)
    return loss.item()


def stage2_step(training: PublishedTraining, batch: Any) -> float:
    """The network labels the weak view, then is trained on labeled and unlabeled images in one pass (AllSpark)."""
    (labeled, targets), (unlabeled, padding) = (training.sent(half) for half in batch)
    model, criterion = training.model, nn.CrossEntropyLoss(ignore_index=IGNORE_INDEX)
    model.eval()
    with torch.no_grad(), training.half():
        own = full_size(model(pixel_values=unlabeled).logits, unlabeled).argmax(dim=1)
    own[padding == IGNORE_INDEX] = IGNORE_INDEX
    model.train()
    with training.half():
        images = torch.cat((labeled, unlabeled))
        logits = full_size(model(pixel_values=images).logits, images)
        loss_labeled = criterion(logits[: len(labeled)], targets)
        loss_unlabeled = criterion(logits[len(labeled) :], own)
        loss = (loss_labeled + loss_unlabeled) / 2
    training.optimise(loss)
    return [value.item() for value in (loss_labeled, loss_unlabeled, loss)][-1]


def plus_step(training: PublishedTraining, batch: Any) -> float:
    """The EMA teacher labels the weak view; its confident labels train two strong CutMix views (UniMatch-V2)."""
    (labeled, targets), unlabeled = (training.sent(half) for half in batch)
    weak, padding, *views = unlabeled
    strong, boxes = views[:2], [box == 1 for box in views[2:]]
    model, num = training.model, len(weak)
    assert training.teacher is not None
    with torch.no_grad(), training.half():
        logits = full_size(training.teacher(pixel_values=weak).logits, weak)
        confidence, own = logits.float().softmax(dim=1).max(dim=1)
    with training.half():
        loss_labeled = nn.CrossEntropyLoss(ignore_index=IGNORE_INDEX)(
            full_size(model(pixel_values=labeled).logits, labeled), targets
        )
        images = torch.cat([mixed(view, box[:, None].expand_as(view)) for view, box in zip(strong, boxes, strict=True)])
        logits = full_size(complementary_logits(model, images), images)
        losses = []
        for view, box in zip(logits.split(num), boxes, strict=True):
            view_own, view_confidence, view_padding = (mixed(tensor, box) for tensor in (own, confidence, padding))
            loss = nn.CrossEntropyLoss(reduction="none")(view, view_own)
            is_real = view_padding != IGNORE_INDEX
            loss = loss * ((view_confidence >= THRESHOLD) & is_real)
            losses.append(loss.sum() / is_real.sum().item())
        loss_unlabeled = (losses[0] + losses[1]) / 2
        loss = (loss_labeled + loss_unlabeled) / 2
    training.optimise(loss)
    training.average()
    is_confident = (confidence >= THRESHOLD) & (padding != IGNORE_INDEX)
    fraction = is_confident.sum() / (padding != IGNORE_INDEX).sum()
    return [value.item() for value in (fraction, loss_labeled, loss_unlabeled, loss)][-1]


def mixed(tensor: Tensor, is_inside: Tensor) -> Tensor:
    """The batch in which the boxes have the pixels of the reversed batch."""
    result = tensor.clone()
    result[is_inside] = tensor.flip(0)[is_inside]
    return result


def complementary_logits(model: SegformerForSemanticSegmentation, images: Tensor) -> Tensor:
    """Coarse logits; each of an image's two views keeps one half of the channels, or both keep all."""
    features = model.segformer(images, output_hidden_states=True).hidden_states
    num = len(images) // 2
    unmasked = torch.randperm(num)[: num // 2]
    masked = []
    for level in features:
        mask = 2 * torch.bernoulli(torch.full((num, level.shape[1]), 0.5, device=level.device))
        mask[unmasked] = 1
        masked.append(level * torch.cat((mask, 2 - mask))[:, :, None, None])
    return model.decode_head(masked)


class Recipe(NamedTuple):
    batches: Callable[[Lists, int, int, int, bool], Iterator[Any]]
    """Lists, crop, batch size, workers, whether on a GPU -> batches."""
    step: Callable[[PublishedTraining, Any], float]


RECIPES = {
    "paper stage1": Recipe(stage1_batches, stage1_step),
    "paper stage2": Recipe(stage2_batches, stage2_step),
    "plus stage2": Recipe(plus_batches, plus_step),
}
