"""Cross-fitting: thresholds from the labeled images, judged on held-out labeled images, as facts for a receipt."""

from __future__ import annotations

import itertools
import logging
import math
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

import calib
from pipeline.calibration.folds import Folds, variant_of
from pipeline.calibration.judging import JudgeJob, judge_images, write_thresholds
from pipeline.calibration.rows import Fact, raw_facts, rows_of
from pipeline.calibration.stored_maps import StoredMaps
from pipeline.datasets import units_of
from pipeline.progress import Progress
from pipeline.run import Run
from pipeline.settings import Settings
from pipeline.store import DONE, CalibrationStore, ProbabilityStore

log = logging.getLogger(__name__)

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
    judged_alphas: Mapping[str, Sequence[float]],
) -> dict[str, Calibrated]:
    """Compute thresholds from the finished images of a calibration store, and judge each fold by the other folds.

    All variants are judged in the same passes over the images. Where each image is its own fold, the thresholds of all
    folds are many maps. Alphas are therefore fitted and judged a few at a time.

    policy:        treatment of thresholds that too few images support
    probabilities: maps on which class-wise thresholds are judged; may be None for pooled thresholds
    judged_alphas: variant -> those of the alphas that are judged
    returns:       by variant
    raises:        calib.CalibrationError if the policy is "raise" and an alpha is too small for the number of images
    """
    maps = labeled_maps(settings, store)
    folds = {variant: Folds.of(settings.of_variant(variant), maps) for variant in judged_alphas}
    num_judged = sum(len(judged_alphas[variant]) for variant, own in folds.items() if own.number > 1)
    progress = Progress(log, "held-out images", maps.num_images * num_judged, "judgements") if num_judged else None
    parts: dict[str, list[Calibrated]] = {variant: [] for variant in folds}
    chunks = [_chunks_of_alphas(alphas, judged_alphas[variant], own) for variant, own in folds.items()]
    for some_alphas in itertools.zip_longest(*chunks):
        with tempfile.TemporaryDirectory(prefix=".held_out", dir=store.path.parent) as folder:
            fits = [
                _fit_folds(own, chunk, judged_alphas[variant], policy, maps, Path(folder).absolute())
                for (variant, own), chunk in zip(folds.items(), some_alphas, strict=True)
                if chunk is not None
            ]
            judged = _judge(fits, maps, store, probabilities, progress)
        for fit, of_images in zip(fits, judged, strict=True):
            parts[fit.folds.variant].append(_calibrated(fit, of_images, maps, store))
    return {variant: _merged(of_alphas) for variant, of_alphas in parts.items()}


class FoldsFit(NamedTuple):
    """Thresholds of a variant at some alphas.

    judged:     indices of the alphas that are judged
    thresholds: from all labeled images
    files:      thresholds of each fold at the alphas that are judged, from the other folds; [] if none are
    """

    folds: Folds
    alphas: Sequence[float]
    judged: list[int]
    thresholds: calib.Thresholds
    files: list[Path]


def _fit_folds(
    folds: Folds,
    alphas: Sequence[float],
    judged_alphas: Sequence[float],
    policy: calib.Policy,
    maps: StoredMaps,
    folder: Path,
) -> FoldsFit:
    """Fit some alphas; the thresholds of the folds are written to the folder, because they can be many maps."""
    judged = [a for a, alpha in enumerate(alphas) if alpha in judged_alphas and folds.number > 1]
    fold_of_image = folds.of_image if judged else np.zeros_like(folds.of_image)
    of_all, *of_folds = calib.fit(variant_of(folds.settings, alphas), maps, fold_of_image)
    files = []
    for fold, fit in enumerate(of_folds):
        files.append(folder / f"{folds.variant}.{fold}.npy")
        # policy "raise" is about new images; the thresholds of folds have fewer images and only give estimates
        write_thresholds(files[fold], fit.at(judged).resolve("max" if policy == "max" else "abstain"))
    return FoldsFit(folds, alphas, judged, of_all.resolve(policy), files)


def _judge(
    fits: Sequence[FoldsFit],
    maps: StoredMaps,
    store: CalibrationStore,
    probabilities: ProbabilityStore | None,
    progress: Progress | None,
) -> list[list[calib.Judgement]]:
    """The judgements of all images by each of the fits, in the order of the images; [] for a fit without any."""
    settings, judged_fits = fits[0].folds.settings, [fit for fit in fits if fit.files]
    if progress is None or not judged_fits:
        return [[] for _ in fits]
    is_class_wise = any(fit.folds.is_class_wise for fit in judged_fits)
    maps_index: dict[str, int] = {}
    if is_class_wise and probabilities is not None:
        maps_index = {sample_id: i for i, sample_id in enumerate(probabilities.sample_ids)}
    ids = store.sample_ids
    rules = tuple(dict.fromkeys(rule for fit in judged_fits for rule in fit.folds.rules))
    jobs = [
        JudgeJob(
            calibration=store.handle,
            image_index=image,
            probabilities=probabilities.handle if probabilities is not None and is_class_wise else None,
            maps_index=maps_index.get(ids[image], -1),
            thresholds=tuple(fit.files[fit.folds.of_image[i]] for fit in judged_fits),
            rules=rules,
            background=settings.data.background_index,
            accept_uncalibrated=settings.calibrate.uncalibrated == "accept",
        )
        for i, image in enumerate(maps.images)
    ]
    num_alphas = sum(len(fit.judged) for fit in fits)
    judged = judge_images(jobs, settings.compute, lambda: progress.advance(num_alphas))
    of_fits: list[list[calib.Judgement]] = []
    first = 0
    for fit in fits:
        alphas, of_fit = slice(first, first + len(fit.judged)), [rules.index(rule) for rule in fit.folds.rules]
        of_fits.append([of_image.some(alphas, of_fit) for of_image in judged] if fit.judged else [])
        first = alphas.stop
    return of_fits


def _calibrated(
    fit: FoldsFit, judged: Sequence[calib.Judgement], maps: StoredMaps, store: CalibrationStore
) -> Calibrated:
    """The thresholds of a fit, with estimates from the judgements of all images."""
    (settings, number, of_image), rules = fit.folds, fit.folds.rules
    fold = np.full(len(store.status), -1)
    fold[maps.images] = of_image
    num_groups = None if settings.data.groups is None else calib.num_units(maps.unit_of_image)
    labeled = np.full((maps.num_images, len(fit.alphas), len(rules)), np.nan)
    rows, raw, miou = [], None, {}
    if judged:
        alphas = [fit.alphas[a] for a in fit.judged]
        held_out = calib.summarise(judged, np.random.default_rng(settings.seed), maps.unit_of_image)
        of_all = fit.thresholds.at(fit.judged)
        rows = list(rows_of(settings, held_out, store.class_names, alphas, of_all, rules, number))
        raw = raw_facts(settings, held_out, store.class_names)
        miou = _miou_samples(settings, held_out, alphas, rules)
        labeled[:, fit.judged] = np.stack([judgement.labeled for judgement in judged]) / np.prod(settings.data.grid)
    by_rule = {rule: labeled[..., r].T for r, rule in enumerate(rules)}
    return Calibrated(fit.thresholds, fold, num_groups, rows if number > 1 else None, raw, by_rule, miou)


def _merged(parts: Sequence[Calibrated]) -> Calibrated:
    """One of all alphas, from those of a few alphas each."""
    first = parts[0]
    return first._replace(
        thresholds=first.thresholds._replace(q=np.concatenate([part.thresholds.q for part in parts])),
        rows=None if first.rows is None else [row for part in parts for row in part.rows or []],
        raw=next((part.raw for part in parts if part.raw is not None), None),
        labeled={rule: np.concatenate([part.labeled[rule] for part in parts]) for rule in first.labeled},
        miou={labels: samples for part in parts for labels, samples in part.miou.items()},
    )


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


def _chunks_of_alphas(alphas: Sequence[float], judged: Sequence[float], folds: Folds) -> Iterator[Sequence[float]]:
    """Split the alphas so that thresholds by location, which are whole maps, fit into FOLDS_MEGABYTES.

    Alphas that are not judged are apart, because no fold needs their thresholds: the larger an alpha, the more scores
    of each location would be kept for each fold. Other variants take all alphas at once: clusters of classes depend on
    all of them.
    """
    if not folds.settings.calibrate.kind.by_location:
        yield alphas
        return
    bytes_per_fold = 4 * math.prod(folds.settings.data.grid)
    for is_judged, of_kind in itertools.groupby(alphas, lambda alpha: alpha in judged):
        some = list(of_kind)
        size = max(1, FOLDS_MEGABYTES * 1_000_000 // (bytes_per_fold * (folds.number if is_judged else 1)))
        yield from (some[start : start + size] for start in range(0, len(some), size))
