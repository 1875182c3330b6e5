"""The folder of a network and the kind of its architecture, found without importing torch or transformers."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

from pipeline.annotators.hub.labels import labels_of
from pipeline.errors import AnnotatorError
from pipeline.files import read_json
from pipeline.pretrained import holds_none, hub_folder
from pipeline.settings import DataSettings, TransformersSettings, sam_licence_note

SETTING, MASK_SETTING = "annotate.transformers.model", "annotate.transformers.mask_model"
UNIVERSAL = ("mask2former", "oneformer", "eomt", "eomt_dinov3")  # types of networks whose outputs are read
CLIPSEG = "CLIPSegForImageSegmentation"
SAM3 = ("Sam3Model", "Sam3VideoModel", "Sam3LiteTextModel")  # of a video model, the detector is used
SAM2 = ("Sam2Model", "Sam2VideoModel")  # of a video model, the part for images is used
DEFAULT_SAM2 = "facebook/sam2.1-hiera-large"

Kind = Literal["semantic", "universal", "clipseg", "sam3", "grounding_dino", "owlv2", "sam2"]
PROMPTED: dict[Kind, str] = {  # kinds without labels, and their names
    "clipseg": "CLIPSeg",
    "sam3": "SAM 3",
    "grounding_dino": "Grounding DINO",
    "owlv2": "OWLv2",
}
DETECTORS: dict[str, Kind] = {  # architectures that give boxes, of which SAM 2 gives the masks
    "GroundingDinoForObjectDetection": "grounding_dino",
    "MMGroundingDinoForObjectDetection": "grounding_dino",
    "Owlv2ForObjectDetection": "owlv2",
}


def local_folder(name: str, data: DataSettings) -> Path | None:
    """The folder that a setting names, None for a name on the hub."""
    folder = Path(data.root) / name
    return folder if folder.is_dir() else None


def network_folder(settings: TransformersSettings, data: DataSettings) -> Path:
    """The folder of the network, downloaded if necessary; NetworkError if there is none."""
    return _folder(settings.model, SETTING, "google/deeplabv3_mobilenet_v2_1.0_513", data)


def mask_model(settings: TransformersSettings, folder: Path) -> str | None:
    """Name of the SAM 2 that the detector in a folder needs, None for another network.

    raises: AnnotatorError if `mask_model` is set for another network
    """
    kind = kind_of(folder)
    if kind in DETECTORS.values():
        return settings.mask_model or DEFAULT_SAM2
    if settings.mask_model is None:
        return None
    raise AnnotatorError(
        f"{MASK_SETTING} gives the masks of the boxes of a detector, but {folder} is a {kind} network; remove it"
    )


def mask_folder(name: str, data: DataSettings) -> Path:
    """The folder of the SAM 2 that `mask_model` names, downloaded if necessary.

    raises: NetworkError if there is none; AnnotatorError if it has another architecture
    """
    folder = _folder(name, MASK_SETTING, DEFAULT_SAM2, data)
    refuse_other_than_sam2(folder)
    return folder


def _folder(name: str, setting: str, example: str, data: DataSettings) -> Path:
    return local_folder(name, data) or hub_folder(
        name,
        setting,
        f"set {setting} to a folder in transformers format, relative to data.root {data.root} (on a machine with a "
        f"network: hf download {example} --local-dir FOLDER)",
    )


def closed_vocabulary(folder: Path) -> list[str] | None:
    """Labels of the network in a folder by their number, None if it is prompted; raises what `kind_of` raises."""
    return None if kind_of(folder) in PROMPTED else labels_of(_content(folder).get("id2label") or {})


def kind_of(folder: Path) -> Kind:
    """Kind of the network in a folder, by the architecture that its config.json names.

    raises: NetworkError without a readable config.json; AnnotatorError for another architecture
    """
    content, architecture = _content(folder), _architecture(folder)
    if architecture.endswith("ForSemanticSegmentation"):
        return "semantic"
    if architecture.endswith("ForUniversalSegmentation") and content.get("model_type") in UNIVERSAL:
        return "universal"
    if architecture == CLIPSEG:
        return "clipseg"
    if architecture in SAM3:
        return "sam3"
    if architecture in DETECTORS:
        return DETECTORS[architecture]
    if architecture in SAM2:
        raise AnnotatorError(
            f"{folder} is SAM 2, which needs boxes; set {MASK_SETTING} to it, and {SETTING} to a detector that is "
            "prompted with words, such as IDEA-Research/grounding-dino-base"
        )
    raise AnnotatorError(
        f"{folder / 'config.json'} has the architecture {architecture or 'none'}, expected ...ForSemanticSegmentation, "
        f"Mask2FormerForUniversalSegmentation, OneFormerForUniversalSegmentation, EomtForUniversalSegmentation, "
        f"{CLIPSEG}, {SAM3[0]}, {SAM3[2]}, {', '.join(DETECTORS)}; set {SETTING} to such a network"
    )


def refuse_other_than_sam2(folder: Path) -> None:
    """AnnotatorError if the network in a folder is not SAM 2; NetworkError without a readable config.json."""
    architecture = _architecture(folder)
    if architecture not in SAM2:
        raise AnnotatorError(
            f"{folder / 'config.json'} has the architecture {architecture or 'none'}, expected {' or '.join(SAM2)}, "
            f"which gives the masks of boxes; set {MASK_SETTING} to such a network, or remove it to use {DEFAULT_SAM2}"
        )


def _architecture(folder: Path) -> str:
    return next(iter(_content(folder).get("architectures") or []), "")


def licence_note(settings: TransformersSettings, folder: Path | None) -> str | None:
    """Licence note on the weights, by their name and their architecture; None if no restriction is known.

    folder: of the network; None if it is not on this machine
    raises: what `kind_of` raises
    """
    is_sam3 = folder is not None and kind_of(folder) == "sam3"
    return sam_licence_note(settings.model) if is_sam3 else settings.licence_note


def _content(folder: Path) -> dict[str, Any]:
    """Content of config.json; NetworkError if it is missing or unreadable."""
    try:
        content: dict[str, Any] = read_json(folder / "config.json")
    except (OSError, ValueError) as error:
        raise holds_none(folder, error) from None
    return content
