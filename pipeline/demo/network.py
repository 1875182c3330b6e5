"""A small fully-convolutional segmentation network: an encoder to stride 16 and a way back up to stride 4."""

import torch.nn.functional as F
from torch import Tensor, nn

WIDTHS = (24, 48, 80, 96)  # channels at strides 2, 4, 8, 16
STRIDE = 16  # heights and widths must be multiples of it


class SegmentationNetwork(nn.Module):
    """RGB images to class logits at a quarter of their resolution."""

    def __init__(self, num_classes: int) -> None:
        super().__init__()
        stem, quarter, eighth, sixteenth = WIDTHS
        self.to_quarter = nn.Sequential(_convolve(3, stem, 2), _convolve(stem, quarter, 2), Residual(quarter))
        self.to_eighth = nn.Sequential(_convolve(quarter, eighth, 2), Residual(eighth))
        self.to_sixteenth = nn.Sequential(_convolve(eighth, sixteenth, 2), Residual(sixteenth))
        self.up_to_eighth = nn.Conv2d(sixteenth, eighth, 1)
        self.mix_eighth = Residual(eighth)
        self.up_to_quarter = nn.Conv2d(eighth, quarter, 1)
        self.mix_quarter = Residual(quarter)
        self.classify = nn.Conv2d(quarter, num_classes, 1)

    def forward(self, images: Tensor) -> Tensor:
        """images: float [B, 3, H, W] in 0..1, H and W multiples of 16; returns logits float [B, C, H / 4, W / 4]."""
        quarter = self.to_quarter(2.0 * images - 1.0)
        eighth = self.to_eighth(quarter)
        sixteenth = self.to_sixteenth(eighth)
        eighth = self.mix_eighth(eighth + _double(self.up_to_eighth(sixteenth)))
        quarter = self.mix_quarter(quarter + _double(self.up_to_quarter(eighth)))
        return self.classify(quarter)


class Residual(nn.Module):
    """One 3 x 3 convolution around which the input also passes unchanged."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.change = _convolve(width, width, 1)

    def forward(self, features: Tensor) -> Tensor:
        return features + self.change(features)


def _convolve(width_in: int, width_out: int, stride: int) -> nn.Sequential:
    # Group instead of batch normalisation: the result for an image does not depend on its neighbours in the batch.
    return nn.Sequential(
        nn.Conv2d(width_in, width_out, 3, stride, padding=1, bias=False),
        nn.GroupNorm(8, width_out),
        nn.SiLU(),
    )


def _double(features: Tensor) -> Tensor:
    return F.interpolate(features, scale_factor=2, mode="bilinear", align_corners=False)
