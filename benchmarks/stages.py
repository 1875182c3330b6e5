"""Time and memory of the stages calibrate and pseudolabel, with stores on disk: `python benchmarks/stages.py`.

Every row is measured in a separate process, so that its peak memory is its own. The cache holds float16 logits of a
quarter of the grid's height and width; maps and masks are those of calibrate.py.
"""

from __future__ import annotations

import json
import logging
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click
import numpy as np
from calibrate import ALPHA, POOL, STRIDE, Case, Usage, in_own_process, measure, noisy_mask, print_header, smooth_logits
from PIL import Image

from pipeline.calibration.shift import shift_facts
from pipeline.datasets import Sample, SampleIndex, save_samples
from pipeline.files import content_digest, write_json
from pipeline.resample import resize_bilinear
from pipeline.run import Run
from pipeline.run_file import load_settings
from pipeline.stages.calibrate import calibrate
from pipeline.stages.pseudolabel import pseudolabel
from pipeline.store import DONE, create_store, open_probabilities


def write_cache(folder: Path, case: Case, num_unlabeled: int, noise: float = 0.1) -> None:
    """Write probs.zarr with float16 logits of all images, and masks of the labeled images, which come first."""
    rng, small, path = np.random.default_rng(0), case.side // STRIDE, folder / "probs.zarr"
    pool = [smooth_logits(rng, case.classes, small) for _ in range(2 * POOL)]
    samples = [Sample(f"{i:05}", "", None, "unlabeled") for i in range(case.images + num_unlabeled)]
    facts = {"fingerprint": "f1", "space": "logits", "grid": [case.side] * 2, "class_names": class_names(case)}
    facts |= {"maps": [case.classes, small, small], "dtype": "float16"}
    create_store(path, "probabilities", facts, samples)
    store = open_probabilities(path, writable=True)
    (folder / "masks").mkdir()
    for i in range(len(samples)):
        logits = np.roll(pool[i % len(pool)], rng.integers(0, small, 2), axis=(1, 2))
        logits += rng.normal(scale=0.2, size=logits.shape).astype(np.float32)
        store.write(i, logits)
        store.mark(i, DONE)
        if i < case.images:
            mask = Image.fromarray(noisy_mask(rng, resize_bilinear(logits, store.grid), noise))
            mask.save(folder / f"masks/{i:05}.png", compress_level=1)
    store.finish()


def class_names(case: Case) -> list[str]:
    return ["background", *(f"class {k}" for k in range(1, case.classes))]


def write_run(folder: Path, case: Case, num_masks: int, num_unlabeled: int) -> str:
    """Write a run file that uses some of the masks and all unlabeled images of the cache; returns its path."""
    results = folder / f"labeled_{case.images}"
    masks = [f"masks/{i:05}.png" for i in range(case.images)]
    digests = [content_digest((folder / mask).read_bytes()) for mask in masks]
    labeled = [
        Sample(f"{i:05}", "", mask, "labeled", case.side, case.side, mask_digest=digest)
        for i, (mask, digest) in enumerate(zip(masks, digests, strict=True))
    ]
    unlabeled = [Sample(f"{num_masks + i:05}", "", None, "unlabeled") for i in range(num_unlabeled)]
    save_samples(results / "samples.json", SampleIndex(folder, (*labeled, *unlabeled)))
    (results / "probs.zarr").symlink_to(folder / "probs.zarr")
    settings = {
        "results": str(folder),
        "data": {"classes": class_names(case), "background": "background", "grid": [case.side] * 2},
        "annotate": {"annotator": "python", "python": {"factory": "no:annotator"}},
        "calibrate": {"alpha": ALPHA},
        "compute": {"workers": 2},
    }
    write_json(results.with_suffix(".yaml"), settings)  # JSON is YAML
    maps = {"fingerprint": "f1", "annotator": "python", "space": "logits", "dtype": "float16", "failed": {}}
    size = {"maps": [case.images, case.classes, case.side, case.side], "num_done": case.images}
    cost = {"megabytes": 0.0, "seconds": 0.0}
    Run(load_settings(results.with_suffix(".yaml"))).finish("annotate", maps | size | cost)
    return str(results.with_suffix(".yaml"))


class Lines(logging.Handler):
    """Records the time of each log line."""

    def __init__(self) -> None:
        super().__init__(logging.INFO)
        self.written: list[tuple[float, str]] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.written.append((time.perf_counter(), record.getMessage()))

    def times(self, start: str) -> list[float]:
        return [when for when, line in self.written if line.startswith(start)]


def measure_stage(run: str, stage: str, overrides: dict[str, Any]) -> tuple[Usage, str]:
    """Measure a stage; of calibrate also the seconds for scores, and for all the rest, from its log lines."""
    lines, settings = Lines(), load_settings(run, overrides)
    logging.basicConfig(level=logging.INFO, handlers=[lines])
    if stage == "shift":
        own = Run(settings)
        usage, _ = measure(lambda: shift_facts(own.open_calibration(), own.open_labels(), own.samples(), settings.seed))
        return usage, ""
    start = time.perf_counter()
    usage, facts = measure(lambda: {"calibrate": calibrate, "pseudolabel": pseudolabel}[stage](settings))
    Run(settings).finish(stage, facts)
    if stage == "pseudolabel":
        return usage, ""
    num_images = facts["num_labeled"]
    scored = lines.times(f"calibrate: {num_images}/{num_images}")[0]
    durations = [scored - start, start + usage.wall - scored]
    return usage, f"{facts['held_out']['folds']} folds: " + " + ".join(f"{seconds:.1f}" for seconds in durations)


def print_stages(is_quick: bool, scratch: Path) -> None:
    side, counts, num_unlabeled = (128, (24, 92), 20) if is_quick else (512, (92, 366), 200)
    write_cache(scratch, Case(max(counts), 21, side), num_unlabeled)
    megabytes = sum(file.stat().st_size for file in (scratch / "probs.zarr/logits").rglob("*") if file.is_file()) / 1e6
    title = (
        f"Stages, maps 21 x {side} x {side} from a cache of float16 logits of 1/{STRIDE} the size "
        f"({megabytes / (max(counts) + num_unlabeled):.3f} MB per image), 2 threads. `calibrate` always evaluates "
        "held-out images: once with 2 folds, the minimum, and once with the default"
    )
    columns = (
        "stage | images | wall s | images/s | CPU s | peak MB | GB/s | s for scores + thresholds and held-out images"
    )
    print_header(title, columns)
    for count in counts:
        case = Case(count, 21, side)
        run = write_run(scratch, case, max(counts), num_unlabeled)
        for overrides in ({"folds": 2}, {}):
            print_stage("calibrate", "pixel", case, run, overrides)
        if count == counts[1]:
            print_stage("pseudolabel", "pixel", case._replace(images=num_unlabeled), run, {})
            for variant in ("image", "kmeans", "genann"):
                print_stage("calibrate", variant, case, run, {"variant": variant})


def print_promises(num_labeled: int, precision: float, rounds: int, is_quick: bool, scratch: Path) -> None:
    """calibrate alone and with a guaranteed precision, in turn, and the comparison of labeled and unlabeled images."""
    case, num_unlabeled = Case(num_labeled, 21, 128 if is_quick else 512), 8
    write_cache(scratch, case, num_unlabeled, noise=0.02)  # with more, no labels have the precision
    run = write_run(scratch, case, case.images, num_unlabeled)
    alone = {"rule": "argmax"}
    guaranteed = alone | {"guarantee": {"precision": precision, "confidence": 0.95}}
    title = f"What a guarantee and the tests for a shift add to calibrate, {case}, medians of {rounds} rounds"
    print_header(title, "stage | wall s | CPU s | CPU added")
    usages = [
        [in_own_process(__file__, run, "calibrate", overrides)[0] for overrides in (alone, guaranteed)]
        for _ in range(rounds)
    ]
    (wall, cpu), with_guarantee = ([_median_of(of, i) for i in (0, 1)] for of in zip(*usages, strict=True))
    click.echo(f"| calibrate, rule argmax | {wall:.1f} | {cpu:.1f} | |")
    added = [of_both[1][1] / of_both[0][1] - 1 for of_both in usages]
    _promise_row("calibrate with pseudolabel.guarantee", *with_guarantee, added)
    in_own_process(__file__, run, "pseudolabel", guaranteed)
    tests = [in_own_process(__file__, run, "shift", guaranteed)[0] for _ in range(rounds)]
    own = [_median_of(tests, i) for i in (0, 1)]
    _promise_row("tests for a shift", *own, [seconds / cpu for _, seconds, _ in tests])


def _median_of(usages: Sequence[Sequence[float]], field: int) -> float:
    return float(np.median([usage[field] for usage in usages]))


def _promise_row(name: str, wall: float, cpu: float, added: Sequence[float]) -> None:
    """Print the median of the CPU time that each round added, relative to calibrate, and its range."""
    percent = [100 * fraction for fraction in added]
    spread = f"{np.median(percent):+.1f} % ({min(percent):+.1f} to {max(percent):+.1f})"
    click.echo(f"| {name} | {wall:.1f} | {cpu:.1f} | {spread} |")


def print_stage(stage: str, variant: str, case: Case, run: str, overrides: dict[str, Any]) -> None:
    usage, durations = in_own_process(__file__, run, stage, overrides)
    wall, cpu, megabytes = usage
    click.echo(
        f"| {stage}, {variant} | {case.images} | {wall:.1f} | {case.images / wall:.1f} | {cpu:.1f} | {megabytes:.0f} "
        f"| {case.images * case.image_bytes / wall / 1e9:.2f} | {durations} |"
    )


@click.command(help=__doc__)
@click.option("--quick", is_flag=True, help="Small sizes.")
@click.option("--promises", type=int, help="Only what guarantee and shift tests add to calibrate, for so many images.")
@click.option("--precision", default=0.95, show_default=True, help="Of the guarantee; 150 images show 0.95.")
@click.option("--rounds", default=3, show_default=True, help="How often --promises measures.")
@click.option(
    "--scratch", type=click.Path(path_type=Path), help="Folder for temporary files (2 GB). Default: system's."
)
@click.option("--job", hidden=True)
def main(
    quick: bool, promises: int | None, precision: float, rounds: int, scratch: Path | None, job: str | None
) -> None:
    if job is not None:
        click.echo(json.dumps(measure_stage(*json.loads(job))))
        return
    with tempfile.TemporaryDirectory(dir=scratch) as folder:
        if promises is None:
            print_stages(quick, Path(folder))
        else:
            print_promises(promises, precision, rounds, quick, Path(folder))


if __name__ == "__main__":
    main()
