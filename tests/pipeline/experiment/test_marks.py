"""What of an experiment is finished: with its settings, and made from what is there now, whatever the clock said."""

import os
from pathlib import Path

import pytest
from receipts import facts_of
from store_damage import flip_a_bit
from tiny_run import write_run_file, write_sample_files

from pipeline import marks
from pipeline.datasets import save_samples
from pipeline.experiment.plan import Experiment
from pipeline.experiment.request import Request
from pipeline.experiment.running import receipts_of
from pipeline.experiment.workflow import is_current, update_marks
from pipeline.receipt import input_digests, write_receipt
from pipeline.run import Run
from pipeline.stages.prepare import prepare

STAGE = "experiment-run"
TRACKED = {"seed": 0}


@pytest.fixture
def receipt(tmp_path):
    """Receipt of a run that has trained stage1 on the samples of another folder, whose receipt of prepare is a link."""
    (tmp_path / "base").mkdir()
    (tmp_path / "run").mkdir()
    (tmp_path / "base/prepare.json").write_text("1")
    (tmp_path / "run/prepare.json").symlink_to("../base/prepare.json")
    (tmp_path / "run/stage1.json").write_text("1")
    facts = {"receipts": receipts_of(tmp_path / "run", ("prepare", "stage1"))}
    write_receipt(tmp_path / "run/run.json", STAGE, facts, TRACKED)
    return tmp_path / "run/run.json"


def test_a_run_is_finished_with_its_settings_only(receipt):
    assert is_current(receipt, STAGE, TRACKED)
    assert not is_current(receipt, STAGE, {"seed": 1})


CHANGES = {
    "its stage has finished again": lambda folder: (folder / "stage1.json").write_text("2"),
    "its stage has been killed": lambda folder: (folder / "stage1.json").unlink(),
    "its receipt is damaged": lambda folder: flip_a_bit(folder / "run.json"),
    "its receipt is gone": lambda folder: (folder / "run.json").unlink(),
}


@pytest.mark.parametrize("change", CHANGES)
def test_a_run_is_not_finished_once(receipt, change):
    CHANGES[change](receipt.parent)
    assert not is_current(receipt, STAGE, TRACKED)


def test_the_same_samples_listed_again_are_no_reason_to_train_again(receipt):
    (receipt.parent / "prepare.json").write_text("2")
    assert is_current(receipt, STAGE, TRACKED)


def test_a_run_that_is_left_out_is_current(receipt):
    write_receipt(receipt, STAGE, {"left_out": "no masks"}, TRACKED)
    assert is_current(receipt, STAGE, TRACKED)


@pytest.fixture
def experiment(tmp_path):
    """A finished experiment of one row with labels and one without, of which only prepare has run."""
    write_sample_files(tmp_path / "data", [f"im{i:02d}" for i in range(9)])
    experiment = Experiment(str(write_run_file(tmp_path)), {}, Request("1", 2, 1.0, None, ("steps",)))
    base = Run(experiment.base)
    base.finish("prepare", prepare(base.settings))
    base.finish("annotate", facts_of("annotate"))
    finish(experiment, "labels", "runs", "table")
    return experiment


def finish(experiment, *kinds):
    """Write the receipts of these kinds, as the commands do."""
    if "labels" in kinds:
        for name in experiment.labels:
            inputs = input_digests(experiment.labels_inputs())
            write_receipt(experiment.labels_receipt(name), "experiment-labels", {"inputs": inputs}, {})
    if "runs" in kinds:
        for name, run in experiment.runs.items():
            for seed in range(experiment.request.seeds):
                facts = {"seed": seed, "inputs": input_digests(experiment.run_inputs(run))}
                write_receipt(experiment.run_receipt(name, seed), STAGE, facts, experiment.tracked(run))
    if "table" in kinds:
        for ending in ("md", "svg"):
            experiment.table_file(ending).write_text("")
        facts = {"inputs": input_digests(experiment.table_inputs())}
        write_receipt(experiment.table_file("json"), "experiment-table", facts, experiment.table_facts())


def marked(experiment):
    """Folders of the labels and runs that have a mark, and the table."""
    marks.update_marks(Run(experiment.base))
    update_marks(experiment, ["experiment"])
    return {path.parent.name for path in experiment.folder.rglob(".*.finished")}


def names(experiment):
    """Of the labels; of the runs on labels; of the others; of the table."""
    has_labels = {name: experiment.labels_name(run.recipe) is not None for name, run in experiment.runs.items()}
    on_labels, others = (
        {f"{name}-{seed}" for name in experiment.runs if has_labels[name] is is_on_labels for seed in range(2)}
        for is_on_labels in (True, False)
    )
    return set(experiment.labels), on_labels, others, {"experiments"}


def test_the_times_of_files_change_nothing(experiment):
    labels, on_labels, others, table = names(experiment)
    assert min(map(len, (labels, on_labels, others))) >= 1
    everything = {*labels, *on_labels, *others, *table}
    files = [path for path in experiment.base.folder.rglob("*") if path.is_file()]
    for step in (1, -1):
        for hours, path in enumerate(files[::step], start=-4):
            second = 1_600_000_000 + hours * 3600
            os.utime(path, (second, second))
        assert marked(experiment) == everything
        times = [marks.mark_of(path).stat().st_mtime_ns for path in chain_of(experiment)]
        assert times == sorted(times)


def chain_of(experiment):
    """Receipts, each made from the one before: of the base, labels, a run on them, and the table."""
    name = next(iter(experiment.labels))
    run = next(one for one in experiment.runs.values() if experiment.labels_name(one.recipe) == name)
    base = Run(experiment.base).folder
    made = [experiment.labels_receipt(name), experiment.run_receipt(run.name, 0), experiment.table_file("json")]
    return [base.receipt("prepare"), base.receipt("annotate"), *made]


def make_older(path: Path) -> None:
    os.utime(path, (1, 1))


def test_what_was_made_from_other_results_is_made_again_however_old_those_are(experiment):
    labels, on_labels, others, table = names(experiment)
    base = Run(experiment.base)
    base.finish("annotate", facts_of("annotate") | {"seconds": 7.0})
    make_older(base.folder.receipt("annotate"))
    assert marked(experiment) == others
    finish(experiment, "labels")
    assert marked(experiment) == {*labels, *others}
    finish(experiment, "runs")
    assert marked(experiment) == {*labels, *on_labels, *others}
    finish(experiment, "table")
    assert marked(experiment) == {*labels, *on_labels, *others, *table}
    samples = base.samples()
    save_samples(base.folder.samples, type(samples)(samples.root, samples.samples[1:]))
    make_older(base.folder.samples)
    assert marked(experiment) == set()
