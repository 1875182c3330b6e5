"""The dimensions of a SEEM network, in the format of transformers (config.json)."""

from __future__ import annotations

from typing import Any

from huggingface_hub.dataclasses import strict
from transformers import CLIPTextConfig, PreTrainedConfig

BACKBONES = ("focal_dw", "focal", "sam_vit")
FOCAL_CHANNEL_FACTORS = (1, 2, 4, 8)  # every stage of FocalNet doubles the width


@strict
class SeemConfig(PreTrainedConfig):
    r"""
    The defaults are those of the published Focal-L.

    text_config (`dict` or `CLIPTextConfig`, *optional*): The text encoder; `projection_dim` is the number of channels
        in which queries and texts are compared.
    backbone (`str`, *optional*, defaults to `"focal"`): `focal_dw` (the block of Focal-T), `focal` (of Focal-L) or
        `sam_vit`.
    width (`int`, *optional*, defaults to 192): Channels after the stem.
    depths (`list[int]`, *optional*): Blocks of each stage; one number for `sam_vit`.
    focal_levels (`list[int]`, *optional*): Levels of focal modulation in each stage; unused by `sam_vit`.
    vit_heads, vit_global_blocks, image_size: Of `sam_vit`: attention heads, indices of the blocks with global
        attention, and the side length of images, which its position table fixes.
    hidden_dim, mask_dim (`int`, *optional*, defaults to 512): Channels of maps and queries, and of the mask features.
    num_groups (`int`, *optional*, defaults to 32): Groups of the pixel decoder's normalisation.
    encoder_layers, encoder_heads, encoder_ffn_dim: Transformer layers of the pixel decoder.
    decoder_layers, decoder_heads, decoder_ffn_dim, num_queries: The mask decoder.
    short_side (`int`, *optional*, defaults to 512): Length to which the short side of an image is resized.
    source_sha256 (`str`, *optional*): SHA-256 of the published file of the weights.
    """

    model_type = "seem"
    sub_configs = {"text_config": CLIPTextConfig}  # noqa: RUF012 - transformers declares it so

    text_config: dict | CLIPTextConfig | None = None
    backbone: str = "focal"
    width: int = 192
    depths: list[int] | tuple[int, ...] = (2, 2, 18, 2)
    focal_levels: list[int] | tuple[int, ...] = (4, 4, 4, 4)
    vit_heads: int = 12
    vit_global_blocks: list[int] | tuple[int, ...] = (2, 5, 8, 11)
    image_size: int = 1024
    hidden_dim: int = 512
    mask_dim: int = 512
    num_groups: int = 32
    encoder_layers: int = 6
    encoder_heads: int = 8
    encoder_ffn_dim: int = 2048
    decoder_layers: int = 9
    decoder_heads: int = 8
    decoder_ffn_dim: int = 2048
    num_queries: int = 101
    short_side: int = 512
    source_sha256: str | None = None

    def __post_init__(self, **kwargs: Any) -> None:
        if not isinstance(self.text_config, CLIPTextConfig):
            self.text_config = CLIPTextConfig(**text_defaults() | (self.text_config or {}))
        super().__post_init__(**kwargs)

    @property
    def channels(self) -> tuple[int, int, int, int]:
        """Channels of res2, res3, res4, res5."""
        if self.backbone == "sam_vit":
            return 128, 256, 512, 1024
        first, second, third, fourth = (self.width * factor for factor in FOCAL_CHANNEL_FACTORS)
        return first, second, third, fourth

    @property
    def size_divisor(self) -> int:
        """Heights and widths of network inputs are multiples of this number."""
        return self.image_size if self.backbone == "sam_vit" else 32

    def validate_architecture(self) -> None:
        """ValueError for dimensions that no SEEM network can have."""
        if self.backbone not in BACKBONES:
            raise ValueError(f"backbone is {self.backbone!r}, expected one of {', '.join(BACKBONES)}")
        for name, dim, heads in (
            ("encoder_heads", self.hidden_dim, self.encoder_heads),
            ("decoder_heads", self.hidden_dim, self.decoder_heads),
            ("num_groups", self.hidden_dim, self.num_groups),
        ):
            if dim % heads:
                raise ValueError(f"hidden_dim {dim} is not a multiple of {name} {heads}")


def text_defaults() -> dict[str, Any]:
    """Settings of SEEM's text encoder besides its sizes. The LayerNorm epsilon differs from CLIP's."""
    return {"hidden_act": "quick_gelu", "layer_norm_eps": 1e-12, "eos_token_id": 49407, "bos_token_id": 49406}  # nosec B105: ids
