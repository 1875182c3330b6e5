"""Do the promises hold? Cross-fitting on the labeled images: each fold is judged by thresholds of the other folds.

Coverage is what conformal prediction promises. Precision, the share of the labels that are right, is another thing: a
set that covers may hold several classes, and a label may be the wrong one of them. A student needs labels of every
class: mIoU, in which a pixel without a label is a pixel that was missed and every class counts the same, orders labels
as the students do that learn from them. Beside all of them stands the annotator's own argmax on the same images.
Pixels of an image are not independent, so every interval comes from resampling whole images.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from calib.judgement import Judgement

NUM_RESAMPLES = 2000  # the ends of an interval then vary by 1.6 % of its width (sd) from seed to seed


class Estimate(NamedTuple):
    """Shares over all images, each float64 of one shape; NaN where there is nothing to share.

    value:     sum of the parts / sum of the wholes
    low, high: 95 % interval, by bootstrap over images
    """

    value: npt.NDArray[np.float64]
    low: npt.NDArray[np.float64]
    high: npt.NDArray[np.float64]


class Raw(NamedTuple):
    """What held-out images say of the annotator's own argmax, which labels every pixel and needs no threshold.

    precision: [], share of the pixels that are right
    precision_per_class, recall_per_class: [K], by label and by true class
    miou:      []
    """

    precision: Estimate
    precision_per_class: Estimate
    recall_per_class: Estimate
    miou: Estimate


class AgainstRaw(NamedTuple):
    """Labels of A alphas and R rules beside the annotator's own argmax, paired over the images: [A, R] each.

    Thresholded on its own confidence, the argmax keeps any share of the pixels. The confidence at which it keeps as
    many as the labels do is found on the held-out images without their true classes, so nothing has to be cross-fitted;
    of pixels in the same bin of confidence (`judgement.GRID_STEPS`), a random part is kept.

    same_keep:           precision of the argmax at the keep rate of the labels
    precision:           that of the labels minus that of the argmax at every pixel
    precision_same_keep: that of the labels minus `same_keep`
    miou:                that of the labels minus that of the argmax at every pixel
    """

    same_keep: Estimate
    precision: Estimate
    precision_same_keep: Estimate
    miou: Estimate


class HeldOut(NamedTuple):
    """What held-out images say of A alphas and R rules.

    coverage:           [A], share of the pixels with a true class whose class is in the set
    coverage_per_class: [A, K]
    coverage_per_image: float64 [L, A], NaN for an image without a true class
    image_coverage:     [A], mean of these over the images: each counts the same, whatever its number of valid pixels
    uncalibrated:       float64 [A], share covered only because no finite threshold exists
    sizes:              [A, 3], shares of the sets that are empty, of one class, of several
    precision:          [A, R], share of the labels that are right
    precision_per_class: [A, R, K], by label
    recall_per_class:   [A, R, K], share of the pixels of a true class that are labeled with it
    miou:               [A, R], mean IoU over the classes that have pixels; a pixel without a label is missed
    keep_rate:          [A, R], share of the pixels that are labeled
    wrong:              [A, R], share of the pixels that are labeled wrong; what variant risk bounds is its mean over
                        images, the same if these have equally many pixels with a true class
    against_raw:        [A, R]
    raw:                the same for all alphas and rules
    """

    coverage: Estimate
    coverage_per_class: Estimate
    coverage_per_image: npt.NDArray[np.float64]
    image_coverage: Estimate
    uncalibrated: npt.NDArray[np.float64]
    sizes: Estimate
    precision: Estimate
    precision_per_class: Estimate
    recall_per_class: Estimate
    miou: Estimate
    keep_rate: Estimate
    wrong: Estimate
    against_raw: AgainstRaw
    raw: Raw

    def without(self, alpha_index: int) -> "HeldOut":
        """The same, with NaN for all shares at one alpha but `uncalibrated`."""
        cleared: dict[str, Any] = {
            "coverage_per_image": _cleared(self.coverage_per_image, alpha_index, axis=1),
            "against_raw": AgainstRaw(*(_cleared_estimate(shares, alpha_index) for shares in self.against_raw)),
        }
        for name, shares in self._asdict().items():
            if isinstance(shares, Estimate):
                cleared[name] = _cleared_estimate(shares, alpha_index)
        return self._replace(**cleared)


def _cleared_estimate(shares: Estimate, index: int) -> Estimate:
    return Estimate(*(_cleared(values, index, axis=0) for values in shares))


def _cleared(values: npt.NDArray[np.float64], index: int, axis: int) -> npt.NDArray[np.float64]:
    values = values.copy()
    values[(slice(None),) * axis + (index,)] = np.nan
    return values


def assign_folds(num_images: int, folds: int) -> npt.NDArray[np.int64]:
    """Deal the images out to the folds in turn. Returns int64 [L], 0..folds - 1; ValueError unless 2 <= folds <= L."""
    if not 2 <= folds <= num_images:
        raise ValueError(f"folds must lie between 2 and the number of images ({num_images}), got {folds}")
    return np.arange(num_images) % folds


def summarise(judgements: Sequence[Judgement], rng: np.random.Generator) -> HeldOut:
    """Turn the counts of all held-out images into shares with intervals. rng: draws the bootstrap samples."""
    counts = Judgement(*(np.stack(parts) for parts in zip(*judgements, strict=True)))
    weights = _bootstrap_weights(len(judgements), rng)
    valid = counts.valid.sum(axis=1)  # [L]
    kept, right = counts.kept.sum(axis=3), counts.right.sum(axis=3)  # [L, A, R]
    covered = counts.covered.sum(axis=2)  # [L, A]
    per_image = _share(covered, np.broadcast_to(valid[:, None], covered.shape))
    miou = _mean_iou(counts.right, counts.kept, counts.valid, weights)
    raw_miou = _mean_iou(counts.raw_right[:, None, None], counts.raw_kept[:, None, None], counts.valid, weights)
    return HeldOut(
        coverage=estimate(covered, valid[:, None], weights),
        coverage_per_class=estimate(counts.covered, counts.valid[:, None], weights),
        coverage_per_image=per_image,
        image_coverage=estimate(np.nan_to_num(per_image), (valid > 0)[:, None], weights),
        uncalibrated=_share(counts.uncalibrated.sum(axis=0), np.full(covered.shape[1], valid.sum())),
        sizes=estimate(counts.sizes, valid[:, None, None], weights),
        precision=estimate(right, kept, weights),
        precision_per_class=estimate(counts.right, counts.kept, weights),
        recall_per_class=estimate(counts.right, counts.valid[:, None, None], weights),
        miou=_interval(*miou),
        keep_rate=estimate(kept, valid[:, None, None], weights),
        wrong=estimate(kept - right, valid[:, None, None], weights),
        against_raw=_against_raw(counts, weights, miou, raw_miou),
        raw=Raw(
            estimate(counts.raw_right.sum(axis=1), valid, weights),
            estimate(counts.raw_right, counts.raw_kept, weights),
            estimate(counts.raw_right, counts.valid, weights),
            _interval(*(values[..., 0, 0] for values in raw_miou)),
        ),
    )


def _bootstrap_weights(num_images: int, rng: np.random.Generator) -> npt.NDArray[np.float64]:
    """How often each image is drawn in each resample, float64 [NUM_RESAMPLES, L]."""
    return rng.multinomial(num_images, np.full(num_images, 1 / num_images), size=NUM_RESAMPLES).astype(np.float64)


Resampled = tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]
"""A number of some shape over all images, and in each resample: [...], [NUM_RESAMPLES, ...]."""


def estimate(part: npt.ArrayLike, whole: npt.ArrayLike, weights: npt.NDArray[np.float64]) -> Estimate:
    """A share over images and its interval. part, whole: counts [L, ...], broadcast to each other."""
    return _interval(*_resampled_share(part, whole, weights))


def _resampled_share(part: npt.ArrayLike, whole: npt.ArrayLike, weights: npt.NDArray[np.float64]) -> Resampled:
    part, whole = np.broadcast_arrays(np.asarray(part, np.float64), np.asarray(whole, np.float64))
    parts, wholes = (np.tensordot(weights, counts, axes=1) for counts in (part, whole))
    return _share(part.sum(axis=0), whole.sum(axis=0)), _share(parts, wholes)


def _interval(value: npt.NDArray[np.float64], resampled: npt.NDArray[np.float64]) -> Estimate:
    ordered = np.sort(np.moveaxis(resampled, 0, -1), axis=-1)  # NaN comes last
    num_known = (~np.isnan(ordered)).sum(axis=-1)
    ends = (_quantile(ordered, num_known, level) for level in (0.025, 0.975))
    unknown = np.isnan(value)
    return Estimate(value, *(np.where(unknown, np.nan, end) for end in ends))


def _quantile(
    ordered: npt.NDArray[np.float64], num_known: npt.NDArray[np.integer], level: float
) -> npt.NDArray[np.float64]:
    """Quantile, interpolated, of the first `num_known` values along the last axis (np.nanquantile takes far longer)."""
    position = level * np.maximum(num_known - 1, 0)
    below = np.floor(position).astype(np.intp)
    above = np.minimum(below + 1, np.maximum(num_known - 1, 0))
    lower, upper = (np.take_along_axis(ordered, place[..., None], axis=-1)[..., 0] for place in (below, above))
    result: npt.NDArray[np.float64] = lower + (position - below) * (upper - lower)
    return result


def _mean_iou(
    right: npt.NDArray[np.integer],
    kept: npt.NDArray[np.integer],
    valid: npt.NDArray[np.integer],
    weights: npt.NDArray[np.float64],
) -> Resampled:
    """Mean over the classes that have pixels, each alike: [A, R] and [NUM_RESAMPLES, A, R].

    right, kept: [L, A, R, K] by label; valid: [L, K] by true class. IoU of a class: of the pixels that are labeled so
    or are of that class (whether they have a label or not), the share that is both.
    """
    over_images = np.ones((1, len(valid)))
    value = np.stack([_mean_iou_of(right[:, a], kept[:, a], valid, over_images)[0] for a in range(right.shape[1])])
    # an alpha at a time: with 150 classes, the resamples of one take 20 MB
    resampled = [_mean_iou_of(right[:, a], kept[:, a], valid, weights) for a in range(right.shape[1])]
    return value, np.stack(resampled, axis=1)


def _mean_iou_of(
    right: npt.NDArray[np.integer],
    kept: npt.NDArray[np.integer],
    valid: npt.NDArray[np.integer],
    weights: npt.NDArray[np.float64],
) -> npt.NDArray[np.float64]:
    """float64 [B, R], NaN where no class has a pixel. right, kept: [L, R, K]; valid: [L, K]; weights: [B, L]."""
    rights, kepts = (np.tensordot(weights, counts.astype(np.float64), axes=1) for counts in (right, kept))
    valids = (weights @ valid)[:, None]
    iou = _share(rights, kepts + valids - rights)
    there = np.broadcast_to(valids > 0, iou.shape)
    return _share(np.where(there, iou, 0).sum(axis=2), there.sum(axis=2))


def _against_raw(
    counts: Judgement, weights: npt.NDArray[np.float64], miou: Resampled, raw_miou: Resampled
) -> AgainstRaw:
    kept, right = counts.kept.sum(axis=3), counts.right.sum(axis=3)  # [L, A, R]
    precision = _resampled_share(right, kept, weights)
    raw = _resampled_share(
        counts.raw_right.sum(axis=1)[:, None, None], counts.valid.sum(axis=1)[:, None, None], weights
    )
    raw_kept, raw_right = _most_confident(counts.confidence, kept.sum(axis=0))
    same_keep = _resampled_share(raw_right, raw_kept, weights)
    return AgainstRaw(
        _interval(*same_keep),
        _interval(*_difference(precision, raw)),
        _interval(*_difference(precision, same_keep)),
        _interval(*_difference(miou, raw_miou)),
    )


def _difference(first: Resampled, second: Resampled) -> Resampled:
    return first[0] - second[0], first[1] - second[1]


def _most_confident(
    confidence: npt.NDArray[np.integer], wanted: npt.NDArray[np.integer]
) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """Of so many most confident pixels of all images, those of each image, and the right ones: float64 [L, A, R] each.

    confidence: [L, NUM_CONFIDENCES, 2], the most confident first; wanted: [A, R]; of the last bin a part is taken
    """
    in_bin = confidence[..., 0].sum(axis=0)
    before = np.concatenate([[0], in_bin.cumsum()])
    last = np.clip(np.searchsorted(before, wanted, side="left") - 1, 0, len(in_bin) - 1)
    part = (wanted - before[last]) / np.maximum(in_bin[last], 1)
    up_to = np.concatenate([np.zeros_like(confidence[:, :1]), confidence.cumsum(axis=1)], axis=1)
    taken = up_to[:, last] + part[..., None] * confidence[:, last]  # [L, A, R, 2]
    return taken[..., 0], taken[..., 1]


def _share(part: npt.NDArray[np.number], whole: npt.NDArray[np.number]) -> npt.NDArray[np.float64]:
    """part / whole, NaN where the whole is 0."""
    share = np.full(np.shape(whole), np.nan)
    np.divide(part, whole, out=share, where=whole > 0)
    return share
