"""Commands `cache list`, `cache verify`, `cache pack` and `cache prune`: the maps and labels that runs share."""

from __future__ import annotations

import logging
import sys
from collections.abc import Sequence
from shlex import join, quote
from typing import TYPE_CHECKING

import click

from pipeline.cli import run_argument
from pipeline.progress import Progress
from pipeline.run import Run
from pipeline.settings import Settings

if TYPE_CHECKING:
    from pipeline.store.bucket import Bucket
    from pipeline.store.shared_labels import SharedLabels

log = logging.getLogger(__name__)

HEADER = ("maps", "classes", "size", "dtype", "images", "in use", "GB")


@click.group()
def cache() -> None:
    """List, check, pack or remove the maps that runs share.

    They are in the folder of the setting `cache`, by default RESULTS/maps: one folder for each annotator with its
    weights, prompts, classes and grid, and one file for each image. A run's probs.zarr is linked to them, so they take
    the room of one. If `cache` is a URL, what is there is listed and checked too, and removed with the tools of that
    object store; so are the labels, if `labels` is a URL.
    """


@cache.command("list")
@run_argument
def list_caches(settings: Settings) -> None:
    """List the maps by annotator.

    "In use" are those that the probs.zarr of a run is linked to. RUN gives the folder.
    """
    from pipeline.store.map_cache import caches_in, summary
    from pipeline.store.shared_integrity import labels_summary, shared_labels_in

    found = [summary(one) for one in caches_in(settings.cache_folder, settings.cache_url)]
    rows = [HEADER]
    for one in found:
        classes, height, width = one.facts.get("maps", ("?", "?", "?"))
        numbers = (str(one.num_rows), str(one.num_used), f"{one.num_bytes / 1e9:.2f}")
        size, dtype = f"{height} x {width}", one.facts.get("dtype", "?")
        rows.append((one.cache.folder.name, str(classes), size, dtype, *numbers))
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        numbers_of = (cell.rjust(width) for cell, width in zip(row[1:], widths[1:], strict=True))
        click.echo("  ".join([row[0].ljust(widths[0]), *numbers_of]))
    num_bytes, writing = sum(one.num_bytes for one in found), sum(one.num_claims for one in found)
    now = f"; {writing} images are being annotated" if writing else ""
    click.echo(f"{settings.cache_folder}: {num_bytes / 1e9:.2f} GB{now}")
    for bucket in (one.cache.bucket for one in found):
        if bucket is not None:
            places = bucket.places.values()
            packs = len({place.pack for place in places if place is not None})
            objects = f"{packs} packs and {sum(place is None for place in places)} single maps"
            click.echo(f"{bucket.url}: {len(places)} images in {objects}, {bucket.num_bytes() / 1e9:.2f} GB")
    for labels in shared_labels_in(settings.labels):
        click.echo(labels_summary(labels))


@cache.command()
@run_argument
@click.option("--repair", is_flag=True, help="Remove what is damaged, so that its stage makes it again.")
def verify(settings: Settings, repair: bool) -> None:
    """Read every map, and all labels in an object store, and compare their checksums.

    Exit code 1 if one is damaged. RUN gives the folder.
    """
    from pipeline.store.map_cache import caches_in, damaged_rows
    from pipeline.store.shared_integrity import shared_labels_in

    damaged = 0
    for one in caches_in(settings.cache_folder, settings.cache_url):
        progress = Progress(log, f"verify {one.folder.name}", sum(1 for _ in one.rows()), "images")
        for row, is_damaged in damaged_rows(one):
            progress.advance()
            if is_damaged:
                damaged += 1
                click.echo(f"damaged: {row}")
                if repair:
                    row.unlink()
        if one.bucket is not None:
            damaged += _verify_bucket(one.bucket, repair)
    for labels in shared_labels_in(settings.labels):
        damaged += _verify_labels(labels, repair)
    if damaged:
        click.echo(f"{damaged} damaged; {_next_step(Run(settings), repair)}")
    else:
        click.echo(f"all maps{'' if settings.labels is None else ' and labels'} have their checksums")
    sys.exit(1 if damaged and not repair else 0)


@cache.command()
@run_argument
def pack(settings: Settings) -> None:
    """Pack the maps in an object store into few large objects.

    A million small objects are slow to list. Processes may read and annotate meanwhile. RUN gives the URL. Labels in an
    object store need no packing: several images share an object from the beginning.
    """
    from pipeline.errors import ConfigError
    from pipeline.store.map_cache import caches_in

    if settings.cache_url is None:
        raise ConfigError(
            f"{settings.cache_folder} is a folder, whose maps are linked to the stores of runs; only those in an "
            "object store are packed: set `cache` to its URL, e.g. --set cache=s3://bucket/maps"
        )
    for one in caches_in(settings.cache_folder, settings.cache_url):
        assert one.bucket is not None, "the URL is given"
        for name, number in one.bucket.pack():
            click.echo(f"{one.bucket.url}/{name}: {number} images")


def _verify_bucket(bucket: Bucket, repair: bool) -> int:
    """Number of damaged maps in an object store, which are named and, to repair it, removed."""
    progress = Progress(log, f"verify {bucket.url}", len(bucket.places), "images")
    damaged = 0
    for digest in sorted(bucket.places):
        if bucket.read(digest) is None:
            damaged += 1
            click.echo(f"damaged: {bucket.url}/{digest}")
            if repair:
                bucket.remove(digest)
        progress.advance()
    return damaged


def _next_step(run: Run, is_repaired: bool) -> str:
    """What to do after damage was found."""
    if not is_repaired:
        return f"remove them: {join(['conformalsam', 'cache', *run.arguments('verify', '--repair')])}"
    repair = f"conformalsam inspect {quote(str(run.folder.probabilities))} --repair && {run.command('annotate')}"
    labels = "" if run.settings.labels is None else f"; labels: {run.command('pseudolabel', rerun='pseudolabel')}"
    return f"removed; in runs that use the maps: {repair}{labels}"


def _verify_labels(labels: SharedLabels, repair: bool) -> int:
    """Number of damaged or missing objects of labels, which are named and, to repair it, removed."""
    from pipeline.store.shared_integrity import damaged_objects, remove_damaged

    progress = Progress(log, f"verify {labels.url}", len(labels.there), "objects")
    damaged = damaged_objects(labels, progress.advance)
    for name in damaged:
        click.echo(f"damaged: {labels.url}/{name}")
    if damaged and repair:
        remove_damaged(labels, damaged)
    return len(damaged)


@cache.command()
@run_argument
@click.option("--maps", "names", metavar="NAME", multiple=True, help="Only these, as `cache list` names them.")
@click.option("--all", "is_all", is_flag=True, help="Also maps in use. Runs keep theirs; new runs annotate again.")
def prune(settings: Settings, names: Sequence[str], is_all: bool) -> None:
    """Remove maps that no run uses.

    RUN gives the folder. Refused while a process annotates.
    """
    from pipeline.errors import ConfigError
    from pipeline.store.map_cache import caches_in, prune_rows

    found = {one.folder.name: one for one in caches_in(settings.cache_folder, settings.cache_url)}
    unknown = [name for name in names if name not in found]
    if unknown:
        raise ConfigError(f"{settings.cache_folder} has no {unknown[0]}, but {', '.join(found) or 'nothing'}")
    for name in names or found:
        num_rows, num_bytes = prune_rows(found[name], is_all)
        click.echo(f"{name}: {num_rows} images removed, {num_bytes / 1e9:.2f} GB")
