"""Which students the tables of the report show, and under which titles."""

from pipeline.report.students import student_columns

NAMES = {"stage1": "Stage I", "stage2": "Stage II"}


def scores(miou, best=None, boundary=None):
    return {"miou": miou, "boundary": boundary, "best": best}


def receipts_of(last=None, **students):
    return {"stage1": {"last": last}, "evaluate": {"students": students}}


def titles(receipts):
    return [column.title for column in student_columns(receipts, NAMES)]


def test_a_best_student_has_a_column_of_its_own_unless_it_is_the_last():
    best = scores(0.6) | {"epoch": 5}
    receipts = receipts_of({"epoch": 10}, stage1=scores(0.5, best), stage2=scores(0.7))
    assert titles(receipts) == ["Stage I", "Stage I, best (epoch 5)", "Stage II"]
    assert [column.scores["miou"] for column in student_columns(receipts, NAMES)] == [0.5, 0.6, 0.7]
    assert titles(receipts_of({"epoch": 5}, stage1=scores(0.6, best))) == ["Stage I, last and best"]


def test_nothing_evaluated_has_no_columns():
    assert student_columns({}, NAMES) == []


def test_boundaries_that_were_not_measured_are_empty():
    boundary = {"f": {"cat": 0.3}, "mean_f": 0.3}
    with_and_without = receipts_of(stage1=scores(0.5, boundary=boundary), stage2=scores(0.5))
    first, second = student_columns(with_and_without, NAMES)
    assert (first.boundary_f, first.mean_boundary_f) == ({"cat": 0.3}, 0.3)
    assert (second.boundary_f, second.mean_boundary_f) == ({}, None)
