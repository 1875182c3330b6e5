"""The `seem` annotator: SEEM prompted with the class names. The text embeddings are cached on disk."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from itertools import pairwise
from pathlib import Path

import numpy as np
import torch

from pipeline.annotators.batches import DTYPES, FittingBatches
from pipeline.annotators.contract import Images, Maps, Space
from pipeline.annotators.embeddings import cached_embeddings
from pipeline.devices import device_of
from pipeline.errors import AnnotatorError
from pipeline.progress import Progress
from pipeline.receipt import fingerprint
from pipeline.seem import Seem, SeemError
from pipeline.seem.checkpoint import file_sha256
from pipeline.seem.maps import normalised
from pipeline.seem.prompts import TEMPLATES, VOID_NAME
from pipeline.seem.seem import refuse_bad_prompts
from pipeline.settings import DataSettings, SeemSettings

log = logging.getLogger(__name__)

NANO = "seem-nano"
NANO_FOLDER = Path(__file__).parents[1] / "demo" / "seem_nano"
CODE_VERSION = 1  # raise it when the same weights, prompts and image would give other maps


class SeemAnnotator:
    """Implements the Annotator contract: probabilities at a quarter of the resolution of the network's input.

    cache:  folder of text embeddings, one file for each list of prompts, templates and checkpoint
    raises: AnnotatorError if the checkpoint or the device cannot be used
    """

    space: Space = "probability"

    def __init__(self, settings: SeemSettings, data: DataSettings, cache: Path):
        folder = NANO_FOLDER if settings.checkpoint == NANO else Path(settings.checkpoint)
        if settings.threads is not None:
            torch.set_num_threads(settings.threads)
        device = device_of("annotate.seem", settings.device)
        templates = settings.templates or TEMPLATES
        try:
            self.seem = Seem.from_pretrained(folder, templates=templates, dtype=DTYPES[settings.precision]).to(device)
        except SeemError as error:
            raise AnnotatorError(f"annotate.seem.checkpoint: {error}") from None
        if settings.compile:
            self.seem.compile()
        self.settings, self.background, self.cache = settings, data.background_index, cache
        self.weights = file_sha256(folder / "model.safetensors")
        self.name = f"SEEM {folder.name}, {settings.mode}"
        self.fingerprint = fingerprint(
            {
                "version": CODE_VERSION,
                "weights": self.weights,  # not their folder: moving it changes no map
                "settings": {name: value for name, value in settings.tracked().items() if name != "checkpoint"},
                "templates": list(templates),
                "background": self.background,
            }
        )
        self.batches = FittingBatches("annotate.seem", "short_side")

    def prepare(self, class_prompts: Sequence[Sequence[str]]) -> None:
        """Embed the prompts, or read their embeddings from disk; AnnotatorError for prompts that cannot be used."""
        self.prepare_lists([class_prompts])

    def prepare_lists(self, lists: Sequence[Sequence[Sequence[str]]]) -> None:
        """As `prepare`, for several lists of class prompts; maps are then those of each list, one after the other."""
        try:
            prompts = [self._used(class_prompts) for class_prompts in lists]
            self.annotate = self._grounding(prompts) if self._is_grounding else self._semantic(prompts)
        except SeemError as error:
            raise AnnotatorError(f"data.classes: {error}") from None

    def __call__(self, images: Images) -> Maps:
        """uint8 [B, H, W, 3] RGB -> float32 [B, K, h, w] in [0, 1]."""
        maps = self.batches.maps(self.annotate, images)
        return np.minimum(maps, 1)  # a sum of floats can exceed 1 by one rounding error

    @property
    def _is_grounding(self) -> bool:
        return self.settings.mode == "grounding"

    def _used(self, class_prompts: Sequence[Sequence[str]]) -> list[list[str]]:
        """The prompts that are used, those of the background first if it has any; SeemError for bad ones."""
        used = [list(p) for i, p in enumerate(class_prompts) if i != self.background]
        if self.background is not None and self.settings.background == "prompt":
            used = [list(class_prompts[self.background]), *used]
        refuse_bad_prompts(used)
        return used

    def _semantic(self, lists: list[list[list[str]]]) -> Callable[[Images], Maps]:
        """Function from images to the maps of all lists, float32 [B, sum of K, h, w], in mode semantic."""
        self._embed(list(dict.fromkeys(prompt for groups in lists for group in groups for prompt in group)))
        # A background with a prompt is one class among the others.
        has_prompt = self.background is None or self.settings.background == "prompt"
        background = "none" if has_prompt else self.settings.background
        texts = [self.seem.class_texts(groups, background, aliases=self.settings.aliases) for groups in lists]
        normalise, short_side = self.settings.normalise, self.settings.short_side

        def annotate(images: Images) -> Maps:
            maps = self.seem.semantic_maps_of_lists(images, texts, normalise, short_side, size="native")
            return np.concatenate(list(map(self._in_order, maps)), axis=1)

        return annotate

    def _grounding(self, lists: list[list[list[str]]]) -> Callable[[Images], Maps]:
        """Function from images to the maps of all lists, float32 [B, sum of K, h, w], in mode grounding."""
        maps_of = [self._grounding_of(groups) for groups in lists]
        return lambda images: np.concatenate([self._in_order(maps(images)) for maps in maps_of], axis=1)

    def _grounding_of(self, class_prompts: list[list[str]]) -> Callable[[Images], Maps]:
        """Function from images to the maps of one list, float32 [B, K, h, w]. A background comes first."""
        prompts = [prompt for aliases in class_prompts for prompt in aliases]
        ends = np.cumsum([0, *map(len, class_prompts)])
        combine = np.max if self.settings.aliases == "max" else np.mean
        adds_background = self.background is not None and self.settings.background == "complement"

        def annotate(images: Images) -> Maps:
            masks = self.seem.grounding_maps(images, prompts, self.settings.joint, self.settings.short_side, "native")
            maps = np.stack([combine(masks[:, start:stop], axis=1) for start, stop in pairwise(ends)], axis=1)
            if adds_background:
                maps = np.concatenate([np.clip(1 - maps.sum(axis=1, keepdims=True), 0, 1), maps], axis=1)
            return normalised(torch.from_numpy(maps), self.settings.normalise, class_axis=1).numpy()

        return annotate

    def _in_order(self, maps: Maps) -> Maps:
        """Maps of one list whose background comes first -> maps in the order of the classes, [B, K, h, w]."""
        if self.background is None:
            return maps
        order = list(range(1, maps.shape[1]))
        order.insert(self.background, 0)
        return maps[:, order]

    def _embed(self, prompts: Sequence[str]) -> None:
        """Set the network's embeddings of the prompts: read them from the cache, or compute and cache them."""
        names = [*prompts, VOID_NAME]
        facts = {"weights": self.weights, "templates": list(self.seem.templates)}
        self.seem.embeddings |= cached_embeddings(self.cache, facts, names, self._text_embeddings)

    def _text_embeddings(self, names: Sequence[str]) -> Maps:
        """Embeddings float32 [N, P] of names, computed."""
        what = f"class texts, {len(self.seem.templates)} sentences per name"
        progress = Progress(log, what, len(set(names)), "names")
        return self.seem.text_embeddings(names, progress.advance)
