"""Time of calibrate and pseudolabel in this version and in an earlier one, in turn, on two threads.

    git worktree add --detach ../earlier 414cada
    python benchmarks/versions.py ../earlier

Each version makes its own cache of the same maps (21 x 512 x 512 from float16 logits of a quarter of the height and
width), and runs in processes of its own. The first run of a version, which compiles its loops over pixels, is not
counted. Both versions need the same libraries.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

import click
import numpy as np
from calibrate import print_header

HERE = Path(__file__).parents[1]
STAGES = {"calibrate": "calibration.zarr", "pseudolabel": "labels.zarr"}
MAKE_RUN = """
import json, sys
from pathlib import Path
from calibrate import Case
from stages import write_cache, write_run
folder, (labeled, unlabeled, side) = Path(sys.argv[1]), json.loads(sys.argv[2])
case = Case(labeled, 21, side)
write_cache(folder, case, unlabeled)
print(write_run(folder, case, labeled, unlabeled))
"""


def printed_by(version: Path, *words: str) -> str:
    """What Python prints for these words, with the packages and benchmarks of a version."""
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(map(str, (version, version / "benchmarks")))}
    command = [sys.executable, *words]
    return subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True, env=environment, cwd=version).stdout


def seconds_of(version: Path, run: str, stage: str) -> tuple[float, float]:
    """Wall and CPU seconds of a stage whose store does not exist yet."""
    shutil.rmtree(Path(run).with_suffix("") / STAGES[stage], ignore_errors=True)
    job = json.dumps([run, stage, {}])
    (wall, cpu, _), _ = json.loads(printed_by(version, str(version / "benchmarks/stages.py"), "--job", job))
    return wall, cpu


def compare(versions: Sequence[Path], labeled: int, unlabeled: int, side: int, rounds: int, scratch: Path) -> None:
    runs = []
    for number, version in enumerate(versions):
        folder = scratch / str(number)
        folder.mkdir()
        sizes = json.dumps([labeled, unlabeled, side])
        runs.append(printed_by(version, "-c", MAKE_RUN, str(folder), sizes).splitlines()[-1])
        for stage in STAGES:
            seconds_of(version, runs[-1], stage)
    for stage, images in zip(STAGES, (labeled, unlabeled), strict=True):
        measured = np.array(
            [
                [seconds_of(version, run, stage) for version, run in zip(versions, runs, strict=True)]
                for _ in range(rounds)
            ]
        )  # [rounds, versions, wall and CPU]
        ratios = [ratio_of(measured[:, 0, unit] / measured[:, 1, unit]) for unit in (0, 1)]
        per_image = [
            " -> ".join(f"{ms:.0f}" for ms in 1000 * np.median(measured[..., unit], axis=0) / images) for unit in (0, 1)
        ]
        click.echo(f"| {stage} | {images} | {per_image[0]} | {ratios[0]} | {per_image[1]} | {ratios[1]} |")


def ratio_of(ratios: np.ndarray) -> str:
    return f"{np.median(ratios):.2f}x ({ratios.min():.2f} to {ratios.max():.2f})"


@click.command(help=__doc__)
@click.argument("earlier", type=click.Path(path_type=Path, exists=True, file_okay=False, resolve_path=True))
@click.option("--labeled", default=[92, 366], multiple=True, show_default=True, help="Numbers of labeled images.")
@click.option("--unlabeled", default=100, show_default=True, help="Number of unlabeled images.")
@click.option("--side", default=512, show_default=True, help="Height and width of the grid.")
@click.option("--rounds", default=3, show_default=True, help="How often each version runs.")
@click.option("--scratch", type=click.Path(path_type=Path), help="Folder for temporary files (1 GB each).")
def main(earlier: Path, labeled: Sequence[int], unlabeled: int, side: int, rounds: int, scratch: Path | None) -> None:
    title = f"This version and an earlier one, medians of {rounds} rounds, in parentheses the range"
    print_header(title, "stage | images | wall ms per image | faster | CPU ms per image | faster")
    for count in labeled:
        with tempfile.TemporaryDirectory(dir=scratch) as folder:
            compare((earlier, HERE), count, unlabeled, side, rounds, Path(folder))


if __name__ == "__main__":
    main()
