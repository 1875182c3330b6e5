"""`stage2`: self-reliance."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from pipeline.settings.section import Section, shorthand


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
