"""Augmentation: the loader draws parameters for each image, and the device applies them to the whole batch.

The parameters are drawn from a `random.Random` that the caller seeds. A view therefore depends on the seed of its image
only, and not on the other images of the batch, the number of workers or processes, or a generator of the device.
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
