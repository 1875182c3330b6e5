"""Common parts of the command lines of `pipeline` and `train`: options that name a run, logging, one-line errors."""

from __future__ import annotations

import contextlib
import functools
import inspect
import logging
import os
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import click

from pipeline.errors import ConfigError, DiskError, UserError, disk_problem
from pipeline.lock import only_writer
from pipeline.overrides import parse_overrides
from pipeline.run import Run
from pipeline.run_file import DEFAULT_RUN, load_settings
from pipeline.settings import Settings

SECTIONS = {
    "Stages": (
        "run",
        *("prepare", "annotate", "calibrate", "probe", "pseudolabel"),
        *("stage1", "stage2", "evaluate", "baseline", "report"),
    ),
    "Before a run": ("init", "annotators", "settings", "presets", "doctor", "prompts"),
    "After a run": (
        *("inspect", "alpha", "gallery", "explain"),
        *("next", "export", "serve", "import-masks", "predict", "export-student", "push", "next-round"),
    ),
    "Data and weights": ("download", "cache", "convert-seem", "convert-sbd", "convert-coco", "splits"),
}
"""The commands as `--help` lists them: in sections, each in order of use."""


class CommandGroup(click.Group):
    """Lists commands in SECTIONS. A UserError ends the process with its message and exit code 1."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        order = [name for names in SECTIONS.values() for name in names]
        return sorted(self.commands, key=lambda name: order.index(name) if name in order else len(order))

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        shown = {name: command for name, command in self.commands.items() if not command.hidden}
        width = max(map(len, shown))
        room = formatter.width - 6 - width
        for title, names in SECTIONS.items():
            rows = [(f"{name:{width}}", shown[name].get_short_help_str(room)) for name in names if name in shown]
            if rows:
                with formatter.section(title):
                    formatter.write_dl(rows)

    def invoke(self, ctx: click.Context) -> Any:
        os.environ["PYTHONSAFEPATH"] = "1"  # child processes import nothing from the working folder either
        logging.basicConfig(stream=sys.stderr, level=logging.INFO, format="%(asctime)s %(message)s", datefmt="%H:%M:%S")
        try:
            return super().invoke(ctx)
        except UserError as error:
            click.echo(f"error: {error}", err=True)
            ctx.exit(1)
        except Exception as error:
            problem = disk_problem(error)
            if problem is None:
                raise
            click.echo(f"error: {problem}", err=True)
            ctx.exit(1)


SET_OPTION = click.option(
    "--set", "overrides", multiple=True, metavar="NAME=VALUE", help="Override a setting, e.g. alpha=0.1; repeatable."
)


UNANNOTATED_OPTION = click.option(
    "--unannotated",
    type=click.Choice(["background"]),
    help="Take images that annotations list without any outline as background. Default: they are left out.",
)

COLOURS_OPTION = click.option(
    "--colours",
    type=click.Path(path_type=Path),
    help="Text file, one colour of the masks per line: NAME,RED,GREEN,BLUE or NAME,#RRGGBB. Masks in colours without "
    "it: each colour is a class.",
)

RUN_HELP = f"RUN is a run file, or its name in config/. Default: {DEFAULT_RUN}."


def run_argument(function: Callable[..., None]) -> Callable[..., None]:
    """Add the argument RUN and `--set` to a command; its function gets the checked settings, then its own options."""

    @functools.wraps(function)
    def command(run: str, overrides: Sequence[str], **options: Any) -> None:
        function(load_settings(run, parse_overrides(overrides)), **options)

    command.__doc__ = f"{inspect.cleandoc(function.__doc__ or '')}\n\n{RUN_HELP}"
    return click.argument("run", metavar="[RUN]", default=DEFAULT_RUN)(SET_OPTION(command))


def run_or_store(function: Callable[..., None]) -> Callable[..., None]:
    """Add the argument RUN or STORE and `--set` to a command.

    Its function gets the checked settings of a run or the path of a store, then its own options.
    """

    @functools.wraps(function)
    def command(target: str, overrides: Sequence[str], **options: Any) -> None:
        path = Path(target)
        if path.suffix == ".zarr" or (path / "zarr.json").is_file():
            function(path, **options)
            return
        if (path / "samples.json").is_file():
            raise ConfigError(f"{path} is the folder of a run's results; give the run instead: {path.absolute().name}")
        function(load_settings(target, parse_overrides(overrides)), **options)

    command.__doc__ = f"{inspect.cleandoc(function.__doc__ or '')}\n\n{RUN_HELP} STORE is a folder *.zarr."
    return click.argument("target", metavar="[RUN|STORE]", default=DEFAULT_RUN)(SET_OPTION(command))


@contextlib.contextmanager
def explained_disk(folder: Path) -> Iterator[None]:
    """Context in which an error of the disk is a DiskError. folder: where its files are written"""
    try:
        yield
    except UserError:
        raise
    except Exception as error:
        problem = disk_problem(error, folder)
        if problem is None:
            raise
        raise DiskError(problem) from error


def run_stage(settings: Settings, name: str, stage: Callable[[Settings], Mapping[str, Any]]) -> None:
    """Run a stage as the only process that writes its results, and write its receipt; BusyError if it is not."""
    run = Run(settings)
    with explained_disk(run.folder.path), only_writer(run.folder.path, name):
        run.finish(name, stage(settings))


def run_command(group: click.Group) -> Callable[[Callable[[Settings], None]], click.Command]:
    """Register a stage: a command named as the function, with the argument RUN and `--set`."""
    return lambda function: group.command()(run_argument(function))
