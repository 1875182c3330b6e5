"""Writes the reference pages of the site from the code: docs/reference/settings.md and commands.md."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import click

from pipeline.__main__ import every_command
from pipeline.manual import Entry, entries

FOLDER = Path(__file__).parent / "reference"


def main() -> None:
    FOLDER.mkdir(exist_ok=True)
    (FOLDER / "settings.md").write_text(settings_page(), encoding="utf-8")
    (FOLDER / "commands.md").write_text(commands_page(), encoding="utf-8")


SETTINGS = """# Settings

The same text as `conformalsam settings`. A setting is given in the run file, with `--set NAME=VALUE`, or
after `--config` of snakemake.
"""


def settings_page() -> str:
    """All settings with type, range, default and meaning, a heading for each section."""
    return "\n\n".join([SETTINGS, *map(_setting, entries())]) + "\n"


def _setting(entry: Entry) -> str:
    meaning = " ".join(entry.meaning.split())
    if not entry.values:
        return f"## {entry.name}\n\n{meaning}"
    return f"**`{entry.name}`** `{entry.values}{entry.default}`\n: {meaning}"


def commands_page() -> str:
    """The help of every command."""
    context = click.Context(every_command(), info_name="conformalsam", max_content_width=100)
    return "\n\n".join(["# Commands", *_helps(context)]) + "\n"


def _helps(context: click.Context) -> Iterator[str]:
    yield _block(context)
    assert isinstance(context.command, click.Group)
    for name in context.command.list_commands(context):
        command = context.command.get_command(context, name)
        assert command is not None
        child = click.Context(command, info_name=name, parent=context, max_content_width=100)
        yield f"## {name}\n\n{_block(child)}"


def _block(context: click.Context) -> str:
    return f"```\n{context.get_help()}\n```"


if __name__ == "__main__":
    main()
