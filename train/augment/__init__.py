"""Augmentation: drawn in the loader as plain numbers, applied on the device to the whole batch.

The numbers come from a `random.Random` that the caller seeds, so a view depends on its image's seed alone: on no other
image of the batch, on no number of workers or processes, on no generator of the device.
"""

from train.augment.cutmix import Box, cutmix, draw_box, partners
from train.augment.strong import Photometric, draw_photometric, strong_views
from train.augment.weak import Geometry, draw_geometry, target_view, weak_view, weak_views

__all__ = [
    "Box",
    "Geometry",
    "Photometric",
    "cutmix",
    "draw_box",
    "draw_geometry",
    "draw_photometric",
    "partners",
    "strong_views",
    "target_view",
    "weak_view",
    "weak_views",
]
