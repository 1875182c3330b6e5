"""Non-conformity scores: how badly a probability map fits the mask of a labeled image."""

import numpy as np
import numpy.typing as npt


def true_class_scores(
    probabilities: npt.NDArray[np.float32], mask: npt.NDArray[np.uint8], ignore_index: int = 255
) -> npt.NDArray[np.float32]:
    """Score every labeled pixel by 1 - P(its true class) (paper Eq. 3, without that equation's K-fold NaN array).

    probabilities: float32 [K, H, W] in [0, 1]
    mask:          uint8 [H, W], class index 0..K-1 or ignore_index
    returns:       float32 [H, W] in [0, 1], NaN where the mask is ignore_index
    raises:        ValueError if the mask holds another value, or if the true class of a pixel has a probability that
                   is NaN or infinite: that is a fault of the annotator, and must not pass for void
    """
    num_classes, height, width = probabilities.shape
    void = mask == ignore_index
    if (mask[~void] if void.any() else mask).max(initial=0) >= num_classes:
        raise ValueError(_unknown_classes(mask[~void], num_classes))
    place = np.where(void, 0, mask).astype(np.intp).ravel()  # in the flattened map: half the time of take_along_axis
    place *= height * width
    place += np.arange(height * width)
    scores: npt.NDArray[np.float32] = 1 - probabilities.reshape(-1).take(place).reshape(height, width)
    broken = np.count_nonzero(~(np.isfinite(scores) | void))
    if broken:
        raise ValueError(
            f"the probability of the true class is NaN or infinite at {broken} of {np.count_nonzero(~void)} labeled "
            "pixels"
        )
    scores[void] = np.nan
    return scores


def _unknown_classes(classes: npt.NDArray[np.uint8], num_classes: int) -> str:
    unknown = np.unique(classes[classes >= num_classes]).tolist()
    return f"mask holds class {unknown}, but the probability map has classes 0 to {num_classes - 1} only"
