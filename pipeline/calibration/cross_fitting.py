"""Cross-fitting: thresholds from the labeled images, judged on held-out labeled images, as facts for a receipt."""

from __future__ import annotations

import logging
import math
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
import numpy.typing as npt

import calib
from pipeline.calibration.stored_maps import StoredMaps
from pipeline.dask_tasks import run_tasks
from pipeline.progress import Progress
from pipeline.settings import CalibrateSettings, Settings
from pipeline.store import DONE, CalibrationStore, Handle, ProbabilityStore, open_calibration, open_probabilities

log = logging.getLogger(__name__)

Fact = dict[str, Any]

FEW_IMAGES = 100  # up to this many labeled images, the number of folds changes the ranks of the quantiles noticeably
FOLDS_MEGABYTES = 256  # memory for the thresholds of all folds at a time


class Calibrated(NamedTuple):
    """Thresholds, and estimates of their labels on held-out images.

    thresholds: from all labeled images
    fold:       int64 [N], fold of each image of the store, -1: not used for calibration
    rows:       facts, one row per alpha and rule; None with a single labeled image
    raw:        the same facts of the annotator's own argmax, without those about thresholds; None as `rows`
    """

    thresholds: calib.Thresholds
    fold: npt.NDArray[np.int64]
    rows: list[Fact] | None
    raw: Fact | None

    @property
    def num_images(self) -> int:
        return int(np.count_nonzero(self.fold >= 0))

    @property
    def num_folds(self) -> int:
        return int(self.fold.max()) + 1

    def held_out(self) -> Fact | None:
        """The estimates on held-out images, as stored in receipts and sweeps; None with a single labeled image."""
        if self.rows is None:
            return None
        return {"folds": self.num_folds, "num_images": self.num_images, "raw": self.raw, "rows": self.rows}


def fit_and_judge(
    settings: Settings,
    alphas: Sequence[float],
    policy: calib.Policy,
    store: CalibrationStore,
    probabilities: ProbabilityStore | None,
) -> Calibrated:
    """Compute thresholds from the finished images of a calibration store, and judge each fold by the other folds.

    Where each image is its own fold, the thresholds of all folds are many maps. Alphas are therefore fitted and judged
    a few at a time.

    policy:        treatment of thresholds that too few images support
    probabilities: maps on which class-wise thresholds are judged; may be None for pooled thresholds
    raises:        calib.CalibrationError if the policy is "raise" and an alpha is too small for the number of images
    """
    maps = _labeled_maps(settings, store)
    folds = num_folds(maps.num_images, settings.calibrate)
    fold_of_image = calib.assign_folds(maps.num_images, folds) if folds > 1 else np.zeros(1, np.int64)
    fold = np.full(len(store.status), -1)
    fold[maps.images] = fold_of_image
    jobs = _jobs(settings, store, probabilities, fold) if folds > 1 else []
    progress = Progress(log, "held-out images", len(jobs) * len(alphas), "judgements") if jobs else None
    final: list[calib.Thresholds] = []
    rows: list[Fact] = []
    raw = None
    for some_alphas in _chunks_of_alphas(alphas, folds, settings):
        fits = calib.fit(variant_of(settings, some_alphas), maps, fold_of_image)
        final.append(fits[0].resolve(policy))
        if progress is not None:
            # policy "raise" is about new images; the thresholds of folds have fewer images and only give estimates
            of_folds = [fit.resolve("max" if policy == "max" else "abstain") for fit in fits[1:]]
            judged = _judge_images(settings, store, jobs, of_folds, progress)
            # in the order of the images, so that the intervals do not depend on which task finished first
            held_out = calib.summarise(judged, np.random.default_rng(settings.seed))
            rows += _rows(settings, held_out, store.class_names, some_alphas, final[-1], jobs[0].rules, folds)
            raw = raw or _raw(settings, held_out, store.class_names)
    thresholds = final[0]._replace(q=np.concatenate([chunk.q for chunk in final]))
    return Calibrated(thresholds, fold, rows if jobs else None, raw)


def fit(settings: Settings, alphas: Sequence[float], policy: calib.Policy, store: CalibrationStore) -> calib.Thresholds:
    """Compute thresholds from all finished images of a calibration store, without judging them.

    raises: as `fit_and_judge`
    """
    maps = _labeled_maps(settings, store)
    (thresholds,) = calib.fit(variant_of(settings, alphas), maps, np.zeros(maps.num_images, np.int64))
    return thresholds.resolve(policy)


def _labeled_maps(settings: Settings, store: CalibrationStore) -> StoredMaps:
    images = np.flatnonzero(store.status == DONE).tolist()
    height, width = settings.data.grid
    return StoredMaps(store.handle, images, (height, width), settings.compute)


def num_folds(num_images: int, settings: CalibrateSettings) -> int:
    """Number of cross-fitting folds: that of the settings, or a default that keeps the time short."""
    if settings.folds is not None:
        folds = settings.folds
    elif num_images > FEW_IMAGES:
        folds = 10
    else:
        folds = num_images if settings.kind.by_location else 20
    return min(folds, num_images)


def variant_of(settings: Settings, alphas: Sequence[float]) -> calib.Variant:
    """The settings of the calibration as an argument of `calib.fit`."""
    chosen = settings.calibrate
    return calib.Variant(
        name=chosen.variant,
        alphas=tuple(alphas),
        quantile=chosen.quantile,
        pooling=chosen.pooling,
        classes=chosen.class_thresholds,
        num_classes=settings.data.num_classes,
        num_regions=chosen.regions,
        class_clusters=chosen.class_clusters,
        n_min=chosen.n_min,
        fallback=chosen.fallback,
        background=settings.data.background_index,
        fixed_threshold=chosen.fixed_threshold,
    )


def _chunks_of_alphas(alphas: Sequence[float], folds: int, settings: Settings) -> Iterator[Sequence[float]]:
    """Split the alphas so that thresholds by location, which are whole maps, fit into FOLDS_MEGABYTES.

    Other variants take all alphas at once: clusters of classes depend on all of them.
    """
    height, width = settings.data.grid
    size = len(alphas)
    if settings.calibrate.kind.by_location:
        size = max(1, FOLDS_MEGABYTES * 1_000_000 // (4 * folds * height * width))
    return (alphas[start : start + size] for start in range(0, len(alphas), size))


class JudgeJob(NamedTuple):
    """One labeled image to judge by the thresholds of its fold.

    image_index:   index of the image in the calibration store
    probabilities: store with its maps; None if the thresholds are not class-wise
    maps_index:    index of the image in that store; -1 if there is none
    thresholds:    folder with one file per fold
    """

    calibration: Handle
    image_index: int
    fold: int
    probabilities: Handle | None
    maps_index: int
    rules: tuple[str, ...]
    background: int | None
    accept_uncalibrated: bool
    thresholds: Path = Path()


def _jobs(
    settings: Settings, store: CalibrationStore, probabilities: ProbabilityStore | None, fold: npt.NDArray[np.int64]
) -> list[JudgeJob]:
    is_class_wise = settings.calibrate.class_thresholds != "pooled"
    maps_index: dict[str, int] = {}
    if is_class_wise and probabilities is not None:
        maps_index = {sample_id: i for i, sample_id in enumerate(probabilities.sample_ids)}
    return [
        JudgeJob(
            calibration=store.handle,
            image_index=i,
            fold=int(fold[i]),
            probabilities=probabilities.handle if probabilities is not None and is_class_wise else None,
            maps_index=maps_index.get(store.sample_ids[i], -1),
            rules=candidate_rules(is_class_wise, settings.calibrate.variant),
            background=settings.data.background_index,
            accept_uncalibrated=settings.calibrate.uncalibrated == "accept",
        )
        for i in np.flatnonzero(fold >= 0).tolist()
    ]


def _judge_images(
    settings: Settings,
    store: CalibrationStore,
    jobs: Sequence[JudgeJob],
    thresholds: Sequence[calib.Thresholds],
    progress: Progress,
) -> list[calib.Judgement]:
    """Judge every image, in the order of the images.

    thresholds: one per fold f, computed from all folds but f
    """
    judged: dict[int, calib.Judgement] = {}

    def on_done(result: tuple[int, calib.Judgement]) -> None:
        judged[result[0]] = result[1]
        progress.advance(len(thresholds[0].q))

    with tempfile.TemporaryDirectory(prefix=".held_out", dir=store.path.parent) as folder:
        for fold, of_fold in enumerate(thresholds):
            np.savez(Path(folder) / f"{fold}.npz", region=of_fold.region, q=of_fold.q)
        run_tasks(judge, [job._replace(thresholds=Path(folder).absolute()) for job in jobs], settings.compute, on_done)
    return [judged[i] for i in sorted(judged)]


def judge(job: JudgeJob) -> tuple[int, calib.Judgement]:
    """Index and counts of one image, judged by the thresholds from the other folds."""
    store = open_calibration(job.calibration)
    with np.load(job.thresholds / f"{job.fold}.npz") as file:
        q, region = file["q"], file["region"]
    is_class_wise = q.shape[1] > 1
    maps = None
    if is_class_wise:
        assert job.probabilities is not None
        maps = open_probabilities(job.probabilities).probabilities(job.maps_index).rows(slice(None))
    counts = calib.judge_image(
        store.planes(job.image_index),
        store.read_chunk("score", job.image_index),
        store.read_chunk("truth", job.image_index),
        (q_alpha[:, region] if is_class_wise else q_alpha[0, region] for q_alpha in q),
        job.rules,
        len(store.class_names),
        job.background,
        "accept" if job.accept_uncalibrated else "abstain",
        maps,
    )
    return job.image_index, counts


def candidate_rules(is_class_wise: bool, variant: str) -> tuple[str, ...]:
    """Rules that are judged.

    A variant whose guarantee is about one rule has that rule only. With one threshold for all classes some rules give
    the same labels, and one of them is judged. Rule raw needs no threshold and is judged once, separately.
    """
    only = calib.find_variant(variant).rule
    if only is not None:
        return (only,)
    return tuple(rule for rule in calib.RULES if rule != calib.RAW) if is_class_wise else calib.distinct_rules()


def _rows(
    settings: Settings,
    held_out: calib.HeldOut,
    names: Sequence[str],
    alphas: Sequence[float],
    thresholds: calib.Thresholds,
    rules: Sequence[str],
    folds: int,
) -> Iterator[Fact]:
    variant = settings.calibrate.variant
    for a, alpha in enumerate(alphas):
        if _is_of_other_thresholds(held_out.uncalibrated[a], thresholds.map(a)):
            held_out = held_out.without(a)
        per_image = held_out.coverage_per_image[:, a]
        finite = per_image[~np.isnan(per_image)]
        coverage = {
            "target": None if settings.calibrate.kind.bounds == "nothing" else 1 - alpha,
            "folds": folds,
            "coverage": _estimate(held_out.coverage, a),
            "coverage_per_class": {n: _estimate(held_out.coverage_per_class, (a, k)) for k, n in enumerate(names)},
            "coverage_per_image": np.quantile(finite, np.linspace(0, 1, 11)).tolist() if finite.size else [],
            "image_coverage": _estimate(held_out.image_coverage, a),
            "uncalibrated": _number(held_out.uncalibrated[a]),
            "set_sizes": {name: _estimate(held_out.sizes, (a, size)) for size, name in enumerate(calib.SET_SIZES)},
        }
        for r, rule in enumerate(rules):
            against_raw = held_out.against_raw._asdict()
            yield {
                "variant": variant,
                "alpha": alpha,
                "rule": rule,
                **coverage,
                "precision": _estimate(held_out.precision, (a, r)),
                "precision_per_class": _by_class(held_out.precision_per_class, names, (a, r)),
                "recall_per_class": _by_class(held_out.recall_per_class, names, (a, r)),
                "miou": _estimate(held_out.miou, (a, r)),
                "keep_rate": _estimate(held_out.keep_rate, (a, r)),
                "wrong": _estimate(held_out.wrong, (a, r)),
                "against_raw": {name: _estimate(estimate, (a, r)) for name, estimate in against_raw.items()},
            }


def _raw(settings: Settings, held_out: calib.HeldOut, names: Sequence[str]) -> Fact:
    """Facts of the annotator's own argmax. It has no alpha or variant: those of the settings are filled in."""
    raw = held_out.raw
    precision = _estimate(raw.precision, ())
    keep_rate = None if precision is None else dict.fromkeys(calib.Estimate._fields, 1.0)
    wrong = None if precision is None else {"value": 1 - precision["value"]}
    if precision is not None and wrong is not None:
        wrong |= {"low": 1 - precision["high"], "high": 1 - precision["low"]}
    return {
        "variant": settings.calibrate.variant,
        "alpha": settings.calibrate.alpha,
        "rule": calib.RAW,
        "precision": precision,
        "precision_per_class": _by_class(raw.precision_per_class, names, ()),
        "recall_per_class": _by_class(raw.recall_per_class, names, ()),
        "miou": _estimate(raw.miou, ()),
        "keep_rate": keep_rate,
        "wrong": wrong,
        "against_raw": None,
    }


def _by_class(estimate: calib.Estimate, names: Sequence[str], index: tuple[int, ...]) -> Fact:
    return {name: _estimate(estimate, (*index, k)) for k, name in enumerate(names)}


def _is_of_other_thresholds(uncalibrated: float | np.floating, q_hat: npt.NDArray[np.float32]) -> bool:
    """Whether most pixels are uncalibrated in the folds but not with all images: the counts are then meaningless.

    uncalibrated: fraction of pixels without a finite threshold in the folds, in [0, 1]
    q_hat:        final thresholds, +inf = uncalibrated
    """
    return bool(uncalibrated > 0.5 and np.isposinf(q_hat).mean() < 0.5)


def _estimate(estimate: calib.Estimate, index: Any) -> Fact | None:
    """value, low and high at an index; None where the value is NaN (a fraction of zero pixels)."""
    if math.isnan(estimate.value[index]):
        return None
    return {name: float(values[index]) for name, values in estimate._asdict().items()}


def _number(value: float | npt.NDArray[np.float64]) -> float | None:
    return None if np.isnan(value) else float(value)


def of_variant(calibrated: Mapping[str, Any], variant: str) -> Fact:
    """The receipt of calibrate with the facts of another judged variant in place of those of `calibrate.variant`."""
    facts = dict(calibrated)
    return facts if variant == facts["variant"] else facts | facts["beside"][variant] | {"variant": variant}


def find_row(held_out: Mapping[str, Any] | None, variant: str, alpha: float, rule: str) -> Fact | None:
    """The row of a variant, alpha and rule; None if it was not judged on held-out images.

    For a rule that was not judged, the row is that of one of `calib.rules_alike`, which gives the same labels. For rule
    raw, the facts about prediction sets are those of the variant and alpha.
    """
    rows = held_out["rows"] if held_out else []
    same_labels = calib.RULES if rule == calib.RAW else (rule, *calib.rules_alike(rule))
    of_alpha = [row for row in rows if row["alpha"] == alpha and row["variant"] == variant]
    matches = [row for name in same_labels for row in of_alpha if row["rule"] == name]
    if not matches or held_out is None:
        return None
    row: Fact = matches[0]
    return row | held_out["raw"] | {"variant": variant, "alpha": alpha} if rule == calib.RAW else row


Measure = Literal["pixels", "macro", "every_class"]


def candidates(
    held_out: Mapping[str, Any], precision_of: Measure = "pixels", end: Literal["value", "low"] = "value"
) -> list[calib.Candidate]:
    """All combinations to choose from, rule raw first.

    Thresholds of a variant without a guarantee are the same at all alphas: only its first alpha is a candidate.

    held_out:     of the receipt of calibrate
    precision_of: definition of precision, as in `pseudolabel.precision_of`
    end:          "value": the estimate of the precision; "low": the lower end of its interval
    """
    by_key: dict[tuple[Any, ...], calib.Candidate] = {}
    for row in (held_out["raw"], *held_out["rows"]):
        if row["precision"] is None or row["miou"] is None:
            continue
        numbers = row["miou"]["value"], _precision(row, precision_of, end), row["keep_rate"]["value"]
        key = (
            row["variant"],
            row["rule"],
            None if calib.find_variant(row["variant"]).bounds == "nothing" else row["alpha"],
        )
        by_key.setdefault(key, calib.Candidate(row["variant"], row["alpha"], row["rule"], *numbers))
    return list(by_key.values())


def _precision(row: Fact, precision_of: Measure, end: Literal["value", "low"]) -> float:
    if precision_of == "pixels":
        return float(row["precision"][end])
    per_class = [estimate[end] for estimate in row["precision_per_class"].values() if estimate is not None]
    return float(min(per_class) if precision_of == "every_class" else np.mean(per_class))
