"""Non-conformity scores of labeled images: 1 - P(true class)."""

import numpy as np
import numpy.typing as npt

IGNORE_INDEX = 255  # in a mask: the pixel has no class (void)


def true_class_scores(
    probabilities: npt.NDArray[np.float32], mask: npt.NDArray[np.uint8], ignore_index: int = IGNORE_INDEX
) -> npt.NDArray[np.float32]:
    """The score 1 - P(true class) of every labeled pixel (paper Eq. 3, without its array of K maps of mostly NaN).

    probabilities: float32 [K, H, W] in [0, 1]
    mask:          uint8 [H, W], class index 0..K - 1 or ignore_index
    returns:       float32 [H, W] in [0, 1], NaN where the mask is ignore_index
    raises:        ValueError if the mask contains another value, or if the probability of a true class is NaN or
                   infinite, which is an error of the annotator and must not be mistaken for void
    """
    num_classes, height, width = probabilities.shape
    # indices into the flattened map, which take half the time of take_along_axis
    index = true_class_index(mask, num_classes, ignore_index).ravel()
    index *= height * width
    index += np.arange(height * width)
    return scores_of(probabilities.reshape(-1).take(index).reshape(height, width), mask == ignore_index)


def true_class_index(
    mask: npt.NDArray[np.uint8], num_classes: int, ignore_index: int = IGNORE_INDEX
) -> npt.NDArray[np.intp]:
    """The class of every labeled pixel, and 0 for the others: intp [H, W]; errors and mask as `true_class_scores`."""
    void = mask == ignore_index
    if (mask[~void] if void.any() else mask).max(initial=0) >= num_classes:
        raise ValueError(_unknown_classes(mask[~void], num_classes))
    return np.where(void, 0, mask).astype(np.intp)


def scores_of(p_true: npt.NDArray[np.float32], void: npt.NDArray[np.bool_]) -> npt.NDArray[np.float32]:
    """`true_class_scores` from the probability of the true class of every pixel.

    p_true:  float32 [H, W] in [0, 1]; not used where the pixel is void
    void:    bool [H, W], whether a pixel has no class
    """
    scores: npt.NDArray[np.float32] = 1 - p_true
    num_broken = np.count_nonzero(~(np.isfinite(scores) | void))
    if num_broken:
        raise ValueError(
            f"the probability of the true class is NaN or infinite at {num_broken} of {np.count_nonzero(~void)} "
            "labeled pixels"
        )
    scores[void] = np.nan
    return scores


def _unknown_classes(classes: npt.NDArray[np.uint8], num_classes: int) -> str:
    unknown = np.unique(classes[classes >= num_classes]).tolist()
    return f"mask holds class {unknown}, but the probability map has classes 0 to {num_classes - 1} only"
