"""What calibration is worth on labeled images that took no part in it: judged image by image, told as facts."""

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
from pipeline.store import DONE, CalibrationStore, ProbabilityStore, open_calibration, open_probabilities

log = logging.getLogger(__name__)

Fact = dict[str, Any]

FEW_IMAGES = 100  # up to which a fold more or less shows in the ranks
FOLDS_MEGABYTES = 256  # of thresholds of all folds, held at a time


class Calibrated(NamedTuple):
    """Thresholds, and what they are worth on held-out images.

    thresholds: of all labeled images
    fold:       int64 [N] of the store's images, -1: no part in it
    rows:       a row of facts for every alpha and rule; None: a single labeled image
    raw:        the same facts of the annotator's own argmax, but for those of thresholds
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
        """What held-out images say, as receipts and sweeps keep it; None of a single labeled image."""
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
    """Thresholds from the images of a calibration store that are done, judged on each fold by those of the others.

    With a fold an image, the thresholds of all folds are many maps: some alphas are fitted and judged at a time.

    policy:        what to do with thresholds of too few images
    probabilities: the maps that class-wise thresholds are judged on; else None will do
    raises:        calib.CalibrationError if an alpha is refused
    """
    maps = _labeled_maps(settings, store)
    folds = num_folds(maps.num_images, settings.calibrate)
    fold_of_image = calib.assign_folds(maps.num_images, folds) if folds > 1 else np.zeros(1, np.int64)
    fold = np.full(len(store.status), -1)
    fold[maps.images] = fold_of_image
    jobs = _jobs(settings, store, probabilities, fold) if folds > 1 else []
    progress = Progress(log, "held-out images", len(jobs) * len(alphas), "judgements") if jobs else None
    whole: list[calib.Thresholds] = []
    rows: list[Fact] = []
    raw = None
    for some in _alphas_at_a_time(alphas, folds, settings):
        fits = calib.fit(variant_of(settings, some), maps, fold_of_image)
        whole.append(fits[0].resolve(policy))
        if progress is not None:
            # a promise that is refused is one about new images: folds, which have fewer, only estimate
            others = [fit.resolve("max" if policy == "max" else "abstain") for fit in fits[1:]]
            judged = _judge_images(settings, store, jobs, others, progress)
            # in the order of the images, so that the intervals do not depend on which came first
            held_out = calib.summarise(judged, np.random.default_rng(settings.seed))
            rows += _rows(settings, held_out, store.class_names, some, whole[-1], jobs[0].rules, folds)
            raw = raw or _raw(settings, held_out, store.class_names)
    thresholds = whole[0]._replace(q=np.concatenate([part.q for part in whole]))
    return Calibrated(thresholds, fold, rows if jobs else None, raw)


def fit(settings: Settings, alphas: Sequence[float], policy: calib.Policy, store: CalibrationStore) -> calib.Thresholds:
    """Thresholds from all images of a calibration store that are done; nothing is judged."""
    maps = _labeled_maps(settings, store)
    (thresholds,) = calib.fit(variant_of(settings, alphas), maps, np.zeros(maps.num_images, np.int64))
    return thresholds.resolve(policy)


def _labeled_maps(settings: Settings, store: CalibrationStore) -> StoredMaps:
    images = np.flatnonzero(store.status == DONE).tolist()
    height, width = settings.data.grid
    return StoredMaps(store.path.absolute(), images, (height, width), settings.compute)


def num_folds(num_images: int, settings: CalibrateSettings) -> int:
    """As many as the settings say; by default many, but no more than can be calibrated in a short time."""
    if settings.folds is not None:
        wanted = settings.folds
    elif num_images > FEW_IMAGES:
        wanted = 10
    else:
        wanted = num_images if settings.kind.by_location else 20
    return min(wanted, num_images)


def variant_of(settings: Settings, alphas: Sequence[float]) -> calib.Variant:
    """The settings of the calibration, as the method takes them."""
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


def _alphas_at_a_time(alphas: Sequence[float], folds: int, settings: Settings) -> Iterator[Sequence[float]]:
    """Only thresholds by location are whole maps; groups of classes (clustered) depend on all alphas at once."""
    height, width = settings.data.grid
    size = len(alphas)
    if settings.calibrate.kind.by_location:
        size = max(1, FOLDS_MEGABYTES * 1_000_000 // (4 * folds * height * width))
    return (alphas[start : start + size] for start in range(0, len(alphas), size))


class JudgeJob(NamedTuple):
    """One labeled image, its fold, and its maps, which class-wise thresholds need.

    thresholds: folder with a file a fold; probabilities: None if the thresholds are not class-wise
    """

    calibration: Path
    place: int
    fold: int
    probabilities: Path | None
    position: int
    rules: tuple[str, ...]
    background: int | None
    accept_uncalibrated: bool
    thresholds: Path = Path()


def _jobs(
    settings: Settings, store: CalibrationStore, probabilities: ProbabilityStore | None, fold: npt.NDArray[np.int64]
) -> list[JudgeJob]:
    is_class_wise = settings.calibrate.class_thresholds != "pooled"
    position: dict[str, int] = {}
    if is_class_wise and probabilities is not None:
        position = {sample_id: i for i, sample_id in enumerate(probabilities.sample_ids)}
    return [
        JudgeJob(
            calibration=store.path.absolute(),
            place=i,
            fold=int(fold[i]),
            probabilities=probabilities.path.absolute() if probabilities is not None and is_class_wise else None,
            position=position.get(store.sample_ids[i], -1),
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
    """Judge every image; thresholds: of all folds but the first, but the second, ..."""
    judged: dict[int, calib.Judgement] = {}

    def on_done(result: tuple[int, calib.Judgement]) -> None:
        judged[result[0]] = result[1]
        progress.advance(len(thresholds[0].q))

    with tempfile.TemporaryDirectory(prefix=".held_out", dir=store.path.parent) as folder:
        for fold, own in enumerate(thresholds):
            np.savez(Path(folder) / f"{fold}.npz", region=own.region, q=own.q)
        run_tasks(judge, [job._replace(thresholds=Path(folder).absolute()) for job in jobs], settings.compute, on_done)
    return [judged[i] for i in sorted(judged)]


def judge(job: JudgeJob) -> tuple[int, calib.Judgement]:
    """Counts of one image, judged by the thresholds of the other folds; with its index, to put them in order."""
    store = open_calibration(job.calibration, writable=True)
    with np.load(job.thresholds / f"{job.fold}.npz") as file:
        q, region = file["q"], file["region"]
    is_class_wise = q.shape[1] > 1
    maps = None
    if is_class_wise:
        assert job.probabilities is not None
        maps = open_probabilities(job.probabilities).probabilities(job.position).rows(slice(None))
    counts = calib.judge_image(
        store.planes(job.place),
        store.read_chunk("score", job.place),
        store.read_chunk("truth", job.place),
        (own[:, region] if is_class_wise else own[0, region] for own in q),
        job.rules,
        len(store.class_names),
        job.background,
        "accept" if job.accept_uncalibrated else "abstain",
        maps,
    )
    return job.place, counts


def candidate_rules(is_class_wise: bool, variant: str) -> tuple[str, ...]:
    """Rules that are judged: of those that are alike with one threshold for all classes, one; of a variant whose
    promise is about one rule, that rule. Rule raw, which needs no threshold, is judged once beside them."""
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
        known = per_image[~np.isnan(per_image)]
        coverage = {
            "target": None if settings.calibrate.kind.bounds == "nothing" else 1 - alpha,
            "folds": folds,
            "coverage": _estimate(held_out.coverage, a),
            "coverage_per_class": {n: _estimate(held_out.coverage_per_class, (a, k)) for k, n in enumerate(names)},
            "coverage_per_image": np.quantile(known, np.linspace(0, 1, 11)).tolist() if known.size else [],
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
                "against_raw": {name: _estimate(shares, (a, r)) for name, shares in against_raw.items()},
            }


def _raw(settings: Settings, held_out: calib.HeldOut, names: Sequence[str]) -> Fact:
    """The annotator's own argmax: with the alpha and variant that stand beside it, as it has none of its own."""
    raw = held_out.raw
    precision = _estimate(raw.precision, ())
    whole = None if precision is None else dict.fromkeys(calib.Estimate._fields, 1.0)
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
        "keep_rate": whole,
        "wrong": wrong,
        "against_raw": None,
    }


def _by_class(shares: calib.Estimate, names: Sequence[str], index: tuple[int, ...]) -> Fact:
    return {name: _estimate(shares, (*index, k)) for k, name in enumerate(names)}


def _is_of_other_thresholds(uncalibrated: float | np.floating, q_hat: npt.NDArray[np.float32]) -> bool:
    """Without the images held out, far more is uncalibrated than in the end, so counts say nothing of the latter."""
    return bool(uncalibrated > 0.5 and np.isposinf(q_hat).mean() < 0.5)


def _estimate(estimate: calib.Estimate, index: Any) -> Fact | None:
    """value, low and high; None where there is nothing to share."""
    if math.isnan(estimate.value[index]):
        return None
    return {name: float(values[index]) for name, values in estimate._asdict().items()}


def _number(value: float | npt.NDArray[np.float64]) -> float | None:
    return None if np.isnan(value) else float(value)


def of_variant(calibrated: Mapping[str, Any], variant: str) -> Fact:
    """The receipt of calibrate as if this variant, one of those judged, were the run's own."""
    own = dict(calibrated)
    return own if variant == own["variant"] else own | own["beside"][variant] | {"variant": variant}


def find_row(held_out: Mapping[str, Any] | None, variant: str, alpha: float, rule: str) -> Fact | None:
    """The row of a variant, alpha and rule, if held-out images were judged.

    One of `calib.rules_alike` stands for a rule that was not judged. Of rule raw, the facts of the sets are those of
    the variant and alpha.
    """
    rows = held_out["rows"] if held_out else []
    same = calib.RULES if rule == calib.RAW else (rule, *calib.rules_alike(rule))
    there = [row for row in rows if row["alpha"] == alpha and row["variant"] == variant]
    found = [row for name in same for row in there if row["rule"] == name]
    if not found or held_out is None:
        return None
    row: Fact = found[0]
    return row | held_out["raw"] | {"variant": variant, "alpha": alpha} if rule == calib.RAW else row


Measure = Literal["pixels", "macro", "every_class"]


def candidates(
    held_out: Mapping[str, Any], precision_of: Measure = "pixels", end: Literal["value", "low"] = "value"
) -> list[calib.Candidate]:
    """What may be chosen from, rule raw first; of a variant without a promise, the same at all alphas, the first alpha.

    precision_of: what counts as precision, as in `pseudolabel.precision_of`
    end:          "value", the estimate of the precision, or "low", the end of its interval
    """
    found: dict[tuple[Any, ...], calib.Candidate] = {}
    for row in (held_out["raw"], *held_out["rows"]):
        if row["precision"] is None or row["miou"] is None:
            continue
        numbers = row["miou"]["value"], _precision(row, precision_of, end), row["keep_rate"]["value"]
        key = (
            row["variant"],
            row["rule"],
            None if calib.find_variant(row["variant"]).bounds == "nothing" else row["alpha"],
        )
        found.setdefault(key, calib.Candidate(row["variant"], row["alpha"], row["rule"], *numbers))
    return list(found.values())


def _precision(row: Fact, precision_of: Measure, end: Literal["value", "low"]) -> float:
    if precision_of == "pixels":
        return float(row["precision"][end])
    of_classes = [shares[end] for shares in row["precision_per_class"].values() if shares is not None]
    return float(min(of_classes) if precision_of == "every_class" else np.mean(of_classes))
