"""Cross-fitting: thresholds from the labeled images, judged on held-out labeled images, as facts for a receipt."""

from __future__ import annotations

import logging
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

import calib
from pipeline.calibration.rows import Fact, raw_facts, rows_of
from pipeline.calibration.stored_maps import StoredMaps
from pipeline.dask_tasks import run_tasks
from pipeline.datasets import units_of
from pipeline.progress import Progress
from pipeline.run import Run
from pipeline.settings import CalibrateSettings, Settings
from pipeline.store import DONE, CalibrationStore, Handle, ProbabilityStore, open_calibration, open_probabilities

log = logging.getLogger(__name__)

FEW_IMAGES = 100  # up to this many labeled images or groups, the number of folds changes the ranks noticeably
FOLDS_MEGABYTES = 256  # memory for the thresholds of all folds at a time


LabelKey = tuple[str, float, str]
"""Variant, alpha and rule of labels."""


class Calibrated(NamedTuple):
    """Thresholds, and estimates of their labels on held-out images.

    thresholds: from all labeled images
    fold:       int64 [N], fold of each image of the store, -1: not used for calibration
    num_groups: of the images (`data.groups`); None without groups
    rows:       facts, one row per alpha and rule; None with a single labeled image or group
    raw:        the same facts of the annotator's own argmax, without those about thresholds; None as `rows`
    labeled:    rule -> float64 [A, L], fraction of the pixels of each held-out image that are labeled, NaN at alphas
                that were not judged; {} as `rows`
    miou:       (variant, alpha, rule), as in the rows and raw, -> mIoU in each bootstrap sample, float64 [B]; {} as
                `rows`
    """

    thresholds: calib.Thresholds
    fold: npt.NDArray[np.int64]
    num_groups: int | None
    rows: list[Fact] | None
    raw: Fact | None
    labeled: dict[str, npt.NDArray[np.float64]]
    miou: Mapping[LabelKey, npt.NDArray[np.float64]]

    @property
    def num_images(self) -> int:
        return int(np.count_nonzero(self.fold >= 0))

    @property
    def num_folds(self) -> int:
        return int(self.fold.max()) + 1

    def held_out(self) -> Fact | None:
        """The estimates on held-out images, as stored in receipts and sweeps; None if `rows` is."""
        if self.rows is None:
            return None
        numbers = {"folds": self.num_folds, "num_images": self.num_images, "num_groups": self.num_groups}
        return {**numbers, "raw": self.raw, "rows": self.rows}


def fit_and_judge(
    settings: Settings,
    alphas: Sequence[float],
    policy: calib.Policy,
    store: CalibrationStore,
    probabilities: ProbabilityStore | None,
    judged_alphas: Sequence[float] | None = None,
) -> Calibrated:
    """Compute thresholds from the finished images of a calibration store, and judge each fold by the other folds.

    Where each image is its own fold, the thresholds of all folds are many maps. Alphas are therefore fitted and judged
    a few at a time.

    policy:        treatment of thresholds that too few images support
    probabilities: maps on which class-wise thresholds are judged; may be None for pooled thresholds
    judged_alphas: those of the alphas that are judged; default: all
    raises:        calib.CalibrationError if the policy is "raise" and an alpha is too small for the number of images
    """
    maps = labeled_maps(settings, store)
    num_units = calib.num_units(maps.unit_of_image)
    folds = num_folds(num_units, settings.calibrate)
    whole = np.zeros(maps.num_images, np.int64)
    fold_of_image = calib.assign_folds(maps.unit_of_image, folds) if folds > 1 else whole
    fold = np.full(len(store.status), -1)
    fold[maps.images] = fold_of_image
    jobs = _jobs(settings, store, probabilities, fold) if folds > 1 else []
    judged_alphas = alphas if judged_alphas is None else judged_alphas
    progress = Progress(log, "held-out images", len(jobs) * len(judged_alphas), "judgements") if jobs else None
    final: list[calib.Thresholds] = []
    rows: list[Fact] = []
    raw = None
    labeled: list[npt.NDArray[np.float64]] = []
    miou: dict[LabelKey, npt.NDArray[np.float64]] = {}
    for some_alphas in _chunks_of_alphas(alphas, folds, settings):
        fits = calib.fit(variant_of(settings, some_alphas), maps, fold_of_image)
        final.append(fits[0].resolve(policy))
        if progress is not None:
            # policy "raise" is about new images; the thresholds of folds have fewer images and only give estimates
            chosen = [a for a, alpha in enumerate(some_alphas) if alpha in judged_alphas]
            some_alphas, of_all = [some_alphas[a] for a in chosen], final[-1].at(chosen)
            of_folds = [fit.at(chosen).resolve("max" if policy == "max" else "abstain") for fit in fits[1:]]
            judged = _judge_images(settings, store, jobs, of_folds, progress)
            # in the order of the images, so that the intervals do not depend on which task finished first
            held_out = calib.summarise(judged, np.random.default_rng(settings.seed), maps.unit_of_image)
            rows += rows_of(settings, held_out, store.class_names, some_alphas, of_all, jobs[0].rules, folds)
            raw = raw or raw_facts(settings, held_out, store.class_names)
            miou |= _miou_samples(settings, held_out, some_alphas, jobs[0].rules)
            of_alphas = np.full((len(jobs), len(fits[0].q), len(jobs[0].rules)), np.nan)
            of_alphas[:, chosen] = np.stack([judgement.labeled for judgement in judged]) / np.prod(settings.data.grid)
            labeled.append(of_alphas)
    thresholds = final[0]._replace(q=np.concatenate([chunk.q for chunk in final]))
    rules = jobs[0].rules if jobs else ()
    by_rule = {rule: np.concatenate([of_alphas[..., r].T for of_alphas in labeled]) for r, rule in enumerate(rules)}
    num_groups = None if settings.data.groups is None else num_units
    return Calibrated(thresholds, fold, num_groups, rows if jobs else None, raw, by_rule, miou)


def _miou_samples(
    settings: Settings, held_out: calib.HeldOut, alphas: Sequence[float], rules: Sequence[str]
) -> dict[LabelKey, npt.NDArray[np.float64]]:
    """`Calibrated.miou` of some alphas."""
    chosen = settings.calibrate
    samples = {
        (chosen.variant, alpha, rule): held_out.miou_samples[:, a, r]
        for a, alpha in enumerate(alphas)
        for r, rule in enumerate(rules)
    }
    return samples | {(chosen.variant, chosen.alpha, calib.RAW): held_out.raw.miou_samples}


def fit(settings: Settings, alphas: Sequence[float], policy: calib.Policy, store: CalibrationStore) -> calib.Thresholds:
    """Compute thresholds from all finished images of a calibration store, without judging them.

    raises: as `fit_and_judge`
    """
    maps = labeled_maps(settings, store)
    (thresholds,) = calib.fit(variant_of(settings, alphas), maps, np.zeros(maps.num_images, np.int64))
    return thresholds.resolve(policy)


def labeled_maps(settings: Settings, store: CalibrationStore) -> StoredMaps:
    """The finished images of a calibration store, with their units."""
    images = np.flatnonzero(store.status == DONE).tolist()
    height, width = settings.data.grid
    units = None
    if settings.data.groups is not None:
        units = units_of(Run(settings).samples("calibrate").with_ids(store.sample_ids[i] for i in images))
    return StoredMaps(store.handle, images, (height, width), settings.compute, units)


def num_folds(num_units: int, settings: CalibrateSettings) -> int:
    """Number of cross-fitting folds: that of the settings, or a default that keeps the time short.

    num_units: number of labeled images, or of their groups
    """
    if settings.folds is not None:
        folds = settings.folds
    elif num_units > FEW_IMAGES:
        folds = 10
    else:
        folds = num_units if settings.kind.by_location else 20
    return min(folds, num_units)


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
        class_shrinkage=chosen.class_shrinkage,
        bandwidth=chosen.bandwidth,
        n_min=chosen.n_min,
        fallback=chosen.fallback,
        background=settings.data.background_index,
        fixed_threshold=chosen.fixed_threshold,
        error=settings.error_of_each_test,
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
    return calib.calibrated_rules() if is_class_wise else calib.distinct_rules()
