"""What it saves that runs share the annotator's maps: three seeds and two splits of a data set, apart and together.

    python benchmarks/shared_maps.py voc_animals --set data.root=FOLDER

Each run is annotated twice: with a cache of its own, and with one cache for all of them, in turn. In the second split
the labeled and the unlabeled images change places.
"""

from __future__ import annotations

import tempfile
import time
from pathlib import Path
from typing import Any

import click

from pipeline.overrides import parse_overrides
from pipeline.run import Run
from pipeline.run_file import load_settings
from pipeline.stages.annotate import annotate
from pipeline.stages.prepare import prepare

SECOND_SPLIT = "second split"
RUNS: dict[str, dict[str, Any]] = {
    "seed 0": {"seed": 0},
    "seed 1": {"seed": 1},
    "seed 2": {"seed": 2},
    SECOND_SPLIT: {},
}


@click.command()
@click.argument("run")
@click.option("--set", "overrides", multiple=True, metavar="NAME=VALUE", help="As for the stages; repeatable.")
def main(run: str, overrides: tuple[str, ...]) -> None:
    """Print the images annotated and the seconds of each run, with a cache of its own and with a shared one."""
    given = parse_overrides(overrides)
    click.echo("| run | images | annotated alone | annotated, shared | s alone | s shared | ratio |")
    click.echo("|---|---|---|---|---|---|---|")
    totals = [0.0, 0.0]
    with tempfile.TemporaryDirectory() as folder:
        for name, changes in RUNS.items():
            made, seconds, num_images = [], [], 0
            if name == SECOND_SPLIT:
                splits = load_settings(run, given).data.splits
                changes = {"data.splits.labeled": splits.unlabeled, "data.splits.unlabeled": splits.labeled}
            for cache in (name.replace(" ", "_"), "shared"):
                where = {
                    "results": f"{folder}/{cache}",
                    "cache": f"{folder}/maps_{cache}",
                    "name": name.replace(" ", "_"),
                }
                settings = load_settings(run, given | changes | where)
                Run(settings).finish("prepare", prepare(settings))
                start = time.perf_counter()
                facts = annotate(settings)
                seconds.append(time.perf_counter() - start)
                made.append(facts["cache"]["num_made"])
                num_images = facts["num_done"]
            totals = [total + one for total, one in zip(totals, seconds, strict=True)]
            numbers = f"{made[0]} | {made[1]} | {seconds[0]:.1f} | {seconds[1]:.1f} | {seconds[0] / seconds[1]:.1f}x"
            click.echo(f"| {name} | {num_images} | {numbers} |")
        stored = len(list(Path(folder, "maps_shared").glob("*/rows/??/*")))
        ratio = totals[0] / totals[1]
        click.echo(f"| all | {stored} in the shared cache | | | {totals[0]:.1f} | {totals[1]:.1f} | {ratio:.1f}x |")


if __name__ == "__main__":
    main()
