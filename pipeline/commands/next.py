"""Command `next`: proposes images to label."""

from __future__ import annotations

import shlex

import click

from pipeline.cli import run_argument
from pipeline.settings import Settings

MAX_SHOWN = 20


@click.command("next")
@run_argument
@click.option("--count", type=click.IntRange(min=1), default=50, show_default=True, help="Number of images.")
@click.option("--to", "format_name", metavar="FORMAT",
              help="Also export these images with their labels, e.g. to cvat, as `export` does.")  # fmt: skip
def next_images(settings: Settings, count: int, format_name: str | None) -> None:
    """Propose images to label next, with a reason for each.

    Unlabeled images that have many pixels without a label or with a doubtful one, of rare classes first, and that are
    unlike each other and the labeled images. Writes next/images.txt and next/reasons.csv of the run. The calibrated
    labels are then corrected in an annotation tool and read by `conformalsam import-masks`.

    Chosen images are no random sample: see docs/tasks.md before thresholds are computed with them.
    """
    from pipeline.exchange import FORMATS, export_labels, refuse_unknown_format
    from pipeline.exchange.next_images import propose_images, reason, write_proposals
    from pipeline.run import Run

    if format_name is not None:
        refuse_unknown_format(format_name, tuple(FORMATS))
    run = Run(settings)
    proposals = propose_images(settings, count)
    listed = write_proposals(run.folder.next_images, proposals)
    width = max(len(one.id) for one in proposals)
    click.echo(f"{'image':{width}}  points of mIoU  reason")
    for one in proposals[:MAX_SHOWN]:
        click.echo(f"{one.id:{width}}  {one.gain:14.3f}  {reason(one)}")
    if len(proposals) > MAX_SHOWN:
        click.echo(f"and {len(proposals) - MAX_SHOWN} more; all of them in {listed.with_name('reasons.csv')}")
    click.echo(f"wrote {listed}: {len(proposals)} images")
    if format_name is None:
        click.echo(f"to annotate them: {run.tool('export', '--to', 'cvat', '--ids', str(listed))}")
        return
    written = export_labels(run.folder.labels, format_name, ids=listed)
    click.echo(written.summary())
    click.echo(FORMATS[format_name].next_step.format(folder=shlex.quote(str(written.folder))))
