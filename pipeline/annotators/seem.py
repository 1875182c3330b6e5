"""The `seem` annotator: SEEM prompted with the class names. The text embeddings are cached on disk."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from itertools import pairwise
from pathlib import Path

import numpy as np
import torch

from pipeline.annotators.contract import Images, Maps, Space
from pipeline.errors import AnnotatorError
from pipeline.files import remove_leftovers, replacing
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
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


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
        device = _device(settings.device)
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
        self.batch_limit: int | None = None  # set when memory runs out

    def prepare(self, class_prompts: Sequence[Sequence[str]]) -> None:
        """Embed the prompts, or read their embeddings from disk; AnnotatorError for prompts that cannot be used."""
        foreground = [list(p) for i, p in enumerate(class_prompts) if i != self.background]
        prompts = foreground
        if self.background is not None and self.settings.background == "prompt":
            prompts = [list(class_prompts[self.background]), *foreground]
        try:
            self.annotate = self._grounding(prompts) if self._is_grounding else self._semantic(prompts)
        except SeemError as error:
            raise AnnotatorError(f"data.classes: {error}") from None

    def __call__(self, images: Images) -> Maps:
        """uint8 [B, H, W, 3] RGB -> float32 [B, K, h, w] in [0, 1]."""
        batches: list[Maps] = []
        while (done := sum(map(len, batches))) < len(images):
            size = min(self.batch_limit or len(images), len(images) - done)
            try:
                batches.append(self.annotate(images[done : done + size]))
            except RuntimeError as error:
                self._halve_batch(size, error)
        maps = np.concatenate(batches)
        if self.background is not None:
            order = list(range(1, maps.shape[1]))
            order.insert(self.background, 0)
            maps = maps[:, order]
        return np.minimum(maps, 1)  # a sum of floats can exceed 1 by one rounding error

    @property
    def _is_grounding(self) -> bool:
        return self.settings.mode == "grounding"

    def _semantic(self, class_prompts: list[list[str]]) -> Callable[[Images], Maps]:
        """Function from images to maps float32 [B, K, h, w], in mode semantic. A background comes first."""
        refuse_bad_prompts(class_prompts)
        self._embed([prompt for prompts in class_prompts for prompt in prompts])
        # A background with a prompt is one class among the others.
        has_prompt = self.background is None or self.settings.background == "prompt"
        background = "none" if has_prompt else self.settings.background
        texts = self.seem.class_texts(class_prompts, background, aliases=self.settings.aliases)
        normalise, short_side = self.settings.normalise, self.settings.short_side
        return lambda images: self.seem.semantic_maps(images, texts, normalise, short_side, size="native")

    def _grounding(self, class_prompts: list[list[str]]) -> Callable[[Images], Maps]:
        """Function from images to maps float32 [B, K, h, w], in mode grounding. A background comes first."""
        refuse_bad_prompts(class_prompts)
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

    def _halve_batch(self, size: int, error: RuntimeError) -> None:
        """Halve the batch if memory ran out; raise any other error again."""
        if not _is_out_of_memory(error):
            raise error
        if size == 1:
            raise AnnotatorError(
                "memory runs out with a single image; set a smaller data.grid or annotate.seem.short_side, "
                "annotate.seem.precision: bfloat16, or annotate.seem.device: cpu"
            ) from None
        self.batch_limit = size // 2
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
        log.warning("annotate: a batch of %d images does not fit into memory; now using %d", size, self.batch_limit)

    def _embed(self, prompts: Sequence[str]) -> None:
        """Set the network's embeddings of the prompts: read them from the cache, or compute and cache them."""
        names = [*prompts, VOID_NAME]
        key = fingerprint({"weights": self.weights, "templates": list(self.seem.templates), "names": names})
        path = self.cache / f"{key}.npz"
        self.seem.embeddings |= read_embeddings(path, names)
        missing = [name for name in dict.fromkeys(names) if name not in self.seem.embeddings]
        if missing:
            what = f"class texts, {len(self.seem.templates)} sentences per name"
            progress = Progress(log, what, len(missing), "names")
            embeddings = self.seem.text_embeddings(names, progress.advance)
            write_embeddings(path, names, embeddings)


def read_embeddings(path: Path, names: Sequence[str]) -> dict[str, Maps]:
    """Text embeddings from a file, by name: float32 [D] each. {} if the file is missing, damaged or of other names."""
    if not path.is_file():
        return {}
    try:
        with np.load(path, allow_pickle=False) as stored:
            same_names = stored["names"].tolist() == list(names)
            return dict(zip(names, stored["embeddings"], strict=True)) if same_names else {}
    except Exception as error:  # zipfile, zlib and numpy raise exceptions of their own
        log.warning("annotate: %s is damaged (%s); embedding the class names again", path, error)
        return {}


def write_embeddings(path: Path, names: Sequence[str], embeddings: Maps) -> None:
    """Write embeddings float32 [N, D] and their N names atomically."""
    remove_leftovers(path.parent, of=path.name)
    with replacing(path) as part, part.open("wb") as file:
        np.savez(file, names=np.array(names), embeddings=embeddings)


def _is_out_of_memory(error: RuntimeError) -> bool:
    """CUDA raises OutOfMemoryError; the CPU allocator raises a RuntimeError with a message."""
    return isinstance(error, torch.OutOfMemoryError) or "not enough memory" in str(error)


def _device(name: str) -> str:
    """Torch's name of the device of `annotate.seem.device`; AnnotatorError for a CUDA device that does not exist."""
    if name == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    number = int(name.partition(":")[2] or 0)
    if name != "cpu" and number >= torch.cuda.device_count():
        raise AnnotatorError(
            f"annotate.seem.device is {name}, but torch finds {torch.cuda.device_count()} CUDA devices; set "
            "annotate.seem.device to auto or cpu"
        )
    return name
