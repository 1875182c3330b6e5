"""Marks agree with receipts: of a stage that has finished, with all stages before it, with these settings and files."""

import os
import shutil
import time

import pytest
from receipts import facts_of
from tiny_run import write_run_file, write_sample_files

from pipeline.marks import mark_of, update_marks
from pipeline.receipt import SCHEMAS, result_of, write_receipt
from pipeline.run import Run
from pipeline.run_file import load_settings
from pipeline.stages.prepare import prepare

ORDER = ["prepare", "annotate", "calibrate", "pseudolabel", "stage1", "stage2", "evaluate", "report"]


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """Folder of a run whose stages have receipts; only prepare has run."""
    folder = tmp_path_factory.mktemp("marks")
    write_sample_files(folder / "data", [f"im{i:02d}" for i in range(12)])
    run = Run(load_settings(write_run_file(folder)))
    run.finish("prepare", prepare(run.settings))
    for stage in ORDER[1:]:
        run.finish(stage, facts_of(stage))
    run.folder.report.write_text("")
    return folder


@pytest.fixture
def run(finished, tmp_path):
    shutil.copytree(finished, tmp_path, dirs_exist_ok=True)
    return Run(load_settings(write_run_file(tmp_path), {"data.root": str(finished / "data")}))


def marked(run):
    """The stages that have a mark."""
    update_marks(run)
    return [stage for stage in SCHEMAS if mark_of(run.folder.receipt(stage)).is_file()]


def test_every_finished_stage_has_a_mark_of_the_time_of_its_result(run):
    assert marked(run) == ORDER
    for receipt in map(run.folder.receipt, ORDER):
        assert mark_of(receipt).stat().st_mtime_ns == result_of(receipt).stat().st_mtime_ns


def times_of_marks(run):
    return [mark_of(run.folder.receipt(stage)).stat().st_mtime_ns for stage in ORDER]


def test_what_follows_its_inputs_is_not_older_than_they_are_whatever_the_clock_said(run):
    for hours, stage in enumerate(("prepare", "calibrate", "stage2"), start=1):
        ahead = time.time_ns() + hours * 3600 * 10**9
        os.utime(result_of(run.folder.receipt(stage)), ns=(ahead, ahead))
    os.utime(run.folder.receipt("stage1"), ns=(1, 2))
    assert marked(run) == ORDER
    assert times_of_marks(run) == sorted(times_of_marks(run))
    (run.folder.path / "output of a job").touch()
    assert times_of_marks(run)[-1] <= (run.folder.path / "output of a job").stat().st_mtime_ns


def test_a_stage_that_read_another_receipt_has_no_mark_however_old_that_one_is(run):
    run.finish("annotate", facts_of("annotate") | {"seconds": 7.0})
    os.utime(run.folder.receipt("annotate"), ns=(1, 2))
    assert marked(run) == ORDER[:2]
    run.finish("calibrate", facts_of("calibrate"))
    assert marked(run) == ORDER[:3]


def test_the_times_decide_where_a_receipt_does_not_tell(run):
    for stage in ORDER[1:]:
        facts = run.recorded(stage)
        del facts["inputs"], facts["settings"], facts["versions"], facts["stage"]
        write_receipt(run.folder.receipt(stage), stage, facts, run.tracked(stage))
    os.utime(run.folder.receipt("stage1"), ns=(1, 2))
    assert marked(run) == ORDER
    assert mark_of(run.folder.receipt("stage1")).stat().st_mtime_ns == 2


CHANGES = {
    "its receipt is gone": ("stage1", lambda run: run.folder.receipt("stage1").unlink()),
    "its receipt is damaged": ("calibrate", lambda run: run.folder.receipt("calibrate").write_text("{")),
    "its page is gone": ("report", lambda run: run.folder.report.unlink()),
    "the list of samples is gone": ("prepare", lambda run: run.folder.samples.unlink()),
}


@pytest.mark.parametrize("change", CHANGES)
def test_a_stage_and_what_follows_it_have_no_mark_once(run, change):
    stage, make = CHANGES[change]
    assert marked(run) == ORDER
    make(run)
    assert marked(run) == ORDER[: ORDER.index(stage)]


def test_stages_of_other_settings_have_no_mark_until_the_settings_are_changed_back(run, tmp_path):
    other = Run(load_settings(write_run_file(tmp_path), {"data.root": run.settings.data.root, "calibrate.alpha": 0.3}))
    assert marked(other) == ORDER[:2]
    assert marked(run) == ORDER


def test_marks_that_snakemake_has_deleted_come_back(run):
    assert marked(run) == ORDER
    for stage in ORDER:
        mark_of(run.folder.receipt(stage)).unlink()
    assert marked(run) == ORDER
