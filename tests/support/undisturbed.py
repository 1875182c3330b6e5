"""What an undisturbed run in an empty folder makes of given images, masks and settings."""

import shutil
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

import forked
from run_inputs import Inputs, write_inputs

STAGES = ("prepare", "annotate", "calibrate", "pseudolabel")
TRAINING = "stage1"
STORES = {"annotate": "probs.zarr", "calibrate": "calibration.zarr", "pseudolabel": "labels.zarr"}
STUDENT = "stage1/student"


class Expected(NamedTuple):
    """What an undisturbed run writes: stage -> path in its store -> bytes; and path in the cache -> bytes of a row."""

    stores: dict[str, dict[str, bytes]]
    rows: dict[str, bytes]


class Oracle:
    """Undisturbed runs, each made once."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.known: dict[Inputs, Expected] = {}
        self.students: dict[Inputs, dict[str, bytes]] = {}

    def expected(self, inputs: Inputs) -> Expected:
        if inputs not in self.known:
            self._run(inputs, STAGES)
            stores = {stage: contents(self.folder / "results/tiny" / name) for stage, name in STORES.items()}
            maps = contents(self.folder / "results/maps")
            rows = {name: content for name, content in maps.items() if "/rows/" in name}
            self.known[inputs] = Expected(stores, rows)
        return self.known[inputs]

    def student(self, inputs: Inputs) -> dict[str, bytes]:
        """Path in the folder of the student of Stage I -> bytes."""
        if inputs not in self.students:
            self._run(inputs, (*STAGES, TRAINING))
            self.students[inputs] = contents(self.folder / "results/tiny" / STUDENT)
        return self.students[inputs]

    def _run(self, inputs: Inputs, stages: Iterable[str]) -> None:
        shutil.rmtree(self.folder, ignore_errors=True)
        self.folder.mkdir(parents=True)
        run_file = write_inputs(self.folder, inputs)
        for stage in stages:
            ended = forked.run([stage, str(run_file)], self.folder, self.folder / "log")
            assert ended.code == 0, f"{stage} of an undisturbed run failed:\n{ended.text}"


def files_in(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob("*") if path.is_file() and not path.is_symlink())


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in files_in(folder)}


def differing(found: dict[str, bytes], expected: dict[str, bytes]) -> list[str]:
    """Paths of files that differ between two stores."""
    return sorted(path for path in found.keys() | expected.keys() if found.get(path) != expected.get(path))
