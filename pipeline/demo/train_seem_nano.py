"""Trains seem-nano, a very small SEEM, on the source domain only: `python -m pipeline.demo.train_seem_nano`.

In three parts. First texts alone: the names of a thing become alike, and unlike those of others. Then maps alone:
backbone and pixel decoder learn to label pixels through a linear layer that is thrown away. At last everything learns
SEEM's semantic path (grounding is not trained).

In one go the queries call all "background" for hundreds of steps, and the maps learn little from them: mIoU 0.29 after
800 steps. On good maps a few hundred steps are enough. And without the first part two animals may stay one to the text
tower and share their queries: shell and turtle had a cosine of 0.88 in one of two trainings, and confused pixels.
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
from pipeline.seem.text_encoder import encode_texts, unit_length

log = logging.getLogger(__name__)

FOLDER = Path(__file__).with_name("seem_nano")
SIZE = (128, 128)
NUM_TRAIN, NUM_HELD_OUT = 8000, 300
NUM_CLASSES = len(CLASS_NAMES)

TEXTS_SHARE, MAPS_SHARE = 0.1, 0.65  # of the steps; the rest is for everything
MAPS_LR, LR = 3.0e-3, 1.0e-3  # peaks
WARM_UP = 0.1  # share of a part in which the learning rate rises
WEIGHT_DECAY = 0.02
LARGEST_GRADIENT = 1.0  # norm
BATCH_SIZE = 16
# Keeps the probabilities of missed animals away from zero: conformal thresholds have something to work with.
SMOOTHING = 0.1
TINY = 1.0e-6  # added to probabilities: what no query claims has a finite loss, with a slope
NUM_ABSENT = 6  # names without a pixel in every step, half of them invented
WORD_LENGTHS = (3, 9)  # of invented names, inclusive
FINE, COARSE = 2, 4  # pixels of the picture that one of the loss spans: at the last layer, and before it
LOGIT_SCALE = 10.0


class Scenes(NamedTuple):
    """Pictures and masks in memory."""

    images: NDArray[np.uint8]  # [N, H, W, 3] RGB
    masks: NDArray[np.uint8]  # [N, H, W] class index, 255 = ignore


Batches = Iterator[tuple[Tensor, Tensor]]  # float [B, 3, H, W], normalised, and int64 [B, H, W], endless


@click.command()
@click.option("--out", type=click.Path(path_type=Path), default=FOLDER, help="Folder to write.")
@click.option("--steps", type=click.IntRange(min=3), default=5600, show_default=True, help="Optimiser steps.")
@click.option("--seed", type=int, default=0, show_default=True, help="Decides scenes, weights, batches and texts.")
def main(out: Path, steps: int, seed: int) -> None:
    """Train seem-nano on source scenes and write a folder that Seem.from_pretrained reads."""
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s", datefmt="%H:%M:%S")
    torch.set_num_threads(1)  # the same numbers on every run; and two threads are no faster at this size
    started = time.monotonic()
    tokenizer = build_tokenizer()
    model = new_model(len(tokenizer), seed)
    train(model, tokenizer, load_scenes("train", NUM_TRAIN, seed), steps, seed)
    seem = Seem(model.half().float(), tokenizer)  # judged with the precision that is stored
    source_miou = mean_iou(confusion(seem, load_scenes("val", NUM_HELD_OUT, seed)))
    model.config.training = {
        "command": f"python -m pipeline.demo.train_seem_nano --steps {steps} --seed {seed}",
        "parameters": model.num_parameters(),
        "source_miou": round(source_miou, 4),
        "seconds": round(time.monotonic() - started),
    }
    write(seem, out)
    log.info("wrote %s: %s", out, model.config.training)


def configuration(vocab_size: int) -> SeemConfig:
    """Focal-L's block in a network of about a million parameters."""
    dim = 64
    return SeemConfig(
        backbone="focal",  # its norms stand on the branches: it learnt faster than `focal_dw`
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
            "projection_dim": dim,  # the width of the queries: prompts join them in grounding
            "num_hidden_layers": 2,
            "num_attention_heads": 4,
            "max_position_embeddings": LONGEST_TEXT,
            "bos_token_id": vocab_size - 2,
            "eos_token_id": vocab_size - 1,
            "pad_token_id": vocab_size - 1,
        },
    )


def new_model(vocab_size: int, seed: int) -> SeemModel:
    """An untrained network, its image path as torch draws it.

    The draw of transformers, of deviation 0.02, is for wide layers: with 16 channels it shrinks a signal twelvefold.
    """
    torch.manual_seed(seed)
    model = SeemModel(configuration(vocab_size))
    for part in (model.backbone, model.pixel_decoder, model.mask_decoder):
        for module in part.modules():
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
    """Random scenes, half of them mirrored."""
    while True:
        chosen = rng.integers(0, len(scenes.images), BATCH_SIZE)
        images, masks = scenes.images[chosen], scenes.masks[chosen]
        mirrored = rng.random(BATCH_SIZE) < 0.5
        images[mirrored], masks[mirrored] = images[mirrored, :, ::-1], masks[mirrored, :, ::-1]
        pixels, _ = network_input(images, config.short_side, config)
        yield pixels.contiguous(memory_format=torch.channels_last), torch.from_numpy(masks).long()


def draw_things(rng: np.random.Generator) -> list[tuple[str, ...]]:
    """All names of every class, in the order of classes, then those of things that no scene shows, one name each."""
    absent = [str(word) for word in rng.choice(ABSENT, NUM_ABSENT // 2, replace=False)]
    invented = [_invented_word(rng) for _ in range(NUM_ABSENT - len(absent))]
    return [*SYNONYMS.values(), *((word,) for word in [*absent, *invented])]


def draw_texts(things: Sequence[Sequence[str]], rng: np.random.Generator) -> list[str]:
    """A sentence on each thing, which is called by any of its names."""
    return [str(rng.choice(TEMPLATES)).replace("{}", str(rng.choice(names))) for names in things]


def _invented_word(rng: np.random.Generator) -> str:
    letters = rng.integers(ord("a"), ord("z"), rng.integers(*WORD_LENGTHS, endpoint=True), endpoint=True)
    return "".join(map(chr, letters))


def embed_texts(model: SeemModel, tokenizer: CLIPTokenizer, texts: Sequence[str]) -> Tensor:
    """Unit vectors float [N + 1, P]: of every text, then of the void, which is the first, the background's, again."""
    ids = tokenizer(list(texts), padding=True, return_tensors="pt")["input_ids"]
    vectors = unit_length(encode_texts(model.text_encoder, ids).ends)
    return torch.cat([vectors, vectors[:1]])


# --- losses ----------------------------------------------------------------------------------------------------------


def capped_maps(predictions: QueryPredictions, size: tuple[int, int]) -> Tensor:
    """The semantic map with `normalise="cap"`, with gradients: float32 [B, N, *size] of the N texts before the void."""
    groups = [[text] for text in range(predictions.text_logits.shape[-1] - 1)]
    scores = class_scores(predictions.text_logits, groups)[..., :-1]
    masks = _resized(predictions.mask_logits, size).sigmoid()
    sums = torch.einsum("bqn,bqhw->bnhw", scores, masks)
    return sums / sums.sum(dim=1, keepdim=True).clamp(min=1)


def map_loss(maps: Tensor, masks: Tensor, smoothing: float = SMOOTHING) -> Tensor:
    """Negative log-likelihood of labeled pixels, the target smoothed over the classes and never over absent names.

    The cap makes it proper: maps sum to at most 1, so it is least where they equal the smoothed target.

    maps:  float32 [B, N, H, W] in 0..1, the classes first
    masks: int64 [B, H, W] class index, 255 = ignore
    """
    logs = (maps + TINY).log()
    hits = F.nll_loss(logs, masks, ignore_index=IGNORE_INDEX)
    spread = -logs[:, :NUM_CLASSES].mean(dim=1)[masks != IGNORE_INDEX].mean()
    return (1 - smoothing) * hits + smoothing * spread


def pixel_loss(logits: Tensor, masks: Tensor) -> Tensor:
    """Smoothed cross-entropy; logits float [B, C, h, w] are brought to the size of the masks, int64 [B, H, W]."""
    resized = _resized(logits, masks.shape[-2:])
    return F.cross_entropy(resized, masks, ignore_index=IGNORE_INDEX, label_smoothing=SMOOTHING)


def thinned(masks: Tensor, step: int) -> Tensor:
    """Every `step`-th pixel of int64 [B, H, W], from the middle of each block: [B, H / step, W / step]."""
    return masks[:, step // 2 :: step, step // 2 :: step]


def _resized(logits: Tensor, size: tuple[int, int] | torch.Size) -> Tensor:
    return F.interpolate(logits.float(), size=tuple(size), mode="bilinear", align_corners=False)


# --- training --------------------------------------------------------------------------------------------------------


def train(model: SeemModel, tokenizer: CLIPTokenizer, scenes: Scenes, steps: int, seed: int) -> None:
    """Fit the network in place: texts, maps, everything."""
    rng = np.random.default_rng(seed)
    batches = endless_batches(scenes, model.config, rng)
    texts_steps, maps_steps = (max(1, int(share * steps)) for share in (TEXTS_SHARE, MAPS_SHARE))
    label = nn.Conv2d(model.config.hidden_dim, NUM_CLASSES, 1)

    def loss_of_texts() -> Tensor:
        things = draw_things(rng)
        one, other = (embed_texts(model, tokenizer, draw_texts(things, rng))[:-1] for _ in range(2))
        return F.cross_entropy(LOGIT_SCALE * one @ other.T, torch.arange(len(things)))

    def loss_of_maps() -> Tensor:
        pixels, masks = next(batches)
        _, finest = model.pixel_decoder(model.backbone(pixels))
        return pixel_loss(label(finest), thinned(masks, FINE))

    def loss_of_everything() -> Tensor:
        pixels, masks = next(batches)
        memory = model.read_image(pixels)
        texts = embed_texts(model, tokenizer, draw_texts(draw_things(rng), rng))
        *early, last = [model.predict(queries, memory, texts) for queries in model.mask_decoder(memory)]
        losses = [_loss_of_layer(layer, masks, COARSE) for layer in early]
        return torch.stack([*losses, _loss_of_layer(last, masks, FINE)]).mean()

    model.train()
    fit(model.text_encoder, loss_of_texts, texts_steps, LR, "texts")
    fit(nn.ModuleList([model.backbone, model.pixel_decoder, label]), loss_of_maps, maps_steps, MAPS_LR, "maps")
    fit(model, loss_of_everything, steps - texts_steps - maps_steps, LR, "everything")


def _loss_of_layer(predictions: QueryPredictions, masks: Tensor, step: int) -> Tensor:
    chosen = thinned(masks, step)
    height, width = chosen.shape[-2:]
    return map_loss(capped_maps(predictions, (height, width)), chosen)


def fit(trained: nn.Module, loss_of_step: Callable[[], Tensor], steps: int, peak_lr: float, what: str) -> None:
    """AdamW on the parameters of `trained`, the learning rate up a line and down a cosine to 0."""
    optimizer = torch.optim.AdamW(trained.parameters(), lr=peak_lr, weight_decay=WEIGHT_DECAY)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: lr_share(step, steps))
    progress = Progress(log, what, steps, "steps")
    for _ in range(steps):
        loss = loss_of_step()
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(trained.parameters(), LARGEST_GRADIENT)
        optimizer.step()
        schedule.step()
        progress.advance(note=f"loss {loss.item():.3f}")


def lr_share(step: int, steps: int) -> float:
    """Learning rate of a step as a share of the peak, in 0..1."""
    done = step / steps
    return min((step + 1) / (WARM_UP * steps), 0.5 + 0.5 * math.cos(math.pi * done))


# --- result ----------------------------------------------------------------------------------------------------------


def confusion(seem: Seem, scenes: Scenes) -> NDArray[np.int64]:
    """Labeled pixels of the scenes by [true class, most probable class]."""
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
    """Mean intersection over union of the classes that int [true, predicted] counts have."""
    hits = np.diag(counts)
    unions = counts.sum(0) + counts.sum(1) - hits
    return float(np.mean(hits[unions > 0] / unions[unions > 0]))


def write(seem: Seem, folder: Path) -> None:
    """Save in half precision, in which the network is left: half the size, and loading gives float32 again."""
    seem.model.half()
    seem.save_pretrained(folder)


if __name__ == "__main__":
    main()
