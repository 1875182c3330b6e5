"""The relation of a pixel's true class to the two classes that a rule can label the pixel with."""

import numpy as np
import numpy.typing as npt

from calib.planes import Planes

BEST, BEHIND, OTHER, VOID = range(4)  # the true class: the best foreground class, the background, another, or none
RELATIONS = 4


def relations_to_truth(
    planes: Planes, truth: npt.NDArray[np.uint8], is_void: npt.NDArray[np.bool_], background: int | None
) -> npt.NDArray[np.uint8]:
    """BEST, BEHIND, OTHER or VOID of every pixel: uint8 [H, W].

    planes:     of the image, each [H, W]
    truth:      uint8 [H, W], true class; only used where the pixel has one
    is_void:    bool [H, W], whether the pixel has no true class
    background: index of the background class, None if there is none
    """
    is_best, is_behind = (truth == planes.best_foreground).view(np.uint8), (truth == background).view(np.uint8)
    relation = np.uint8(OTHER) - is_best * np.uint8(OTHER - BEST) - is_behind * np.uint8(OTHER - BEHIND)
    return np.where(is_void, np.uint8(VOID), relation)
