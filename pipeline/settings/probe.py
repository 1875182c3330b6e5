"""`probe`: small students that compare labels."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from pydantic import Field, model_validator

from pipeline.settings.section import Section
from pipeline.settings.train import STUDENTS
from pipeline.settings.values import did_you_mean, refuse_duplicates
from pipeline.student_folders import indivisible_network


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
        refuse_duplicates(self.unlabeled_weights, "unlabeled_weights", "weight")
        return self
