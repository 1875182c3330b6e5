"""A network in a folder: its configuration, preprocessing and tokenizer, and the network itself with its weights."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from pipeline.annotators.hub.folder import Kind
from pipeline.annotators.hub.preprocessing import read_preprocessing
from pipeline.digests import sha256_of
from pipeline.errors import NetworkError
from pipeline.pretrained import LOCAL, check_sums, config_of, files_read, load, quiet, reason_of

PARTS_TO_COMPILE: dict[Kind, list[str]] = {
    "semantic": [""],  # all of it
    "universal": [""],
    "clipseg": ["decoder"],
    "sam3": ["vision_encoder", "detr_encoder", "mask_decoder"],  # torch cannot trace the decoder between them
    "grounding_dino": ["model.backbone.conv_encoder"],  # torch cannot trace the attention of its encoder
    "owlv2": ["owlv2.vision_model"],
    "sam2": ["vision_encoder", "mask_decoder"],
}


class HubNetwork:
    """A network whose weights are not loaded yet.

    size:       height and width of its input; None: by its files
    grid:       height and width of the images
    files:      SHA-256 of every file that is read, by name
    input_size: height and width of its input
    raises:     NetworkError or AnnotatorError if its files cannot be used
    """

    def __init__(self, folder: Path, kind: Kind, size: Sequence[int] | None, grid: Sequence[int]):
        check_sums(folder)
        self.folder, self.kind = folder, kind
        self.config = self._config()
        if kind == "sam2":
            size = [self.config.prompt_encoder_config.image_size] * 2
        self.preprocessing = read_preprocessing(folder, self.config, size)
        self.input_size = self.preprocessing.input_size(grid[0], grid[1])
        if kind == "sam3":
            self.config.image_size = self.input_size[0]  # for its position encoding
        self.files = {path.name: sha256_of(path) for path in files_read(folder)}

    @property
    def patch_size(self) -> int:
        """Number that divides both sides of its input in pixels."""
        if self.kind == "sam3":
            return int(self.config.vision_config.backbone_config.patch_size)
        return int(self.config.vision_config.patch_size) if self.kind == "owlv2" else 1

    def model(self, device: torch.device, compile_it: bool) -> Any:
        """The network with its weights, in evaluation mode on the device; NetworkError if weights are missing."""
        model, unfit = load(self._class(), self.folder, config=self.config)
        if unfit:
            raise NetworkError(
                f"{self.folder} lacks {len(unfit)} of its network's weights, e.g. {unfit[0]}; copy or download the "
                "folder again"
            )
        model = model.eval().to(device)
        if compile_it:
            for module in PARTS_TO_COMPILE[self.kind]:
                model.get_submodule(module).compile()
        return model

    def tokenizer(self) -> Any:
        """The tokenizer of its texts; NetworkError if there is none, or if it cannot be read."""
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

    def _config(self) -> Any:
        """The configuration; of a video model, that of the part for single images."""
        config = config_of(self.folder)
        if self.kind == "sam2":
            from transformers import Sam2Config

            quiet()  # it warns of the type of a video model
            return Sam2Config.from_pretrained(self.folder, **LOCAL)  # nosec B615: only local files
        config = getattr(config, "detector_config", config)
        config.use_auxiliary_head = False  # its logits are not used
        config.is_training = False  # OneFormer's dropout, which evaluation mode does not turn off
        return config

    def _class(self) -> Any:
        """Class of transformers."""
        import transformers

        is_lite = self.config.model_type == "sam3_lite_text"
        return {
            "semantic": transformers.AutoModelForSemanticSegmentation,
            "universal": transformers.AutoModelForUniversalSegmentation,
            "clipseg": transformers.CLIPSegForImageSegmentation,
            "sam3": transformers.Sam3LiteTextModel if is_lite else transformers.Sam3Model,
            "grounding_dino": transformers.AutoModelForZeroShotObjectDetection,
            "owlv2": transformers.Owlv2ForObjectDetection,
            "sam2": transformers.Sam2Model,
        }[self.kind]
