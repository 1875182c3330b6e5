"""The sentence at the top of the report, for every state of a run."""

import pytest
from held_out_estimates import estimates

from pipeline.report.headline import headline


def receipts(rule="paper", mious=(0.6, 0.626), **others):
    students = {f"stage{i + 1}": {"miou": miou, "miou_interval": None} for i, miou in enumerate(mious)}
    evaluated = {"evaluate": {"students": students}} if mious else {}
    return {"pseudolabel": {"rule": rule}, **evaluated, **others}


AUDIT = {"num_images": 7, "raw": {"pixel_accuracy": 0.9}, "kept": {"precision": 0.95, "keep_rate": 0.8}}
LABELS = "Calibrated labels are 95.9 % right on 24 held-out labeled images, the raw annotator 93.7 %"


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ((receipts(), estimates(0.959), None), f"{LABELS}; the student reaches 62.6 mIoU"),
        (
            (receipts(baseline={"miou": 0.533, "miou_interval": None}), estimates(0.959), AUDIT),
            f"{LABELS}; the student reaches 62.6 mIoU, 53.3 from labels alone",
        ),
        ((receipts(mious=()), estimates(0.959), None), LABELS),
        (
            (receipts("raw", mious=()), estimates(0.937), None),
            "The labels are those of the raw annotator, 93.7 % right on 24 held-out labeled images",
        ),
        (
            (receipts(mious=()), None, AUDIT),
            "Calibrated labels are 95.0 % right on 7 unlabeled images that have a mask, the raw annotator 90.0 %",
        ),
        ((receipts(mious=()), None, None), "How many of the labels are right was not measured"),
        (({"evaluate": receipts()["evaluate"]}, None, None), "The student reaches 62.6 mIoU"),
        (({}, None, None), "The student has not been evaluated"),
    ],
)
def test_says_what_was_measured_in_one_sentence(given, expected):
    assert headline(*given).sentence.replace("\u00a0", " ") == expected


def test_compares_numbers_of_the_same_images_only():
    labels = headline(receipts(), estimates(0.959), AUDIT).labels
    assert labels.images == "24 held-out labeled images"
    assert (labels.raw["value"], labels.same_keep["value"], labels.labels["value"]) == (0.937, 0.94, 0.959)
    first, second = headline(receipts(stage1={"num_steps": 3}), None, None).students
    assert (first.name, first.miou, first.note) == ("Stage I", 0.6, "")
    assert (second.miou, second.note) == (0.626, "not trained yet")
