"""Command `run`: the whole workflow, by Snakemake."""

from __future__ import annotations

import os

import click

from pipeline.errors import ConfigError


@click.command(context_settings={"ignore_unknown_options": True, "allow_interspersed_args": False})
@click.argument("run")
@click.argument("options", metavar="[SNAKEMAKE_OPTIONS]...", nargs=-1, type=click.UNPROCESSED)
def run(run: str, options: tuple[str, ...]) -> None:
    """Run all stages that have not finished.

    This is Snakemake with the Snakefile and the profile of this package, on all cores. RUN is a run file, or its name
    in config/; those that come with the package are found anywhere. What follows it goes to Snakemake:

    \b
      conformalsam run demo
      conformalsam run mine -n                      what would be run
      conformalsam run mine calibrate --cores 2     up to calibrate
      conformalsam run mine --config alpha=0.05     with other settings
      conformalsam run mine -R annotate             annotate again
    """
    from pipeline.run_file import find_run_file
    from pipeline.workflow import snakemake_call

    if run.startswith("-"):
        raise ConfigError(f"{run} stands before the run; write conformalsam run RUN {run}")
    find_run_file(run)
    words = snakemake_call(run, options)
    os.execv(words[0], words)
