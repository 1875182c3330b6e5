"""Annotator from the students of the last round, each for the images of its fold."""

from __future__ import annotations

import importlib

from pipeline.annotators.contract import Annotator
from pipeline.rounds.base import base_run, refuse_other_images
from pipeline.rounds.folds import folds_of
from pipeline.run import Run
from pipeline.settings import Settings, StudentSettings


def student_annotator(settings: Settings, chosen: StudentSettings) -> Annotator:
    """The students of all folds of the run `annotate.student.run`, as one annotator.

    They predict as that run's `evaluate` does, with its window, flips and scales.

    raises: AnnotatorError if a student is not trained, or the run has other classes or images; StoreError if its
            training has not finished, or the files of a student have changed
    """
    base = base_run(settings, chosen)
    if Run(settings).folder.samples.is_file():  # not yet in `doctor`, which may come before `prepare`
        refuse_other_images(settings, base)
    folds = folds_of(base, chosen.folds)
    again = Run(settings).command("annotate")
    students = [fold.student(again) for fold in folds]
    student_of = {sample_id: i for i, fold in enumerate(folds) for sample_id in fold.ids}
    adapter = importlib.import_module("train.annotator")  # by name: no module of pipeline imports train
    annotator: Annotator = adapter.StudentAnnotator(
        f"students of {base.settings.name}",
        students,
        student_of,
        base.settings,
        keeps_size=settings.annotate.resolution == "grid",
    )
    return annotator
