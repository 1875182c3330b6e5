"""The folder of a run: the names of its files and stores, and the command that runs a stage of that run."""

from __future__ import annotations

import json
import os
import shlex
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from pipeline.record import write_record
from pipeline.workflow import run_word, snakemake_command

STAGE_OF = {"probabilities": "annotate", "calibration": "calibrate", "labels": "pseudolabel"}
KIND_OF = {stage: kind for kind, stage in STAGE_OF.items()}
FILE_OF = {"probabilities": "probs.zarr", "calibration": "calibration.zarr", "labels": "labels.zarr"}
MEMBERS = "members"
PROVENANCE = "provenance.json"  # of an export: how its labels were made


def member_of(path: Path) -> str | None:
    """Name of the member of an ensemble whose probability store this is; None for any other store or receipt."""
    folder = path.absolute().parent
    is_member = path.name == FILE_OF["probabilities"] and folder.parent.name == MEMBERS
    return folder.name if is_member and not Folder(folder).samples.is_file() else None


def run_folder(path: Path) -> Path:
    """Folder of the run that a store or receipt belongs to."""
    return path.parent if member_of(path) is None else path.absolute().parents[2]


def stage_command(path: Path, stage: str, rerun: str | None = None, changes: Iterable[str] = ()) -> str:
    """Command that runs a stage of the run whose folder contains a store or receipt.

    The arguments of `--config` are those in the receipt of the stage, else those in the receipt of prepare, else
    run=FOLDER. changes: further ones, which take precedence
    """
    folder = run_folder(path.absolute())
    recorded = recorded_words(folder / f"{stage}.json") or recorded_words(folder / "prepare.json")
    return command_of(folder, stage, [*(recorded or [run_word(folder.name)]), *changes], rerun)


def command_of(folder: Path, stage: str, words: Iterable[str], rerun: str | None = None) -> str:
    """Command that runs a stage of the run in a folder.

    In a folder of an experiment or of a fold, it is the command that makes the experiment's table, or annotates with
    the students of all folds, and all that this needs. To repeat a stage of that folder, its receipt is removed.

    words: arguments of `--config` that select the run
    rerun: stage that is run even if its receipt exists
    """
    workflow = Folder(folder).workflow
    makers = recorded_words(workflow)
    if not makers:
        return snakemake_command(stage, words, rerun)
    target = json.loads(workflow.read_text(encoding="utf-8"))["target"]
    again = snakemake_command(target, makers)
    if rerun is None:
        return again
    receipt = Folder(folder).receipt(rerun).resolve()  # a link if the stage is one of other labels, or of the base run
    if receipt.is_file() and Folder(receipt.parent).workflow.is_file():
        return f"rm {shlex.quote(os.path.relpath(receipt))} && {again}"
    return snakemake_command(target, makers, rerun)


def write_workflow(folder: Path, target: str, config: Iterable[str]) -> None:
    """Write into a folder which command of Snakemake made it, for `command_of`.

    target: of Snakemake
    config: arguments of `--config`
    """
    write_record(Folder(folder).workflow, {"target": target, "config": list(config)})


def link(source: Path, folder: Path, stages: Iterable[str]) -> None:
    """Link the products of stages of the run in `source` into `folder`, the folder of another run.

    Earlier links are replaced. A product that does not exist is skipped.
    """
    folder.mkdir(parents=True, exist_ok=True)
    for path in (path for stage in stages for path in products(Folder(source.absolute()), stage)):
        if not path.exists():  # probs.zarr may have been deleted: finished labels do not need it
            continue
        symlink = folder / path.name
        if symlink.is_symlink():
            symlink.unlink()
        symlink.symlink_to(os.path.relpath(path, folder.absolute()))


def products(folder: Folder, stage: str) -> tuple[Path, Path]:
    """Paths of what a stage writes: its store or samples.json, and its receipt."""
    result = folder.samples if stage == "prepare" else folder.store(KIND_OF[stage])
    return result, folder.receipt(stage)


def recorded_words(receipt: Path) -> list[str]:
    """Arguments of `--config` in a receipt; [] if the receipt does not exist, is damaged or has none."""
    try:
        words = json.loads(receipt.read_text(encoding="utf-8"))["config"]
    except (OSError, ValueError, KeyError, TypeError):
        return []
    return words if isinstance(words, list) and all(isinstance(word, str) for word in words) else []


@dataclass(frozen=True)
class Folder:
    """Paths of the files and stores of a run."""

    path: Path

    def receipt(self, stage: str) -> Path:
        return self.path / f"{stage}.json"

    def store(self, kind: str) -> Path:
        return self.path / FILE_OF[kind]

    @property
    def samples(self) -> Path:
        return self.path / "samples.json"

    @property
    def stamps(self) -> Path:
        """Inodes, sizes and times of the files that prepare read."""
        return self.path / "stamps.json"

    @property
    def tiles(self) -> Path:
        """Tiles of large images, and of their masks."""
        return self.path / "tiles"

    @property
    def probabilities(self) -> Path:
        return self.store("probabilities")

    def member(self, name: str) -> Path:
        """Probability store of a member of an ensemble."""
        return self.path / MEMBERS / name / FILE_OF["probabilities"]

    @property
    def shards(self) -> Path:
        """Receipts of the parts of the images whose maps wait to be gathered."""
        return self.path / "shards"

    def shard(self, name: str) -> Path:
        """Receipt of a part of the images."""
        return self.shards / f"{name}.json"

    @property
    def calibration(self) -> Path:
        return self.store("calibration")

    @property
    def labels(self) -> Path:
        return self.store("labels")

    @property
    def sweep(self) -> Path:
        """Held-out estimates at every alpha, stored by `alpha` and the gallery."""
        return self.path / "sweep.json"

    @property
    def alpha_plot(self) -> Path:
        return self.path / "alpha.svg"

    @property
    def gallery(self) -> Path:
        return self.path / "gallery.html"

    @property
    def report(self) -> Path:
        return self.path / "report.html"

    @property
    def probe(self) -> Path:
        """Features and evaluated students that the probe stores."""
        return self.path / "probe"

    def training(self, stage: str) -> Path:
        """Folder of what a training stage, or evaluate, writes besides its receipt."""
        return self.path / stage

    def checkpoint(self, stage: str) -> Path:
        return self.training(stage) / "checkpoint.pt"

    def student(self, stage: str) -> Path:
        """The student at the end of a stage."""
        return self.training(stage) / "student"

    def best_student(self, stage: str) -> Path:
        """The student at the best point of a stage's learning curve."""
        return self.training(stage) / "best"

    def tensorboard(self, stage: str) -> Path:
        """The TensorBoard log of a stage."""
        return self.training(stage) / "tensorboard"

    def tracking(self, stage: str) -> Path:
        """The id of a stage's tracked run, and what trackers other than TensorBoard keep on this machine."""
        return self.training(stage) / "tracking"

    @property
    def evaluation(self) -> Path:
        return self.path / "evaluate"

    @property
    def areas(self) -> Path:
        """Pixel counts by class of each val image, to compare students image by image."""
        return self.evaluation / "areas.npz"

    def prediction(self, sample_id: str) -> Path:
        """Prediction of the final student for an example image."""
        return self.evaluation / f"{sample_id}.png"

    @property
    def baseline(self) -> Path:
        """Folder of the run's baseline: the same training, on the labeled images alone."""
        return self.path / "baseline"

    @property
    def next_images(self) -> Path:
        """Images that were proposed to be labeled next."""
        return self.path / "next"

    @property
    def imported(self) -> Path:
        """What the last import of masks found, and the numbers of the run before it."""
        return self.path / "imported.json"

    @property
    def exported(self) -> Path:
        """Digests of the labels that exports wrote."""
        return self.path / "exported.json"

    def export(self, format_name: str) -> Path:
        return self.path / "export" / format_name

    def push(self, what: str) -> Path:
        """What is uploaded to the Hugging Face Hub: `labels` or `student`."""
        return self.path / "push" / what

    @property
    def workflow(self) -> Path:
        """Target and arguments of `--config` of Snakemake that made this folder of an experiment or of a fold."""
        return self.path / "workflow.json"

    @property
    def folds(self) -> Path:
        """Folds of the run: the same training, without the masks of some labeled images."""
        return self.path / "folds"

    def fold(self, number: int, num: int) -> Path:
        """Folder of a fold; number: 1, ..., num"""
        return self.folds / f"{number}_of_{num}"

    @property
    def plan(self) -> Path:
        """Settings and inputs that the students of an experiment's run depend on."""
        return self.path / "plan.json"
