"""What the command lines of `pipeline` and `train` share: the options that name a run, logging, and one-line errors."""

from __future__ import annotations

import functools
import logging
import sys
from collections.abc import Callable, Sequence
from typing import Any

import click

from pipeline.errors import UserError
from pipeline.run_file import DEFAULT_RUN, load_settings, parse_overrides
from pipeline.settings import Settings


class CommandGroup(click.Group):
    """Lists commands in the order of the data flow; ends a user's error with its message and exit code 1."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(self.commands)

    def invoke(self, ctx: click.Context) -> Any:
        logging.basicConfig(stream=sys.stderr, level=logging.INFO, format="%(asctime)s %(message)s", datefmt="%H:%M:%S")
        try:
            return super().invoke(ctx)
        except UserError as error:
            click.echo(f"error: {error}", err=True)
            ctx.exit(1)


SET_OPTION = click.option(
    "--set", "overrides", multiple=True, metavar="NAME=VALUE", help="Override one setting, e.g. alpha=0.1."
)


def run_command(group: click.Group) -> Callable[[Callable[[Settings], None]], click.Command]:
    """Register a stage: a command with `--run` and `--set` whose function gets the checked settings."""

    def register(function: Callable[[Settings], None]) -> click.Command:
        @functools.wraps(function)
        def command(run: str, overrides: Sequence[str]) -> None:
            function(load_settings(run, parse_overrides(overrides)))

        run_option = click.option(
            "--run", default=DEFAULT_RUN, show_default=True, help="Run file, or its name in config/."
        )
        return group.command()(run_option(SET_OPTION(command)))

    return register


def run_argument(function: Callable[..., None]) -> Callable[..., None]:
    """Give a tool an argument RUN and `--set`; its function gets the checked settings first, then its own options."""

    @functools.wraps(function)
    def command(run: str, overrides: Sequence[str], **options: Any) -> None:
        function(load_settings(run, parse_overrides(overrides)), **options)

    return click.argument("run", metavar="RUN")(SET_OPTION(command))
