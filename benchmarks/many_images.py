"""Do calibrate and pseudolabel grow linearly, in bounded memory? On threads and on worker processes of Dask.

    python benchmarks/many_images.py              # 250, 500, 1000 and 2000 labeled images, and as many unlabeled ones
    python benchmarks/many_images.py --tasks      # what one task costs that does nothing

The maps are float16 logits of a quarter of the grid's height and width, as in stages.py. Every row is measured in a
process of its own; its workers are processes, too, with a limit to their memory.
"""

from __future__ import annotations

import contextlib
import json
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import click
from calibrate import Case, in_own_process, print_header, resident
from stages import write_cache, write_run

from pipeline.dask_tasks import run_tasks
from pipeline.files import bytes_in
from pipeline.run import Run
from pipeline.run_file import load_settings
from pipeline.settings import ComputeSettings
from pipeline.stages.calibrate import calibrate
from pipeline.stages.pseudolabel import pseudolabel

STAGES = {"calibrate": calibrate, "pseudolabel": pseudolabel}
STORES = {"calibrate": "calibration.zarr", "pseudolabel": "labels.zarr"}
WORKERS = 2
WAYS = {"threads": "threads", "processes": f"{WORKERS} worker processes"}
SCALES = {"ADE20K (20,210)": 20_210, "a million": 1_000_000}
TASKS = (1_000, 5_000, 20_000)


class Measured(NamedTuple):
    """Of one stage: wall seconds, CPU seconds of all processes, and peaks of memory in MB.

    workers: of each worker process; [] on threads
    """

    wall: float
    cpu: float
    megabytes: float
    workers: list[float]


@contextlib.contextmanager
def compute_on(way: str, limit: str) -> Iterator[tuple[dict[str, Any], Any]]:
    """Settings that choose where tasks run, and the client of the cluster; None on threads."""
    if way == "threads":
        yield {"compute.workers": WORKERS}, None
        return
    from distributed import Client, LocalCluster

    options = {"n_workers": WORKERS, "threads_per_worker": 1, "processes": True, "dashboard_address": None}
    with LocalCluster(**options, memory_limit=limit) as cluster, Client(cluster) as client:
        yield {"compute.scheduler": cluster.scheduler_address}, client


def usage_of_worker() -> tuple[float, float]:
    """CPU seconds and peak memory in MB of the process that calls."""
    return time.process_time(), resident("VmHWM")


def measure_stage(run_file: str, stage: str, way: str, limit: str) -> Measured:
    with compute_on(way, limit) as (changes, client):
        settings = load_settings(run_file, changes)
        before = list(client.run(usage_of_worker).values()) if client else []
        wall, cpu = time.perf_counter(), time.process_time()
        facts = STAGES[stage](settings)
        own = time.perf_counter() - wall, time.process_time() - cpu
        after = list(client.run(usage_of_worker).values()) if client else []
        Run(settings).finish(stage, facts)
    of_workers = sum(cpu for cpu, _ in after) - sum(cpu for cpu, _ in before)
    return Measured(own[0], own[1] + of_workers, resident("VmHWM"), [peak for _, peak in after])


def print_stages(counts: Sequence[int], classes: int, side: int, limit: str, scratch: Path) -> None:
    most = max(counts)
    case = Case(most, classes, side)
    start = time.perf_counter()
    write_cache(scratch, case, most)
    click.echo(
        f"{2 * most} maps of {classes} x {side // 4} x {side // 4} written in {time.perf_counter() - start:.0f} s"
    )
    print_header(
        f"{classes} classes, {side} x {side}, {WORKERS} threads or {WORKERS} worker processes of at most {limit}",
        "stage | on | images | wall s | ms per image | CPU ms per image | peak MB of the stage | of each worker",
    )
    largest: dict[tuple[str, str], Measured] = {}
    for count in counts:
        run = write_run(scratch, Case(count, classes, side), most, count)
        for way in WAYS:
            for stage in STAGES:
                measured = Measured(*in_own_process(__file__, run, stage, way, limit))
                largest[stage, way] = measured
                workers = ", ".join(f"{peak:.0f}" for peak in measured.workers)
                click.echo(
                    f"| {stage} | {WAYS[way]} | {count} | {measured.wall:.1f} | {1e3 * measured.wall / count:.1f} | "
                    f"{1e3 * measured.cpu / count:.1f} | {measured.megabytes:.0f} | {workers} |"
                )
    print_extrapolation(most, largest, scratch)


def print_extrapolation(num_images: int, measured: dict[tuple[str, str], Measured], scratch: Path) -> None:
    """Bytes, files and hours of more images, from those of the largest run."""
    stores = {"annotate": scratch / "probs.zarr"}
    stores |= {stage: scratch / f"labeled_{num_images}" / name for stage, name in STORES.items()}
    print_header("More images, from the numbers above", "store, of each image | kB | files | " + " | ".join(SCALES))
    for stage, path in stores.items():
        num = 2 * num_images if stage == "annotate" else num_images
        files = sum(1 for one in path.rglob("*") if one.is_file())
        cells = [f"{path.name} | {bytes_in(path) / num / 1e3:.0f} | {files / num:.1f}"]
        cells += [
            f"{bytes_in(path) / num * of / 1e9:.0f} GB, {files / num * of / 1e6:.2f} M files" for of in SCALES.values()
        ]
        if stage in STAGES:
            hours = [[measured[stage, way].wall / num_images * of / 3600 for of in SCALES.values()] for way in WAYS]
            cells[1:] = [
                f"{cell}, {on_threads:.1f} h on threads, {on_workers:.1f} h on workers"
                for cell, on_threads, on_workers in zip(cells[1:], *hours, strict=True)
            ]
        click.echo(f"| {' | '.join(cells)} |")


def do_nothing(job: int) -> int:
    return job


def measure_tasks(number: int, way: str, limit: str) -> Measured:
    with compute_on(way, limit) as (changes, _):
        compute = ComputeSettings(**{name.removeprefix("compute."): value for name, value in changes.items()})
        done: list[int] = []
        run_tasks(do_nothing, range(10), compute, done.append)
        wall, cpu, before = time.perf_counter(), time.process_time(), resident("VmRSS")
        run_tasks(do_nothing, range(number), compute, done.append)
        seconds = time.perf_counter() - wall, time.process_time() - cpu
    assert len(done) == number + 10
    return Measured(*seconds, resident("VmHWM") - before, [])


def print_tasks(limit: str) -> None:
    print_header("Tasks that do nothing", "on | tasks | wall s | ms per task | MB added")
    for way in WAYS:
        for number in TASKS:
            wall, _, megabytes, _ = in_own_process(__file__, number, way, limit)
            click.echo(f"| {WAYS[way]} | {number} | {wall:.2f} | {1e3 * wall / number:.3f} | {megabytes:.0f} |")


@click.command(help=__doc__)
@click.option("--counts", default="250,500,1000,2000", show_default=True, help="Labeled images of the runs.")
@click.option("--classes", default=150, show_default=True)
@click.option("--side", default=128, show_default=True, help="Of the grid.")
@click.option("--limit", default="1GB", show_default=True, help="Memory of a worker process.")
@click.option("--tasks", is_flag=True, help="Only what a task costs.")
@click.option(
    "--scratch", type=click.Path(path_type=Path), help="Folder for temporary files (4 GB). Default: system's."
)
@click.option("--job", hidden=True)
def main(counts: str, classes: int, side: int, limit: str, tasks: bool, scratch: Path | None, job: str | None) -> None:
    if job is not None:
        arguments = json.loads(job)
        click.echo(json.dumps((measure_tasks if len(arguments) == 3 else measure_stage)(*arguments)))
        return
    if tasks:
        print_tasks(limit)
        return
    with tempfile.TemporaryDirectory(dir=scratch) as folder:
        print_stages([int(count) for count in counts.split(",")], classes, side, limit, Path(folder))


if __name__ == "__main__":
    main()
