"""The Snakefile on a tiny run: everything runs, nothing runs twice, and a change reruns just what depends on it."""

import json
import os
import random
import re
import shlex
import shutil
import signal
import subprocess
import sys
import time
import tomllib
from pathlib import Path

import pytest
from tiny_run import write_run_file, write_sample_files

from pipeline.files import write_text
from pipeline.yaml_text import yaml_text

ROOT = Path(__file__).parents[1]
STAGES = ["prepare", "annotate", "calibrate", "pseudolabel", "stage1", "stage2", "evaluate", "report"]


def call(folder, *arguments):
    """Run a command in `folder` as a user would; returns the finished process with its text."""
    command = [str(argument) for argument in arguments]
    return subprocess.run(command, cwd=folder, env=environment(), capture_output=True, text=True, check=False)


def environment():
    return {**os.environ, "PYTHONPATH": f"{ROOT}{os.pathsep}{ROOT / 'tests/support'}"}


def snakemake(folder, *arguments):
    options = ("--snakefile", ROOT / "Snakefile", "--cores", "2", "--workflow-profile", ROOT / "profiles/default")
    return call(folder, sys.executable, "-P", "-m", "snakemake", *options, *arguments)


def planned(folder, *arguments, stages=STAGES):
    """Those of the stages that a dry run names, in the order of the data flow."""
    finished = snakemake(folder, "--dry-run", "all", *arguments)
    assert finished.returncode == 0, finished.stderr
    named = re.findall(r"^(?:local)?rule (\w+):", finished.stdout + finished.stderr, re.MULTILINE)
    return [stage for stage in stages if stage in named]


@pytest.fixture(scope="module")
def finished_run(tmp_path_factory):
    """A folder in which the whole workflow has run once."""
    folder = tmp_path_factory.mktemp("workflow")
    write_sample_files(folder / "data", [f"im{i:02d}" for i in range(12)], size=(40, 48))
    run_file = write_run_file(folder)
    finished = snakemake(folder, "all", "--config", f"run={run_file}")
    assert finished.returncode == 0, finished.stdout + finished.stderr
    return folder


def config_of(folder, *overrides):
    return ["--config", f"run={folder / 'tiny.yaml'}", *overrides]


@pytest.mark.slow
def test_rule_probe_asks_small_students_before_it_labels(finished_run):
    finished = snakemake(finished_run, "--dry-run", "all", *config_of(finished_run, "rule=probe"))
    rules = re.findall(r"^rule (\w+):", finished.stdout + finished.stderr, re.MULTILINE)
    assert rules.index("probe") < rules.index("pseudolabel")
    assert "probe" not in planned(finished_run, *config_of(finished_run, "rule=raw"), stages=[*STAGES, "probe"])


@pytest.mark.slow
def test_every_stage_leaves_its_receipt_its_log_and_its_product(finished_run):
    results = finished_run / "results/tiny"
    for stage in STAGES:
        receipt = json.loads((results / f"{stage}.json").read_text())
        assert receipt["stage"] == stage
        assert receipt["versions"]["conformalsam"]
        assert (results / f"logs/{stage}.log").is_file()
    assert (results / "report.html").read_text().startswith("<!doctype html>")
    assert 0 <= json.loads((results / "evaluate.json").read_text())["students"]["stage2"]["miou"] <= 1


@pytest.mark.slow
def test_transformers_loads_the_student_with_its_class_names(finished_run):
    from transformers import SegformerForSemanticSegmentation

    student = SegformerForSemanticSegmentation.from_pretrained(finished_run / "results/tiny/stage2/student")
    assert list(student.config.id2label.values()) == ["background", "cat", "dog"]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("overrides", "first"),
    [
        (["alpha=0.3"], "calibrate"),
        (["rule=argmax"], "pseudolabel"),
        (["lambda_start=0.4"], "stage2"),
        (["crop=48"], "stage1"),
        (["num_examples=2"], "evaluate"),
        (["annotate={batch_size: 7}", "tile_megabytes=3"], None),
    ],
)
def test_a_changed_setting_reruns_its_stage_and_what_follows(finished_run, overrides, first):
    expected = STAGES[STAGES.index(first) :] if first else []
    assert planned(finished_run, *config_of(finished_run, *overrides)) == expected


@pytest.fixture
def without_records(finished_run):
    """A copy of the finished run that Snakemake has no records of, as if all stages had been run by hand."""
    copy = finished_run / "results/hand"
    shutil.copytree(finished_run / "results/tiny", copy)
    yield finished_run
    shutil.rmtree(copy)


def by_hand(folder, package, stage, *overrides):
    words = [word for override in ("name=hand", *overrides) for word in ("--set", override)]
    return call(folder, sys.executable, "-m", package, stage, folder / "tiny.yaml", *words)


@pytest.mark.slow
def test_stages_that_were_run_by_hand_count_for_the_settings_that_made_them(without_records):
    folder = without_records
    assert planned(folder, *config_of(folder, "name=hand")) == []
    assert planned(folder, *config_of(folder, "name=hand", "alpha=0.3")) == STAGES[STAGES.index("calibrate") :]
    finished = by_hand(folder, "pipeline", "calibrate", "alpha=0.3")
    assert finished.returncode == 0, finished.stderr
    assert planned(folder, *config_of(folder, "name=hand", "alpha=0.3")) == STAGES[STAGES.index("pseudolabel") :]
    assert planned(folder, *config_of(folder, "name=hand")) == STAGES[STAGES.index("calibrate") :]


@pytest.mark.slow
def test_the_command_of_a_refusal_makes_what_was_refused(without_records):
    folder = without_records
    refused = by_hand(folder, "train", "stage1", "alpha=0.3")
    assert refused.returncode == 1
    found = re.search(r"pseudolabel.json was made with other settings .*, or run (snakemake .*)", refused.stderr)
    words = shlex.split(found[1])
    assert words[:4] == ["snakemake", "--cores", "8", "pseudolabel"]
    made = snakemake(folder, *words[3:])
    assert made.returncode == 0, made.stdout + made.stderr
    assert json.loads((folder / "results/hand/pseudolabel.json").read_text())["alpha"] == 0.3
    assert planned(folder, *config_of(folder, "name=hand", "alpha=0.3")) == STAGES[STAGES.index("stage1") :]
    trained = by_hand(folder, "train", "stage1", "alpha=0.3")
    assert trained.returncode == 0, trained.stderr


def kept_files(folder):
    """Path -> content of every file that a job must not lose."""
    files = (path for path in folder.rglob("*") if path.is_file() and path.parent.name not in ("logs", ".locks"))
    return {path: path.read_bytes() for path in files if path.suffix != ".finished"}


@pytest.mark.slow
def test_a_job_that_refuses_loses_nothing(without_records):
    folder, results = without_records, without_records / "results/hand"
    samples = json.loads((results / "samples.json").read_text())["samples"]
    mask = folder / "data" / next(sample["mask"] for sample in samples if sample["mask"])
    content, before = mask.read_bytes(), kept_files(results)
    mask.write_bytes(b"")
    refused = snakemake(folder, "prepare", "-R", "prepare", *config_of(folder, "name=hand"))
    assert refused.returncode == 1
    assert "error: 1 problem" in refused.stdout + refused.stderr
    mask.write_bytes(content)
    assert kept_files(results) == before
    assert planned(folder, *config_of(folder, "name=hand")) == []


@pytest.mark.slow
def test_a_single_stage_can_be_run_again(finished_run):
    assert planned(finished_run, "-R", "stage2", *config_of(finished_run)) == ["stage2", "evaluate", "report"]


@pytest.mark.slow
def test_files_that_have_changed_rerun_everything_and_new_times_alone_nothing(finished_run):
    samples = json.loads((finished_run / "results/tiny/samples.json").read_text())["samples"]
    mask = finished_run / "data" / next(sample["mask"] for sample in samples if sample["split"] == "val")
    kept, other = mask.read_bytes(), next(path for path in mask.parent.iterdir() if path != mask)
    mask.write_bytes(other.read_bytes())
    assert planned(finished_run, *config_of(finished_run)) == STAGES
    mask.write_bytes(kept)
    os.utime(other)
    assert planned(finished_run, *config_of(finished_run)) == []


@pytest.mark.slow
def test_a_second_call_has_nothing_to_do_even_if_the_run_file_got_a_comment(finished_run):
    run_file = finished_run / "tiny.yaml"
    run_file.write_text(run_file.read_text() + "# a comment\n")
    assert planned(finished_run, *config_of(finished_run)) == []


@pytest.mark.slow
def test_a_mistake_ends_in_one_line_before_any_job(finished_run):
    finished = snakemake(finished_run, "all", *config_of(finished_run, "alhpa=0.1"))
    assert finished.returncode == 1
    assert "error: alhpa is not a setting; did you mean calibrate.alpha?" in finished.stderr
    assert "Traceback" not in finished.stderr


@pytest.mark.slow
def test_folders_and_names_with_characters_of_the_shell_and_of_snakemake_work(tmp_path):
    root, results = tmp_path / "da{ta} it's", 'My "Drive" [1] $(touch hacked) & co'
    write_sample_files(root, [f"im{i}" for i in range(6)], masked=["im0", "im1", "im2"])
    settings = {"root": str(root), "classes": ["background", "cat", "dog"], "splits": {"num_val": 1}}
    run_file = {"name": "cats (v2) it's", "data": settings, "stage1": {"labels": "none"}}
    write_text(tmp_path / "config/007.yaml", json.dumps(run_file))
    finished = snakemake(tmp_path, "prepare", "--config", "run=007", f"results={yaml_text(results)}", "flips=false")
    assert finished.returncode == 0, finished.stdout + finished.stderr
    folder = tmp_path / results / "cats (v2) it's"
    assert {path.name for path in folder.iterdir()} >= {"prepare.json", "samples.json", "logs"}
    assert "prepare: 6 images" in (folder / "logs/prepare.log").read_text()
    assert not (tmp_path / "hacked").exists()


def test_every_value_in_a_shell_line_is_quoted():
    text = (ROOT / "Snakefile").read_text()
    inserted = re.findall(r"\{+(?:log|wildcards|input|output|params)[^}]*\}+", text)
    assert inserted
    assert [value for value in inserted if not value.rstrip("}").endswith(":q")] == []


def test_a_stage_ends_with_one_line_and_exit_code_1(tmp_path):
    finished = call(tmp_path, sys.executable, "-m", "pipeline", "calibrate", write_run_file(tmp_path))
    assert finished.returncode == 1
    expected = f"error: no receipt {tmp_path}/results/tiny/annotate.json: the stage annotate has not finished; "
    assert finished.stderr.strip() == expected + f"run snakemake --cores 8 annotate --config run={tmp_path}/tiny.yaml"


def test_the_console_script_offers_every_command():
    from importlib.metadata import entry_points

    from click.testing import CliRunner

    from pipeline.__main__ import main

    (script,) = entry_points(group="console_scripts", name="conformalsam")
    assert script.value == "pipeline.__main__:conformalsam"
    listed = CliRunner().invoke(main, ["--help"]).output
    assert all(
        f"  {stage}" in listed for stage in ("prepare", "annotate", "calibrate", "pseudolabel", "report", "inspect")
    )


def test_every_command_of_train_is_declared_for_the_console_script():
    from importlib.metadata import EntryPoint

    from train.__main__ import main

    group = "conformalsam.commands"
    declared = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["entry-points"][group]
    assert {name: EntryPoint(name, value, group).load() for name, value in declared.items()} == main.commands


@pytest.mark.slow
def test_inspect_prints_the_facts_of_a_store_and_draws_a_picture(finished_run):
    labels = finished_run / "results/tiny/labels.zarr"
    printed = call(finished_run, sys.executable, "-m", "pipeline", "inspect", labels)
    assert printed.returncode == 0, printed.stderr
    assert "complete" in printed.stdout
    facts = json.loads(call(finished_run, sys.executable, "-m", "pipeline", "inspect", labels, "--json").stdout)
    assert facts["kind"] == "labels"


@pytest.mark.slow
def test_a_recipe_without_pseudo_labels_needs_no_annotator(finished_run):
    overrides = config_of(finished_run, "preset=label-only", "name=alone")
    assert planned(finished_run, *overrides) == ["prepare", "stage1", "stage2", "evaluate", "report"]


def interrupt(folder, asked, receipt):
    """Call Snakemake, and interrupt it with all its jobs when a receipt exists, as Ctrl-C does."""
    options = ("--snakefile", ROOT / "Snakefile", "--cores", "2", "--workflow-profile", ROOT / "profiles/default")
    command = [str(word) for word in (sys.executable, "-P", "-m", "snakemake", *options, *asked)]
    with subprocess.Popen(
        command,
        cwd=folder,
        env=environment(),
        start_new_session=True,
        stderr=subprocess.DEVNULL,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # a shell's background jobs ignore it
    ) as started:
        while not receipt.is_file() and started.poll() is None:
            time.sleep(0.05)
        os.killpg(started.pid, signal.SIGINT)


def scatter_times(folder):
    """Give every file some time, up to two days before or after now."""
    rng, now = random.Random(0), time.time()
    for path in sorted(path for path in folder.rglob("*") if path.is_file() and not path.is_symlink()):
        seconds = now + rng.uniform(-2, 2) * 86_400
        os.utime(path, (seconds, seconds))


@pytest.mark.slow
def test_an_experiment_that_is_killed_goes_on_and_a_second_call_does_nothing(finished_run):
    asked = ("experiment", *config_of(finished_run, "table=1", "arms=raw", "seeds=1", "protocol=steps"))
    experiments = finished_run / "results/tiny/experiments"
    run = experiments / "runs/raw-first-steps-0"
    interrupt(finished_run, asked, run / "stage1.json")  # while the students are measured
    assert not (run / "run.json").exists()
    trained = (run / "stage1.json").stat().st_mtime_ns

    finished = snakemake(finished_run, *asked)
    assert finished.returncode == 0, finished.stdout + finished.stderr
    assert (run / "stage1.json").stat().st_mtime_ns == trained
    assert (run / "labels.zarr").resolve().parent.parent == (experiments / "labels").resolve()
    table = (experiments / "1.md").read_text()
    assert re.search(r"^\| raw labels, Stage I \| \d+ \| [\d.]+ \| [\d.]+ \| .* argmax \|", table, re.MULTILINE)
    assert (experiments / "1.svg").read_text().startswith("<svg")
    (row,) = json.loads((experiments / "1.json").read_text())["rows"]
    assert (row["paper"], row["students"][0]["receipts"].keys()) == (42.0, {"stage1", "evaluate"})
    scatter_times(finished_run / "results/tiny")
    assert "Nothing to be done" in snakemake(finished_run, *asked).stderr
    assert_the_command_of_a_refusal_works(
        finished_run, run / "stage1/student/config.json", run / "evaluate.json", asked
    )


@pytest.mark.slow
def test_a_next_round_that_is_interrupted_goes_on_and_trains_no_student_twice(finished_run):
    written = call(finished_run, sys.executable, "-m", "pipeline", "next-round", finished_run / "tiny.yaml")
    assert written.returncode == 0, written.stderr
    asked = ("annotate", "--config", f"run={finished_run / 'tiny_round2.yaml'}")
    fold = finished_run / "results/tiny/folds/1_of_2"
    interrupt(finished_run, asked, fold / "stage1.json")
    assert not (fold / "stage2.json").exists()
    trained = (fold / "stage1.json").stat().st_mtime_ns

    finished = snakemake(finished_run, *asked)
    assert finished.returncode == 0, finished.stdout + finished.stderr
    assert (fold / "stage1.json").stat().st_mtime_ns == trained
    annotated = json.loads((finished_run / "results/tiny_round2/annotate.json").read_text())
    assert (annotated["annotator"], annotated["num_done"]) == ("students of tiny", 10)
    scatter_times(finished_run / "results")
    assert "Nothing to be done" in snakemake(finished_run, *asked).stderr


def assert_the_command_of_a_refusal_works(folder, damaged, receipt, asked):
    """Damage what a run of an experiment has trained, and run the command that its evaluation prints."""
    damaged.write_bytes(damaged.read_bytes() + b" ")
    receipt.unlink()
    refused = snakemake(folder, *asked)
    assert refused.returncode == 1
    assert damaged.exists()
    removed, again = re.search(
        rf"error: {damaged} is not as stage1 wrote it: .* run rm (\S+) && (snakemake .*), which trains it",
        refused.stdout + refused.stderr,
    ).groups()
    (folder / removed).unlink()
    words = shlex.split(again)
    assert words[3:5] == ["experiment", "--config"]
    made = snakemake(folder, *words[3:])
    assert made.returncode == 0, made.stdout + made.stderr
    assert receipt.is_file()
    assert "Nothing to be done" in snakemake(folder, *asked).stderr
