"""`evaluate`: how the student predicts, and what is measured."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from pipeline.settings.section import Section, runtime


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
