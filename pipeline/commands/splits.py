"""Commands `splits verify` and `splits ade`: check and write lists of published splits."""

from __future__ import annotations

from pathlib import Path

import click


@click.group()
def splits() -> None:
    """Check lists of published splits, or write ADE20K's."""


@splits.command()
@click.argument("lists", metavar="FILE...", nargs=-1, required=True, type=click.Path(path_type=Path))
@click.option("--expect", metavar="SPLIT", help="Fail unless every list belongs to this split, e.g. voc/92.")
def verify(lists: tuple[Path, ...], expect: str | None) -> None:
    """Compare lists with the published splits.

    Prints the fingerprint and the number of images of each list, and the published split that it equals. A folder means
    all .txt files below it, e.g. UniMatch's splits/pascal/92 or U2PL's data/splits. An unlabeled.txt is compared
    together with the labeled.txt beside it.
    """
    from pipeline.sources.splits import refuse_others
    from pipeline.sources.splits import verify as compare

    verdicts = compare(lists, expect)
    for verdict in verdicts:
        click.echo(str(verdict))
    if expect is not None:
        refuse_others(verdicts, expect)


@splits.command()
@click.argument("root", type=click.Path(path_type=Path))
@click.argument("out", type=click.Path(path_type=Path))
def ade(root: Path, out: Path) -> None:
    """Write ADE20K's lists by the published recipe.

    Writes labeled.txt and unlabeled.txt into OUT/1_128 to OUT/1_8. ROOT is the folder ADEChallengeData2016; only its
    file names are read.
    """
    from pipeline.sources.splits import write_ade_lists

    for verdict in write_ade_lists(root, out):
        click.echo(str(verdict))
