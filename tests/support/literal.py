"""Paper Eq. 3 and Eq. 4 written out word for word with loops and full arrays: the oracle of the fast versions."""

import decimal

import numpy as np

IGNORE_INDEX = 255


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


def literal_labels(probabilities, q_hat, background, rule, uncalibrated):
    """Eq. 4 pixel by pixel from the prediction set itself.

    probabilities: float32 [K, H, W]
    q_hat:         float32 [H, W]
    background:    class index or None
    rule:          "paper", "argmax" or "singleton"
    uncalibrated:  "abstain" or "accept": what +inf means
    returns:       float32 [H, W], NaN = abstain
    """
    labels = np.full(q_hat.shape, np.nan, dtype=np.float32)
    for a, b in np.ndindex(q_hat.shape):
        threshold = q_hat[a, b]
        if threshold == np.inf and uncalibrated == "abstain":
            continue
        pixel = probabilities[:, a, b]
        prediction_set = [j for j in range(len(pixel)) if np.float32(1) - pixel[j] <= threshold]
        label = _RULES[rule](prediction_set, pixel, background)
        if label is not None:
            labels[a, b] = label
    return labels


def _quantile_of(scores, alpha, method):
    """scores: sorted float32 [n], n > 0."""
    if method == "paper":
        return np.quantile(scores.astype(np.float64), 1 - alpha)
    confidence = decimal.Decimal(1) - decimal.Decimal(repr(alpha))
    rank = int(((scores.size + 1) * confidence).to_integral_value(decimal.ROUND_CEILING))
    return scores[rank - 1] if rank <= scores.size else np.inf


def _most_probable(classes, pixel):
    """argmin of 1 - P, that is argmax of P (no rounding), the lowest index among equals; None of none."""
    return min(classes, key=lambda j: (-pixel[j], j), default=None)


def _paper(prediction_set, pixel, background):
    foreground = [j for j in prediction_set if j != background]
    return _most_probable(foreground, pixel) if foreground else _most_probable(prediction_set, pixel)


def _argmax(prediction_set, pixel, background):
    return _most_probable(prediction_set, pixel)


def _singleton(prediction_set, pixel, background):
    return prediction_set[0] if len(prediction_set) == 1 else None


_RULES = {"paper": _paper, "argmax": _argmax, "singleton": _singleton}
