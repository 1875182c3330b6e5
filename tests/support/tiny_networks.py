"""Tiny networks in transformers format with random weights, one of each architecture that the `transformers` annotator
reads, with the files that their image processors save."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
import transformers as t
from tiny_seem import write_tokenizer

LABELS = ("wall", "traffic light", "cat, kitty", "dog")
SIDE = 64
BACKBONE = {"out_features": ["stage1", "stage2", "stage3", "stage4"]}
SWIN = {"image_size": SIDE, "embed_dim": 8, "depths": [1] * 4, "num_heads": [1] * 4, "window_size": 2} | BACKBONE
DECODER = {"hidden_dim": 32, "dim_feedforward": 32, "encoder_layers": 1, "decoder_layers": 2, "num_queries": 6,
           "num_attention_heads": 2}  # fmt: skip
EOMT = {"num_hidden_layers": 2, "num_blocks": 1, "num_upscale_blocks": 1, "num_queries": 6, "num_register_tokens": 1}
VIT = {"image_size": SIDE, "patch_size": 16, "hidden_size": 16, "num_attention_heads": 2, "intermediate_size": 16}


t.utils.logging.disable_progress_bar()


def segformer(**ids: Any) -> Any:
    widths = {"hidden_sizes": [8] * 4, "mlp_ratios": [1] * 4, "decoder_hidden_size": 8}
    config = t.SegformerConfig(depths=[1] * 4, num_attention_heads=[1] * 4, **widths, **ids)
    return t.SegformerForSemanticSegmentation(config)


def upernet(**ids: Any) -> Any:
    backbone = t.ConvNextConfig(hidden_sizes=[8] * 4, depths=[1] * 4, **BACKBONE)
    config = t.UperNetConfig(backbone_config=backbone, hidden_size=8, auxiliary_in_channels=8, **ids)
    return t.UperNetForSemanticSegmentation(config)


def mobilenet_v2(**ids: Any) -> Any:
    config = t.MobileNetV2Config(depth_multiplier=0.1, image_size=SIDE, output_stride=16, tf_padding=True, **ids)
    return t.MobileNetV2ForSemanticSegmentation(config)


def beit(**ids: Any) -> Any:
    config = t.BeitConfig(num_hidden_layers=4, out_indices=[1, 2, 3, 4], use_auxiliary_head=False, **VIT, **ids)
    return t.BeitForSemanticSegmentation(config)


def dpt(**ids: Any) -> Any:
    widths = {"neck_hidden_sizes": [8] * 4, "fusion_hidden_size": 8}
    config = t.DPTConfig(num_hidden_layers=4, backbone_out_indices=[0, 1, 2, 3], **widths, **VIT, **ids)
    return t.DPTForSemanticSegmentation(config)


def mask2former(**ids: Any) -> Any:
    widths = dict.fromkeys(("feature_size", "mask_feature_size", "encoder_feedforward_dim"), 32)
    config = t.Mask2FormerConfig(backbone_config=t.SwinConfig(**SWIN), **widths, **DECODER, **ids)
    return t.Mask2FormerForUniversalSegmentation(config)


def oneformer(**ids: Any) -> Any:
    widths = dict.fromkeys(("conv_dim", "mask_dim", "encoder_feedforward_dim"), 32)
    backbone, depth = t.SwinConfig(**SWIN), {"query_dec_layers": 1, "dropout": 0.0}
    return t.OneFormerForUniversalSegmentation(
        t.OneFormerConfig(backbone_config=backbone, **depth, **widths, **DECODER, **ids)
    )


def eomt(**ids: Any) -> Any:
    config = t.EomtConfig(mlp_ratio=1, **{k: v for k, v in VIT.items() if k != "intermediate_size"}, **EOMT, **ids)
    return t.EomtForUniversalSegmentation(config)


def eomt_dinov3(**ids: Any) -> Any:
    return t.EomtDinov3ForUniversalSegmentation(t.EomtDinov3Config(**VIT, **EOMT, **ids))


def clipseg(**_: Any) -> Any:
    text = {"vocab_size": 514, "bos_token_id": 512, "eos_token_id": 513, "pad_token_id": 513, "num_hidden_layers": 2}
    text |= {"hidden_size": 16, "intermediate_size": 16, "num_attention_heads": 2}
    decoder = {"reduce_dim": 8, "decoder_num_attention_heads": 2, "decoder_intermediate_size": 16}
    vision = {**VIT, "num_hidden_layers": 3}
    config = t.CLIPSegConfig(
        text_config=text, vision_config=vision, projection_dim=16, extract_layers=[0, 1, 2], **decoder
    )
    return t.CLIPSegForImageSegmentation(config)


def sam3(lite: bool = False, **_: Any) -> Any:
    """Masks of 32 x 32 for images of 64 x 64. Prompts are present, and some scores of instances exceed 0.5."""
    ids = {"vocab_size": 514, "bos_token_id": 512, "eos_token_id": 513, "pad_token_id": 513}
    size = {"hidden_size": 16, "num_attention_heads": 2, "intermediate_size": 16}
    text = {"num_hidden_layers": 3, "max_position_embeddings": 32, "projection_dim": 16} | size
    vit = {"num_hidden_layers": 2, "image_size": SIDE, "patch_size": 8, "window_size": 4, "global_attn_indexes": [1]}
    backbone = {"model_type": "sam3_vit_model", "pretrain_image_size": 32} | vit | size
    vision = {"model_type": "sam3_vision_model", "backbone_config": backbone, "fpn_hidden_size": 16}
    detr = {"num_layers": 2} | size
    config, build = (t.Sam3LiteTextConfig, t.Sam3LiteTextModel) if lite else (t.Sam3Config, t.Sam3Model)
    network = build(
        config(
            text_config=text | ({"vocab_size": 514} if lite else ids),
            vision_config=vision,
            geometry_encoder_config=detr,
            detr_encoder_config=detr,
            detr_decoder_config=detr | {"num_queries": 6},
            mask_decoder_config={"hidden_size": 16, "num_attention_heads": 2},
        )
    )
    network.text_projection.weight *= 20
    network.detr_decoder.presence_head.layer3.bias += 2
    network.mask_decoder.semantic_projection.bias -= 2
    for layer in (network.detr_decoder.presence_head.layer3, network.dot_product_scoring.query_proj):
        layer.weight *= 20
    network.mask_decoder.mask_embedder.layers[2].weight *= 100
    return network


def sam3_lite_text(**_: Any) -> Any:
    return sam3(lite=True)


def grounding_dino(mm: bool = False, **_: Any) -> Any:
    """Texts of up to 32 tokens, 8 boxes."""
    swin = {k: v for k, v in SWIN.items() if k != "out_features"} | {"model_type": "swin", "out_indices": [2, 3, 4]}
    bert = {"model_type": "bert", "vocab_size": 1030, "hidden_size": 16, "num_hidden_layers": 2}
    bert |= {"num_attention_heads": 2, "intermediate_size": 16, "max_position_embeddings": 64}
    detr = {f"{part}_{name}": value for part in ("encoder", "decoder")
            for name, value in {"layers": 2, "ffn_dim": 32, "attention_heads": 4}.items()}  # fmt: skip
    config, build = t.GroundingDinoConfig, t.GroundingDinoForObjectDetection
    if mm:
        config, build = t.MMGroundingDinoConfig, t.MMGroundingDinoForObjectDetection
    network = build(config(backbone_config=swin, text_config=bert, num_queries=8, d_model=32, max_text_len=32, **detr))
    network.model.decoder.layers[-1].fc2.weight *= 5
    if mm:
        network.class_embed[-1].bias += 5
    for head in network.bbox_embed:
        head.layers[-1].bias += torch.tensor([0, 0, 1.5, 1.5])
    return network


def mm_grounding_dino(**_: Any) -> Any:
    return grounding_dino(mm=True)


def owlv2(**_: Any) -> Any:
    text = {"vocab_size": 514, "bos_token_id": 512, "eos_token_id": 513, "pad_token_id": 0, "num_hidden_layers": 2}
    text |= {"hidden_size": 16, "num_attention_heads": 2, "intermediate_size": 16}
    network = t.Owlv2ForObjectDetection(
        t.Owlv2Config(text_config=text, vision_config=VIT | {"num_hidden_layers": 2}, projection_dim=16)
    )
    for layer in (network.class_head.logit_shift, network.class_head.logit_scale, network.box_head.dense2):
        layer.weight *= 0.02
    network.class_head.logit_scale.bias += 3
    network.box_head.dense2.bias += torch.tensor([0, 0, 1, 1])
    return network


def sam2(video: bool = False, **_: Any) -> Any:
    """Masks of 16 x 16 for images of 64 x 64."""
    hiera = {"model_type": "sam2_hiera_det_model", "hidden_size": 8, "image_size": [SIDE, SIDE], "mlp_ratio": 1.0}
    stages = {"blocks": [1, 1, 2, 1], "embed_dim": [8, 16, 32, 64], "window_size": [8, 4, 4, 4]}
    hiera |= {f"{name}_per_stage": values for name, values in stages.items()}
    hiera |= {"num_attention_heads_per_stage": [1] * 4, "global_attention_blocks": [3]}
    hiera |= {"window_positional_embedding_background_size": [2, 2]}
    vision = {"model_type": "sam2_vision_model", "backbone_config": hiera, "backbone_channel_list": [64, 32, 16, 8]}
    vision |= {"backbone_feature_sizes": [[16, 16], [8, 8], [4, 4]], "fpn_hidden_size": 32}
    parts = {
        "vision_config": vision,
        "prompt_encoder_config": {"hidden_size": 32, "image_size": SIDE},
        "mask_decoder_config": {"hidden_size": 32, "mlp_dim": 32, "num_attention_heads": 2, "iou_head_hidden_dim": 16},
    }
    if not video:
        network = t.Sam2Model(t.Sam2Config(**parts))
        for mlp in network.mask_decoder.output_hypernetworks_mlps:
            mlp.proj_out.weight *= 20
        return network
    memory = {"attention_hidden_size": 32, "attention_num_layers": 1, "attention_feed_forward_hidden_size": 32}
    memory |= {"encoder_hidden_size": 32, "encoder_output_channels": 16, "fuser_embed_dim": 32}
    memory |= {"fuser_intermediate_dim": 32, "attention_rope_feat_sizes": [4, 4]}
    named = {f"memory_{name}": value for name, value in memory.items()}
    return t.Sam2VideoModel(t.Sam2VideoConfig(**parts, image_size=SIDE, mask_downsampler_embed_dim=32, **named))


def sam2_video(**_: Any) -> Any:
    return sam2(video=True)


BERT_VOCABULARY = [f"[unused{i}]" for i in range(1040)]
"""Of bytes: Grounding DINO finds its separators by their number in BERT's vocabulary."""
for number, token in {
    0: "[PAD]",
    100: "[UNK]",
    101: "[CLS]",
    102: "[SEP]",
    103: "[MASK]",
    1012: ".",
    1029: "?",
}.items():
    BERT_VOCABULARY[number] = token
for number, letter in enumerate("abcdefghijklmnopqrstuvwxyz"):
    BERT_VOCABULARY[200 + number], BERT_VOCABULARY[300 + number] = letter, f"##{letter}"


def write_bert_tokenizer(folder: Path) -> None:
    """BERT's tokenizer without words: every letter is a token."""
    t.BertTokenizer(vocab={token: i for i, token in enumerate(BERT_VOCABULARY)}).save_pretrained(folder)


class SamProcessor:
    """The file that transformers' processor of SAM 2 or SAM 3 saves; the processor itself needs torchvision."""

    def __init__(self, name: str, mean: Sequence[float], std: Sequence[float]):
        self.values = {"image_processor_type": name, "image_mean": mean, "image_std": std}

    def save_pretrained(self, folder: Path) -> None:
        processor = {"do_resize": True, "do_rescale": True, "resample": 2, "do_normalize": True, **self.values}
        processor |= {"size": {"height": SIDE, "width": SIDE}, "rescale_factor": 1 / 255}
        (folder / "processor_config.json").write_text(json.dumps({"image_processor": processor}))


SEMANTIC = {
    "segformer": (segformer, lambda: t.SegformerImageProcessorPil(size={"height": SIDE, "width": SIDE})),
    "upernet": (upernet, lambda: t.SegformerImageProcessorPil(size={"height": SIDE, "width": 96}, resample=3)),
    "mobilenet_v2": (mobilenet_v2, lambda: t.MobileNetV2ImageProcessorPil(size=SIDE, do_center_crop=False)),
    "beit": (beit, lambda: t.BeitImageProcessorPil(size={"height": SIDE, "width": SIDE})),
    "dpt": (dpt, lambda: t.DPTImageProcessorPil(size={"height": SIDE, "width": SIDE})),
}  # fmt: skip


SIDES = {"shortest_edge": SIDE, "longest_edge": SIDE}
UNIVERSAL = {
    "mask2former": (mask2former, lambda: t.Mask2FormerImageProcessorPil(size=SIDES)),
    "oneformer": (oneformer, lambda: t.OneFormerImageProcessorPil(size=SIDES)),
    "eomt": (eomt, lambda: t.EomtImageProcessorPil(size=SIDES)),
    "eomt_dinov3": (eomt_dinov3, lambda: t.EomtImageProcessorPil(size=SIDES)),
}
HALF, IMAGENET = ([0.5] * 3, [0.5] * 3), ([0.485, 0.456, 0.406], [0.229, 0.224, 0.225])
SAM3 = {
    "sam3": (sam3, lambda: SamProcessor("Sam3ImageProcessor", *HALF)),
    "sam3_lite_text": (sam3_lite_text, lambda: SamProcessor("Sam3ImageProcessor", *HALF)),
}
SAM2 = {
    "sam2": (sam2, lambda: SamProcessor("Sam2ImageProcessor", *IMAGENET)),
    "sam2_video": (sam2_video, lambda: SamProcessor("Sam2ImageProcessorFast", *IMAGENET)),
}
EDGES = {"shortest_edge": 56, "longest_edge": 90}
DETECTORS = {
    "grounding_dino": (grounding_dino, lambda: t.GroundingDinoImageProcessorPil(size=EDGES)),
    "mm_grounding_dino": (mm_grounding_dino, lambda: t.GroundingDinoImageProcessorPil(size=EDGES)),
    "owlv2": (owlv2, lambda: t.Owlv2ImageProcessorPil(size={"height": SIDE, "width": SIDE})),
}
CLIPSEG = (clipseg, lambda: t.ViTImageProcessorPil(size={"height": 96, "width": 96}))


def write_network(folder: Path, build: Any, processor: Any, labels: Sequence[str] = LABELS, seed: int = 0) -> Path:
    """Save a network with random weights of a size that gives contrast, and its image processor."""
    ids = {"id2label": dict(enumerate(labels)), "label2id": {label: i for i, label in enumerate(labels)}}
    with torch.random.fork_rng(), torch.no_grad():
        torch.manual_seed(seed)
        network = build(**ids).eval()
        for parameter in network.parameters():
            parameter += 0.1 * torch.randn(parameter.shape)
    network.save_pretrained(folder)
    processor().save_pretrained(folder)
    if build in (grounding_dino, mm_grounding_dino):
        write_bert_tokenizer(folder)
    if build in (oneformer, clipseg, sam3, sam3_lite_text, owlv2):
        write_tokenizer(folder)
        (folder / "tokenizer_config.json").write_text('{"tokenizer_class": "CLIPTokenizer"}')
    return folder
