"""The commands of a run, and what of its folder belongs together."""

import shlex

import pytest
from receipts import facts_of
from snakemake.cli import parse_config
from stage_runs import run_stages

from pipeline.errors import StoreError
from pipeline.folder import stage_command
from pipeline.overrides import split_workflow_config
from pipeline.run import Run
from pipeline.run_file import load_settings
from pipeline.stages.calibrate import calibrate
from pipeline.stages.pseudolabel import pseudolabel


@pytest.fixture
def data(tmp_path, write_images):
    write_images(tmp_path / "data", [f"im{i:02d}" for i in range(13)])


def as_snakemake_reads(command):
    """The settings that a command line is about: its words of `--config`, typed as Snakemake types them."""
    words = shlex.split(command)
    return load_settings(*split_workflow_config(parse_config(words[words.index("--config") + 1 :]), words))


@pytest.mark.parametrize(
    "overrides",
    [
        {},
        {"alpha": 0.2, "alphas": [0.1, 0.3], "name": "other"},
        {"calibrate.quantile": "paper", "calibrate.folds": 3, "stage1.epochs": 4, "stage1.batch_size": 3},
        {"python.arguments": {"stride": 4}, "preset": "raw", "evaluate.window": None},
        {"name": "007", "mask_ending": None, "flips": True, "train.lr": 1e-5, "train.weights": "null"},
    ],
)
def test_a_command_is_about_the_settings_that_it_is_printed_for(make_settings, overrides):
    settings = make_settings(**overrides)
    command = Run(settings).command("calibrate")
    assert command.startswith(f"snakemake --cores 8 calibrate --config run={settings.origin.run}")
    assert as_snakemake_reads(command) == settings


def test_a_change_takes_the_place_of_an_override(make_settings):
    command = Run(make_settings(alpha=0.2)).command("all", alpha=0.3, rule="raw")
    assert command.endswith("tiny.yaml alpha=0.3 rule=raw")


def test_a_run_without_a_file_goes_by_its_name(make_settings):
    settings = make_settings()
    nameless = type(settings).model_validate(settings.model_dump())
    assert Run(nameless).command("stage1", rerun="stage1") == "snakemake --cores 8 stage1 -R stage1 --config run=tiny"


def test_a_store_alone_names_the_run_as_its_receipts_do(make_settings):
    settings = make_settings(**{"stage1.epochs": 4, "calibrate.alpha": 0.3})
    run = Run(settings)
    run.finish("prepare", facts_of("prepare"))
    run.finish("calibrate", facts_of("calibrate"))
    relabeled = Run(make_settings(rule="singleton"))
    relabeled.finish("pseudolabel", facts_of("pseudolabel"))
    labels = settings.folder / "labels.zarr"
    assert stage_command(labels, "pseudolabel") == relabeled.command("pseudolabel")
    assert stage_command(labels, "stage1", rerun="stage1") == run.command("stage1", rerun="stage1")
    for damaged in ('{"config": "mine"}', '{"config": [1]}', "[]", "{"):
        (settings.folder / "prepare.json").write_text(damaged)
        assert stage_command(labels, "stage1") == "snakemake --cores 8 stage1 --config run=tiny"


def test_a_stage_refuses_an_input_of_other_settings_and_names_the_command_that_makes_it(data, make_settings):
    run_stages(make_settings())
    other = make_settings(alpha=0.4)
    expected = r"calibrate.json was made with other settings \(calibrate.alpha 0.2, now 0.4.*run snakemake .* alpha=0.4"
    with pytest.raises(StoreError, match=expected):
        pseudolabel(other)
    assert Run(other).is_stale("pseudolabel")
    assert not Run(other).is_stale("annotate")
    run_stages(other, "calibrate", "pseudolabel")
    assert not Run(other).is_stale("pseudolabel")


def test_labels_are_refused_once_their_thresholds_have_changed(data, make_settings):
    settings = make_settings()
    run_stages(settings)
    run = Run(settings)
    labels = run.open_labels()
    assert labels.fingerprint == run.recorded("pseudolabel")["fingerprint"]
    other = make_settings(alpha=0.4)
    Run(other).finish("calibrate", calibrate(other))
    with pytest.raises(StoreError, match=r"was made by other thresholds .* has now .*run snakemake"):
        run.open_labels()


def test_a_receipt_that_cannot_be_read_is_stale(make_settings):
    run = Run(make_settings())
    assert not run.is_stale("annotate")
    run.finish("annotate", facts_of("annotate"))
    assert run.is_current("annotate")
    run.folder.receipt("annotate").write_text("{")
    assert run.is_stale("annotate")
    assert not run.is_current("annotate")
    run.finish("annotate", facts_of("annotate"))
    assert run.is_current("annotate")
