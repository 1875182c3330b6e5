"""Damage to the stores of a finished run, and following the command of a finding."""

import shutil
from dataclasses import replace
from pathlib import Path

from click.testing import CliRunner
from stage_runs import STAGES, run_stages

from pipeline.__main__ import main
from pipeline.folder import FILE_OF, STAGE_OF
from pipeline.inspect import check_store
from pipeline.run import Run
from pipeline.store import ABSENT, store_state
from pipeline.store.metadata import write_metadata

RUN = "checked"
KINDS = list(FILE_OF)
IMAGE_ARRAYS = {
    "probabilities": ["logits"],
    "calibration": ["score", "truth", "best_foreground", "p_foreground", "p_second", "p_background"],
    "labels": ["label", "label_by_alpha", "set", "best_foreground", "p_foreground", "p_second", "p_background"],
}


def store_of(settings, kind):
    return settings.folder / FILE_OF[kind]


def receipt_of(settings, kind):
    return settings.folder / f"{STAGE_OF[kind]}.json"


def chunk_files(path, array):
    return sorted(file for file in (path / array / "c").rglob("*") if file.is_file())


def flip_a_bit(file, bit=None):
    content = bytearray(file.read_bytes())
    position = (8 * len(content) // 2 if bit is None else bit) % (8 * len(content))
    content[position // 8] ^= 1 << position % 8
    file.write_bytes(content)


def invoke(*arguments):
    return CliRunner().invoke(main, [str(argument) for argument in arguments], standalone_mode=False)


def follow(command, settings):
    """Run a printed command: remove files, call this program, run a stage and the stages that it depends on."""
    for part in command.split(" && "):
        match part.split():
            case ["rm", "-r", path]:
                shutil.rmtree(path)
            case ["rm", path]:
                Path(path).unlink()
            case ["conformalsam", *arguments]:
                result = invoke(*arguments)
                assert result.return_value == 0, result.output
            case ["snakemake", "--cores", "8", stage, *rest]:
                assert f"run={RUN}" in rest or f"run={settings.origin.run}" in rest
                run_snakemake(settings, stage, is_forced=rest[:2] == ["-R", stage])


def run_snakemake(settings, target, is_forced):
    """Stages up to a target whose receipt is not there, damaged, or older than that of a stage before."""
    has_run = False
    for stage in list(STAGES)[: list(STAGES).index(target) + 1]:
        is_missing = not Run(settings).has_receipt(stage) or Run(settings).is_stale(stage)
        if is_missing or has_run or (stage == target and is_forced):
            run_stages(settings, stage)
            has_run = True


def only_finding(path):
    (finding,) = check_store(path).findings
    return finding


def times_of(path, kind):
    """When each image's part of the arrays was written."""
    return {
        file: file.stat().st_mtime_ns for array in IMAGE_ARRAYS[kind] for file in chunk_files(path, array)
    }  # fmt: skip


def belongs_to(file, array, image):
    """Whether a chunk of a per-image array belongs to this image."""
    parts = file.parts[file.parts.index("c") + 1 :]
    return int(parts[1 if array == "label_by_alpha" else 0]) == image


def make_unfinished(path, store, image, arrays):
    """As a stage leaves a store that was killed at an image."""
    write_metadata(path, {**store.state, "complete": False})
    replace(store, state=store_state(path), is_writable=True, opened={}).mark(image, ABSENT)
    for array in arrays:
        for file in chunk_files(path, array):
            if belongs_to(file, array, image):
                file.unlink()


def run_command(*arguments):
    return CliRunner().invoke(main, [str(argument) for argument in arguments])
