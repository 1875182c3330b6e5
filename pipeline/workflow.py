"""The workflow that comes with the package: the Snakefile, its profile and the run files, in a clone and in a wheel."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path

import yaml

from pipeline.yaml_text import yaml_text

CARRIED = Path(__file__).parent / "carried"
"""Where a wheel has what lies at the top of a clone (see pyproject.toml)."""
WORKFLOW = CARRIED if CARRIED.is_dir() else Path(__file__).parents[1]
SNAKEFILE, PROFILE, RUN_FILES = WORKFLOW / "Snakefile", WORKFLOW / "profiles/default", WORKFLOW / "config"

CONFIG_OPTIONS = ("--config", "-C")  # of Snakemake
PROFILE_OPTION = "--workflow-profile"
CORES_OPTIONS = ("--cores", "-c", "--jobs", "-j")


def run_word(run: str) -> str:
    """The argument of `--config` that chooses a run file, by its path or its name in `config/`."""
    return f"run={yaml_text(run)}"


def snakemake_command(stage: str, words: Iterable[str], rerun: str | None = None) -> str:
    """Command line that runs a stage and the stages before it that have not finished.

    It calls Snakemake itself in a folder with our Snakefile, such as a clone, and `conformalsam run` in any other.

    words: arguments of `--config`, the first of which chooses the run; they are quoted for the shell
    rerun: stage that is run even if its receipt exists
    """
    forced = [] if rerun is None else ["-R", rerun]
    if Path("Snakefile").resolve() == SNAKEFILE.resolve():
        return shlex.join(["snakemake", "--cores", "8", stage, *forced, "--config", *words])
    chosen, *others = words
    targets = [] if stage == "all" else [stage]
    config = ["--config", *others] if others else []
    return shlex.join(["conformalsam", "run", _run_of(chosen), *targets, *forced, *config])


def _run_of(word: str) -> str:
    """The run that `run_word` names."""
    text = word.removeprefix("run=")
    run = yaml.safe_load(text)
    return run if isinstance(run, str) else text


def snakemake_call(run: str, options: Sequence[str]) -> list[str]:
    """Words of the process that `conformalsam run RUN OPTIONS` becomes: Snakemake with our Snakefile and profile.

    options: of Snakemake, targets included. Without a number of cores, all are used. Another profile that comes with
             the package, such as profiles/slurm, is found in any folder, and gives the cores.
    """
    words = [sys.executable, "-P", "-m", "snakemake", "--snakefile", str(SNAKEFILE)]
    options = [_found_profile(option) for option in options]
    if not any(option.startswith(PROFILE_OPTION) for option in options):
        words += ["--workflow-profile", str(PROFILE)]
        if not any(option.startswith(CORES_OPTIONS) for option in options):
            words += ["--cores", "all"]
    indices = [index for index, option in enumerate(options) if option.partition("=")[0] in CONFIG_OPTIONS]
    if not indices:
        return [*words, *options, "--config", run_word(run)]
    option, equals, setting = options[indices[-1]].partition("=")
    config = [option, run_word(run), *([setting] if equals else [])]
    return [*words, *options[: indices[-1]], *config, *options[indices[-1] + 1 :]]


def _found_profile(option: str) -> str:
    """An option of Snakemake, or the value of one, with the whole path if it names a profile of ours from elsewhere."""
    before, _, name = option.rpartition("=")
    is_ours = name.startswith(f"{PROFILE.parent.name}/") and (WORKFLOW / name).is_dir() and not Path(name).is_dir()
    path = str(WORKFLOW / name)
    return option if not is_ours else f"{before}={path}" if before else path
