"""Command `prompts`: compares wordings of the classes' prompts on the labeled images."""

from __future__ import annotations

import json
from collections.abc import Sequence

import click

from pipeline.cli import run_argument
from pipeline.run import Run
from pipeline.settings import Settings


@click.command()
@run_argument
@click.option(
    "--try",
    "tries",
    multiple=True,
    metavar="CLASS=WORDING,...",
    help="Further wordings of a class: prompts separated by commas; + joins prompts used together. Repeatable.",
)
@click.option("--json", "as_json", is_flag=True, help="Print the numbers of every wording as JSON.")
def prompts(settings: Settings, tries: Sequence[str], as_json: bool) -> None:
    """Find the wording of each class's prompts with the best IoU.

    Tries, for every class of RUN, its prompts as they are, each of several prompts by itself, and the wordings of
    --try, on the labeled images. Prints the IoU of each, and lines for the run file. Nothing is changed or stored.
    The run must be prepared; masks of unlabeled images are not read.

    The IoU of a wording is that of its class when only its prompts change: the classes compete with the other prompts
    as they are, the largest map of a pixel wins, at the resolution of the maps. mIoU shows whether other classes lose.
    A wording is recommended if its difference to the present prompts is above 0 beyond noise, by resampling images.

    Try few wordings, say up to five per class. The same images calibrate later: choosing among many wordings fits
    their noise, and the guarantee, which takes an annotator that was not chosen on them, then holds only approximately.

    SEEM in mode semantic, CLIPSeg and SAM 3 read each image once for all wordings, other annotators once for each
    (Grounded-SAM 2: its SAM 2 once).

    \b
      conformalsam prompts mine
      conformalsam prompts mine --try "Pole=lamp post,pole,lamp post+pole"
    """
    from pipeline.prompt_search.candidates import find_wordings
    from pipeline.prompt_search.comparison import compare, text_of
    from pipeline.prompt_search.search import count_wordings

    wordings = find_wordings(settings, tries)
    facts = compare(count_wordings(settings, wordings), wordings, settings.data, settings.seed)
    run = Run(settings)
    name = settings.origin.run or settings.name
    click.echo(json.dumps(facts, indent=1) if as_json else text_of(facts, name, run.command("all")))
