"""The complete SEEM network for text prompts: images and texts to class scores and masks of every query."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from pipeline.seem.configuration import SeemConfig
from pipeline.seem.deformable import DeformablePixelDecoder
from pipeline.seem.focal import FocalBackbone
from pipeline.seem.fpn import FpnPixelDecoder
from pipeline.seem.mask_decoder import ImageMemory, MaskDecoder
from pipeline.seem.sam_vit import SamVitBackbone
from pipeline.seem.text_encoder import TextEncoder, unit_length

MAX_GROUNDING_SCALE = 100.0  # the scale is clamped on the grounding path only


class QueryPredictions(NamedTuple):
    """Predictions of every query: its logits for the texts, and its mask."""

    text_logits: Tensor  # float32 [B, Q, N]
    mask_logits: Tensor  # float [B, Q, H / 4, W / 4]


class SeemModel(nn.Module):
    """SEEM (Zou et al. 2023) for text prompts, saved in the format of transformers."""

    def __init__(self, config: SeemConfig):
        super().__init__()
        self.config = config
        self.backbone = _build_backbone(config)
        self.pixel_decoder = _build_pixel_decoder(config)
        self.mask_decoder = MaskDecoder(
            config.hidden_dim,
            config.mask_dim,
            config.text_config.projection_dim,
            config.num_queries,
            config.decoder_layers,
            config.decoder_heads,
            config.decoder_ffn_dim,
        )
        self.text_encoder = TextEncoder(config.text_config)
        self.logit_scale = nn.Parameter(torch.tensor(4.0))  # logarithm of the scale

    @classmethod
    def with_weights(cls, config: SeemConfig, weights: Mapping[str, Tensor]) -> SeemModel:
        """The network with all of its weights given, converted to float32; in evaluation mode."""
        with Undrawn():
            model = cls(config)
        model.load_state_dict(weights, assign=True)
        config.text_config.dtype = "float32"
        return model.float().eval()

    def save_pretrained(self, folder: Path) -> None:
        """Write config.json and model.safetensors."""
        self.config.architectures = [type(self).__name__]
        self.config.dtype = str(self.logit_scale.dtype).removeprefix("torch.")
        self.config.save_pretrained(folder)
        weights = {name: tensor.contiguous() for name, tensor in self.state_dict().items()}
        save_file(weights, Path(folder) / "model.safetensors", metadata={"format": "pt"})

    def forward(self, pixel_values: Tensor, text_embeddings: Tensor) -> QueryPredictions:
        """Semantic path: queries are decoded independently of the texts, then compared with them.

        pixel_values:    float [B, 3, H, W], normalised, H and W multiples of `config.size_divisor`
        text_embeddings: float [N, P], of unit length
        """
        memory = self.read_image(pixel_values)
        return self.predict(self.mask_decoder(memory)[-1], memory, text_embeddings)

    def read_image(self, pixel_values: Tensor) -> ImageMemory:
        """Everything that does not depend on texts: backbone, pixel decoder, and keys and values of the decoder.

        pixel_values: as of `forward`
        """
        maps, finest = self.pixel_decoder(self.backbone(pixel_values))
        return self.mask_decoder.read(maps, finest, self.pixel_decoder.mask_features)

    def predict(self, queries: Tensor, memory: ImageMemory, text_embeddings: Tensor) -> QueryPredictions:
        """Predictions of queries, float [B, Q, D], for texts, float [N, P], of unit length."""
        text_logits = self._text_logits(queries, text_embeddings.float(), self.logit_scale.exp())
        return QueryPredictions(text_logits, self._masks(queries, memory))

    def ground(self, memory: ImageMemory, tokens: Tensor, ends: Tensor) -> QueryPredictions:
        """Grounding path: queries are decoded together with the tokens of the prompts.

        tokens: float [T, D], tokens of all prompts of one pass
        ends:   float [N, P], end vector of each prompt
        """
        queries = self.mask_decoder(memory, tokens.expand(len(memory.finest), -1, -1))[-1]
        scale = self.logit_scale.exp().clamp(max=MAX_GROUNDING_SCALE)
        return QueryPredictions(self._text_logits(queries, unit_length(ends), scale), self._masks(queries, memory))

    def _text_logits(self, queries: Tensor, texts: Tensor, scale: Tensor) -> Tensor:
        """Scaled cosines, in float32 even under autocast: at a scale of 100, bfloat16 has a resolution of 0.5 only."""
        vectors = unit_length(self.mask_decoder.class_vectors(queries))
        with torch.autocast(vectors.device.type, enabled=False):
            return scale * vectors @ texts.T

    def _masks(self, queries: Tensor, memory: ImageMemory) -> Tensor:
        return self.mask_decoder.mask_logits(queries, memory.finest, self.pixel_decoder.mask_features)


def _build_backbone(config: SeemConfig) -> nn.Module:
    if config.backbone == "sam_vit":
        (depth,) = config.depths
        return SamVitBackbone(config.width, depth, config.vit_heads, config.vit_global_blocks, config.image_size)
    has_residuals = config.backbone == "focal_dw"
    return FocalBackbone(config.width, config.depths, config.focal_levels, depthwise_residuals=has_residuals)


def _build_pixel_decoder(config: SeemConfig) -> nn.Module:
    kind = DeformablePixelDecoder if config.backbone == "sam_vit" else FpnPixelDecoder
    return kind(
        config.channels,
        config.hidden_dim,
        config.mask_dim,
        config.encoder_layers,
        config.encoder_heads,
        config.encoder_ffn_dim,
        num_groups=config.num_groups,
    )


class Undrawn(TorchFunctionMode):
    """Context in which new layers get no first weights: drawing hundreds of millions of numbers takes seconds."""

    def __torch_function__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if getattr(function, "__module__", None) == "torch.nn.init":
            return kwargs["tensor"] if kwargs and "tensor" in kwargs else args[0]
        return function(*args, **kwargs or {})
