"""The adapter: loads the network that config.json names, and calls it on batches that fit into memory."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from pipeline.annotators.batches import DTYPES, FittingBatches
from pipeline.annotators.contract import Images, Maps, Space
from pipeline.annotators.embeddings import cached_embeddings
from pipeline.annotators.hub.detectors import GroundingDino, Owlv2, owlv2_texts
from pipeline.annotators.hub.folder import (
    PROMPTED,
    closed_vocabulary,
    kind_of,
    licence_note,
    mask_folder,
    mask_model,
    network_folder,
)
from pipeline.annotators.hub.grounded import Grounded, Sam2
from pipeline.annotators.hub.labels import described, label_groups, without_label
from pipeline.annotators.hub.loading import HubNetwork
from pipeline.annotators.hub.networks import Semantic, Universal, task_tokens
from pipeline.annotators.hub.prompted import ClipSeg, Prompted, Sam3
from pipeline.devices import device_of
from pipeline.errors import AnnotatorError
from pipeline.receipt import fingerprint
from pipeline.seem import SeemError
from pipeline.seem.maps import normalised
from pipeline.seem.seem import refuse_bad_prompts
from pipeline.settings import DataSettings, TransformersSettings

log = logging.getLogger(__name__)

CODE_VERSION = 1  # raise it when the same files, settings and image would give other maps
SECTION = "annotate.transformers"
NAMES = ("model", "mask_model")  # settings that name folders
SQUARE = ("clipseg", "sam3", "owlv2")  # kinds that take square images only
DEFAULT_THRESHOLDS = {"sam3": 0.5, "grounding_dino": 0.25, "owlv2": 0.1}  # of their own processors


class TransformersAnnotator:
    """Implements the Annotator contract.

    The maps are probabilities, except those of a semantic network of which every class has one label and no other label
    counts: they are logits.

    cache:  folder of text embeddings
    raises: NetworkError or AnnotatorError if the network or the device cannot be used
    """

    def __init__(self, settings: TransformersSettings, data: DataSettings, cache: Path):
        if settings.threads is not None:
            torch.set_num_threads(settings.threads)
        self.device = torch.device(device_of(SECTION, settings.device))
        self.settings, self.data, self.cache = settings, data, cache
        folder = network_folder(settings, data)
        self.source = HubNetwork(folder, kind_of(folder), settings.input_size, data.grid)
        self.kind = self.source.kind
        self.complement = self._complement()
        self._refuse_what_the_kind_has_not()
        self.sources = {"files": self.source}
        if (name := mask_model(settings, folder)) is not None:
            self.sources["mask_files"] = HubNetwork(mask_folder(name, data), "sam2", None, data.grid)
        self.labels = closed_vocabulary(folder) or []
        self.groups = label_groups(self.labels, settings.class_map, data, self.complement) if self.labels else []
        self.space: Space = "logits" if self.kind == "semantic" and self._is_one_to_one() else "probability"
        self.without_prompt = without_label(self.groups, data.class_names, self.complement) if self.labels else []
        self.runs_on = [str(self.device)]
        models = [source.model(self.device, settings.compile) for source in self.sources.values()]
        self.model, *self.mask_models = models
        self.name = f"transformers {settings.model}"
        self.fingerprint = fingerprint(
            {
                "version": CODE_VERSION,
                **{name: source.files for name, source in self.sources.items()},  # not folders: moving changes no map
                "settings": {name: value for name, value in settings.tracked().items() if name not in NAMES},
                "background": data.background_index,
            }
        )
        self.batches = FittingBatches(SECTION, "input_size")

    def prepare(self, class_prompts: Sequence[Sequence[str]]) -> None:
        """Log the labels of each class, or embed the prompts; AnnotatorError for prompts that cannot be used."""
        if (note := licence_note(self.settings, self.source.folder)) is not None:
            log.warning("annotate: %s", note)
        self.network: Prompted | Grounded | Semantic | Universal
        if self.kind in PROMPTED:
            self.network = self._prompted([class_prompts])
            return
        names = self.data.class_names
        log.info("annotate: %s: %s", self.name, described(self.groups, self.labels, names, self.complement))
        if self.kind == "semantic":
            self.network = Semantic(self.model, self.labels, self.groups, self.space)
        else:
            self.network = Universal(self.model, self.labels, self.groups, self._task())

    def prepare_lists(self, lists: Sequence[Sequence[Sequence[str]]]) -> None:
        """As `prepare` of a prompted network, for several lists; maps are those of each list, one after the other."""
        assert self.kind in PROMPTED
        self.network = self._prompted(lists)

    def __call__(self, images: Images) -> Maps:
        """uint8 [B, H, W, 3] RGB -> float32 [B, K, h, w] in `space`."""
        return self.batches.maps(self._annotate, images)

    @torch.inference_mode()
    def _annotate(self, images: Images) -> Maps:
        inputs = [torch.from_numpy(one.preprocessing(images)).to(self.device) for one in self.sources.values()]
        dtype = DTYPES[self.settings.precision]
        with torch.autocast(self.device.type, dtype=dtype, enabled=dtype != torch.float32):
            maps = self.network(*inputs)
        if self.space == "logits":
            return maps.cpu().numpy()
        maps = maps.reshape(-1, self.data.num_classes, *maps.shape[2:])  # one list of prompts after the other
        if self.complement is not None:
            index = self.data.class_names.index(self.complement)
            maps[:, index] = 0
            maps[:, index] = (1 - maps.sum(dim=1)).clamp(0, 1)
        maps = normalised(maps, self.settings.normalise, class_axis=1)
        maps = maps.reshape(len(images), -1, *maps.shape[2:])
        return maps.clamp(max=1).cpu().numpy()  # a sum of floats can exceed 1 by one rounding error

    def _refuse_what_the_kind_has_not(self) -> None:
        """AnnotatorError for settings that do not fit the kind of the network."""
        if self.kind == "universal" and self.settings.normalise == "none":
            raise AnnotatorError(
                f"{SECTION}.normalise is none, but the sums of a universal network over its queries can exceed 1; set "
                f"{SECTION}.normalise: cap"
            )
        if self.kind in PROMPTED and self.settings.class_map:
            raise AnnotatorError(
                f"{SECTION}.class_map is for networks with labels, but {PROMPTED[self.kind]} is prompted; remove it, "
                "and add prompts to data.classes"
            )
        if self.kind not in DEFAULT_THRESHOLDS and self.settings.score_threshold is not None:
            raise AnnotatorError(
                f"{SECTION}.score_threshold is for SAM 3 and detectors, but {self.source.folder} is a {self.kind} "
                "network; remove it"
            )
        self._refuse_unfit_size()

    def _refuse_unfit_size(self) -> None:
        """AnnotatorError for an input whose size a prompted network cannot take."""
        height, width = self.source.input_size
        patch = self.source.patch_size
        if self.kind in SQUARE and (height != width or height % patch):
            side = -(-max(height, width) // patch) * patch
            multiple = f" whose side is a multiple of {patch}" if patch > 1 else ""
            raise AnnotatorError(
                f"{PROMPTED[self.kind]} takes square images{multiple}, but its input would be {height} x {width}; set "
                f"{SECTION}.input_size: [{side}, {side}]"
            )

    def _complement(self) -> str | None:
        """Class whose probability is 1 minus the sum of the others, None if there is none."""
        choice = self.settings.background
        if choice == "auto":
            choice = "complement" if self.kind in PROMPTED else "prompt"
        return self.data.background if choice == "complement" else None

    def _is_one_to_one(self) -> bool:
        """Whether every class has one label, and the probabilities of the other labels do not count."""
        has_all = self.settings.normalise == "sum" or len(self.groups) == len(self.labels)
        return has_all and self.complement is None and all(len(group) == 1 for group in self.groups)

    def _prompted(self, lists: Sequence[Sequence[Sequence[str]]]) -> Prompted | Grounded:
        """The network for lists of class prompts."""
        used = [self._used(class_prompts) for class_prompts in lists]
        groups = [group for of_list in used for group in of_list]
        threshold = self.settings.score_threshold
        if threshold is None:
            threshold = DEFAULT_THRESHOLDS.get(self.kind, 0)
        if self.kind == "grounding_dino":
            tokenizer = self.source.tokenizer()
            detectors = [GroundingDino(self.model, tokenizer, of_list) for of_list in used]
            return Grounded(detectors, Sam2(*self.mask_models), threshold)
        if self.kind == "owlv2":
            texts = self._embedded(groups, partial(owlv2_texts, self.model))
            height, width = self.data.grid
            extent = max(height, width) / width, max(height, width) / height
            return Grounded([Owlv2(self.model, groups, texts, extent)], Sam2(*self.mask_models), threshold)
        network = ClipSeg(self.model) if self.kind == "clipseg" else Sam3(self.model, threshold)
        texts = self._embedded(groups, network.embed)
        numbers = {prompt: number for number, prompt in enumerate(texts)}
        return Prompted(network, torch.stack(list(texts.values())), [[numbers[p] for p in group] for group in groups])

    def _embedded(
        self, groups: Sequence[Sequence[str]], embed: Callable[[Any, Sequence[str]], Tensor]
    ) -> dict[str, Tensor]:
        """The embedding of each prompt, float32, from disk or by `embed`, which takes a tokenizer and the prompts."""
        prompts = list(dict.fromkeys(prompt for group in groups for prompt in group))

        @torch.inference_mode()
        def embedded(prompts: Sequence[str]) -> Maps:
            return embed(self.source.tokenizer(), prompts).cpu().numpy()

        stored = cached_embeddings(self.cache, {"files": self.source.files}, prompts, embedded)
        return {prompt: torch.from_numpy(stored[prompt]).to(self.device) for prompt in prompts}

    def _used(self, class_prompts: Sequence[Sequence[str]]) -> list[list[str]]:
        """The prompts of each class that are used; AnnotatorError for bad ones."""
        names = self.data.class_names
        groups = [[] if name == self.complement else list(p) for name, p in zip(names, class_prompts, strict=True)]
        try:
            refuse_bad_prompts([group for group in groups if group])
        except SeemError as error:
            raise AnnotatorError(f"data.classes: {error}") from None
        return groups

    def _task(self) -> dict[str, Tensor]:
        """Further inputs of a universal network for one image: the task of OneFormer."""
        if self.source.config.model_type != "oneformer":
            return {}
        tokens = task_tokens(self.source.tokenizer(), self.source.config.task_seq_len)
        return {"task_inputs": tokens.to(self.device)}
