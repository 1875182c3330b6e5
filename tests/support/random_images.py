"""Random images with maps and masks, as blocks of labeled maps."""

import numpy as np

from calib import class_planes
from calib.interface import Block
from calib.scores import IGNORE_INDEX


def random_image(rng, num_classes):
    """Maps [K, 5, 6] with ties and with probabilities near 0 and 1, and a mask with void pixels."""
    logits = rng.normal(size=(num_classes, 5, 6)).round(1) * rng.choice([1, 4, 16], (5, 6))
    maps = np.exp(logits - logits.max(axis=0))
    truth = rng.integers(0, num_classes, (5, 6)).astype(np.uint8)
    truth[rng.random((5, 6)) < 0.2] = IGNORE_INDEX
    return (maps / maps.sum(axis=0)).astype(np.float32), truth


def block_of(images, background):
    planes = [class_planes(maps, background)._asdict() for maps, _ in images]
    names = [name for name, plane in planes[0].items() if plane is not None]
    stacked = {name: np.stack([of_image[name] for of_image in planes]) for name in names}
    return Block(np.arange(len(images)), {"truth": np.stack([truth for _, truth in images]), **stacked})
