"""Builds the annotator that the settings choose."""

from __future__ import annotations

import importlib
import logging
import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import get_args

from pipeline.annotators.contract import Annotator, Space, classes_without_prompt, other_labels, reason_of
from pipeline.errors import AnnotatorError, UserError, disk_problem
from pipeline.run import Run
from pipeline.settings import PythonSettings, Settings

log = logging.getLogger(__name__)

SPACES = get_args(Space)


def build_annotator(settings: Settings, ids: Sequence[str] = ()) -> Annotator:
    """Load the annotator of `annotate.annotator`, and prepare it for the classes of `data.classes` and the images.

    Classes without a prompt or channel are logged.

    ids:    of all images that it will annotate
    raises: AnnotatorError if no annotator is chosen, or if it cannot be loaded or prepared
    """
    annotator, views = _load(settings), settings.annotate.views
    if views is not None and views.is_several:
        from pipeline.annotators.views import ViewsAnnotator

        annotator = ViewsAnnotator(annotator, views, settings.annotate.resolution)
    with explained_prepare(annotator):
        annotator.prepare(settings.data.class_prompts)
        if hasattr(annotator, "prepare_images"):
            annotator.prepare_images(ids)
    if without := classes_without_prompt(annotator):
        log.warning("annotate: %s", other_labels(without))
    return annotator


@contextmanager
def explained_prepare(annotator: Annotator) -> Iterator[None]:
    """Context for `prepare` and its like, in which any error of an annotator but one of a disk is an AnnotatorError."""
    try:
        yield
    except UserError:
        raise
    except Exception as error:  # an annotator may raise anything
        if disk_problem(error) is not None:
            raise
        raise AnnotatorError(f"annotator {annotator.name} failed in prepare; fix it: {reason_of(error)}") from error


def _load(settings: Settings) -> Annotator:
    """Import and build the chosen adapter. The other adapters and their libraries are not imported."""
    chosen = settings.annotate
    assert chosen.annotator != "ensemble", "its members are annotators"
    if chosen.seem is not None and chosen.annotator == "seem":
        from pipeline.annotators.seem import SeemAnnotator

        return SeemAnnotator(chosen.seem, settings.data, Path(settings.results) / "text_embeddings")
    if chosen.transformers is not None and chosen.annotator == "transformers":
        from pipeline.annotators.hub.annotator import TransformersAnnotator

        return TransformersAnnotator(chosen.transformers, settings.data, Path(settings.results) / "text_embeddings")
    if chosen.onnx is not None and chosen.annotator == "onnx":
        from pipeline.annotators.onnx import OnnxAnnotator

        return OnnxAnnotator(chosen.onnx, settings.data)
    if chosen.python is not None and chosen.annotator == "python":
        return load_factory(chosen.python)
    if chosen.maps is not None and chosen.annotator == "maps":
        from pipeline.annotators.maps import MapsAnnotator

        return MapsAnnotator(chosen.maps, settings.data)
    if chosen.student is not None and chosen.annotator == "student":
        from pipeline.annotators.student import student_annotator

        return student_annotator(settings, chosen.student)
    alone = Run(settings).command("all", preset="label-only")
    raise AnnotatorError(
        "annotate.annotator is none, but a probability map needs an annotator; set annotate.annotator to seem, "
        f"transformers, onnx, maps, student, python or ensemble, or train on the labeled images alone: {alone}"
    )


def load_factory(settings: PythonSettings) -> Annotator:
    """Call the user's factory, and check that the object it returns has every attribute of the contract.

    raises: AnnotatorError if the factory cannot be imported, or if an attribute is missing
    """
    module_name, _, name = settings.factory.partition(":")
    with working_folder_last():
        try:
            factory = getattr(importlib.import_module(module_name), name)
        except Exception as error:  # importing a module of a user runs it
            raise AnnotatorError(
                f"annotate.python.factory {settings.factory} cannot be loaded: {reason_of(error)}; set it to "
                "module:function of a module that is installed or in the working folder"
            ) from error
        try:
            annotator: Annotator = factory(**settings.arguments)
        except UserError:
            raise
        except Exception as error:
            raise AnnotatorError(
                f"annotate.python.factory {settings.factory} failed with the arguments {settings.arguments}; fix it or "
                f"annotate.python.arguments: {reason_of(error)}"
            ) from error
    _check_attributes(annotator, settings.factory)
    return annotator


def _check_attributes(annotator: Annotator, factory: str) -> None:
    """AnnotatorError unless an object of a user has every attribute of the contract, of the right type."""
    kind = type(annotator).__name__
    missing = [a for a in ("name", "fingerprint", "space", "prepare", "__call__") if not hasattr(annotator, a)]
    if missing:
        raise AnnotatorError(f"{factory} returned {kind}, which lacks {', '.join(missing)}; add them to {kind}")
    for attribute in ("name", "fingerprint"):
        value = getattr(annotator, attribute)
        if not isinstance(value, str) or not value:
            raise AnnotatorError(f"{kind}.{attribute} of {factory} is {value!r}, expected text; fix {kind}")
    if annotator.space not in SPACES:
        raise AnnotatorError(
            f"{kind}.space of {factory} is {annotator.space!r}, expected {' or '.join(SPACES)}; fix {kind}"
        )


@contextmanager
def working_folder_last() -> Iterator[None]:
    """Put the working folder at the end of `sys.path`, so that an installed module of the same name comes first.

    Outside this context the working folder is not on `sys.path`: a file train.py or scipy.py in it would be imported
    instead of the installed package.
    """
    folder = os.getcwd()
    is_missing = folder not in sys.path
    if is_missing:
        sys.path.append(folder)
    try:
        yield
    finally:
        if is_missing:
            sys.path.remove(folder)
