"""The adapter: loads the network that config.json names, and calls it on batches that fit into memory."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from pipeline.annotators.batches import DTYPES, FittingBatches, checked_device
from pipeline.annotators.contract import Images, Maps, Space
from pipeline.annotators.embeddings import cached_embeddings
from pipeline.annotators.hub.folder import PROMPTED, Kind, closed_vocabulary, kind_of, licence_note, network_folder
from pipeline.annotators.hub.labels import described, label_groups, without_label
from pipeline.annotators.hub.networks import Semantic, Universal, task_tokens
from pipeline.annotators.hub.preprocessing import read_preprocessing
from pipeline.annotators.hub.prompted import SCORE_THRESHOLD, ClipSeg, Prompted, Sam3
from pipeline.digests import sha256_of
from pipeline.errors import AnnotatorError, NetworkError
from pipeline.pretrained import LOCAL, check_sums, config_of, files_read, load, reason_of
from pipeline.receipt import fingerprint
from pipeline.seem import SeemError
from pipeline.seem.maps import normalised
from pipeline.seem.seem import refuse_bad_prompts
from pipeline.settings import DataSettings, TransformersSettings

log = logging.getLogger(__name__)

CODE_VERSION = 1  # raise it when the same files, settings and image would give other maps
SECTION = "annotate.transformers"
PARTS_TO_COMPILE: dict[Kind, list[str]] = {
    "semantic": [""],  # all of it
    "universal": [""],
    "clipseg": ["decoder"],
    "sam3": ["vision_encoder", "detr_encoder", "mask_decoder"],  # torch cannot trace the decoder between them
}


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
        self.device = torch.device(checked_device(settings.device, SECTION))
        self.settings, self.data, self.cache = settings, data, cache
        self.folder = network_folder(settings, data)
        check_sums(self.folder)
        self.kind = kind_of(self.folder)
        self.config = self._config()
        self.complement = self._complement()
        self.preprocessing = read_preprocessing(self.folder, self.config, settings.input_size)
        self._refuse_what_the_kind_has_not()
        self.labels = closed_vocabulary(self.folder) or []
        self.groups = label_groups(self.labels, settings.class_map, data, self.complement) if self.labels else []
        self.space: Space = "logits" if self.kind == "semantic" and self._is_one_to_one() else "probability"
        self.without_prompt = without_label(self.groups, data.class_names, self.complement) if self.labels else []
        self.runs_on = [str(self.device)]
        self.files = {path.name: sha256_of(path) for path in files_read(self.folder)}
        self.model = self._model()
        self.name = f"transformers {settings.model}"
        self.fingerprint = fingerprint(
            {
                "version": CODE_VERSION,
                "files": self.files,  # not their folder or name: moving them changes no map
                "settings": {name: value for name, value in settings.tracked().items() if name != "model"},
                "background": data.background_index,
            }
        )
        self.batches = FittingBatches(SECTION, "input_size")

    def prepare(self, class_prompts: Sequence[Sequence[str]]) -> None:
        """Log the labels of each class, or embed the prompts; AnnotatorError for prompts that cannot be used."""
        if (note := licence_note(self.settings, self.folder)) is not None:
            log.warning("annotate: %s", note)
        self.network: Prompted | Semantic | Universal
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
        pixels = torch.from_numpy(self.preprocessing(images)).to(self.device)
        dtype = DTYPES[self.settings.precision]
        with torch.autocast(self.device.type, dtype=dtype, enabled=dtype != torch.float32):
            maps = self.network(pixels)
        if self.space == "logits":
            return maps.cpu().numpy()
        maps = maps.reshape(-1, self.data.num_classes, *maps.shape[2:])  # one list of prompts after the other
        if self.complement is not None:
            index = self.data.class_names.index(self.complement)
            maps[:, index] = 0
            maps[:, index] = (1 - maps.sum(dim=1)).clamp(0, 1)
        maps = normalised(maps, self.settings.normalise, class_axis=1)
        maps = maps.reshape(len(pixels), -1, *maps.shape[2:])
        return maps.clamp(max=1).cpu().numpy()  # a sum of floats can exceed 1 by one rounding error

    def _refuse_what_the_kind_has_not(self) -> None:
        """AnnotatorError for settings that do not fit the kind of the network."""
        height, width = self.preprocessing.input_size(*self.data.grid)
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
        if self.kind != "sam3" and self.settings.score_threshold is not None:
            raise AnnotatorError(
                f"{SECTION}.score_threshold is for SAM 3, but {self.folder} is a {self.kind} network; remove it"
            )
        patch = self.config.vision_config.backbone_config.patch_size if self.kind == "sam3" else 1
        if self.kind in PROMPTED and (height != width or height % patch):
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

    def _config(self) -> Any:
        """The configuration of the network; of a video model, that of its detector."""
        config = config_of(self.folder)
        return getattr(config, "detector_config", config)

    def _model(self) -> Any:
        """The network with its weights, in evaluation mode on the device; NetworkError if weights are missing."""
        import transformers

        is_lite = self.config.model_type == "sam3_lite_text"
        loaders = {
            "semantic": transformers.AutoModelForSemanticSegmentation,
            "universal": transformers.AutoModelForUniversalSegmentation,
            "clipseg": transformers.CLIPSegForImageSegmentation,
            "sam3": transformers.Sam3LiteTextModel if is_lite else transformers.Sam3Model,
        }
        self.config.use_auxiliary_head = False  # its logits are not used
        self.config.is_training = False  # OneFormer's dropout, which evaluation mode does not turn off
        if self.kind == "sam3":
            self.config.image_size = self.preprocessing.input_size(*self.data.grid)[0]  # for its position encoding
        model, unfit = load(loaders[self.kind], self.folder, config=self.config)
        if unfit:
            raise NetworkError(
                f"{self.folder} lacks {len(unfit)} of its network's weights, e.g. {unfit[0]}; copy or download the "
                "folder again"
            )
        model = model.eval().to(self.device)
        if self.settings.compile:
            for module in PARTS_TO_COMPILE[self.kind]:
                model.get_submodule(module).compile()
        return model

    def _prompted(self, lists: Sequence[Sequence[Sequence[str]]]) -> Prompted:
        groups = [group for class_prompts in lists for group in self._used(class_prompts)]
        prompts = list(dict.fromkeys(prompt for group in groups for prompt in group))
        threshold = SCORE_THRESHOLD if self.settings.score_threshold is None else self.settings.score_threshold
        network = ClipSeg(self.model) if self.kind == "clipseg" else Sam3(self.model, threshold)

        @torch.inference_mode()
        def embed(prompts: Sequence[str]) -> Maps:
            return network.embed(self._tokenizer(), prompts).cpu().numpy()

        stored = cached_embeddings(self.cache, {"files": self.files}, prompts, embed)
        texts = torch.from_numpy(np.stack([stored[prompt] for prompt in prompts])).to(self.device)
        return Prompted(network, texts, [[prompts.index(prompt) for prompt in group] for group in groups])

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
        if self.config.model_type != "oneformer":
            return {}
        return {"task_inputs": task_tokens(self._tokenizer(), self.config.task_seq_len).to(self.device)}

    def _tokenizer(self) -> Any:
        from transformers import AutoTokenizer

        names = ("tokenizer.json", "vocab.json", "merges.txt")
        has_one, *has_both = [(self.folder / name).is_file() for name in names]
        if not has_one and not all(has_both):  # transformers would make one without words
            raise NetworkError(
                f"{self.folder} has no tokenizer.json, or vocab.json and merges.txt, which the network's texts need; "
                "copy or download the folder again"
            )
        try:
            return AutoTokenizer.from_pretrained(self.folder, **LOCAL)  # nosec B615: only local files
        except Exception as error:  # json and tokenizers raise classes without a common base
            raise NetworkError(
                f"the tokenizer in {self.folder} cannot be read ({reason_of(error)}); copy or download the folder again"
            ) from None
