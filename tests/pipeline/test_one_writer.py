"""Every command that writes a run's results is refused while another process does; commands that only read are not."""

import pytest
from click.testing import CliRunner
from stage_runs import digest_of, run_stages
from tiny_run import write_run_file, write_sample_files
from writers import holding

from pipeline.__main__ import main
from pipeline.run_file import load_settings
from train.__main__ import main as trainer


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """Run file and settings of a run with labels."""
    folder = tmp_path_factory.mktemp("run")
    write_sample_files(folder / "data", [f"im{i:02d}" for i in range(12)])
    run_file = write_run_file(folder)
    settings = load_settings(run_file)
    run_stages(settings)
    return run_file, settings


def invoke(words, group=main):
    return CliRunner().invoke(group, [str(word) for word in words])


@pytest.mark.parametrize(
    ("name", "words"),
    [
        *((stage, [stage, "RUN"]) for stage in ("prepare", "annotate", "calibrate", "pseudolabel", "report")),
        ("pseudolabel", ["inspect", "labels.zarr", "--repair"]),
        ("annotate", ["inspect", "probs.zarr", "--repair"]),
        ("prepare", ["import-masks", "RUN", "data/masks"]),
        ("sweep", ["alpha", "RUN"]),
        ("sweep", ["gallery", "RUN"]),
    ],
)
def test_a_second_writer_is_refused_in_one_line_and_changes_nothing(run, name, words):
    run_file, settings = run
    places = {"RUN": run_file, "data/masks": run_file.parent / "data/masks"}
    places |= {store: settings.folder / store for store in ("labels.zarr", "probs.zarr")}
    before = digest_of(settings.folder)
    with holding(settings.folder, name) as first:
        refused = invoke([places.get(word, word) for word in words])
    assert refused.exit_code == 1
    (line,) = refused.output.splitlines()
    assert line.startswith(f"error: process {first.pid} (")
    assert line.endswith(f"runs {name} in {settings.folder}; wait until it ends, or end it: kill {first.pid}")
    assert digest_of(settings.folder) == before


@pytest.mark.parametrize("stage", ["stage1", "stage2", "evaluate", "probe"])
def test_a_second_trainer_is_refused(run, stage):
    run_file, settings = run
    with holding(settings.folder, stage) as first:
        refused = invoke([stage, run_file], trainer)
    assert refused.exit_code == 1
    assert refused.output.startswith(f"error: process {first.pid} (")


@pytest.mark.parametrize(
    "words", [["inspect", "RUN"], ["inspect", "labels.zarr"], ["inspect", "labels.zarr", "--check"]]
)
def test_a_reader_is_not_refused(run, words):
    run_file, settings = run
    places = {"RUN": run_file, "labels.zarr": settings.folder / "labels.zarr"}
    with holding(settings.folder, "pseudolabel"):
        shown = invoke([places.get(word, word) for word in words])
    assert shown.exit_code == 0, shown.output


def test_the_first_of_several_training_processes_holds_the_lock(monkeypatch):
    from train.machine.launch import is_first_process

    monkeypatch.delenv("RANK", raising=False)
    assert is_first_process()
    for rank in range(3):
        monkeypatch.setenv("RANK", str(rank))
        assert is_first_process() == (rank == 0)
