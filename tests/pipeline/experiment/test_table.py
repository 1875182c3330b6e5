"""The table's text, its picture, and the paper's numbers."""

import re

import numpy as np
import pytest

from pipeline.experiment.paper import ADE, NUMBERS, VOC, column_beside
from pipeline.experiment.plan import Cell, Run
from pipeline.experiment.plot import chart
from pipeline.experiment.results import Result, Student
from pipeline.experiment.table import spread
from pipeline.experiment.tables import TABLES


def students(*values):
    return [
        Student(seed, 10, value, value, value, np.zeros((1, 3, 2), np.int64), {}) for seed, value in enumerate(values)
    ]


def results_of(table, *values):
    """Results of a table's first rows, seeds by row, under equal steps."""
    rows = TABLES[table].rows
    return [
        Result(Cell(row, "steps", Run(row.recipe, row.shape, "steps"), "stage1"), students(*some), None)
        for row, some in zip(rows, values, strict=False)
    ]


@pytest.mark.parametrize(
    ("shares", "text"),
    [([0.5], "50.0"), ([0.5, 0.52, 0.54], "52.0 ± 2.0"), ([None], "–"), ([None, 0.25], "25.0")],
)
def test_spread_is_the_mean_and_the_standard_deviation_in_percent(shares, text):
    assert spread(shares) == text


def test_the_picture_has_a_mark_for_every_row():
    picture = str(chart(results_of("1", (0.4, 0.5), (0.6, 0.6))))
    assert picture.count('class="dot"') == 2
    assert "label-only: 45 %" in picture
    assert "equal steps" in picture


def test_the_picture_of_figure_4_is_a_curve():
    picture = str(chart(results_of("fig4", (0.2,), (0.3,), (0.4,))))
    assert picture.count("<polyline") == 1
    assert len(re.findall("<circle", picture)) == 3


def test_there_is_no_picture_of_nothing():
    assert chart([results_of("1", (0.4,))[0]._replace(students=[])]) is None


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
