"""Masks of unlabeled images, which only reports and tables read."""

import numpy as np
import pytest
from PIL import Image

from pipeline.datasets import IGNORE_INDEX, Sample, SampleIndex
from pipeline.errors import DatasetError
from pipeline.report.run_audit import read_truth
from pipeline.sources.true_masks import TrueMasks

RED_GREEN = [0, 0, 0, 255, 0, 0, 0, 255, 0]  # palette of the classes 0, 1, 2
GREEN_RED = [0, 0, 0, 0, 255, 0, 255, 0, 0]
VALUES = np.array([[0, 1], [2, 255]], np.uint8)


def save(path, values, palette=None):
    picture = Image.fromarray(values)
    if palette is not None:
        picture.putpalette(palette + [0] * (768 - len(palette)))
    picture.save(path)


@pytest.fixture
def unlabeled(tmp_path):
    return Sample("new", "new.png", None, "unlabeled", 2, 2)


@pytest.fixture
def reader(tmp_path, make_settings):
    """A reader beside two labeled masks, with a palette and without."""
    save(tmp_path / "a.png", VALUES, RED_GREEN)
    save(tmp_path / "b.png", VALUES)
    samples = tuple(Sample(name, f"{name}.jpg", f"{name}.png", "labeled", 2, 2) for name in ("a", "b", "gone"))
    return TrueMasks.like_labeled(SampleIndex(tmp_path, samples), make_settings().data)


@pytest.mark.parametrize("palette", [RED_GREEN, None, [9, 9, 9, 8, 8, 8, 7, 7, 7]])
def test_a_mask_is_read_by_its_values(reader, unlabeled, tmp_path, palette):
    save(tmp_path / "new.png", VALUES, palette)
    assert reader.read(tmp_path / "new.png", unlabeled).tolist() == [[0, 1], [2, IGNORE_INDEX]]


@pytest.mark.parametrize(
    ("values", "palette", "reason"),
    [
        (VALUES, GREEN_RED, "1 of 2 masks with a palette have its colours in another order"),
        (VALUES % 3 + 75, None, "has values of no class: 75, 76, 77; add them to"),
        (VALUES[:1], None, "has 1 x 2 pixels, its image 2 x 2; make them equal"),
    ],
)
def test_a_mask_that_prepare_would_refuse_is_refused_and_left_out_of_the_report(
    reader, unlabeled, tmp_path, values, palette, reason, caplog
):
    save(tmp_path / "new.png", values, palette)
    with pytest.raises(DatasetError, match=reason):
        reader.read(tmp_path / "new.png", unlabeled)
    assert read_truth(reader, tmp_path / "new.png", unlabeled) is None
    assert "new.png is left out of the audit" in caplog.text
