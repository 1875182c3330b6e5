"""Prints what finished runs claim of their labels, and what is true of them by the masks of the unlabeled images.

*Claimed* is held out on the labeled images, with its 95 % interval, from the receipt of `calibrate`; *true* is measured
with `label_quality`, as in the tables of experiments. The runs must be labeled, with the masks of their unlabeled
images on disk (`snakemake --cores 8 pseudolabel --config run=voc_animals root=FOLDER`):

    python benchmarks/label_quality.py results/voc_animals results/voc_animals_mobilenet
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import click

from pipeline.calibration.rows import find_row
from pipeline.experiment.quality import label_quality
from pipeline.folder import Folder, recorded_words
from pipeline.overrides import parse_workflow_config
from pipeline.run import Run
from pipeline.run_file import load_settings

HEADER = (
    "| run | annotator | argmax: precision claimed | true | mIoU claimed | true | labels | precision claimed | true "
    "| keep rate, true mIoU with abstained = wrong |"
)


def run_in(folder: Path) -> Run:
    """The run in a folder, with the settings of the receipt of its labels."""
    words = recorded_words(Folder(folder).receipt("pseudolabel"))
    if not words:
        raise click.UsageError(f"{folder} has no labels; run its stages up to pseudolabel")
    run = Run(load_settings(*parse_workflow_config(words)))
    if run.settings.folder.absolute() != folder.absolute():
        raise click.UsageError(f"{folder} was made as {run.settings.folder}; start this in the same working folder")
    return run


def row_of(run: Run) -> str:
    """Row of the table."""
    labels, estimates, true = run.receipt("pseudolabel"), run.receipt("calibrate")["held_out"], label_quality(run)
    if true is None or estimates is None:
        raise click.UsageError(f"{run.settings.folder} has no masks of unlabeled images, or a single labeled image")
    raw, own = estimates["raw"], find_row(estimates, labels["variant"], labels["alpha"], labels["rule"])
    precision = {name: f"{100 * true[name]['precision']:.1f}" for name in ("raw", "calibrated")}
    kept = true["calibrated"]
    cells = [
        run.settings.name,
        run.receipt("annotate")["annotator"],
        _claimed(raw["precision"]),
        precision["raw"],
        _claimed(raw["miou"]),
        f"{100 * true['raw']['miou']:.1f}",
        f"{labels['rule']}, {labels['variant']}, alpha {labels['alpha']:g}",
        "–" if own is None else _claimed(own["precision"]),
        precision["calibrated"],
        f"{100 * kept['keep_rate']:.1f}, {100 * kept['miou_all']:.1f}",
    ]
    return f"| {' | '.join(cells)} |"


def _claimed(estimate: Mapping[str, float]) -> str:
    """Held-out estimate and its 95 % interval, in percent."""
    value, low, high = (100 * estimate[name] for name in ("value", "low", "high"))
    return f"{value:.1f} [{low:.1f}, {high:.1f}]"


@click.command()
@click.argument("folders", nargs=-1, required=True, type=click.Path(exists=True, path_type=Path))
def main(folders: Sequence[Path]) -> None:
    """Print one row for each run's folder, and the log-losses on which the weights of ensembles were fitted."""
    runs = [run_in(folder) for folder in folders]
    print(HEADER, "|---" * (HEADER.count("|") - 1) + "|", sep="\n")
    for run in runs:
        print(row_of(run), flush=True)
    for run in runs:
        losses = run.receipt("annotate").get("log_losses", {})
        shown = ", ".join(f"{loss:.3f} {name}" for name, loss in losses.items())
        if losses:
            print(f"{run.settings.name}, mean log-loss on the labeled images: {shown}")


if __name__ == "__main__":
    main()
