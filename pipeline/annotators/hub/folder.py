"""The folder of a network and the kind of its architecture, found without importing torch or transformers."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

from pipeline.annotators.hub.labels import labels_of
from pipeline.errors import AnnotatorError
from pipeline.files import read_json
from pipeline.pretrained import holds_none, hub_folder
from pipeline.settings import DataSettings, TransformersSettings, sam_licence_note

SETTING = "annotate.transformers.model"
UNIVERSAL = ("mask2former", "oneformer", "eomt", "eomt_dinov3")  # types of networks whose outputs are read
CLIPSEG = "CLIPSegForImageSegmentation"
SAM3 = ("Sam3Model", "Sam3VideoModel", "Sam3LiteTextModel")  # of a video model, the detector is used

Kind = Literal["semantic", "universal", "clipseg", "sam3"]
PROMPTED: dict[Kind, str] = {"clipseg": "CLIPSeg", "sam3": "SAM 3"}  # kinds without labels, and their names


def local_folder(settings: TransformersSettings, data: DataSettings) -> Path | None:
    """The folder that the settings name, None for a name on the hub."""
    folder = Path(data.root) / settings.model
    return folder if folder.is_dir() else None


def network_folder(settings: TransformersSettings, data: DataSettings) -> Path:
    """The folder of the network, downloaded if necessary; NetworkError if there is none."""
    return local_folder(settings, data) or hub_folder(
        settings.model,
        SETTING,
        f"set {SETTING} to a folder in transformers format, relative to data.root {data.root} (on a machine with a "
        "network: hf download google/deeplabv3_mobilenet_v2_1.0_513 --local-dir FOLDER)",
    )


def closed_vocabulary(folder: Path) -> list[str] | None:
    """Labels of the network in a folder by their number, None if it is prompted; raises what `kind_of` raises."""
    return None if kind_of(folder) in PROMPTED else labels_of(_content(folder).get("id2label") or {})


def kind_of(folder: Path) -> Kind:
    """Kind of the network in a folder, by the architecture that its config.json names.

    raises: NetworkError without a readable config.json; AnnotatorError for another architecture
    """
    content = _content(folder)
    architecture = next(iter(content.get("architectures") or []), "")
    if architecture.endswith("ForSemanticSegmentation"):
        return "semantic"
    if architecture.endswith("ForUniversalSegmentation") and content.get("model_type") in UNIVERSAL:
        return "universal"
    if architecture == CLIPSEG:
        return "clipseg"
    if architecture in SAM3:
        return "sam3"
    raise AnnotatorError(
        f"{folder / 'config.json'} has the architecture {architecture or 'none'}, expected ...ForSemanticSegmentation, "
        f"Mask2FormerForUniversalSegmentation, OneFormerForUniversalSegmentation, EomtForUniversalSegmentation, "
        f"{CLIPSEG}, {SAM3[0]} or {SAM3[2]}; set {SETTING} to such a network"
    )


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
