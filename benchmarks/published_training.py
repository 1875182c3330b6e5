"""Training steps as the public scripts of AllSpark and UniMatch-V2 take them: the yardstick of `train_step.py`.

SegFormer as transformers computes it, or a plain EfficientNet-Lite; one image after the other is augmented by Pillow in
the loader's workers and sent as float32; logits of the whole batch are brought to full size; every step waits for its
losses. Written from the description of those scripts. What is kept though it is faster: attention is transformers'
fused one, and a list is drawn from without end, so that no epoch starts its workers again.
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
NUM_DRAWS = 10**6  # from a list: more than any measurement takes
LR, HEAD_LR_MULTIPLIER, POWER, NUM_STEPS = 0.003, 10, 0.9, 200_000
ADAMW_LR = 1e-5
EMA, THRESHOLD = 0.996, 0.95


# Augmentation, image by image


def weak_view(image: Image.Image, mask: Image.Image, crop: int) -> tuple[Image.Image, Image.Image]:
    """Random resize, pad, random crop, flip."""
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
    """Colour jitter, grey, blur, each with its probability."""
    if random.random() < 0.8:
        image = jittered(image)
    if random.random() < 0.2:
        image = image.convert("L").convert("RGB")
    if random.random() < 0.5:
        image = image.filter(ImageFilter.GaussianBlur(random.uniform(0.1, 2.0)))
    return image


def jittered(image: Image.Image) -> Image.Image:
    """Brightness, contrast, saturation and hue in random order, as torchvision changes Pillow's images."""
    enhancers = [ImageEnhance.Brightness, ImageEnhance.Contrast, ImageEnhance.Color, None]
    random.shuffle(enhancers)
    for enhancer in enhancers:
        if enhancer is None:
            image = hue_turned(image, random.uniform(-0.25, 0.25))
        else:
            image = enhancer(image).enhance(random.uniform(0.5, 1.5))
    return image


def hue_turned(image: Image.Image, turn: float) -> Image.Image:
    """turn: parts of a full circle."""
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
    """float32 [side, side], 1 where the partner shows."""
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
    """Files of an image and of its mask; an unlabeled image has none."""

    image: Path
    mask: Path | None


@dataclass(frozen=True)
class PublishedImages(Dataset[tuple[Tensor, ...]]):
    """Images with targets.

    is_strong: whether the weak view gets strong colours
    num_extra: strong views beside it, each with a CutMix box
    """

    entries: Sequence[Entry]
    crop: int
    is_strong: bool = False
    num_extra: int = 0

    def __len__(self) -> int:
        return len(self.entries)

    def __getitem__(self, place: int) -> tuple[Tensor, ...]:
        """The view float32 [3, crop, crop], its target int64 [crop, crop], strong views, boxes [crop, crop]."""
        entry = self.entries[place]
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
    """What there is to train on."""

    labeled: Sequence[Entry]
    pseudolabeled: Sequence[Entry]
    unlabeled: Sequence[Entry]


def stage1_batches(lists: Lists, crop: int, size: int, workers: int, on_gpu: bool) -> Iterator[Any]:
    """Images of one list, strong."""
    images = PublishedImages([*lists.labeled, *lists.pseudolabeled], crop, is_strong=True)
    return batches_of(images, size, workers, on_gpu)


def stage2_batches(lists: Lists, crop: int, size: int, workers: int, on_gpu: bool) -> Iterator[Any]:
    """One half labeled images, strong, the other unlabeled ones, weak; a loader each, which share the workers."""
    labeled, unlabeled = PublishedImages(lists.labeled, crop, is_strong=True), PublishedImages(lists.unlabeled, crop)
    return _halves(labeled, unlabeled, size, workers, on_gpu)


def plus_batches(lists: Lists, crop: int, size: int, workers: int, on_gpu: bool) -> Iterator[Any]:
    """One half labeled images, weak, the other unlabeled ones, weak and twice strong."""
    labeled, unlabeled = PublishedImages(lists.labeled, crop), PublishedImages(lists.unlabeled, crop, num_extra=2)
    return _halves(labeled, unlabeled, size, workers, on_gpu)


def _halves(
    labeled: PublishedImages, unlabeled: PublishedImages, size: int, workers: int, on_gpu: bool
) -> Iterator[Any]:
    loaders = (batches_of(images, size // 2, (workers + 1) // 2, on_gpu) for images in (labeled, unlabeled))
    return zip(*loaders, strict=True)


# Training


class PublishedTraining:
    """Network, optimiser and, if the weights are averaged, teacher.

    model:   answers like transformers' models, and has a `decode_head`
    is_half: forward passes and losses under bfloat16 autocast
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
        """Tensor after tensor."""
        assert self.teacher is not None
        decay = min(1 - 1 / (self.step + 1), EMA)
        for mean, value in zip(self.teacher.parameters(), self.model.parameters(), strict=True):
            mean.copy_(mean * decay + value * (1 - decay))
        for mean, value in zip(self.teacher.buffers(), self.model.buffers(), strict=True):
            mean.copy_(mean * decay + value * (1 - decay))


def full_size(coarse: Tensor, images: Tensor) -> Tensor:
    return functional.interpolate(coarse, size=images.shape[-2:], mode="bilinear", align_corners=False)


def stage1_step(training: PublishedTraining, batch: Any) -> float:
    """Cross-entropy of labels and pseudo-labels; returns the loss."""
    images, targets = training.sent(batch)
    with training.half():
        logits = full_size(training.model(pixel_values=images).logits, images)
        loss = nn.CrossEntropyLoss(ignore_index=IGNORE_INDEX)(logits, targets)
    training.optimise(loss)
    return loss.item()


def stage2_step(training: PublishedTraining, batch: Any) -> float:
    """The network labels the weak view, then learns both kinds in one pass (AllSpark)."""
    (labeled, targets), (unlabeled, padding) = (training.sent(part) for part in batch)
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
    """The averaged network labels the weak view; two strong CutMix views learn what it is sure of (UniMatch-V2)."""
    (labeled, targets), unlabeled = (training.sent(part) for part in batch)
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
    is_sure = (confidence >= THRESHOLD) & (padding != IGNORE_INDEX)
    share_sure = is_sure.sum() / (padding != IGNORE_INDEX).sum()
    return [value.item() for value in (share_sure, loss_labeled, loss_unlabeled, loss)][-1]


def mixed(tensor: Tensor, is_inside: Tensor) -> Tensor:
    """The batch with its reverse shown inside the boxes, both of one shape."""
    result = tensor.clone()
    result[is_inside] = tensor.flip(0)[is_inside]
    return result


def complementary_logits(model: SegformerForSemanticSegmentation, images: Tensor) -> Tensor:
    """Coarse logits; of an image's two views each sees one half of the channels, or both see all."""
    features = model.segformer(images, output_hidden_states=True).hidden_states
    num = len(images) // 2
    left_alone = torch.randperm(num)[: num // 2]
    masked = []
    for level in features:
        mask = 2 * torch.bernoulli(torch.full((num, level.shape[1]), 0.5, device=level.device))
        mask[left_alone] = 1
        masked.append(level * torch.cat((mask, 2 - mask))[:, :, None, None])
    return model.decode_head(masked)


class Recipe(NamedTuple):
    batches: Callable[[Lists, int, int, int, bool], Iterator[Any]]
    """Lists, crop, images of a batch, workers, whether on a GPU."""
    step: Callable[[PublishedTraining, Any], float]


RECIPES = {
    "paper stage1": Recipe(stage1_batches, stage1_step),
    "paper stage2": Recipe(stage2_batches, stage2_step),
    "plus stage2": Recipe(plus_batches, plus_step),
}
