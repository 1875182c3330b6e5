"""Paper Eq. 3, Eq. 4 and thresholds of groups written out with loops and fractions: the oracle of the fast versions.

Nothing here is used by the method, too: ranks, fractions and the grid of thresholds are computed independently.
"""

import bisect
import math
from fractions import Fraction

import numpy as np

IGNORE_INDEX = 255
KEEP_NOTHING = -1
GRID = [math.ldexp(1 + step / 1024, exponent) for exponent in range(-20, 0) for step in range(1024)] + [1.0]


def literal_q_hat(probabilities, masks, alpha, method):
    """Threshold of every location from the L x K x H x W array of Eq. 3.

    probabilities: float32 [L, K, H, W]
    masks:         uint8 [L, H, W], class index or 255
    method:        "exact" (finite-sample rank) or "paper" (plain interpolated quantile)
    returns:       float32 [H, W], +inf where there are too few scores, NaN where there is none
    """
    inverse = literal_inverse_maps(probabilities, masks)
    height, width = masks.shape[1:]
    q_hat = np.full((height, width), np.nan, dtype=np.float32)
    for a in range(height):
        for b in range(width):
            pooled = inverse[:, :, a, b].ravel()  # the scores of all classes, L * K values
            pooled = np.sort(pooled[~np.isnan(pooled)])
            if pooled.size:
                q_hat[a, b] = _quantile_of(pooled, alpha, method)
    return q_hat


def literal_inverse_maps(probabilities, masks):
    """Eq. 3: 1 - P at the true class of a pixel, NaN at all other classes. Returns float32 [L, K, H, W]."""
    inverse = np.full(probabilities.shape, np.nan, dtype=np.float32)
    for i, j, a, b in np.ndindex(probabilities.shape):
        if masks[i, a, b] != IGNORE_INDEX and masks[i, a, b] == j:
            inverse[i, j, a, b] = np.float32(1) - probabilities[i, j, a, b]
    return inverse


def literal_group_quantile(scores_of_images, alpha, method="exact", pooling="hierarchical"):
    """Threshold of a group of pixels.

    hierarchical: the smallest number of the grid above which the fractions of the images' pixels sum up to at most
                  (L + 1) alpha - 1 ("paper": L alpha)
    naive:        the score of that rank among all pixels, rounded up to the grid

    scores_of_images: of each image the scores of its pixels in the group; images without any do not count
    returns:          float, +inf where there are too few images (naive: pixels), NaN where there are none
    """
    images = [sorted(float(score) for score in scores) for scores in scores_of_images if len(scores)]
    pixels = sorted(score for scores in images for score in scores)
    if not pixels:
        return math.nan
    if pooling == "naive":
        rank = _rank(len(pixels), alpha, method)
        return grid_number_above(pixels[rank - 1]) if rank <= len(pixels) else math.inf
    exact_alpha = Fraction(repr(alpha))
    allowed = len(images) * exact_alpha if method == "paper" else (len(images) + 1) * exact_alpha - 1
    if allowed < 0:
        return math.inf
    candidates = sorted({GRID[0], *(grid_number_above(score) for score in pixels)})
    first = bisect.bisect_left(candidates, -allowed, key=lambda t: -sum(_fraction_above(one, t) for one in images))
    return candidates[first]


def literal_kernel_quantile(pixels_of_images, alpha, method="exact"):
    """Threshold of a cell: the smallest candidate above which the images' weighted fractions sum to what is allowed.

    pixels_of_images: of each image the (score, weight) of every pixel around the cell; images without any do not count
    returns:          float, one of every eighth number of the grid; +inf and NaN as `literal_group_quantile`
    """
    images = [pixels for pixels in pixels_of_images if pixels]
    if not images:
        return math.nan
    exact_alpha = Fraction(repr(alpha))
    allowed = len(images) * exact_alpha if method == "paper" else (len(images) + 1) * exact_alpha - 1
    if allowed < 0:
        return math.inf

    def above(candidate):
        weights = ([(weight, score > candidate) for score, weight in pixels] for pixels in images)
        return sum(Fraction(sum(w for w, is_above in one if is_above), sum(w for w, _ in one)) for one in weights)

    candidates = GRID[::8]
    return candidates[bisect.bisect_left(candidates, -allowed, key=lambda candidate: -above(candidate))]


def literal_risk_threshold(wrong_scores_of_images, num_valid_of_images, alpha):
    """The largest number of the grid at which (sum of the images' losses + 1) / (L + 1) <= alpha.

    wrong_scores_of_images: of each image the scores of the labels that are wrong
    num_valid_of_images:    its pixels with a true class; images without any do not count
    returns:                float, +inf if no threshold can keep that, KEEP_NOTHING if only labeling nothing can
    """
    pairs = zip(wrong_scores_of_images, num_valid_of_images, strict=True)
    images = [(sorted(float(score) for score in wrong), n) for wrong, n in pairs if n]
    exact_alpha, one_more = Fraction(repr(alpha)), len(images) + 1
    if Fraction(1, one_more) > exact_alpha:
        return math.inf
    for rise in sorted({grid_number_above(score) for wrong, _ in images for score in wrong}):
        loss = sum(Fraction(bisect.bisect_right(wrong, rise), n) for wrong, n in images)
        if (loss + 1) / one_more > exact_alpha:
            position = GRID.index(rise)
            return GRID[position - 1] if position else KEEP_NOTHING
    return GRID[-1]


def grid_number_above(score):
    """The smallest number of the grid that is not below a score in [0, 1]."""
    return GRID[bisect.bisect_left(GRID, float(score))]


def literal_labels(probabilities, q_hat, background, rule, uncalibrated):
    """Eq. 4 pixel by pixel from the prediction set itself.

    probabilities: float32 [K, H, W]
    q_hat:         float32 [H, W], or [K, H, W] class-wise
    background:    class index or None
    rule:          "paper", "no_background", "argmax", "singleton" or "raw"
    uncalibrated:  "abstain" or "accept": what +inf means
    returns:       float32 [H, W], NaN = abstain
    """
    labels = np.full(probabilities.shape[1:], np.nan, dtype=np.float32)
    for (a, b), prediction_set in literal_sets(probabilities, q_hat, uncalibrated).items():
        label = _RULES[rule](prediction_set, probabilities[:, a, b], background)
        if label is not None:
            labels[a, b] = label
    return labels


def literal_sets(probabilities, q_hat, uncalibrated):
    """Classes j with 1 - P_j <= q_j, in ascending order, by location (a, b). Arguments as in `literal_labels`."""
    q_of_classes = np.broadcast_to(q_hat, probabilities.shape)
    sets = {}
    for a, b in np.ndindex(probabilities.shape[1:]):
        sets[a, b] = []
        for j, threshold in enumerate(q_of_classes[:, a, b]):
            is_open = threshold == np.inf and uncalibrated == "abstain"
            if not is_open and np.float32(1) - probabilities[j, a, b] <= threshold:
                sets[a, b].append(j)
    return sets


def _fraction_above(scores, threshold):
    """Fraction of sorted scores above a threshold."""
    return Fraction(len(scores) - bisect.bisect_right(scores, threshold), len(scores))


def _rank(n, alpha, method):
    """Rank of the threshold among n scores; "paper": the smallest with at most n alpha of them above."""
    return math.ceil((n + (method == "exact")) * (1 - Fraction(repr(alpha))))


def _quantile_of(scores, alpha, method):
    """scores: sorted float32 [n], n > 0."""
    if method == "paper":
        return np.quantile(scores.astype(np.float64), 1 - alpha)
    rank = _rank(scores.size, alpha, method)
    return scores[rank - 1] if rank <= scores.size else np.inf


def _most_probable(classes, pixel):
    """argmin of 1 - P, that is argmax of P (no rounding), the lowest index among equals; None of none."""
    return min(classes, key=lambda j: (-pixel[j], j), default=None)


def _paper(prediction_set, pixel, background):
    foreground = [j for j in prediction_set if j != background]
    return _most_probable(foreground, pixel) if foreground else _most_probable(prediction_set, pixel)


def _no_background(prediction_set, pixel, background):
    return _most_probable(prediction_set, pixel)


def _argmax(prediction_set, pixel, background):
    best = _most_probable(range(len(pixel)), pixel)
    return best if best in prediction_set else None


def _singleton(prediction_set, pixel, background):
    return prediction_set[0] if len(prediction_set) == 1 else None


def _raw(prediction_set, pixel, background):
    return _most_probable(range(len(pixel)), pixel)


_RULES = {
    "paper": _paper,
    "no_background": _no_background,
    "argmax": _argmax,
    "singleton": _singleton,
    "raw": _raw,
}
