"""The annotators: one section of `annotate` for each type."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from pipeline.settings.licences import licence_note
from pipeline.settings.section import Section, runtime
from pipeline.settings.values import FACTORY, TEMPLATE, Device, Size, VisibleText

MAX_LOGIT_BIAS = 80.0  # exp(80) fits into a float32

Colour = Annotated[list[Annotated[int, Field(ge=0, le=255)]], Field(min_length=3, max_length=3)]


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
    templates: list[Annotated[str, Field(pattern=TEMPLATE)]] | None = Field(None, min_length=1)
    """Sentences with {} in place of the class name, whose embeddings are averaged. Default: SEEM's 81 sentences. Mode
    grounding uses none."""
    precision: Literal["float32", "bfloat16", "float16"] = "float32"
    """Autocast type of the network. Softmax, sigmoid and sums are always computed in float32."""
    device: Device = runtime("auto")
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
    device: Device = runtime("auto")
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

    factory: str = Field(pattern=FACTORY)
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
