"""The `seem` annotator: SEEM prompted with the classes' names, its text embeddings cached on disk."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from itertools import pairwise
from pathlib import Path

import numpy as np
import torch

from pipeline.annotators.contract import Images, Maps, Space
from pipeline.errors import AnnotatorError
from pipeline.files import replacing
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
    """Keeps the Annotator contract: probabilities at a quarter of the resolution that the network sees.

    texts: folder of class embeddings, one file for each list of prompts, templates and checkpoint
    """

    space: Space = "probability"

    def __init__(self, settings: SeemSettings, data: DataSettings, texts: Path):
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
        self.settings, self.background, self.texts = settings, data.background_index, texts
        self.weights = file_sha256(folder / "model.safetensors")
        self.name = f"SEEM {folder.name}, {settings.mode}"
        self.fingerprint = fingerprint(
            {
                "version": CODE_VERSION,
                "weights": self.weights,  # and not the folder that they lie in
                "settings": {name: value for name, value in settings.tracked().items() if name != "checkpoint"},
                "templates": list(templates),
                "background": self.background,
            }
        )
        self.batch_limit: int | None = None  # found when memory ran out

    def prepare(self, class_prompts: Sequence[Sequence[str]]) -> None:
        """Embed the prompts, or read their embeddings from disk; AnnotatorError for prompts that cannot be used."""
        foreground = [list(p) for i, p in enumerate(class_prompts) if i != self.background]
        asked = foreground
        if self.background is not None and self.settings.background == "prompt":
            asked = [list(class_prompts[self.background]), *foreground]
        try:
            self.annotate = self._prepared_grounding(asked) if self._is_grounding else self._prepared_semantic(asked)
        except SeemError as error:
            raise AnnotatorError(f"data.classes: {error}") from None

    def __call__(self, images: Images) -> Maps:
        """uint8 [B, H, W, 3] RGB -> float32 [B, K, h, w] in [0, 1]."""
        parts: list[Maps] = []
        while (done := sum(map(len, parts))) < len(images):
            size = min(self.batch_limit or len(images), len(images) - done)
            try:
                parts.append(self.annotate(images[done : done + size]))
            except RuntimeError as error:
                self._halve(size, error)
        maps = np.concatenate(parts)
        if self.background is not None:
            order = list(range(1, maps.shape[1]))
            order.insert(self.background, 0)
            maps = maps[:, order]
        return np.minimum(maps, 1)  # a sum of floats can exceed 1 by one rounding error

    @property
    def _is_grounding(self) -> bool:
        return self.settings.mode == "grounding"

    def _prepared_semantic(self, asked: list[list[str]]) -> Callable[[Images], Maps]:
        """Maps with the background, if there is one, first."""
        refuse_bad_prompts(asked)
        self._embed([prompt for prompts in asked for prompt in prompts])
        # A background that is asked for is one class among the others.
        is_asked = self.background is None or self.settings.background == "prompt"
        background = "none" if is_asked else self.settings.background
        texts = self.seem.class_texts(asked, background, aliases=self.settings.aliases)
        normalise, short_side = self.settings.normalise, self.settings.short_side
        return lambda images: self.seem.semantic_maps(images, texts, normalise, short_side, size="native")

    def _prepared_grounding(self, asked: list[list[str]]) -> Callable[[Images], Maps]:
        """Maps with the background, if there is one, first."""
        refuse_bad_prompts(asked)
        prompts = [prompt for group in asked for prompt in group]
        ends = np.cumsum([0, *map(len, asked)])
        combine = np.max if self.settings.aliases == "max" else np.mean
        adds_background = self.background is not None and self.settings.background == "complement"

        def annotate(images: Images) -> Maps:
            masks = self.seem.grounding_maps(images, prompts, self.settings.joint, self.settings.short_side, "native")
            maps = np.stack([combine(masks[:, start:stop], axis=1) for start, stop in pairwise(ends)], axis=1)
            if adds_background:
                maps = np.concatenate([np.clip(1 - maps.sum(axis=1, keepdims=True), 0, 1), maps], axis=1)
            return normalised(torch.from_numpy(maps), self.settings.normalise, class_axis=1).numpy()

        return annotate

    def _halve(self, size: int, error: RuntimeError) -> None:
        """Try again with half as many images, if memory ran out; raise what it was otherwise."""
        if not _is_out_of_memory(error):
            raise error
        if size == 1:
            raise AnnotatorError(
                "memory runs out with a single image; choose a smaller data.grid or annotate.seem.short_side, "
                "annotate.seem.precision bfloat16, or device cpu"
            ) from None
        self.batch_limit = size // 2
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
        log.warning("annotate: %d images at a time do not fit into memory, going on with %d", size, self.batch_limit)

    def _embed(self, prompts: Sequence[str]) -> None:
        """Fill the network's known embeddings, from the file of an earlier run or into it."""
        names = [*prompts, VOID_NAME]
        key = fingerprint({"weights": self.weights, "templates": list(self.seem.templates), "names": names})
        path = self.texts / f"{key}.npz"
        self.seem.known_embeddings |= read_embeddings(path, names)
        missing = [name for name in dict.fromkeys(names) if name not in self.seem.known_embeddings]
        if missing:
            what = f"class texts, {len(self.seem.templates)} sentences a name"
            progress = Progress(log, what, len(missing), "names")
            embeddings = self.seem.text_embeddings(names, progress.advance)
            write_embeddings(path, names, embeddings)


def read_embeddings(path: Path, names: Sequence[str]) -> dict[str, Maps]:
    """Embeddings by name from a file; {} if there is none, or one that is damaged or of other names."""
    if not path.is_file():
        return {}
    try:
        with np.load(path, allow_pickle=False) as stored:
            same_names = stored["names"].tolist() == list(names)
            return dict(zip(names, stored["embeddings"], strict=True)) if same_names else {}
    except Exception as error:  # zipfile, zlib, numpy: each has its own
        log.warning("annotate: %s is damaged (%s); embedding the class names again", path, error)
        return {}


def write_embeddings(path: Path, names: Sequence[str], embeddings: Maps) -> None:
    """Write atomically."""
    with replacing(path) as part, part.open("wb") as file:
        np.savez(file, names=np.array(names), embeddings=embeddings)


def _is_out_of_memory(error: RuntimeError) -> bool:
    """CUDA has a class for it, the CPU allocator only a message."""
    return isinstance(error, torch.OutOfMemoryError) or "not enough memory" in str(error)


def _device(name: str) -> str:
    if name == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    index = int(name.partition(":")[2] or 0)
    if name != "cpu" and index >= torch.cuda.device_count():
        found = torch.cuda.device_count()
        raise AnnotatorError(f"annotate.seem.device is {name}, but torch finds {found} CUDA devices; use auto or cpu")
    return name
