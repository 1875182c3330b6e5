"""Single flipped bits in the files of a run, and whether the reader of the file finds each."""

import random
from collections.abc import Callable
from pathlib import Path

from pipeline.errors import UserError
from pipeline.receipt import SCHEMAS
from pipeline.run import Run
from pipeline.settings import Settings
from train.engine.checkpoint import load_checkpoint
from train.students import load_network

STUDENTS = ("student", "best")


def bits_of(path: Path, num: int, seed: int) -> list[int]:
    """Positions of `num` different bits of a file, drawn with the seed."""
    return random.Random(f"{seed}/{path.name}").sample(range(8 * path.stat().st_size), num)


def missed_flips(path: Path, is_found: Callable[[], bool], num: int = 60, seed: int = 0) -> list[int]:
    """Bits of a file that can be flipped without being found. The file is restored at the end."""
    content, missed = path.read_bytes(), []
    try:
        for bit in bits_of(path, num, seed):
            damaged = bytearray(content)
            damaged[bit // 8] ^= 1 << bit % 8
            path.write_bytes(damaged)
            if not is_found():
                missed.append(bit)
    finally:
        path.write_bytes(content)
    return missed


def readers_of(settings: Settings) -> dict[str, tuple[Path, Callable[[], object]]]:
    """Name -> file of a finished run and its reader: samples, receipts, checkpoints and students."""
    run, folder = Run(settings), Run(settings).folder
    readers: dict[str, tuple[Path, Callable[[], object]]] = {"samples": (folder.samples, run.samples)}
    for stage in filter(run.has_receipt, SCHEMAS):
        readers[stage] = (folder.receipt(stage), lambda stage=stage: run.recorded(stage))
    for stage in filter(run.has_receipt, ("stage1", "stage2")):
        path = folder.checkpoint(stage)
        readers[f"{stage}/checkpoint.pt"] = (path, lambda path=path: load_checkpoint(path))
        for path in sorted(path for path in folder.training(stage).glob("*/*") if path.parent.name in STUDENTS):
            name = f"{stage}/{path.parent.name}/{path.name}"
            readers[f"{name}, of the run"] = (path, lambda s=stage, f=path.parent: run.check_file(s, f))
            readers[f"{name}, by itself"] = (path, lambda f=path.parent: load_network(f))
    return readers


def missed_by_file(settings: Settings, num: int = 60, seed: int = 0) -> dict[str, list[int]]:
    """Name of a file as `readers_of` -> bits that can be flipped without its reader refusing the file."""
    return {
        name: missed_flips(path, lambda reader=reader: _is_refused(reader), num, seed)
        for name, (path, reader) in readers_of(settings).items()
    }


def _is_refused(reader: Callable[[], object]) -> bool:
    try:
        reader()
    except UserError:
        return True
    return False
