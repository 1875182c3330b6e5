"""`stage1`: training on labels and stored pseudo-labels."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from pipeline.settings.section import Section, shorthand


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
