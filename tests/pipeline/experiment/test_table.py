"""The table's text, its picture, and the paper's numbers."""

import re

import numpy as np
import pytest
from receipts import facts_of
from tiny_run import write_run_file

from pipeline.datasets import SPLITS, Sample, SampleIndex, save_samples
from pipeline.digests import digests_of
from pipeline.experiment.paper import ADE, NUMBERS, VOC, column_beside
from pipeline.experiment.plan import Cell, Experiment, Run
from pipeline.experiment.plot import chart
from pipeline.experiment.request import Request
from pipeline.experiment.results import Result, Student, results_of
from pipeline.experiment.table import as_json, markdown, spread
from pipeline.experiment.tables import TABLES
from pipeline.receipt import write_receipt
from pipeline.run import Run as PipelineRun


def students(*values):
    return [
        Student(seed, 10, value, value, value, np.zeros((1, 3, 2), np.int64), {}) for seed, value in enumerate(values)
    ]


def drawn_results(table, *values):
    """Results of a table's first rows, seeds by row, under equal steps."""
    rows = TABLES[table].rows
    return [
        Result(Cell(row, "steps", Run(row.recipe, row.shape, "steps"), "stage1"), students(*some), None)
        for row, some in zip(rows, values, strict=False)
    ]


@pytest.mark.parametrize(
    ("fractions", "text"),
    [([0.5], "50.0"), ([0.5, 0.52, 0.54], "52.0 ± 2.0"), ([None], "–"), ([None, 0.25], "25.0")],
)
def test_spread_is_the_mean_and_the_standard_deviation_in_percent(fractions, text):
    assert spread(fractions) == text


def test_the_picture_has_a_mark_for_every_row():
    picture = str(chart(drawn_results("1", (0.4, 0.5), (0.6, 0.6))))
    assert picture.count('class="dot"') == 2
    assert "label-only: 45 %" in picture
    assert "equal steps" in picture


def test_the_picture_of_figure_4_is_a_curve():
    picture = str(chart(drawn_results("fig4", (0.2,), (0.3,), (0.4,))))
    assert picture.count("<polyline") == 1
    assert len(re.findall("<circle", picture)) == 3


def test_there_is_no_picture_of_nothing():
    assert chart([drawn_results("1", (0.4,))[0]._replace(students=[])]) is None


def test_the_papers_numbers_keep_the_papers_sums():
    """Differences that its sections 4.2 and 4.3 give."""
    of = [NUMBERS[split] for split in VOC[:4]]
    assert [round(one["SEEM + CP"] - one["Semi-Baseline"], 2) for one in of] == [25.2, 8.88, 5.95, 4.88]
    assert [round(one["ConformalSAM"] - one["SEEM + CP"], 2) for one in of] == [3.12, 3.99, 3.52, 4.42]
    gains = [round(NUMBERS[split]["ConformalSAM"] - NUMBERS[split]["AllSpark"], 2) for split in ADE[:2]]
    assert gains == [10.04, 6.99]
    assert NUMBERS["voc/92"]["pixel-0.05"] == NUMBERS["voc/92"]["SEEM + CP"]
    assert {row.key for row in TABLES["6"].rows} <= NUMBERS["voc/92"].keys()


def test_other_data_gets_a_column_that_says_so():
    column = column_beside("5", ["mine_1", "mine_2"])
    assert (column.split, column.is_ours) == ("voc/92", False)
    assert column_beside("4", ["mine_1"]).split == "ade20k/1_64"


def write_finished_run(experiment, cell, seed, confusion):
    """A run's receipts and areas, as if its student had this confusion on the one val image of two."""
    folder = experiment.run_folder(cell.run.name, seed)
    steps = [12] * len(cell.run.stages)
    write_receipt(folder / "run.json", "experiment-run", {"seed": seed, "steps": steps, "receipts": {}}, {})
    areas = np.stack([np.diag(confusion), confusion.sum(axis=1), confusion.sum(axis=0)])
    miou = (areas[0] / (areas[1] + areas[2] - areas[0])).mean()
    scores = {"miou": miou, "pixel_accuracy": 0.5, "best": {"miou": miou + 0.01}}
    (folder / "evaluate").mkdir(exist_ok=True)
    np.savez(folder / "evaluate/areas.npz", **{cell.stage: np.stack([areas, areas])})
    files = digests_of(folder / "evaluate", [folder / "evaluate/areas.npz"])
    facts = facts_of("evaluate", students={cell.stage: scores}, files=files)
    write_receipt(folder / "evaluate.json", "evaluate", facts, {})


def test_a_finished_table_by_hand(tmp_path):
    experiment = Experiment(str(write_run_file(tmp_path)), {}, Request("1", 2, protocols=("steps",)))
    samples = [Sample(f"im{i}", f"im{i}.png", None, split) for i, split in enumerate(SPLITS)]
    base = experiment.base.folder
    save_samples(base / "samples.json", SampleIndex(tmp_path, tuple(samples)))
    PipelineRun(experiment.base).finish("prepare", facts_of("prepare", num_samples=dict.fromkeys(SPLITS, 1)))
    PipelineRun(experiment.base).finish("annotate", facts_of("annotate", annotator="noisy"))
    (labels,) = experiment.labels
    quality = {"raw": {"precision": 0.9, "keep_rate": 1.0, "miou": 0.8, "miou_all": 0.8}, "calibrated": {}}
    choice = {"rule": "paper", "variant": "pixel", "alpha": 0.2}
    facts = {"quality": quality, "made_with": choice, "receipts": {}}
    write_receipt(experiment.labels_folder(labels) / "labels.json", "experiment-labels", facts, {})
    label_only, raw = experiment.cells
    for seed in range(2):
        write_finished_run(experiment, label_only, seed, np.array([[4, 0], [4, 0]]))  # IoU 1/2 and 0
        write_finished_run(experiment, raw, seed, np.array([[4, 0], [0, 4]]))  # 1 and 1

    results = results_of(experiment)
    text = markdown(experiment, results)
    assert (
        "| label-only | 12 | 25.0 ± 0.0 | 26.0 ± 0.0 | 50.0 ± 0.0 | – | -75.0 [-75.0, -75.0] | – | – | – | – | – "
        "| 50.65 |"
    ) in text
    assert (
        "| raw labels, Stage I | 12 | 100.0 ± 0.0 | 101.0 ± 0.0 | 50.0 ± 0.0 | +75.0 [+75.0, +75.0] | – | argmax "
        "| 90.0 | 100.0 | 80.0 | 80.0 | 42.00 |"
    ) in text
    assert "sets right" not in text
    assert "Annotator: **noisy**" in text
    assert "another data set" in text
    assert [row["against"].keys() for row in as_json(experiment, results)["rows"]] == [{"raw"}, {"label-only"}]


def test_the_table_of_sets_compares_with_the_row_without_them_and_shows_what_the_sets_hold(tmp_path):
    experiment = Experiment(str(write_run_file(tmp_path)), {}, Request("sets", 1, protocols=("steps",)))
    samples = [Sample(f"im{i}", f"im{i}.png", None, split) for i, split in enumerate(SPLITS)]
    save_samples(experiment.base.folder / "samples.json", SampleIndex(tmp_path, tuple(samples)))
    PipelineRun(experiment.base).finish("prepare", facts_of("prepare", num_samples=dict.fromkeys(SPLITS, 1)))
    for name, recipe in experiment.labels.items():
        has_sets = experiment.settings_of(recipe).pseudolabel.keep_sets
        sets = {"right": 0.98, "pixels": 0.23, "foreground": 0.73} if has_sets else None
        choice = {"rule": "singleton", "variant": "pixel", "alpha": 0.05}
        facts = {"quality": {"calibrated": {}, "sets": sets}, "made_with": choice, "receipts": {}}
        write_receipt(experiment.labels_folder(name) / "labels.json", "experiment-labels", facts, {})
    confusions = [[[4, 0], [4, 0]], [[4, 0], [0, 4]], [[4, 0], [0, 4]]]
    for cell, confusion in zip(experiment.cells, confusions, strict=True):
        write_finished_run(experiment, cell, 0, np.array(confusion))
    lines = markdown(experiment, results_of(experiment)).splitlines()
    (without,), (with_sets,) = ([line for line in lines if line.startswith(f"| rule singleton{end}")] for end in " ,")
    assert "| against rule-singleton |" in lines[lines.index(without) - 2]
    assert without.split(" | ")[5] == "–"
    assert with_sets.split(" | ")[5] == "+75.0 [+75.0, +75.0]"
    assert "| 98.0 | 23.0 | 73.0 |" in with_sets
    assert "| 98.0 |" not in without
    assert any("`sets right` is the fraction" in line for line in lines)
