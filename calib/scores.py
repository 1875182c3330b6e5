"""Non-conformity scores: how badly a probability map fits the mask of a labelled image."""

import numpy as np
import numpy.typing as npt


def true_class_scores(
    probabilities: npt.NDArray[np.float32], mask: npt.NDArray[np.uint8], ignore_index: int = 255
) -> npt.NDArray[np.float32]:
    """Score every labelled pixel by 1 - P(its true class) (paper Eq. 3, without that equation's K-fold NaN array).

    probabilities: float32 [K, H, W] in [0, 1]
    mask:          uint8 [H, W], class index 0..K-1 or ignore_index
    returns:       float32 [H, W] in [0, 1], NaN where the mask is ignore_index
    raises:        ValueError if the mask holds another value, or if the true class of a pixel has a probability that
                   is NaN or infinite: that is a fault of the annotator, and must not pass for void
    """
    void = mask == ignore_index
    _refuse_unknown_classes(mask[~void], num_classes=len(probabilities))
    true_class = np.where(void, 0, mask)
    scores: npt.NDArray[np.float32] = 1 - np.take_along_axis(probabilities, true_class[np.newaxis], axis=0)[0]
    _refuse_broken_scores(scores[~void])
    scores[void] = np.nan
    return scores


def _refuse_unknown_classes(classes: npt.NDArray[np.uint8], num_classes: int) -> None:
    unknown = np.unique(classes[classes >= num_classes]).tolist()
    if unknown:
        raise ValueError(f"mask holds class {unknown}, but the probability map has classes 0 to {num_classes - 1} only")


def _refuse_broken_scores(scores: npt.NDArray[np.float32]) -> None:
    broken = np.count_nonzero(~np.isfinite(scores))
    if broken:
        raise ValueError(
            f"the probability of the true class is NaN or infinite at {broken} of {scores.size} labelled pixels"
        )
