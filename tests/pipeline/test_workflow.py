"""The workflow that the package carries, and how it is called in a clone and anywhere else."""

import functools
import shlex
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import pytest
from click.testing import CliRunner
from snakemake.cli import get_argument_parser, parse_config
from tiny_run import write_run_file, write_sample_files

from pipeline import workflow
from pipeline.__main__ import main
from pipeline.errors import ConfigError
from pipeline.overrides import split_workflow_config
from pipeline.run_file import beside, find_run_file, load_settings
from pipeline.workflow import CARRIED, RUN_FILES, SNAKEFILE, run_word, snakemake_call, snakemake_command

ROOT = Path(__file__).parents[2]


PROGRAM = [sys.executable, "-P", "-m", "snakemake"]
PARSER = functools.cache(get_argument_parser)  # takes long


def config_of(words):
    """What Snakemake reads of a call: its arguments, and the run with its overrides."""
    assert words[:4] == PROGRAM
    arguments = PARSER().parse_args(words[4:])
    return arguments, split_workflow_config(parse_config(arguments.config), words)


def test_commands_call_snakemake_where_the_snakefile_is_and_conformalsam_run_anywhere_else(tmp_path, monkeypatch):
    words = [run_word("mine"), "alpha=0.1"]
    monkeypatch.chdir(ROOT)
    assert snakemake_command("all", words) == "snakemake --cores 8 all --config run=mine alpha=0.1"
    monkeypatch.chdir(tmp_path)
    assert snakemake_command("all", words[:1]) == "conformalsam run mine"
    assert snakemake_command("stage1", words, "stage1") == "conformalsam run mine stage1 -R stage1 --config alpha=0.1"
    Path("Snakefile").write_text("rule all:\n    input: 'of another workflow'\n")
    assert snakemake_command("all", words[:1]) == "conformalsam run mine"


@pytest.mark.parametrize("run", ["mine", "007", "no", "runs/it's {my} run: ä.yaml"])
@pytest.mark.parametrize(("stage", "rerun"), [("all", None), ("calibrate", "annotate")])
def test_both_commands_mean_the_same_to_snakemake(run, stage, rerun):
    words = [run_word(run), "alpha=0.1"]
    here, elsewhere = (
        shlex.split(command_in(snakefile, stage, words, rerun)) for snakefile in (Path("Snakefile"), Path("/none"))
    )
    assert (here[0], elsewhere[:2]) == ("snakemake", ["conformalsam", "run"])
    (ours, settings), (plain, expected) = (
        config_of(call) for call in (snakemake_call(elsewhere[2], elsewhere[3:]), [*PROGRAM, *here[1:]])
    )
    assert settings == expected == (run, {"calibrate.alpha": 0.1})
    assert list(ours.targets or ["all"]) == list(plain.targets) == [stage]
    assert ours.forcerun == plain.forcerun


def command_in(snakefile, *arguments):
    """The command that is printed if our Snakefile is this one."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(workflow, "SNAKEFILE", snakefile)
        return snakemake_command(*arguments)


def test_all_cores_are_used_unless_the_options_say_otherwise():
    assert snakemake_call("demo", ["-n"])[-5:] == ["--cores", "all", "-n", "--config", "run=demo"]
    for options in (["--cores", "3"], ["-c3"], ["-n", "--cores=3"]):
        assert config_of(snakemake_call("demo", options))[0].cores == 3


def test_another_profile_of_the_package_is_found_in_any_folder_and_gives_the_cores(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    ours = str(SNAKEFILE.parent / "profiles/slurm")
    for options in (["--workflow-profile", "profiles/slurm"], ["--workflow-profile=profiles/slurm"]):
        words = snakemake_call("demo", options)
        assert next(word for word in words if "profiles" in word).removeprefix("--workflow-profile=") == ours
        assert sum("profiles" in word for word in words) == 1
        assert "--cores" not in words
    Path("profiles/slurm").mkdir(parents=True)
    assert "profiles/slurm" in snakemake_call("demo", ["--workflow-profile", "profiles/slurm"])


def test_the_settings_of_the_option_config_are_kept_in_every_form():
    for options in (["--config", "alpha=0.1"], ["-C", "alpha=0.1", "-n"], ["--config=alpha=0.1"]):
        assert config_of(snakemake_call("mine", ["stage1", *options]))[1] == ("mine", {"calibrate.alpha": 0.1})


def test_run_files_of_the_package_are_found_anywhere_and_others_are_written_to_config(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert find_run_file("demo") == RUN_FILES / "demo.yaml"
    assert beside(find_run_file("demo"), "next") == Path("config/next.yaml")
    Path("config").mkdir()
    Path("config/mine.yaml").write_text("extends: demo.yaml\nname: mine\n")
    assert load_settings("mine").data.scenes == load_settings("demo").data.scenes
    assert beside(find_run_file("mine"), "next") == Path("config/next.yaml")
    Path("config/demo.yaml").write_text("extends: voc_92.yaml\nname: own\n")
    assert load_settings("demo").name == "own"
    with pytest.raises(ConfigError, match=r"no run file dmo .*; did you mean demo\?; known: .*demo.*, mine.*voc_92"):
        find_run_file("dmo")


def test_an_unknown_run_or_an_option_before_it_is_refused_before_snakemake_starts(tmp_path):
    refused = CliRunner().invoke(main, ["run", str(tmp_path / "none.yaml"), "-n"])
    assert (refused.exit_code, refused.output.startswith("error: no run file")) == (1, True)
    refused = CliRunner().invoke(main, ["run", "-n", "demo"])
    assert (refused.exit_code, refused.output) == (
        1,
        "error: -n stands before the run; write conformalsam run RUN -n\n",
    )


def carried():
    """Path in the repository -> path in the wheel, for what is not in a package."""
    wheel = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["hatch"]["build"]["targets"]["wheel"]
    return wheel["force-include"]


def test_the_wheel_carries_what_a_clone_has_at_its_top():
    assert SNAKEFILE == ROOT / "Snakefile"
    for path in (SNAKEFILE, workflow.PROFILE, RUN_FILES):
        assert path.exists()
        top, *_ = path.relative_to(ROOT).parts
        assert ROOT / carried()[top] == CARRIED / top


@pytest.mark.slow
def test_a_wheel_has_every_file_and_runs_the_workflow_in_another_folder(tmp_path):
    build = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", tmp_path]
    subprocess.run(build, cwd=ROOT, check=True, capture_output=True)
    (wheel,) = tmp_path.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        found = set(archive.namelist())
        archive.extractall(tmp_path / "site")
    packages = ("calib", "pipeline", "train")
    tracked = ["git", "ls-files", *packages, *carried()]
    for name in subprocess.run(tracked, cwd=ROOT, check=True, capture_output=True, text=True).stdout.split():
        top, slash, rest = name.partition("/")
        assert (name if top in packages else f"{carried()[top]}{slash}{rest}") in found
    assert {name.partition("/")[0] for name in found} == {*packages, f"{wheel.stem.partition('-py3')[0]}.dist-info"}
    write_sample_files(tmp_path / "data", [f"im{i}" for i in range(10)])
    run_file = write_run_file(tmp_path)
    (tmp_path / "Snakefile").unlink()
    environment = {"PATH": "/usr/bin:/bin", "PYTHONPATH": str(tmp_path / "site"), "HOME": str(tmp_path)}

    def call(*words):
        command = [sys.executable, "-P", "-m", "pipeline", *words]
        return subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)

    finished = call("run", run_file, "prepare")
    assert finished.returncode == 0, finished.stderr
    assert (tmp_path / "results/tiny/prepare.json").is_file()
    assert call("calibrate", run_file).stderr.strip().endswith(f"run conformalsam run {run_file} annotate")
