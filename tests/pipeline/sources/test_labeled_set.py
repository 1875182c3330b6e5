"""Masks that are right one by one, but with which a run would compute nothing useful."""

import numpy as np
import pytest
from PIL import Image

from pipeline.doctor import examine
from pipeline.errors import DatasetError
from pipeline.sources import find_samples
from pipeline.stages.prepare import prepare

IDS = [f"im{i:02d}" for i in range(12)]
CLASSES = ["background", "cat", "dog"]


@pytest.fixture
def paint(tmp_path, write_images, make_settings):
    """Settings of a run whose masks of these splits have these values, in stripes."""

    def painted(values, splits=("labeled", "val"), dtype=np.uint8, **changes):
        write_images(tmp_path / "data", IDS)
        settings = make_settings(**changes)
        for sample in find_samples(settings.data)[0]:
            if sample.split in splits:
                stripes = np.array(values, dtype)[np.arange(32) * len(values) // 32]
                Image.fromarray(np.tile(stripes, (24, 1))).save(tmp_path / "data" / sample.mask)
        return settings

    return painted


@pytest.mark.parametrize(
    ("values", "splits", "changes", "problem"),
    [
        ([255], ["labeled"], {}, "all 6 labeled masks are void, e.g. .*: no pixel .* nothing can be calibrated"),
        ([255], ["val"], {}, "all 2 val masks are void, .* no student can be evaluated; correct data.classes"),
        ([9], ["labeled"], {"unknown_values": "ignore"}, "all 6 labeled masks are void"),
        ([0, 255], ["labeled", "val"], {}, r"0 and 255 only, .* never learned; give its class values: \[255\]"),
        ([0, 1], [], {"classes": ["background", "cat", {"name": "dog", "values": [300]}], "unknown_values": "ignore"},
         "class dog has the mask value 300, but the pixels of all masks hold values up to 255; save the masks with 16"),
        ([0, 1], [], {"train.holdout": 6}, "train.holdout 6 leaves stage1 none of the 6 .*; set train.holdout below 6"),
        ([0, 1], [], {"uncalibrated": "raise", "calibrate.alpha": 0.05, "calibrate.variant": "image"},
         "alpha 0.05 is below 0.1429, the smallest that 6 labeled images can calibrate; set calibrate.alpha to 0.1429"),
    ],
)  # fmt: skip
def test_what_no_stage_could_use_is_an_error_of_prepare_and_of_doctor(paint, values, splits, changes, problem):
    settings = paint(values, splits, **changes)
    with pytest.raises(DatasetError, match=problem):
        prepare(settings)
    assert not settings.folder.exists()
    errors = [str(finding) for finding in examine(settings) if finding.level == "error"]
    with pytest.raises(AssertionError, match=problem):
        raise AssertionError(errors)


@pytest.mark.parametrize(
    ("values", "splits", "changes", "warning"),
    [
        ([1, 255], ["labeled"], {}, "ALL LABELED PIXELS ARE OF ONE CLASS, cat: .*; label images of other classes"),
        ([0, 1], ["labeled"], {}, "1 CLASS HAS NO LABELED PIXEL: dog; .* from pseudo-labels only; label images that"),
        ([0, 1], ["labeled"], {"stage1.labels": "none"}, "NO LABELED PIXEL: dog; .* so a student never learns them;"),
        (
            [0, 1, 2],
            [],
            {"splits.num_labeled": 1},
            "THERE IS ONE LABELED IMAGE: no image can be held out, .* from 0.5 on",
        ),
    ],
)
def test_what_makes_a_run_worse_is_a_loud_warning(paint, caplog, values, splits, changes, warning):
    facts = prepare(paint(values, splits, **changes))
    with pytest.raises(AssertionError, match=warning):
        raise AssertionError(facts["warnings"])
    assert f"prepare: {facts['warnings'][0]}" in caplog.messages


def test_masks_without_a_class_are_counted(paint, tmp_path):
    settings = paint([0, 1, 2])
    labeled = [sample for sample in find_samples(settings.data)[0] if sample.split == "labeled"]
    assert prepare(settings)["warnings"] == []
    Image.new("L", (32, 24), 255).save(tmp_path / "data" / labeled[0].mask)
    (warning,) = prepare(settings)["warnings"]
    assert warning.startswith("1 of 6 labeled masks are void and count as no labeled image: ")
    assert labeled[0].mask in warning


def test_sixteen_bit_masks_hold_larger_values_and_negative_ones_are_void(paint, tmp_path):
    classes = ["background", "cat", {"name": "dog", "values": [300]}]
    settings = paint([0, 300, 1], dtype=np.uint16, classes=classes)
    facts = prepare(settings)
    assert list(facts["labeled_images_per_class"].values()) == [6, 6, 6]
    for path in (tmp_path / "data/masks").iterdir():
        path.unlink()
        values = np.tile(np.array([-1, 0, 1, 300, -300, -1, -1, -1], np.int32), (24, 4))
        Image.fromarray(values).save(path.with_suffix(".tif"))
    assert list(prepare(settings)["labeled_pixels_per_class"].values()) == [6 * 24 * 4] * 3
