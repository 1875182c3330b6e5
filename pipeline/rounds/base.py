"""The base of a round: the run whose students annotate, with the settings that it was trained with."""

from __future__ import annotations

from pathlib import Path

from pipeline.errors import AnnotatorError
from pipeline.folder import Folder, recorded_words, stage_command
from pipeline.overrides import parse_workflow_config
from pipeline.run import Run
from pipeline.run_file import load_settings
from pipeline.settings import Settings, StudentSettings


def base_run(settings: Settings, chosen: StudentSettings) -> Run:
    """The run `annotate.student.run`, whose training has finished.

    Its settings are those that its receipts name: its run file, and the overrides of its command line.

    raises: AnnotatorError if there is no such run, or if it has other classes; StoreError if its training has not
            finished, or if its run file has changed since
    """
    folder = Path(settings.results) / chosen.run
    receipt = Folder(folder).receipt("stage2")
    words = recorded_words(receipt)
    if not words:
        raise AnnotatorError(
            f"no student in {folder}: the training of run {chosen.run} has not finished; run "
            f"{stage_command(receipt, 'stage2')}, or correct annotate.student.run, the name of a run in the same "
            "results folder"
        )
    run_file, overrides = parse_workflow_config(words)
    base = load_settings(run_file, overrides)
    if base.folder.absolute() != folder.absolute():  # the results were moved, or the run file has another name now
        base = load_settings(run_file, {**overrides, "results": str(folder.parent), "name": folder.name})
    run = Run(base)
    run.receipt("stage2")
    if base.data.class_names != settings.data.class_names:
        raise AnnotatorError(
            f"the students of run {chosen.run} have the classes {base.data.class_names}, but data.classes of run "
            f"{settings.name} has {settings.data.class_names}; give both the same classes, in the same order"
        )
    return run


def refuse_other_images(settings: Settings, base: Run) -> None:
    """AnnotatorError unless the images to annotate are labeled or unlabeled images of the base, byte by byte.

    An image that was added after the training would be annotated by a student that was not trained on it, unlike all
    other images. Masks may have been added or corrected.
    """
    known = {one.id: one.image_digest for one in base.samples().of("labeled", "unlabeled")}
    samples = Run(settings).samples("annotate").of("labeled", "unlabeled")
    others = [one.id for one in samples if known.get(one.id) != one.image_digest]
    if others:
        raise AnnotatorError(
            f"{len(others)} of {len(samples)} images to annotate, {others[0]} the first, are not those that run "
            f"{base.settings.name} was trained on; train it on them: run {base.command('all')}"
        )
