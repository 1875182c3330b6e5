"""Command `settings`: prints the manual of the settings."""

from __future__ import annotations

import click


@click.command()
@click.argument("section", required=False)
def settings(section: str | None) -> None:
    """Print the manual of the settings, or of one SECTION.

    SECTION is a section (train, data.splits) or a setting (train.lr, or lr for short). Without it, every setting of a
    run file is printed: its name, type, default and meaning.
    """
    from pipeline.manual import manual

    click.echo(manual(section))
