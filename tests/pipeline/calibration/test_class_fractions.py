"""Fractions of the classes: in a sentence, and in receipts and logs as counted from labels and masks."""

import logging

import numpy as np
import pytest
from stage_runs import labels_of, run_stages
from tiny_run import write_run_file, write_sample_files

import calib
from pipeline.calibration.class_fractions import fractions_of, fractions_sentence
from pipeline.calibration.folds import variant_of
from pipeline.inspect.summary import inspect_store
from pipeline.receipt import read_receipt
from pipeline.run_file import load_settings
from pipeline.store import open_calibration

NAMES = ["background", "cat", "dog"]


def test_names_the_classes_that_differ_most_and_counts_the_others():
    fractions = {f"c{i}": {"labels": 0.1 + 0.01 * i, "masks": 0.1} for i in range(7)}
    assert fractions_sentence(fractions) == (
        "c6 16.0 % (10.0 %), c5 15.0 % (10.0 %), c4 14.0 % (10.0 %), c3 13.0 % (10.0 %), c2 12.0 % (10.0 %), and 2 "
        "classes that differ less"
    )
    assert fractions_sentence({"a": {"labels": None, "masks": 1.0}}) is None


def test_without_labels_or_held_out_images_there_are_no_fractions():
    assert fractions_of({"a": 0}, None) == {"a": {"labels": None, "masks": None}}
    held_out = {
        "raw": {"fractions_per_class": {"a": {"labels": 0.5, "masks": 0.25}, "b": {"labels": 0.5, "masks": 0.75}}}
    }
    assert fractions_of({"a": 3, "b": 1}, held_out) == {
        "a": {"labels": 0.75, "masks": 0.25}, "b": {"labels": 0.25, "masks": 0.75}
    }  # fmt: skip


def by_class(labels):
    counts = np.bincount(labels[labels < len(NAMES)].astype(np.int64), minlength=len(NAMES))
    return counts / counts.sum()


def test_receipts_logs_and_inspect_have_those_of_the_labels_and_masks(tmp_path, caplog):
    write_sample_files(tmp_path / "data", [f"im{i:02}" for i in range(12)])
    settings = load_settings(write_run_file(tmp_path), {"variant": "image", "alpha": 0.3, "rule": "paper"})
    with caplog.at_level(logging.INFO):
        run_stages(settings)
    store = open_calibration(settings.folder / "calibration.zarr")
    maps = {name: np.stack([store.read_chunk(name, i) for i in range(6)]) for name in ("score", "truth")}
    _, *fits = calib.fit(variant_of(settings, [0.3]), calib.ArrayMaps(maps), np.arange(6))
    held_out = [
        calib.label_pixels(store.planes(i), fits[i].map(0), "paper", 0, "abstain")[maps["truth"][i] != 255]
        for i in range(6)
    ]
    labels = np.nan_to_num(np.concatenate(held_out), nan=9)
    found = read_receipt(settings.folder / "calibrate.json", "calibrate")["held_out"]
    (row,) = [row for row in found["rows"] if row["rule"] == "paper"]
    masks = by_class(maps["truth"])
    argmax = np.concatenate([calib.most_probable(store.planes(i), 0)[0][maps["truth"][i] != 255] for i in range(6)])
    for facts, expected in ((row, by_class(labels)), (found["raw"], by_class(argmax))):
        assert [both["labels"] for both in facts["fractions_per_class"].values()] == pytest.approx(expected)
        assert [both["masks"] for both in facts["fractions_per_class"].values()] == pytest.approx(masks)
    sentence = fractions_sentence(row["fractions_per_class"])
    assert f"calibrate: held-out labels by class (masks of the same images): {sentence}\n" in caplog.text
    unlabeled = by_class(np.nan_to_num(labels_of(settings), nan=9))
    pairs = {k: {"labels": a, "masks": b} for k, a, b in zip(NAMES, unlabeled, masks, strict=True)}
    assert f"labels by class (masks of the labeled images): {fractions_sentence(pairs)}\n" in caplog.text
    of_classes = inspect_store(settings.folder / "labels.zarr")["held_out"]["per_class"]
    assert {name: facts["fractions"] for name, facts in of_classes.items()} == row["fractions_per_class"]
