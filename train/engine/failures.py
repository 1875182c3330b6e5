"""Failures of a training step, as errors that name the settings to change."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import torch

from pipeline.errors import TrainingError, first_line
from train.engine.stage import Stage


@contextlib.contextmanager
def explained_errors(stage: Stage) -> Iterator[None]:
    """Turn out-of-memory errors, and batches too small for a batch norm, into errors that name the settings to change.

    raises: TrainingError
    """
    try:
        yield
    except torch.OutOfMemoryError as error:
        raise _out_of_memory(stage, error) from None
    except RuntimeError as error:
        if "not enough memory" not in str(error) and "allocate memory" not in str(error):
            raise
        raise _out_of_memory(stage, error) from None
    except ValueError as error:  # from a batch norm after pooling over the whole image
        if "Expected more than 1 value per channel" not in str(error):
            raise
        raise TrainingError(
            f"{stage.name}: the student's batch norm needs at least two images in a micro-batch, but one has fewer; "
            f"lower train.accumulate (now {stage.images.train.accumulate}), or raise the batch sizes of {stage.name}"
        ) from None


def _out_of_memory(stage: Stage, error: Exception) -> TrainingError:
    settings = stage.images.train
    return TrainingError(
        f"{stage.name} ran out of memory ({first_line(error)}); raise train.accumulate (now {settings.accumulate}), or "
        f"lower train.crop (now {settings.crop}) or the batch sizes of {stage.name}, which starts it from the beginning"
    )


def diverged(stage: Stage, reason: str) -> TrainingError:
    """The error for a loss or a weight that is NaN or infinite."""
    train = stage.images.train
    return TrainingError(
        f"{stage.name} diverged: {reason}; the last good checkpoint, if any, is kept; lower train.lr (now {train.lr}) "
        f"or train.head_lr_multiplier (now {train.head_lr_multiplier}), or set train.precision: float32"
    )
