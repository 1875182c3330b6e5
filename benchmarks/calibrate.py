"""Calibration and pseudo-labels, compared with their equations computed literally: `python benchmarks/calibrate.py`.

Tables: thresholds (Eq. 3), scale (many labeled images), labels and logits (Eq. 4), regions (k-means, GenAnn); the
stages are measured by stages.py. Every row is measured in a separate process, so that its peak memory, above the loaded
input, is its own. GB/s is the size of the float32 class maps of a row, divided by its wall time. The maps are softmaxes
of smooth random logits; the masks agree with the best class at nine of ten pixels, and 2 % are void.
"""

from __future__ import annotations

import json
import math
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from fractions import Fraction
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import click
import numpy as np
from evolved_rings import annuli_objective, evolved_regions
from numpy.typing import NDArray

import calib
from calib import regions
from pipeline.resample import resize_bilinear, softmax

ALPHA = 0.05
BACKGROUND = 0
STRIDE = 4  # of cached logits
POOL = 4  # different maps of a data set that does not fit into memory
MASKS_PER_MAP = 8
STRIP = 32  # rows scored together
BAND_BYTES = 64_000_000  # of a block of scores and of a sketch, as in `pipeline.calibration.stored_maps`
NUM_CHECKED = 500  # locations whose exact threshold is computed with np.sort
MAX_REPEATS, SECONDS_OF_REPEATS = 5, 4
SMALL = (20, 3, 32)  # images, classes, side of a first call, which loads libraries


class Case(NamedTuple):
    """Number of images, of classes, and of rows and columns."""

    images: int
    classes: int
    side: int

    @property
    def image_bytes(self) -> int:
        return 4 * self.classes * self.side**2

    def __str__(self) -> str:
        return f"{self.images} x {self.classes} x {self.side} x {self.side}"


# Inputs


def smooth_logits(rng: np.random.Generator, classes: int, side: int) -> NDArray:
    """float32 [K, side, side]."""
    return resize_bilinear(rng.normal(scale=4, size=(classes, 9, 9)).astype(np.float32), (side, side))


def noisy_mask(rng: np.random.Generator, maps: NDArray, noise: float = 0.1) -> NDArray:
    """uint8 [H, W]: the best class of float [K, H, W], a random class at a fraction `noise` of pixels, void at 2 %."""
    mask = maps.argmax(axis=0).astype(np.uint8)
    draws = rng.random(mask.shape, dtype=np.float32)
    mask[draws < noise] = rng.integers(0, len(maps), np.count_nonzero(draws < noise), dtype=np.uint8)
    mask[draws > 0.98] = 255
    return mask


def labeled_images(case: Case) -> tuple[NDArray, NDArray]:
    """Probabilities float32 [N, K, H, W] and masks uint8 [N, H, W]."""
    rng = np.random.default_rng(0)
    pool = [smooth_logits(rng, case.classes, case.side) for _ in range(2 * POOL)]
    maps = np.empty((case.images, case.classes, case.side, case.side), np.float32)
    masks = np.empty((case.images, case.side, case.side), np.uint8)
    for i in range(case.images):
        shift = rng.integers(0, case.side, 2)
        maps[i] = softmax(np.roll(pool[i % len(pool)], shift, axis=(1, 2)))
        masks[i] = noisy_mask(rng, maps[i])
    return maps, masks


def thresholds_of(case: Case) -> NDArray:
    """float32 [H, W]; 1 % of the thresholds are NaN (no labeled image), and 1 % are +inf (too few)."""
    rng = np.random.default_rng(1)
    q_hat, draws = rng.uniform(0.3, 1, (case.side, case.side)), rng.random((case.side, case.side))
    return np.select([draws < 0.01, draws > 0.99], [np.nan, np.inf], q_hat).astype(np.float32)


def unlabeled_maps(case: Case) -> tuple[NDArray, NDArray]:
    return labeled_images(case)[0], thresholds_of(case)


def unlabeled_logits(case: Case) -> tuple[NDArray, NDArray]:
    rng = np.random.default_rng(0)
    logits = [smooth_logits(rng, case.classes, case.side // STRIDE) for _ in range(case.images)]
    return np.stack(logits), thresholds_of(case)


class Stream:
    """LabeledMaps whose scores are computed on request, each image from a map, a mask and a shift."""

    def __init__(self, case: Case):
        self.num_images, self.shape = case.images, (case.side, case.side)
        maps, _ = labeled_images(case._replace(images=POOL))
        rng = np.random.default_rng(2)
        self.masks = [[noisy_mask(rng, image) for _ in range(MASKS_PER_MAP)] for image in maps]
        self.strips = [[image[:, y : y + STRIP].copy() for y in range(0, case.side, STRIP)] for image in maps]
        self.shifts = rng.integers(0, case.side, case.images)

    def bands(self, bytes_per_row: int) -> list[slice]:
        step = max(STRIP, BAND_BYTES // bytes_per_row // STRIP * STRIP)
        return [slice(start, min(start + step, self.shape[0])) for start in range(0, self.shape[0], step)]

    def reduce(self, names: Sequence[str], function: Callable, merge: Callable, rows: slice) -> Any:
        height, width = rows.stop - rows.start, self.shape[1]
        size, merged = max(1, BAND_BYTES // (4 * height * width)), None
        for start in range(0, self.num_images, size):
            images = np.arange(start, min(start + size, self.num_images))
            scores = np.empty((len(images), height, width), np.float32)
            for score, i in zip(scores, images, strict=True):
                self._fill(score, i, rows)
            result = function(calib.Block(images, {"score": scores}))
            merged = result if merged is None else merge(merged, result)
        return merged

    def _fill(self, score: NDArray, i: int, rows: slice) -> None:
        """Write scores [h, W] of an image, shifted sideways so that no two images have equal scores at a location."""
        mask = self.masks[i % POOL][i // POOL % MASKS_PER_MAP]
        for y in range(rows.start, rows.stop, STRIP):
            strip = calib.true_class_scores(self.strips[i % POOL][y // STRIP], mask[y : y + STRIP])
            score[y - rows.start :][:STRIP] = np.roll(strip, self.shifts[i], axis=1)


# Implementations of the thresholds: functions of maps and masks


def inverse_maps(maps: NDArray, masks: NDArray) -> NDArray:
    """Eq. 3: 1 - P at the true class, NaN at all others, float32 [L, K, H, W]."""
    inverse = np.empty_like(maps)
    classes = np.arange(maps.shape[1], dtype=np.uint8)[:, np.newaxis, np.newaxis]
    for target, image, mask in zip(inverse, maps, masks, strict=True):
        target[:] = np.where(mask == classes, 1 - image, np.float32(np.nan))
    return inverse


def literal_thresholds(maps: NDArray, masks: NDArray) -> NDArray:
    """The quantile of the L K values of every location."""
    return np.nanquantile(inverse_maps(maps, masks).reshape(-1, *masks.shape[1:]), 1 - ALPHA, axis=0)


def curves(maps: NDArray, masks: NDArray) -> NDArray:
    """100 quantiles of every class at every location, as the reference kandinsky-calibration computes them."""
    import torch

    levels = torch.arange(100, dtype=torch.float32) / 99
    return torch.nanquantile(torch.from_numpy(inverse_maps(maps, masks)), levels, dim=0).numpy()


def all_scores(maps: NDArray, masks: NDArray) -> NDArray:
    scores = np.empty(masks.shape, np.float32)
    for score, image, mask in zip(scores, maps, masks, strict=True):
        score[:] = calib.true_class_scores(image, mask)
    return scores


def our_thresholds(maps: NDArray, masks: NDArray) -> NDArray:
    return calib.pixel_quantile(all_scores(maps, masks), ALPHA)


def our_thresholds_on_two_threads(maps: NDArray, masks: NDArray) -> NDArray:
    """Each thread makes the sketch of half of the images; the sketches are merged."""
    size = calib.sketch_size(len(maps), ALPHA, "exact")
    halves = slice(0, len(maps) // 2), slice(len(maps) // 2, None)
    with ThreadPoolExecutor(2) as pool:
        sketches = pool.map(lambda half: calib.sketch_scores(all_scores(maps[half], masks[half]), size), halves)
        return calib.sketch_quantile(calib.merge_sketches(*sketches, size), ALPHA)


def exact_at_some(maps: NDArray, masks: NDArray) -> NDArray:
    """The exact thresholds at a few locations: the score of rank ceil((n + 1)(1 - alpha)) by np.sort; NaN elsewhere."""
    q_hat = np.full(masks.shape[1:], np.nan, np.float32)
    for location in np.random.default_rng(3).choice(q_hat.size, NUM_CHECKED, replace=False):
        row, column = divmod(int(location), q_hat.shape[1])
        truth = masks[:, row, column]
        valid = np.flatnonzero(truth != 255)
        rank = math.ceil((len(valid) + 1) * (1 - Fraction(str(ALPHA))))
        q_hat[row, column] = np.append(np.sort(1 - maps[valid, truth[valid], row, column]), np.inf)[rank - 1]
    return q_hat


def streamed_thresholds(stream: Stream) -> NDArray:
    (thresholds,) = calib.fit(calib.Variant("pixel", (ALPHA,)), stream, np.zeros(stream.num_images, np.int64))
    return thresholds.map(0)


# Implementations of the labels: functions of maps or logits and thresholds


def literal_labels(maps: NDArray, q_hat: NDArray) -> NDArray:
    """Eq. 4 as printed: inverse probabilities, their sets, and for each case the smallest one in its set."""
    inverse = 1 - maps
    members = inverse <= q_hat
    foreground = members.copy()
    foreground[:, BACKGROUND] = False
    best_foreground = np.where(foreground, inverse, np.inf).argmin(axis=1)
    best = np.where(members, inverse, np.inf).argmin(axis=1)
    otherwise = np.where(members.any(axis=1), best, np.nan)
    return np.where(foreground.any(axis=1), best_foreground, otherwise).astype(np.float32)


def literal_labels_one_by_one(maps: NDArray, q_hat: NDArray) -> NDArray:
    return np.concatenate([literal_labels(image[np.newaxis], q_hat) for image in maps])


def literal_labels_from_logits(logits: NDArray, q_hat: NDArray) -> NDArray:
    import torch
    from torch.nn.functional import interpolate

    batches = (torch.from_numpy(image[np.newaxis]) for image in logits)
    large = (interpolate(batch, q_hat.shape, mode="bilinear", align_corners=False).softmax(dim=1) for batch in batches)
    return np.concatenate([literal_labels(maps.numpy(), q_hat) for maps in large])


def our_label(maps: NDArray, q_hat: NDArray) -> NDArray:
    return calib.label_pixels(calib.class_planes(maps, BACKGROUND), q_hat, "paper", BACKGROUND, "accept")


def our_label_from_logits(logits: NDArray, q_hat: NDArray) -> NDArray:
    """Labels strip by strip, as the stage pseudolabel reads a cache."""
    from pipeline.store import ProbabilityReader

    strips = ProbabilityReader(logits, True, q_hat.shape).strips()
    return np.concatenate([our_label(strip, q_hat[rows]) for rows, strip in strips])


def on_threads(label: Callable[[NDArray, NDArray], NDArray], threads: int, images: NDArray, q_hat: NDArray) -> NDArray:
    labels = np.empty((len(images), *q_hat.shape), np.float32)

    def write(i: int) -> None:
        labels[i] = label(images[i], q_hat)

    with ThreadPoolExecutor(threads) as pool:
        list(pool.map(write, range(len(images))))
    return labels


# Comparison of implementations, each in a separate process


def largest_error(result: NDArray, exact: NDArray) -> str:
    at = ~np.isnan(exact)
    return f"{np.abs(result[at] - exact[at]).max():.2g}" if result.shape == exact.shape else "no single threshold"


def changed_fraction(result: NDArray, literal: NDArray) -> str:
    changed = np.count_nonzero((result != literal) & ~(np.isnan(result) & np.isnan(literal)))
    return f"{changed / result.size:.1g}" if changed else "none"


class Table(NamedTuple):
    """Implementations of one result. Speed is relative to the first; results are compared with `truth`."""

    title: str
    load: Callable[[Case], tuple[Any, ...]]
    ways: dict[str, Callable[..., NDArray]]
    cases: list[Case]
    check: str = ""
    compare: Callable[[NDArray, NDArray], str] = changed_fraction
    truth: Callable[..., NDArray] | None = None


LABEL_CASES = [Case(12, 21, 512), Case(3, 150, 512)]
TABLES = {
    "thresholds": Table(
        f"Thresholds of maps in memory, alpha {ALPHA}",
        labeled_images,
        {
            "Eq. 3 literally, nanquantile of L x K values": literal_thresholds,
            "100-level curve of each class": curves,
            "ours": our_thresholds,
            "ours, 2 threads": our_thresholds_on_two_threads,
        },
        [Case(200, 21, 256)],
        f"largest error at {NUM_CHECKED} locations",
        largest_error,
        exact_at_some,
    ),
    "scale": Table(
        f"Thresholds of any number of images, alpha {ALPHA}, 1 thread; blocks and sketches of at most 64 MB",
        lambda case: (Stream(case),),
        {"ours, streaming": streamed_thresholds},
        [*(Case(n, 21, 512) for n in (92, 200, 366, 732, 1464, 2928)), Case(92, 150, 512), Case(366, 150, 512)],
    ),
    "labels": Table(
        "Eq. 4, maps in memory",
        unlabeled_maps,
        {
            "Eq. 4 literally, all at once": literal_labels,
            "Eq. 4 literally, image by image": literal_labels_one_by_one,
            "ours": partial(on_threads, our_label, 1),
            "ours, 2 threads": partial(on_threads, our_label, 2),
        },
        LABEL_CASES,
        "labels that differ",
        truth=literal_labels,
    ),
    "logits": Table(
        f"Eq. 4, logits of 1/{STRIDE} the size in memory",
        unlabeled_logits,
        {
            "torch up-sampling and softmax, then literally": literal_labels_from_logits,
            "ours, strip by strip": partial(on_threads, our_label_from_logits, 1),
            "ours, 2 threads": partial(on_threads, our_label_from_logits, 2),
        },
        LABEL_CASES,
        "labels that differ",
        truth=literal_labels_from_logits,
    ),
}


class Usage(NamedTuple):
    """Of the best run: wall and CPU seconds; of all runs: peak in MB."""

    wall: float
    cpu: float
    megabytes: float


def measure(call: Callable[[], Any], repeat_for: float = 0) -> tuple[Usage, Any]:
    """Run a call at least once, and again within `repeat_for` seconds; the peak is that of the resident memory."""
    Path("/proc/self/clear_refs").write_text("5")  # resets the peak
    runs: list[tuple[float, float]] = []
    while not runs or (len(runs) < MAX_REPEATS and sum(wall for wall, _ in runs) + runs[0][0] < repeat_for):
        wall, cpu = time.perf_counter(), time.process_time()
        result = call()
        runs.append((time.perf_counter() - wall, time.process_time() - cpu))
    return Usage(*min(runs), resident("VmHWM")), result


def resident(field: str) -> float:
    """Memory of this process in MB, now (VmRSS) or at its peak (VmHWM); getrusage would include that of its parent."""
    status = Path("/proc/self/status").read_text()
    return int(next(line for line in status.splitlines() if line.startswith(field)).split()[1]) * 1024 / 1e6


def measure_way(table: str, way: str, case: Sequence[int], result: str) -> Usage:
    """Measure one implementation (an empty name: the truth), and write its result to a file."""
    chosen = TABLES[table]
    call: Any = chosen.ways[way] if way else chosen.truth
    call(*chosen.load(Case(*SMALL)))
    arguments = chosen.load(Case(*case))
    before = resident("VmRSS")
    usage, array = measure(lambda: call(*arguments), SECONDS_OF_REPEATS if way else 0)
    np.save(result, array)
    return usage._replace(megabytes=usage.megabytes - before)


def in_own_process(script: str, *arguments: Any) -> Any:
    """The JSON that `script --job ARGUMENTS` prints."""
    command = [sys.executable, script, "--job", json.dumps(arguments)]
    return json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout)


def print_header(title: str, columns: str) -> None:
    click.echo(f"\n{title}\n\n| {columns} |\n|{'---|' * len(columns.split('|'))}")


def print_ways(table: str, is_quick: bool, scratch: Path) -> None:
    chosen = TABLES[table]
    columns = (
        "images x K x H x W | way | wall s | CPU s | ms per image | peak MB | peak in maps of one image | GB/s | faster"
    )
    print_header(chosen.title, f"{columns} | {chosen.check}" if chosen.truth else columns)
    for case in chosen.cases:
        if is_quick:
            case = Case(max(2, case.images // 4), case.classes, case.side // 4)
        result, true = str(scratch / "result.npy"), str(scratch / "true.npy")
        if chosen.truth:
            in_own_process(__file__, table, "", case, true)
        slowest = None
        for way in chosen.ways:
            usage = Usage(*in_own_process(__file__, table, way, case, result))
            slowest = slowest or usage.wall
            cells = [str(case), way, f"{usage.wall:.3f}", f"{usage.cpu:.3f}", f"{1e3 * usage.wall / case.images:.2f}"]
            cells += [f"{usage.megabytes:.1f}", f"{usage.megabytes * 1e6 / case.image_bytes:.1f}"]
            cells += [f"{case.images * case.image_bytes / usage.wall / 1e9:.2f}", f"{slowest / usage.wall:.1f}x"]
            cells += [chosen.compare(np.load(result), np.load(true))] if chosen.truth else []
            click.echo(f"| {' | '.join(cells)} |")


def copy_speed() -> float:
    """GB/s of np.copyto, read and written."""
    source, seconds = np.ones(250_000_000, np.float32), []
    target = np.zeros_like(source)
    for _ in range(5):
        start = time.perf_counter()
        np.copyto(target, source)
        seconds.append(time.perf_counter() - start)
    return 2 * source.nbytes / min(seconds) / 1e9


# Regions


def score_quantiles(side: int) -> NDArray:
    """float32 [F, H, W] at regions.FEATURE_LEVELS: scores that grow with the distance from a centre, with noise."""
    rng = np.random.default_rng(0)
    rows, columns = np.mgrid[:side, :side] / side - 0.5
    spread = 0.2 + np.hypot(rows - 0.03, columns + 0.05) ** 2 + rng.gamma(2, 0.05, (side, side))
    return np.stack([1 - np.exp(-spread * level / (1 - level)) for level in regions.FEATURE_LEVELS]).astype(np.float32)


def print_regions(is_quick: bool, all_de: bool) -> None:
    print_header("Regions: 4 per map", "map | way | s | objective of the reference")
    regions.kmeans_regions(score_quantiles(16), 4)  # loads libraries
    for side in (64,) if is_quick else (128, 256, 512):
        features = score_quantiles(side)
        ways: dict[str, Callable[[], NDArray]] = {
            "one region": partial(regions.one_region, (side, side)),
            "k-means": partial(regions.kmeans_regions, features, 4),
            "GenAnn, dp": partial(regions.annuli_regions, features, 4),
            "GenAnn, de": partial(evolved_regions, features, 4),
        }
        for way, call in ways.items():
            if way != "GenAnn, de" or side <= 128 or all_de:
                usage, partition = measure(call, SECONDS_OF_REPEATS)
                objective = annuli_objective(features, partition)
                click.echo(f"| {side} x {side} | {way} | {usage.wall:.3f} | {objective:.1f} |")


NAMES = ("thresholds", "scale", "labels", "logits", "regions")


@click.command(help=__doc__)
@click.argument("names", nargs=-1, metavar="[TABLE ...]", type=click.Choice(NAMES))
@click.option("--quick", is_flag=True, help="Small sizes.")
@click.option("--all-de", is_flag=True, help="GenAnn by differential evolution on the larger maps, too.")
@click.option("--job", hidden=True)
def main(names: Sequence[str], quick: bool, all_de: bool, job: str | None) -> None:
    if job is not None:
        click.echo(json.dumps(measure_way(*json.loads(job))))
        return
    click.echo(f"numpy {np.__version__}; np.copyto on 1 thread: {copy_speed():.1f} GB/s, read and written")
    for name in names or NAMES:
        if name == "regions":
            print_regions(quick, all_de)
            continue
        with tempfile.TemporaryDirectory() as folder:
            print_ways(name, quick, Path(folder))


if __name__ == "__main__":
    main()
