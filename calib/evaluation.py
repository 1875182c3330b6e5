"""Do the promises hold? Cross-fitting on the labelled images: each fold is judged by thresholds of the other folds.

Coverage is what conformal prediction promises; precision, the share of the labels that are right, is what a student
needs. They are different things: a set that covers may hold several classes, and a label may be the wrong one of them.
Pixels of an image are not independent, so every interval comes from resampling whole images.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from calib.judgement import Judgement
from calib.rules import Rule

NUM_RESAMPLES = 2000  # the ends of an interval then vary by 1.6 % of its width (sd) from seed to seed


class Estimate(NamedTuple):
    """Shares over all images, each float64 of one shape; NaN where there is nothing to share.

    value:     sum of the parts / sum of the wholes
    low, high: 95 % interval, by bootstrap over images
    """

    value: npt.NDArray[np.float64]
    low: npt.NDArray[np.float64]
    high: npt.NDArray[np.float64]


class HeldOut(NamedTuple):
    """What held-out images say of A alphas and R rules.

    coverage:           [A], share of the pixels with a true class whose class is in the set
    coverage_per_class: [A, K]
    coverage_per_image: float64 [L, A], NaN for an image without a true class
    image_coverage:     [A], mean of these over the images: each counts the same, whatever its number of valid pixels
    uncalibrated:       float64 [A], share covered only for want of a finite threshold
    sizes:              [A, 3], shares of the sets that are empty, of one class, of several
    precision:          [A, R], share of the labels that are right
    precision_per_class: [A, R, K], by label
    keep_rate:          [A, R], share of the pixels that are labelled
    wrong:              [A, R], share of the pixels that are labelled wrong; what variant risk bounds is its mean over
                        images, the same if these have equally many pixels with a true class
    """

    coverage: Estimate
    coverage_per_class: Estimate
    coverage_per_image: npt.NDArray[np.float64]
    image_coverage: Estimate
    uncalibrated: npt.NDArray[np.float64]
    sizes: Estimate
    precision: Estimate
    precision_per_class: Estimate
    keep_rate: Estimate
    wrong: Estimate

    def without(self, alpha_index: int) -> "HeldOut":
        """The same, with NaN for all shares at one alpha but `uncalibrated`."""
        cleared: dict[str, Any] = {"coverage_per_image": _cleared(self.coverage_per_image, alpha_index, axis=1)}
        for name, shares in self._asdict().items():
            if isinstance(shares, Estimate):
                cleared[name] = Estimate(*(_cleared(values, alpha_index, axis=0) for values in shares))
        return self._replace(**cleared)


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
    return HeldOut(
        coverage=estimate(covered, valid[:, None], weights),
        coverage_per_class=estimate(counts.covered, counts.valid[:, None], weights),
        coverage_per_image=per_image,
        image_coverage=estimate(np.nan_to_num(per_image), (valid > 0)[:, None], weights),
        uncalibrated=_share(counts.uncalibrated.sum(axis=0), np.full(covered.shape[1], valid.sum())),
        sizes=estimate(counts.sizes, valid[:, None, None], weights),
        precision=estimate(right, kept, weights),
        precision_per_class=estimate(counts.right, counts.kept, weights),
        keep_rate=estimate(kept, valid[:, None, None], weights),
        wrong=estimate(kept - right, valid[:, None, None], weights),
    )


def _bootstrap_weights(num_images: int, rng: np.random.Generator) -> npt.NDArray[np.float64]:
    """How often each image is drawn in each resample, float64 [NUM_RESAMPLES, L]."""
    return rng.multinomial(num_images, np.full(num_images, 1 / num_images), size=NUM_RESAMPLES).astype(np.float64)


def estimate(part: npt.ArrayLike, whole: npt.ArrayLike, weights: npt.NDArray[np.float64]) -> Estimate:
    """A share over images and its interval. part, whole: counts [L, ...], broadcast to each other."""
    part, whole = np.broadcast_arrays(np.asarray(part, np.float64), np.asarray(whole, np.float64))
    shape = part.shape[1:]
    parts, wholes = (weights @ counts.reshape(len(counts), -1) for counts in (part, whole))
    resampled = _share(parts, wholes)
    resampled = np.where(np.isnan(resampled).all(axis=0), 0, resampled)
    low, high = np.nanquantile(resampled, [0.025, 0.975], axis=0)
    value = _share(part.sum(axis=0), whole.sum(axis=0))
    unknown = np.isnan(value)
    return Estimate(value, *(np.where(unknown, np.nan, end.reshape(shape)) for end in (low, high)))


def _share(part: npt.NDArray[np.number], whole: npt.NDArray[np.number]) -> npt.NDArray[np.float64]:
    """part / whole, NaN where the whole is 0."""
    share = np.full(np.shape(whole), np.nan)
    np.divide(part, whole, out=share, where=whole > 0)
    return share


class Candidate(NamedTuple):
    """Held-out precision and keep rate of one rule at one alpha."""

    alpha: float
    rule: Rule
    precision: float
    keep_rate: float


def choose(candidates: Sequence[Candidate], target_precision: float) -> tuple[Candidate, bool]:
    """The rule and alpha that keep most labels at the target; the most precise ones, and False, if none reaches it.

    Among equals, the smaller alpha, then the rule that comes first. The winner of many candidates looks a little better
    than it is: its held-out precision is not a bound.

    raises: ValueError if no candidate labels anything
    """
    usable = _labelling(candidates)
    reaching = [candidate for candidate in usable if candidate.precision >= target_precision]
    if reaching:
        return max(reaching, key=lambda c: (c.keep_rate, -c.alpha)), True
    return max(usable, key=lambda c: (c.precision, c.keep_rate, -c.alpha)), False


def choose_most_precise(candidates: Sequence[Candidate], target_keep_rate: float) -> tuple[Candidate, bool]:
    """The most precise rule and alpha that keep this share or more; those that keep most, and False, if none does.

    Among equals as in `choose`; raises as it does.
    """
    usable = _labelling(candidates)
    reaching = [candidate for candidate in usable if candidate.keep_rate >= target_keep_rate]
    if reaching:
        return max(reaching, key=lambda c: (c.precision, c.keep_rate, -c.alpha)), True
    return max(usable, key=lambda c: (c.keep_rate, c.precision, -c.alpha)), False


def _labelling(candidates: Sequence[Candidate]) -> list[Candidate]:
    usable = [candidate for candidate in candidates if candidate.keep_rate > 0]
    if not usable:
        raise ValueError("no rule labels anything at any alpha")
    return usable


def pareto_front(candidates: Sequence[Candidate]) -> list[Candidate]:
    """Candidates that no other beats: from the most labels to the most precise ones.

    Each keeps more than all that are more precise. Among equals, the smaller alpha, then the rule that comes first.
    """
    front: list[Candidate] = []
    for candidate in sorted(candidates, key=lambda c: (-c.keep_rate, -c.precision, c.alpha)):
        if candidate.keep_rate > 0 and (not front or candidate.precision > front[-1].precision):
            front.append(candidate)
    return front
