"""The annotator that a run chooses: the folders from which a user's factory is imported, and what is refused."""

import sys
from pathlib import Path

import numpy as np
import pytest
from unprivileged import without_privileges

from pipeline.annotators.build import build_annotator, working_folder_last
from pipeline.annotators.contract import checked_maps
from pipeline.errors import AnnotatorError, disk_problem

LATE = "def build():\n    import late_part\n    return late_part.annotator()\n"
PART = "import noisy_annotator\n\ndef annotator():\n    return noisy_annotator.build(space='probability')\n"

BY_ID = """
import numpy as np

class ById:
    name, fingerprint, space = "by id", "unknown", "probability"

    def prepare(self, class_prompts):
        pass

    def prepare_images(self, ids):
        self.fingerprint = " ".join(ids)

    def __call__(self, images, ids):
        return np.stack([np.full((3, 4, 4), 1 / int(name), np.float32) for name in ids])
"""


def test_a_factory_in_the_working_folder_may_import_its_modules_when_it_is_called(make_settings, tmp_path, monkeypatch):
    (tmp_path / "own_late.py").write_text(LATE)
    (tmp_path / "late_part.py").write_text(PART)
    monkeypatch.chdir(tmp_path)
    before = list(sys.path)
    assert build_annotator(make_settings(factory="own_late:build")).space == "probability"
    assert sys.path == before


def test_the_working_folder_comes_last_and_is_removed_even_after_an_error(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    before = list(sys.path)
    seen = []

    def fail():
        with working_folder_last():
            seen.extend(sys.path)
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()
    assert seen == [*before, str(tmp_path)]
    assert sys.path == before


def test_a_working_folder_that_is_on_the_path_stays_where_it_is(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    before = list(sys.path)
    with working_folder_last():
        assert sys.path == before
    assert sys.path == before


def test_an_annotator_that_prepares_images_gets_their_ids_with_them(make_settings, tmp_path, monkeypatch):
    (tmp_path / "own_by_id.py").write_text(BY_ID)
    monkeypatch.chdir(tmp_path)
    annotator = build_annotator(make_settings(factory="own_by_id:ById"), ["2", "4", "8"])
    assert annotator.fingerprint == "2 4 8"
    maps = checked_maps(annotator, np.zeros((2, 5, 6, 3), np.uint8), ["4", "2"], 3)
    assert maps[:, 0, 0, 0].tolist() == [0.25, 0.5]


def test_a_run_without_an_annotator_names_the_recipe_that_needs_none(make_settings):
    settings = make_settings(annotator="none", **{"stage1.labels": "none"})
    with pytest.raises(
        AnnotatorError,
        match=r"to seem, transformers, onnx, maps, student, python or ensemble, or .*: .*label-only",
    ):
        build_annotator(settings)


def test_a_disk_that_cannot_be_written_in_prepare_is_not_the_annotators_fault(make_settings, tmp_path):
    settings = make_settings(annotator="seem", **{"annotate.seem": {"checkpoint": "seem-nano"}})
    results = Path(settings.results)
    results.mkdir(exist_ok=True)
    results.chmod(0o500)
    try:
        with without_privileges(), pytest.raises(PermissionError) as error:
            build_annotator(settings)
    finally:
        results.chmod(0o700)
    assert disk_problem(error.value).startswith(f"{results}/text_embeddings: Permission denied; make it readable and")
