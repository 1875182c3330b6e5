"""The annotator that a run chooses."""

from __future__ import annotations

import importlib
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from pipeline.annotators.contract import Annotator
from pipeline.errors import AnnotatorError
from pipeline.run import Run
from pipeline.settings import PythonSettings, Settings


def build_annotator(settings: Settings) -> Annotator:
    """The annotator that the settings choose, prepared for the classes; AnnotatorError if it cannot be loaded."""
    annotator = _load(settings)
    annotator.prepare(settings.data.class_prompts)
    return annotator


def _load(settings: Settings) -> Annotator:
    """Only the chosen adapter is imported, and with it its engine."""
    chosen = settings.annotate
    if chosen.seem is not None and chosen.annotator == "seem":
        from pipeline.annotators.seem import SeemAnnotator

        return SeemAnnotator(chosen.seem, settings.data, Path(settings.results) / "text_embeddings")
    if chosen.onnx is not None and chosen.annotator == "onnx":
        from pipeline.annotators.onnx import OnnxAnnotator

        return OnnxAnnotator(chosen.onnx, settings.data)
    if chosen.python is not None and chosen.annotator == "python":
        return load_factory(chosen.python)
    raise AnnotatorError(
        "annotate.annotator is none, so there is nobody to ask; choose one in the section annotate, or train without: "
        f"{Run(settings).command('all', preset='label-only')}"
    )


def load_factory(settings: PythonSettings) -> Annotator:
    """Call the user's factory and check that what it returns keeps the contract."""
    module_name, _, name = settings.factory.partition(":")
    with working_folder_last():
        try:
            factory = getattr(importlib.import_module(module_name), name)
        except (ImportError, AttributeError) as error:
            raise AnnotatorError(f"annotate.python.factory {settings.factory} cannot be loaded: {error}") from None
        annotator: Annotator = factory(**settings.arguments)
    missing = [a for a in ("name", "fingerprint", "space", "prepare", "__call__") if not hasattr(annotator, a)]
    if missing:
        raise AnnotatorError(
            f"{settings.factory} returned {type(annotator).__name__}, which lacks {', '.join(missing)}"
        )
    return annotator


@contextmanager
def working_folder_last() -> Iterator[None]:
    """Let modules be imported from the working folder, where no installed module has that name.

    Everywhere else the working folder is not on `sys.path`: a file train.py or scipy.py in it would be imported in
    place of the installed package.
    """
    folder = os.getcwd()
    is_new = folder not in sys.path
    if is_new:
        sys.path.append(folder)
    try:
        yield
    finally:
        if is_new:
            sys.path.remove(folder)
