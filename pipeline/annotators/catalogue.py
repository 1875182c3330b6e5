"""The adapters, and the models that work with each: `conformalsam annotators` prints them, docs/annotators.md has them.

Facts of November 2026. A licence is summed up in a few words; the model's own page has its text.
"""

from __future__ import annotations

from pathlib import Path
from typing import Literal, NamedTuple

Vocabulary = Literal["open", "closed"]
Tried = Literal["random weights", "these weights", "no"]

INDENT = "  "


class Adapter(NamedTuple):
    """A value of `annotate.annotator`.

    takes:    the setting that names the model, and what it is
    classes:  how the maps of the classes are found
    packages: extra packages, besides those that conformalsam installs
    """

    setting: str
    takes: str
    classes: str
    packages: str


class Model(NamedTuple):
    """Weights that an adapter uses.

    setting:    value of `annotate.annotator`
    parameters: their number, rounded; empty: it is not known here
    vocabulary: open: any words. closed: the labels that it was trained with
    tried:      what this project has run: the architecture with random weights, these weights, or neither
    """

    setting: str
    name: str
    parameters: str
    vocabulary: Vocabulary
    licence: str
    tried: Tried


ADAPTERS = (
    Adapter(
        "seem",
        "checkpoint: a folder that convert-seem has written",
        "any words: names and prompts of data.classes",
        "none",
    ),
    Adapter(
        "transformers",
        "model: a folder in transformers format, or its name on the hub",
        "its labels, matched by name; any words with CLIPSeg, SAM 3 and Grounded-SAM 2",
        "none",
    ),
    Adapter(
        "onnx",
        "model: any segmentation network as an ONNX file",
        "its channels, by class_map",
        "onnxruntime-gpu for CUDA and TensorRT, onnxruntime-openvino for OpenVINO",
    ),
    Adapter(
        "maps",
        "folder: the results of any other code, one file per image or a Zarr",
        "in the order of data.classes",
        "none",
    ),
    Adapter(
        "student",
        "run: a finished run in the same results folder; conformalsam next-round writes it",
        "those of that run",
        "none",
    ),
    Adapter(
        "python",
        "factory: a class or function of your own code",
        "your own",
        "those of your code",
    ),
    Adapter(
        "ensemble",
        "members: several of the annotators above, by name",
        "those of its members",
        "those of its members",
    ),
)

SEEM_LICENCE = "AFL-3.0, code Apache-2.0"
NVIDIA_LICENCE = "NVIDIA, research only"
SAM_LICENCE = "SAM License: commercial, not military; gated"
LITETEXT_LICENCE = "Apache-2.0, derived from weights under the SAM License"

MODELS = (
    Model("seem", "seem-focalt-v0, seem-focalt-v1", "164 M", "open", SEEM_LICENCE, "random weights"),
    Model("seem", "seem-focall-v0, seem-focall-v1", "340 M", "open", SEEM_LICENCE, "random weights"),
    Model("seem", "seem-samvitb-v1", "215 M", "open", SEEM_LICENCE, "random weights"),
    Model("seem", "seem-samvitl-v1", "440 M", "open", SEEM_LICENCE, "random weights"),
    Model(
        "transformers",
        "nvidia/segformer-b0-finetuned-ade-512-512 to b5",
        "3.8 to 85 M",
        "closed",
        NVIDIA_LICENCE,
        "random weights",
    ),
    Model(
        "transformers",
        "google/deeplabv3_mobilenet_v2_1.0_513",
        "4.5 M",
        "closed",
        "Apache-2.0",
        "random weights",
    ),
    Model(
        "transformers",
        "mobilenet_v2_deeplab_voc (config/voc_animals_transformers.yaml)",
        "2.5 M",
        "closed",
        "conversion BSD-3, weights Google's",
        "these weights",
    ),
    Model(
        "transformers",
        "facebook/mask2former-swin-..., shi-labs/oneformer_..., tue-mps/..._eomt_...",
        "47 to 600 M",
        "closed",
        "code MIT, weights by their data set",
        "random weights",
    ),
    Model("transformers", "CIDAS/clipseg-rd64-refined", "150 M", "open", "Apache-2.0", "random weights"),
    Model("transformers", "facebook/sam3", "840 M", "open", SAM_LICENCE, "random weights"),
    Model("transformers", "yonigozlan/sam3-litetext-s0", "548 M", "open", LITETEXT_LICENCE, "random weights"),
    Model(
        "transformers",
        "IDEA-Research/grounding-dino-tiny or -base, with facebook/sam2.1-hiera-tiny to -large",
        "204 to 449 M",
        "open",
        "Apache-2.0",
        "random weights",
    ),
    Model(
        "transformers",
        "google/owlv2-base-patch16-ensemble, with facebook/sam2.1-hiera-tiny to -large",
        "186 to 372 M",
        "open",
        "Apache-2.0",
        "random weights",
    ),
    Model("onnx", "ESPNetv2, VOC (config/voc_animals.yaml)", "0.79 M", "closed", "MIT", "these weights"),
    Model("onnx", "ESPNetv2, Cityscapes (config/camvid.yaml)", "0.79 M", "closed", "MIT", "these weights"),
    Model(
        "onnx",
        "DeepLabV3 with MobileNetV2, VOC (config/voc_animals_mobilenet.yaml)",
        "2.1 M",
        "closed",
        "conversion BSD-3, weights Google's",
        "these weights",
    ),
    Model(
        "onnx",
        "DeepLabV3+ of MLPerf Mobile, ADE20K (config/camvid_ade20k.yaml)",
        "2.3 M",
        "closed",
        "Apache-2.0",
        "these weights",
    ),
    Model("maps", "GLaMM (config/voc_glamm.yaml)", "", "open", "base model non-commercial", "no"),
)


def licence_of(weights: str) -> str | None:
    """Licence of published weights.

    weights: their name on the hub, or a folder or file that has the name of a model
    returns: None for weights that are not in MODELS
    """
    names = (weights, Path(weights).name)
    return next((model.licence for model in MODELS if set(names) & set(model.name.split(", "))), None)


def catalogue() -> str:
    """All adapters, each followed by its models, as text."""
    return "\n\n".join("\n".join(_lines(adapter)) for adapter in ADAPTERS)


def _lines(adapter: Adapter) -> list[str]:
    models = [line for model in MODELS if model.setting == adapter.setting for line in _model_lines(model)]
    return [
        adapter.setting,
        f"{INDENT}takes           {adapter.takes}",
        f"{INDENT}classes         {adapter.classes}",
        f"{INDENT}extra packages  {adapter.packages}",
        *models,
    ]


def _model_lines(model: Model) -> list[str]:
    size = f"{model.parameters} parameters" if model.parameters else "size not known here"
    facts = f"{size}; {model.vocabulary} vocabulary; {model.licence}; tried: {model.tried}"
    return [f"{INDENT}{model.name}", f"{3 * INDENT}{facts}"]
