"""Command `annotators`: lists the annotators and their models."""

from __future__ import annotations

import click


@click.command()
def annotators() -> None:
    """List the annotators, and models for each.

    For each value of annotate.annotator: what it takes, how it finds the classes, and the packages that it needs
    besides those of conformalsam. For each model: size, vocabulary (open: any words; closed: its own labels), licence,
    and what this project has run: its architecture with random weights, these weights, or neither.
    """
    from pipeline.annotators.catalogue import catalogue

    click.echo(catalogue())
