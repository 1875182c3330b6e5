"""SEEM with its tokenizer: loads both from a folder, and computes maps from images and class names."""

from __future__ import annotations

import shlex
from collections.abc import Callable, Sequence
from itertools import accumulate, pairwise
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.torch import load_file
from torch import Tensor
from transformers import CLIPTokenizer

from pipeline.seem.checkpoint import differences, first_line, load_published
from pipeline.seem.configuration import SeemConfig
from pipeline.seem.errors import SeemError
from pipeline.seem.maps import Geometry, Normalise, Size, class_maps, mask_maps, network_input, normalised
from pipeline.seem.model import SeemModel
from pipeline.seem.prompts import TEMPLATES, VOID_NAME, fill_templates
from pipeline.seem.text_encoder import TextFeatures, encode_texts, unit_length

Images = NDArray[np.uint8]
Maps = NDArray[np.float32]
Background = Literal["none", "prompt", "void", "complement"]
Aliases = Literal["max", "mean"]
Names = Sequence[str | Sequence[str]]

TEXT_BATCH = 256  # texts in one pass of the text encoder
NAMES_BATCH = 16  # names between two calls of `on_progress`


class ClassTexts(NamedTuple):
    """Embedded class prompts, with which `semantic_maps` compares queries."""

    embeddings: NDArray[np.float32]  # [N, P], of unit length; the last one is void ("no object")
    groups: list[list[int]]  # for every channel the indices of its embeddings
    background: Background


class Seem:
    """SEEM with its tokenizer (Zou et al. 2023): maps of class names, and masks of prompts.

    model:     the network; it is set to evaluation mode
    tokenizer: CLIP's, with the vocabulary size of the model
    templates: sentences that are filled with a class name; their embeddings are averaged
    dtype:     float32, or bfloat16 / float16 for autocast; softmax, sigmoid and sums are always in float32
    """

    def __init__(
        self,
        model: SeemModel,
        tokenizer: CLIPTokenizer,
        templates: Sequence[str] = TEMPLATES,
        dtype: torch.dtype = torch.float32,
    ):
        self.model = model.eval().to(memory_format=torch.channels_last)
        self.config = model.config
        self.tokenizer = tokenizer
        self.templates = tuple(templates)
        self.dtype = dtype
        self.embeddings: dict[str, NDArray[np.float32]] = {}  # [P] by name; the annotator adds those of its cache

    @classmethod
    def from_pretrained(cls, folder: str | Path, **options: Any) -> Seem:
        """Load a folder of `save_pretrained`: config.json, model.safetensors, tokenizer files.

        options: `templates` and `dtype` of the constructor
        raises:  SeemError if a file is missing, or weights are missing, unexpected or of another shape
        """
        folder = Path(folder)
        for name in ("config.json", "model.safetensors"):
            if not (folder / name).is_file():
                raise SeemError(
                    f"{folder} has no {name}; create the folder: conformalsam convert-seem FILE.pt "
                    f"{shlex.quote(str(folder))}"
                )
        tokenizer = load_tokenizer(folder)
        try:
            config = SeemConfig.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
            weights = load_file(folder / "model.safetensors")
        except Exception as error:  # safetensors, json and transformers raise classes without a common base
            raise SeemError(
                f"{folder} cannot be loaded: {first_line(error)}; convert the published file again: conformalsam "
                "convert-seem FILE.pt FOLDER"
            ) from None
        if found := differences(weights, config):
            raise SeemError(
                f"{folder}/model.safetensors does not fit its config.json: {found}; convert the published file "
                "again: conformalsam convert-seem FILE.pt FOLDER"
            )
        model = SeemModel.with_weights(config, weights)
        return cls(_checked_vocabulary(model, tokenizer, folder), tokenizer, **options)

    @classmethod
    def from_checkpoint(
        cls, path: str | Path, tokenizer: str | Path, templates: Sequence[str] = TEMPLATES, **dimensions: Any
    ) -> Seem:
        """Load a published `seem_*.pt` and a folder with CLIP's tokenizer.

        dimensions: fields of SeemConfig that do not follow from the file's shapes, if they differ from the published
                    ones
        raises:     SeemError, see `load_published` and `load_tokenizer`
        """
        clip_tokenizer = load_tokenizer(Path(tokenizer))
        model = load_published(Path(path), **dimensions)
        return cls(_checked_vocabulary(model, clip_tokenizer, Path(tokenizer)), clip_tokenizer, templates)

    def save_pretrained(self, folder: str | Path) -> None:
        """Write config.json, model.safetensors and the tokenizer's files."""
        self.model.save_pretrained(Path(folder))
        # safetensors gives access to the owner only; the other files have the default permissions
        (Path(folder) / "model.safetensors").chmod((Path(folder) / "config.json").stat().st_mode)
        self.tokenizer.save_pretrained(folder)

    def to(self, device: str | torch.device) -> Seem:
        """Move the network."""
        self.model.to(device)
        return self

    def compile(self) -> Seem:
        """Compile the image path with torch.compile. The first image of each size then takes a minute or more."""
        self.model.read_image = torch.compile(self.model.read_image)  # type: ignore[method-assign]
        self.model.mask_decoder.compile()
        return self

    @property
    def device(self) -> torch.device:
        return self.model.logit_scale.device

    # --- texts -------------------------------------------------------------------------------------------------------

    def text_embeddings(
        self, names: Sequence[str], on_progress: Callable[[int], None] | None = None
    ) -> NDArray[np.float32]:
        """Class embeddings: the mean of the unit vectors of all filled templates, scaled to unit length.

        on_progress: called after each batch with the number of its names
        returns:     float32 [K, P]
        raises:      SeemError for a prompt that is too long for the text encoder
        """
        missing = list(dict.fromkeys(name for name in names if name not in self.embeddings))
        for start in range(0, len(missing), NAMES_BATCH):
            batch = missing[start : start + NAMES_BATCH]
            self.embeddings |= dict(zip(batch, self._embed(batch), strict=True))
            if on_progress is not None:
                on_progress(len(batch))
        return np.stack([self.embeddings[name] for name in names])

    def _embed(self, names: Sequence[str]) -> NDArray[np.float32]:
        token_ids = self._tokenize([text for name in names for text in fill_templates(name, self.templates)])
        ends = unit_length(self._encode_by_length(token_ids)).unflatten(0, (len(names), len(self.templates)))
        means = ends.mean(dim=1)
        return (means / means.norm(dim=-1, keepdim=True)).cpu().numpy()

    @torch.inference_mode()
    def _encode_by_length(self, token_ids: list[list[int]]) -> Tensor:
        """End vectors, float [N, P]. Texts of similar length are encoded together, so that there is little padding."""
        order = sorted(range(len(token_ids)), key=lambda i: len(token_ids[i]))
        ends = torch.empty(len(order), self.config.text_config.projection_dim, device=self.device)
        for start in range(0, len(order), TEXT_BATCH):
            chosen = order[start : start + TEXT_BATCH]
            ends[chosen] = encode_texts(self.model.text_encoder, self._padded([token_ids[i] for i in chosen])).ends
        return ends

    def _tokenize(self, texts: Sequence[str]) -> list[list[int]]:
        """Token ids of each text, without padding; SeemError for a text that is too long for the text encoder."""
        longest = self.config.text_config.max_position_embeddings
        token_ids: list[list[int]] = self.tokenizer(list(texts))["input_ids"]
        for text, ids in zip(texts, token_ids, strict=True):
            if len(ids) > longest:
                raise SeemError(
                    f"the prompt {text!r} has {len(ids)} tokens, the text encoder takes at most {longest}; shorten it"
                )
        return token_ids

    def _padded(self, token_ids: Sequence[Sequence[int]]) -> Tensor:
        """Token ids as int64 [N, L], padded with end tokens to the longest."""
        length = max(map(len, token_ids))
        end = self.tokenizer.eos_token_id
        return torch.tensor([[*ids, *[end] * (length - len(ids))] for ids in token_ids], device=self.device)

    def class_texts(
        self,
        names: Names,
        background: Background = "none",
        background_prompts: Sequence[str] = (VOID_NAME,),
        aliases: Aliases = "max",
        on_progress: Callable[[int], None] | None = None,
    ) -> ClassTexts:
        """Embed the classes once, for any number of images.

        names:      one name per class, or several prompts of a class (aliases)
        background: `none`: no background channel. All others add one as the first channel. `prompt`: it has prompts
                    like a class, `background_prompts`. `void`: it is the network's "no object". `complement`: it is 1
                    minus the sum of the others
        aliases:    how the prompts of a class are combined: the `max` of their logits, or the `mean` of their
                    embeddings
        raises:     SeemError for an empty list, or a prompt that is blank, given twice or too long
        """
        groups = [[name] if isinstance(name, str) else list(name) for name in names]
        refuse_bad_prompts(groups)
        if background == "prompt":
            refuse_bad_prompts([list(background_prompts), *groups])
            groups = [list(background_prompts), *groups]
        prompts = [prompt for group in groups for prompt in group]
        embeddings = self.text_embeddings([*prompts, VOID_NAME], on_progress)
        channels = [list(range(*ends)) for ends in pairwise(accumulate(map(len, groups), initial=0))]
        if aliases == "mean":
            means = [embeddings[channel].mean(axis=0) for channel in channels]
            units = [mean / np.linalg.norm(mean) for mean in means]
            embeddings = np.stack([*units, embeddings[-1]])
            channels = [[i] for i in range(len(channels))]
        return ClassTexts(embeddings, channels, background)

    # --- images ------------------------------------------------------------------------------------------------------

    def semantic_map(
        self,
        image: Images,
        names: Names,
        background: Background = "none",
        normalise: Normalise = "none",
        short_side: int | None = None,
        size: Size = "original",
    ) -> Maps:
        """Class maps of one image; see `class_texts` and `semantic_maps` for the arguments.

        image:   uint8 [H, W, 3] RGB
        returns: float32 [K, H, W], K including the background channel if there is one. With the defaults the maps are
                 those of SEEM's own script
        """
        texts = self.class_texts(names, background)
        return self.semantic_maps(_one(image), texts, normalise, short_side, size)[0]

    def semantic_maps(
        self,
        images: Images,
        texts: ClassTexts,
        normalise: Normalise = "none",
        short_side: int | None = None,
        size: Size = "original",
    ) -> Maps:
        """Class maps of images of the same size: the sum over queries of class probability times mask probability.

        images:     uint8 [B, H, W, 3] RGB
        normalise:  `none`: sums, not bounded by 1. `cap`: divided by max(1, sum over classes). `sum`: by their sum
        short_side: length in pixels to which the short side is resized; default: that of the model
        size:       `original`: H x W. `native`: size of the masks, a quarter of the resized image
        returns:    float32 [B, K, H, W] or [B, K, h, w], at least 0
        raises:     SeemError for images of another dtype or shape
        """
        return self.semantic_maps_of_lists(images, [texts], normalise, short_side, size)[0]

    @torch.inference_mode()
    def semantic_maps_of_lists(
        self,
        images: Images,
        lists: Sequence[ClassTexts],
        normalise: Normalise = "none",
        short_side: int | None = None,
        size: Size = "original",
    ) -> list[Maps]:
        """Class maps for several lists of classes, as `semantic_maps` gives for each. Queries are decoded once."""
        pixels, geometry = network_input(images, short_side or self.config.short_side, self.config)
        embeddings = torch.from_numpy(np.concatenate([texts.embeddings for texts in lists])).to(self.device)
        with self._autocast():
            predictions = self.model(pixels.to(self.device), embeddings)
        logits = predictions.text_logits.split([len(texts.embeddings) for texts in lists], dim=-1)

        def maps_of(texts: ClassTexts, text_logits: Tensor) -> Maps:
            scores = class_scores(text_logits, texts.groups)
            pairs = zip(predictions.mask_logits, scores, strict=True)
            return np.stack([self._semantic(m, score, texts, normalise, geometry, size) for m, score in pairs])

        return [maps_of(texts, text_logits) for texts, text_logits in zip(lists, logits, strict=True)]

    def _semantic(
        self, masks: Tensor, scores: Tensor, texts: ClassTexts, normalise: Normalise, geometry: Geometry, size: Size
    ) -> Maps:
        sums = class_maps(masks, scores if texts.background == "void" else scores[:, :-1], geometry, size)
        if texts.background == "void":
            sums = torch.cat([sums[-1:], sums[:-1]])
        elif texts.background == "complement":
            sums = torch.cat([(1 - sums.sum(dim=0, keepdim=True)).clamp(0, 1), sums])
        return normalised(sums, normalise).cpu().numpy()

    def grounding_map(
        self,
        image: Images,
        prompts: Sequence[str],
        joint: bool = True,
        short_side: int | None = None,
        size: Size = "original",
    ) -> Maps:
        """Mask probabilities of one image, float32 [K, H, W] in [0, 1]; see `grounding_maps`."""
        return self.grounding_maps(_one(image), prompts, joint, short_side, size)[0]

    @torch.inference_mode()
    def grounding_maps(
        self,
        images: Images,
        prompts: Sequence[str],
        joint: bool = True,
        short_side: int | None = None,
        size: Size = "original",
    ) -> Maps:
        """The mask of the best-matching query of each prompt. Prompts of absent objects have a mask, too.

        images:  uint8 [B, H, W, 3] RGB
        prompts: used without templates
        joint:   True: all prompts in one pass, as in SEEM's own evaluation. False: one pass per prompt, as in training
        returns: float32 [B, K, H, W] or, with size `native`, [B, K, h, w], in [0, 1]
        raises:  SeemError for images of another dtype or shape, or a prompt that is blank, given twice or too long
        """
        refuse_bad_prompts([[prompt] for prompt in prompts])
        pixels, geometry = network_input(images, short_side or self.config.short_side, self.config)
        tokens, ends = self._prompt_features(prompts)
        passes = [(torch.cat(tokens), ends)] if joint else [(t, e[None]) for t, e in zip(tokens, ends, strict=True)]
        matched = []
        with self._autocast():
            memory = self.model.read_image(pixels.to(self.device))
            for pass_tokens, pass_ends in passes:
                predictions = self.model.ground(memory, pass_tokens, pass_ends)
                best = predictions.text_logits.argmax(dim=1)  # [B, prompts of this pass]
                matched.append(torch.stack([m[b] for m, b in zip(predictions.mask_logits, best, strict=True)]))
        return np.stack([mask_maps(masks, geometry, size).cpu().numpy() for masks in torch.cat(matched, dim=1)])

    def _prompt_features(self, prompts: Sequence[str]) -> tuple[list[Tensor], Tensor]:
        """Token vectors of each prompt, float [T, P] each, and their end vectors, float [K, P]."""
        token_ids = self._tokenize(prompts)
        features: TextFeatures = encode_texts(self.model.text_encoder, self._padded(token_ids))
        return [row[: len(ids)] for row, ids in zip(features.tokens, token_ids, strict=True)], features.ends

    def _autocast(self) -> torch.autocast:
        return torch.autocast(self.device.type, dtype=self.dtype, enabled=self.dtype != torch.float32)


def class_scores(text_logits: Tensor, groups: Sequence[Sequence[int]]) -> Tensor:
    """Probabilities of the classes, and of void (the last text).

    text_logits: float32 [B, Q, N]
    groups:      texts of each class; their maximum counts
    returns:     float32 [B, Q, K + 1] in [0, 1]
    """
    channels = [*groups, [text_logits.shape[-1] - 1]]
    logits = torch.stack([text_logits[..., list(channel)].amax(dim=-1) for channel in channels], dim=-1)
    return logits.float().softmax(dim=-1)


def refuse_bad_prompts(groups: Sequence[Sequence[str]]) -> None:
    """SeemError if there is no class, a class without a prompt, a blank prompt, or a prompt that is given twice."""
    if not groups:
        raise SeemError("the list of classes is empty; give at least one name")
    seen: set[str] = set()
    for number, group in enumerate(groups):
        if not group or not all(prompt.strip() for prompt in group):
            raise SeemError(f"class {number} has the prompts {list(group)!r}; give it a name that is not blank")
        for prompt in group:
            if prompt.lower() in seen:
                raise SeemError(f"the prompt {prompt!r} is given twice; give each class different prompts")
            seen.add(prompt.lower())


def load_tokenizer(folder: Path) -> CLIPTokenizer:
    """Load CLIP's tokenizer from a folder; SeemError if its files are missing or damaged."""
    has_files = (folder / "tokenizer.json").is_file() or all(
        (folder / name).is_file() for name in ("vocab.json", "merges.txt")
    )
    if not has_files:
        raise SeemError(
            f"no tokenizer in {folder}, expected tokenizer.json, or vocab.json and merges.txt, of "
            "openai/clip-vit-base-patch32; download them: conformalsam download seem-focall-v0"
        )
    try:
        return CLIPTokenizer.from_pretrained(folder, local_files_only=True, trust_remote_code=False)  # nosec B615
    except Exception as error:  # json and tokenizers raise classes without a common base
        raise SeemError(
            f"the tokenizer in {folder} cannot be read: {first_line(error)}; download it again: conformalsam download "
            "seem-focall-v0"
        ) from None


def _checked_vocabulary(model: SeemModel, tokenizer: CLIPTokenizer, folder: Path) -> SeemModel:
    expected = model.config.text_config.vocab_size
    if len(tokenizer) != expected:
        raise SeemError(
            f"the tokenizer in {folder} has {len(tokenizer)} entries, but the network has {expected}; use the "
            "tokenizer of the network"
        )
    return model


def _one(image: Images) -> Images:
    if getattr(image, "ndim", None) != 3:
        raise SeemError(f"the image has shape {getattr(image, 'shape', None)}, expected uint8 [H, W, 3]; convert it")
    return image[None]
