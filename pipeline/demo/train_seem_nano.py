"""Trains seem-nano, a very small SEEM, on the source domain only: `python -m pipeline.demo.train_seem_nano`.

The training has three phases. Phase "texts" trains the text encoder alone: names of the same class become similar, and
names of different classes dissimilar. Phase "maps" trains the backbone and the pixel decoder to label pixels, through a
linear layer that is then discarded. Phase "everything" trains all parameters on SEEM's semantic path (grounding is not
trained).

If all are trained at once, the queries predict only "background" for hundreds of steps, and the maps learn little from
them: mIoU 0.29 after 800 steps. With trained maps a few hundred steps are enough. Without the first phase, the text
encoder may not distinguish two animals, and they have the same queries: shell and turtle had a cosine of 0.88 in one of
two trainings, and their pixels were confused.
"""

import logging
import math
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import click
import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn
from transformers import CLIPTokenizer

from pipeline.demo.scenes import CLASS_NAMES, IGNORE_INDEX, numbered_scene
from pipeline.demo.vocabulary import ABSENT, LONGEST_TEXT, SYNONYMS, build_tokenizer
from pipeline.progress import Progress
from pipeline.seem import Seem, SeemConfig, SeemModel
from pipeline.seem.maps import network_input
from pipeline.seem.model import QueryPredictions
from pipeline.seem.prompts import TEMPLATES
from pipeline.seem.seem import class_scores
from pipeline.seem.text_encoder import encode_texts, initialise, unit_length

log = logging.getLogger(__name__)

FOLDER = Path(__file__).with_name("seem_nano")
SIZE = (128, 128)
NUM_TRAIN, NUM_HELD_OUT = 8000, 300
NUM_CLASSES = len(CLASS_NAMES)

TEXTS_FRACTION, MAPS_FRACTION = 0.1, 0.65  # of the steps; the others are for phase "everything"
MAPS_LR, LR = 3.0e-3, 1.0e-3  # peak learning rates
WARM_UP = 0.1  # fraction of a phase in which the learning rate rises
WEIGHT_DECAY = 0.02
MAX_GRADIENT = 1.0  # norm
BATCH_SIZE = 16
# Keeps the probabilities of missed animals above zero, so that conformal thresholds can include them.
SMOOTHING = 0.1
TINY = 1.0e-6  # added to probabilities, so that pixels without a query have a finite loss with a gradient
NUM_ABSENT = 6  # names of absent objects in every step, half of them invented
WORD_LENGTHS = (3, 9)  # of invented names, inclusive
FINE, COARSE = 2, 4  # the loss uses every second pixel at the last layer, and every fourth at the layers before
LOGIT_SCALE = 10.0


class Scenes(NamedTuple):
    """Images and masks in memory."""

    images: NDArray[np.uint8]  # [N, H, W, 3] RGB
    masks: NDArray[np.uint8]  # [N, H, W] class index, 255 = ignore


Batches = Iterator[tuple[Tensor, Tensor]]  # endless; float [B, 3, H, W] normalised images, int64 [B, H, W] masks


@click.command()
@click.option("--out", type=click.Path(path_type=Path), default=FOLDER, help="Folder to write.")
@click.option("--steps", type=click.IntRange(min=3), default=5600, show_default=True, help="Optimiser steps.")
@click.option("--seed", type=int, default=0, show_default=True, help="Seed of scenes, weights, batches and texts.")
def main(out: Path, steps: int, seed: int) -> None:
    """Train seem-nano on source scenes and write a folder that Seem.from_pretrained reads."""
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s", datefmt="%H:%M:%S")
    torch.set_num_threads(1)  # reproducible, and two threads are no faster at this size
    started = time.monotonic()
    tokenizer = build_tokenizer()
    model = new_model(len(tokenizer), seed)
    train(model, tokenizer, load_scenes("train", NUM_TRAIN, seed), steps, seed)
    seem = Seem(model.half().float(), tokenizer)  # evaluated with the stored precision
    source_miou = mean_iou(confusion(seem, load_scenes("val", NUM_HELD_OUT, seed)))
    model.config.training = {
        "command": f"python -m pipeline.demo.train_seem_nano --steps {steps} --seed {seed}",
        "parameters": sum(parameter.numel() for parameter in model.parameters()),
        "source_miou": round(source_miou, 4),
        "seconds": round(time.monotonic() - started),
    }
    write(seem, out)
    log.info("wrote %s: %s", out, model.config.training)


def configuration(vocab_size: int) -> SeemConfig:
    """A network with the blocks of Focal-L and about a million parameters."""
    dim = 64
    return SeemConfig(
        backbone="focal",  # its norms are on the branches, and it trained faster than `focal_dw`
        width=16,
        depths=[1, 1, 2, 1],
        focal_levels=[2, 2, 2, 2],
        hidden_dim=dim,
        mask_dim=dim,
        num_groups=16,
        encoder_layers=1,
        encoder_heads=4,
        encoder_ffn_dim=2 * dim,
        decoder_layers=3,
        decoder_heads=4,
        decoder_ffn_dim=2 * dim,
        num_queries=16,
        short_side=SIZE[0],
        text_config={
            "vocab_size": vocab_size,
            "hidden_size": dim,
            "intermediate_size": 2 * dim,
            "projection_dim": dim,  # the width of the queries, because prompts are queries in grounding
            "num_hidden_layers": 2,
            "num_attention_heads": 4,
            "max_position_embeddings": LONGEST_TEXT,
            "bos_token_id": vocab_size - 2,
            "eos_token_id": vocab_size - 1,
            "pad_token_id": vocab_size - 1,
        },
    )


def new_model(vocab_size: int, seed: int) -> SeemModel:
    """An untrained network. Its image path is initialised by torch.

    The initialisation of transformers, with standard deviation 0.02, is for wide layers: with 16 channels it makes a
    signal twelve times smaller.
    """
    torch.manual_seed(seed)
    model = SeemModel(configuration(vocab_size))
    image_path = (model.backbone, model.pixel_decoder, model.mask_decoder)
    for image_module in image_path:
        image_module.apply(initialise)  # replaced below; the committed weights came after these random numbers
    for image_module in image_path:
        for module in image_module.modules():
            if hasattr(module, "reset_parameters"):
                module.reset_parameters()
    nn.init.constant_(model.logit_scale, math.log(LOGIT_SCALE))
    return model.to(memory_format=torch.channels_last)


# --- data ------------------------------------------------------------------------------------------------------------


def load_scenes(split: str, number: int, seed: int) -> Scenes:
    """Draw the first `number` source scenes of a split."""
    progress = Progress(log, f"draw {split}", number, "scenes")
    scenes = Scenes(np.empty((number, *SIZE, 3), np.uint8), np.empty((number, *SIZE), np.uint8))
    for index in range(number):
        scenes.images[index], scenes.masks[index] = numbered_scene(seed, "source", split, index, SIZE)
        progress.advance()
    return scenes


def endless_batches(scenes: Scenes, config: SeemConfig, rng: np.random.Generator) -> Batches:
    """Random scenes; half of them are mirrored."""
    while True:
        chosen = rng.integers(0, len(scenes.images), BATCH_SIZE)
        images, masks = scenes.images[chosen], scenes.masks[chosen]
        mirrored = rng.random(BATCH_SIZE) < 0.5
        images[mirrored], masks[mirrored] = images[mirrored, :, ::-1], masks[mirrored, :, ::-1]
        pixels, _ = network_input(images, config.short_side, config)
        yield pixels.contiguous(memory_format=torch.channels_last), torch.from_numpy(masks).long()


def draw_names(rng: np.random.Generator) -> list[tuple[str, ...]]:
    """Synonyms of every class, in the order of the classes, then one name each of objects that are in no scene."""
    absent = [str(word) for word in rng.choice(ABSENT, NUM_ABSENT // 2, replace=False)]
    invented = [_invented_word(rng) for _ in range(NUM_ABSENT - len(absent))]
    return [*SYNONYMS.values(), *((word,) for word in [*absent, *invented])]


def draw_texts(names: Sequence[Sequence[str]], rng: np.random.Generator) -> list[str]:
    """One sentence per class or object: a random template with a random synonym."""
    return [str(rng.choice(TEMPLATES)).replace("{}", str(rng.choice(synonyms))) for synonyms in names]


def _invented_word(rng: np.random.Generator) -> str:
    letters = rng.integers(ord("a"), ord("z"), rng.integers(*WORD_LENGTHS, endpoint=True), endpoint=True)
    return "".join(map(chr, letters))


def embed_texts(model: SeemModel, tokenizer: CLIPTokenizer, texts: Sequence[str]) -> Tensor:
    """Unit vectors, float [N + 1, P]: of every text, then of void, which is the first (the background's) again."""
    ids = tokenizer(list(texts), padding=True, return_tensors="pt")["input_ids"]
    vectors = unit_length(encode_texts(model.text_encoder, ids).ends)
    return torch.cat([vectors, vectors[:1]])


# --- losses ----------------------------------------------------------------------------------------------------------


def capped_maps(predictions: QueryPredictions, size: tuple[int, int]) -> Tensor:
    """Semantic maps with `normalise="cap"` and with gradients: float32 [B, N, *size], of the N texts before void."""
    groups = [[text] for text in range(predictions.text_logits.shape[-1] - 1)]
    scores = class_scores(predictions.text_logits, groups)[..., :-1]
    masks = _resized(predictions.mask_logits, size).sigmoid()
    sums = torch.einsum("bqn,bqhw->bnhw", scores, masks)
    return sums / sums.sum(dim=1, keepdim=True).clamp(min=1)


def map_loss(maps: Tensor, masks: Tensor, smoothing: float = SMOOTHING) -> Tensor:
    """Negative log-likelihood of pixels with a class. The target is smoothed over the classes, not over absent names.

    The cap makes the loss proper: maps sum to at most 1, so it is minimal where they equal the smoothed target.

    maps:    float32 [B, N, H, W] in [0, 1], the classes first
    masks:   int64 [B, H, W] class index, 255 = ignore
    returns: scalar
    """
    logs = (maps + TINY).log()
    hits = F.nll_loss(logs, masks, ignore_index=IGNORE_INDEX)
    spread = -logs[:, :NUM_CLASSES].mean(dim=1)[masks != IGNORE_INDEX].mean()
    return (1 - smoothing) * hits + smoothing * spread


def pixel_loss(logits: Tensor, masks: Tensor) -> Tensor:
    """Smoothed cross-entropy. Logits, float [B, C, h, w], are resized to the size of the masks, int64 [B, H, W]."""
    resized = _resized(logits, masks.shape[-2:])
    return F.cross_entropy(resized, masks, ignore_index=IGNORE_INDEX, label_smoothing=SMOOTHING)


def subsampled(masks: Tensor, step: int) -> Tensor:
    """Every `step`-th pixel, from the middle of each block: int64 [B, H, W] -> [B, H / step, W / step]."""
    return masks[:, step // 2 :: step, step // 2 :: step]


def _resized(logits: Tensor, size: tuple[int, int] | torch.Size) -> Tensor:
    return F.interpolate(logits.float(), size=tuple(size), mode="bilinear", align_corners=False)


# --- training --------------------------------------------------------------------------------------------------------


def train(model: SeemModel, tokenizer: CLIPTokenizer, scenes: Scenes, steps: int, seed: int) -> None:
    """Train the network in place, in three phases: texts, maps, everything."""
    rng = np.random.default_rng(seed)
    batches = endless_batches(scenes, model.config, rng)
    texts_steps, maps_steps = (max(1, int(fraction * steps)) for fraction in (TEXTS_FRACTION, MAPS_FRACTION))
    label = nn.Conv2d(model.config.hidden_dim, NUM_CLASSES, 1)

    def loss_of_texts() -> Tensor:
        names = draw_names(rng)
        one, other = (embed_texts(model, tokenizer, draw_texts(names, rng))[:-1] for _ in range(2))
        return F.cross_entropy(LOGIT_SCALE * one @ other.T, torch.arange(len(names)))

    def loss_of_maps() -> Tensor:
        pixels, masks = next(batches)
        _, finest = model.pixel_decoder(model.backbone(pixels))
        return pixel_loss(label(finest), subsampled(masks, FINE))

    def loss_of_everything() -> Tensor:
        pixels, masks = next(batches)
        memory = model.read_image(pixels)
        texts = embed_texts(model, tokenizer, draw_texts(draw_names(rng), rng))
        *early, last = [model.predict(queries, memory, texts) for queries in model.mask_decoder(memory)]
        losses = [_loss_of_layer(layer, masks, COARSE) for layer in early]
        return torch.stack([*losses, _loss_of_layer(last, masks, FINE)]).mean()

    model.train()
    fit(model.text_encoder, loss_of_texts, texts_steps, LR, "texts")
    fit(nn.ModuleList([model.backbone, model.pixel_decoder, label]), loss_of_maps, maps_steps, MAPS_LR, "maps")
    fit(model, loss_of_everything, steps - texts_steps - maps_steps, LR, "everything")


def _loss_of_layer(predictions: QueryPredictions, masks: Tensor, step: int) -> Tensor:
    targets = subsampled(masks, step)
    height, width = targets.shape[-2:]
    return map_loss(capped_maps(predictions, (height, width)), targets)


def fit(trained: nn.Module, loss_of_step: Callable[[], Tensor], steps: int, peak_lr: float, what: str) -> None:
    """Train the parameters of `trained` with AdamW, linear warm-up and cosine decay of the learning rate to 0."""
    optimizer = torch.optim.AdamW(trained.parameters(), lr=peak_lr, weight_decay=WEIGHT_DECAY)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: lr_fraction(step, steps))
    progress = Progress(log, what, steps, "steps")
    for _ in range(steps):
        loss = loss_of_step()
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(trained.parameters(), MAX_GRADIENT)
        optimizer.step()
        schedule.step()
        progress.advance(note=f"loss {loss.item():.3f}")


def lr_fraction(step: int, steps: int) -> float:
    """Learning rate of a step as a fraction of the peak, in [0, 1]."""
    done = step / steps
    return min((step + 1) / (WARM_UP * steps), 0.5 + 0.5 * math.cos(math.pi * done))


# --- result ----------------------------------------------------------------------------------------------------------


def confusion(seem: Seem, scenes: Scenes) -> NDArray[np.int64]:
    """Confusion matrix of the pixels with a class: int64 [true class, most probable class]."""
    texts = seem.class_texts(CLASS_NAMES[1:], background="prompt")
    counts = np.zeros(NUM_CLASSES**2, np.int64)
    for start in range(0, len(scenes.images), BATCH_SIZE):
        chosen = slice(start, start + BATCH_SIZE)
        predicted = seem.semantic_maps(scenes.images[chosen], texts, normalise="cap").argmax(axis=1)
        labeled = scenes.masks[chosen] != IGNORE_INDEX
        pairs = NUM_CLASSES * scenes.masks[chosen][labeled].astype(np.int64) + predicted[labeled]
        counts += np.bincount(pairs, minlength=NUM_CLASSES**2)
    return counts.reshape(NUM_CLASSES, NUM_CLASSES)


def mean_iou(counts: NDArray[Any]) -> float:
    """Mean intersection over union of the classes that occur in a confusion matrix, int [true, predicted]."""
    hits = np.diag(counts)
    unions = counts.sum(0) + counts.sum(1) - hits
    return float(np.mean(hits[unions > 0] / unions[unions > 0]))


def write(seem: Seem, folder: Path) -> None:
    """Save the network in half precision, and leave it so. The files have half the size; loading gives float32."""
    seem.model.half()
    seem.save_pretrained(folder)


if __name__ == "__main__":
    main()
