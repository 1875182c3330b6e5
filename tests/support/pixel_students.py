"""Students that are formulas, so that their prediction for a pixel can be written down."""

import torch
from torch import nn

from train.machine.device import Compute


class FormulaStudent:
    """The interface of `train.student.Student` for a function uint8 [B, 3, H, W] -> float32 [B, K, H, W]."""

    def __init__(self, formula):
        self.formula = formula
        self.model = nn.Identity()
        self.compute = Compute(torch.device("cpu"), torch.float32)
        self.seen = []

    def logits(self, images):
        assert images.dtype == torch.uint8
        assert not self.model.training
        self.seen.append(tuple(images.shape))
        return self.formula(images)

    def classes(self, images):
        return self.formula(images).argmax(dim=1).to(torch.uint8)


def of_colour(images):
    """Three classes: red, green, blue, the stronger the more probable; every pixel by itself."""
    return images.float() / 50


def of_place(images):
    """Two classes, the second the more probable the further right and down a pixel is in what the student is given."""
    height, width = images.shape[-2:]
    ramp = torch.arange(height)[:, None] / 7 + torch.arange(width) / 5
    return torch.stack([images[:, 0].float() / 100, ramp.expand(len(images), -1, -1)], dim=1)
