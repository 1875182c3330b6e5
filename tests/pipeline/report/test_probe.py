"""The section on small students."""

import json

from report_run import Page, run_with_receipts

from pipeline.report.probe import probe_receipt, probe_rows
from pipeline.run import Run
from pipeline.stages.report import report

INTERVAL = {"value": 0.051, "low": -0.012, "high": 0.094}
NONE = {"labels": "none", "variant": None, "alpha": None, "rule": None, "weight": 0.0}
CALIBRATED = {"labels": "calibrated", "variant": "image", "alpha": 0.05, "rule": "paper", "weight": 0.5}
RAW = {**NONE, "labels": "raw", "weight": 0.5}


def receipt_of(calibration):
    rows = [{**arm, "miou": 0.5, "to_none": INTERVAL, "to_raw": INTERVAL} for arm in (NONE, RAW, CALIBRATED)]
    return {
        "fingerprint": calibration,
        "chosen": CALIBRATED,
        "verdict": "train on these & those",
        "command": "snakemake --cores 8 all",
        "outcomes": rows,
        "num_labeled": 60,
        "folds": 3,
    }


def test_the_table_has_a_row_for_each_way_to_train_and_marks_the_one_to_take(make_settings, write_images, tmp_path):
    write_images(tmp_path / "data", [f"im{i}" for i in range(12)])
    settings = make_settings()
    run_with_receipts(settings)
    calibration = json.loads((settings.folder / "calibrate.json").read_text())["fingerprint"]
    Run(settings).finish("probe", receipt_of(calibration))
    report(settings)
    page = Page(settings)
    assert "train on these & those" in page.text
    rows = [row for row in page.rows if row[0].startswith(("none:", "the annotator’s argmax", "calibrated:"))]
    difference = "+5.1 -1.2 to +9.4"
    assert rows == [
        ["none: the labeled images alone", "–", "50.0 %", "–", difference, ""],
        ["the annotator’s argmax", "0.5", "50.0 %", difference, "–", ""],
        ["calibrated: variant image, α = 0.05, rule paper", "0.5", "50.0 %", difference, difference, "← chosen"],
    ]


def test_a_probe_of_another_calibration_is_left_out(make_settings):
    run = Run(make_settings())
    assert probe_receipt(run, "new") == {}
    run.finish("probe", receipt_of("old"))
    assert probe_receipt(run, "new") == {}
    assert probe_rows({}) == []
