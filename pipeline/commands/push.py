"""Command `push`: puts labels or the student on the Hugging Face Hub."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Literal

import click

from pipeline.cli import explained_disk, run_argument
from pipeline.errors import ConfigError
from pipeline.settings import Settings

LICENCE = re.compile(r"[a-z0-9][a-z0-9.+-]*")


@click.command()
@run_argument
@click.argument("repository", metavar="USER/NAME")
@click.option("--what", required=True, type=click.Choice(["labels", "student"]), help="What is uploaded.")
@click.option("--public", "is_public", is_flag=True, help="Make the repository public. Default: private.")
@click.option("--with-images", is_flag=True, help="Upload the images with their labels. Default: the labels alone.")
@click.option("--license", "licence", metavar="LICENCE", help="Licence that the card states, as the hub names it, e.g. "
              "cc-by-4.0. Default: none.")  # fmt: skip
@click.option("--dry-run", is_flag=True, help="Write the folder and list its files, but upload nothing.")
def push(
    settings: Settings,
    repository: str,
    what: Literal["labels", "student"],
    is_public: bool,
    with_images: bool,
    licence: str | None,
    dry_run: bool,
) -> None:
    """Put the labels or the student on the Hugging Face Hub.

    The labels become a data set, the student a model, each with a card that says how it was made. The folder is
    written first, push/labels or push/student of the run, and stays there. The upload is one commit. It needs an access
    token of the hub: hf auth login, or HF_TOKEN.
    """
    from pipeline.push.contents import labels_folder, student_folder
    from pipeline.push.hub import check_repository, upload
    from pipeline.run import Run

    check_repository(repository)
    if with_images and what == "student":
        raise ConfigError("--with-images is for labels; leave it out, or give --what labels")
    if licence is not None and not LICENCE.fullmatch(licence):
        raise ConfigError(
            f"--license is {licence!r}, expected an identifier as the hub lists them, e.g. apache-2.0, cc-by-4.0 or "
            "other; write it in lower case, without spaces"
        )
    run = Run(settings)
    with explained_disk(run.folder.path):
        if what == "labels":
            folder = labels_folder(run, with_images, licence)
        else:
            folder = student_folder(run, repository, licence)
    kind: Literal["dataset", "model"] = "dataset" if what == "labels" else "model"
    click.echo(listing(folder))
    click.echo(f"to {repository}, a {'public' if is_public else 'private'} {kind} repository")
    chosen = {"--public": is_public, "--with-images": with_images}
    given = [option for option, is_given in chosen.items() if is_given] + (["--license", licence] if licence else [])
    again = run.tool("push", repository, "--what", what, *given)
    if dry_run:
        click.echo(f"nothing was uploaded; to upload: {again}")
        return
    message = f"{what.capitalize()} of the run {settings.name}"
    uploaded = upload(folder, repository, kind, is_public=is_public, message=message, again=again)
    click.echo(f"uploaded: {uploaded.address} ({'private' if uploaded.is_private else 'public'})")


def listing(folder: Path) -> str:
    """Number and bytes of the files of a folder, in total and of each entry at its top."""
    lines = [f"{folder}: {_size_of([path for path in folder.rglob('*') if path.is_file()])}"]
    for entry in sorted(folder.iterdir()):
        is_folder = entry.is_dir()
        files = [path for path in entry.rglob("*") if path.is_file()] if is_folder else [entry]
        lines.append(f"  {entry.name}{'/' if is_folder else ''}: {_size_of(files)}")
    return "\n".join(lines)


def _size_of(files: list[Path]) -> str:
    total = sum(path.stat().st_size for path in files)
    return f"{len(files)} file{'s' if len(files) > 1 else ''}, {total:,} bytes"
