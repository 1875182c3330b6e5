"""`annotate`: the annotator of a run, its views, and the members of an ensemble."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, model_validator

from pipeline.settings.annotators import (
    MapsSettings,
    OnnxSettings,
    PythonSettings,
    SeemSettings,
    StudentSettings,
    TransformersSettings,
)
from pipeline.settings.section import Section, runtime
from pipeline.settings.values import did_you_mean, refuse_duplicates

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
        refuse_duplicates(self.scales, "scales", "scale")
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
