"""Chooses the images to label next, and writes their list with a reason for each."""

from __future__ import annotations

import csv
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from calib import selection
from pipeline.dask_tasks import run_tasks
from pipeline.datasets import Sample, SampleIndex
from pipeline.errors import StoreError
from pipeline.files import replacing_folder
from pipeline.progress import Progress
from pipeline.run import Run
from pipeline.settings import Settings
from pipeline.store import DONE, Handle, open_calibration, open_labels

log = logging.getLogger(__name__)

LIST = "images.txt"
REASONS = "reasons.csv"
MAX_CLASSES = 3  # of a reason


class Proposal(NamedTuple):
    """An image to label, and why; of an image with tiles, the numbers are those of the tile to be looked at first.

    id:         of the image
    gain:       points of mIoU that the labels of all unlabeled images lack because of this one, as far as expected
    unlabeled:  fraction of its pixels without a label
    doubt:      mean of 1 - P(label) over its labels, in [0, 1], by the annotator's own probabilities
    classes:    most probable classes of its doubtful pixels, those with the largest part of the gain first
    represents: number of unlabeled images that resemble this one most, itself included
    """

    id: str
    gain: float
    unlabeled: float
    doubt: float
    classes: list[str]
    represents: int


class ImageJob(NamedTuple):
    """One image, the store of its planes, and the index of the image there (position)."""

    reader: SampleIndex
    sample: Sample
    store: Handle
    position: int
    is_labeled: bool


class Described(NamedTuple):
    """What the choice reads of an image."""

    id: str
    doubt: selection.Doubt
    features: tuple[selection.Floats, selection.Floats]


def describe(job: ImageJob) -> Described:
    """Doubt and features of an image; a labeled image has no doubt."""
    store = open_calibration(job.store) if job.is_labeled else open_labels(job.store)
    planes, background = store.planes(job.position), store.state["background"]
    label = planes.best_foreground.astype(np.float32) if job.is_labeled else open_labels(job.store).label(job.position)
    doubt = selection.count_doubt(label, planes, background, len(store.class_names))
    return Described(job.sample.id, doubt, selection.features(job.reader.image(job.sample), doubt.pixels))


def propose_images(settings: Settings, count: int) -> list[Proposal]:
    """The images to label next, in the order of the choice; fewer than `count` if there are no more.

    raises: StoreError if the run has no labels of these settings, or no image has labels; DatasetError for an image
            that has changed since prepare
    """
    run = Run(settings)
    labels, calibration, index = run.open_labels(), run.open_calibration(), run.samples("pseudolabel")
    by_id = {sample.id: sample for sample in index.samples}
    unlabeled = [
        ImageJob(index.reader, by_id[labels.sample_ids[i]], labels.handle, i, False)
        for i in np.flatnonzero(labels.status == DONE).tolist()
    ]
    if not unlabeled:
        raise StoreError(
            f"{labels.path} has no labels, because the annotator failed on all images; fix the causes in "
            f"annotate.json, then run {run.command('annotate', rerun='annotate')}"
        )
    labeled = [
        ImageJob(index.reader, by_id[calibration.sample_ids[i]], calibration.handle, i, True)
        for i in np.flatnonzero(calibration.status == DONE).tolist()
    ]
    described = _describe_all([*unlabeled, *labeled], settings)
    images = [described[job.sample.id] for job in unlabeled]
    known = [described[job.sample.id] for job in labeled]
    gain = selection.expected_gain([image.doubt for image in images])
    image_of = [job.sample.tile.image if job.sample.tile else job.sample.id for job in unlabeled]
    num = len(images) if index.cut else count  # several tiles of an image are one proposal
    chosen = selection.choose_images(gain, _kinds(images), _kinds(known), num)
    area = np.sum([image.doubt.pixels for image in images], axis=0)
    proposals: dict[str, Proposal] = {}
    for i, represents in zip(chosen.images.tolist(), chosen.represents.tolist(), strict=True):
        facts = images[i]._replace(id=image_of[i])
        proposals.setdefault(facts.id, _proposal(facts, 100 * float(gain[i]), labels.class_names, area, represents))
    return list(proposals.values())[:count]


def _kinds(images: Sequence[Described]) -> list[selection.Floats]:
    """The features of some images, kind by kind: float64 [N, D]."""
    return [np.stack(kind) for kind in zip(*(image.features for image in images), strict=True)]


def _describe_all(jobs: Sequence[ImageJob], settings: Settings) -> dict[str, Described]:
    described: dict[str, Described] = {}
    progress = Progress(log, "next", len(jobs), "images")

    def on_done(one: Described) -> None:
        described[one.id] = one
        progress.advance()

    run_tasks(describe, jobs, settings.compute, on_done)
    return described


def _proposal(
    image: Described, gain: float, names: Sequence[str], area: npt.NDArray[np.int64], represents: int
) -> Proposal:
    """area: int64 [K], pixels of all unlabeled images by most probable class"""
    counts = image.doubt
    total, unlabeled = int(counts.pixels.sum()), int(counts.unlabeled.sum())
    parts = (counts.unlabeled + counts.doubt) / np.maximum(area, 1)
    order = [int(k) for k in np.argsort(-parts, kind="stable")[:MAX_CLASSES] if parts[k] > parts.sum() / 10]
    doubt = float(counts.doubt.sum() / max(1, total - unlabeled))
    return Proposal(image.id, gain, unlabeled / total, doubt, [names[k] for k in order], represents)


def write_proposals(folder: Path, proposals: Sequence[Proposal]) -> Path:
    """Write the ids, one per line, and a table of the reasons; returns the path of the list.

    An older list is replaced.
    """
    with replacing_folder(folder) as part:
        part.mkdir(parents=True)
        (part / LIST).write_text("".join(f"{one.id}\n" for one in proposals), encoding="utf-8")
        with (part / REASONS).open("w", encoding="utf-8", newline="") as file:
            rows = csv.writer(file)
            rows.writerow(["id", "gain_points", "unlabeled", "doubt", "classes", "represents"])
            for one in proposals:
                numbers = [f"{one.gain:.4g}", f"{one.unlabeled:.4f}", f"{one.doubt:.4f}"]
                rows.writerow([one.id, *numbers, " ".join(one.classes), one.represents])
    return folder / LIST


def reason(proposal: Proposal) -> str:
    """The reason of a proposal in words."""
    like = "" if proposal.represents < 2 else f"; {proposal.represents - 1} more like it"
    return (
        f"{100 * proposal.unlabeled:.0f} % without a label, {100 * proposal.doubt:.0f} % doubt in the others; "
        f"{', '.join(proposal.classes)}{like}"
    )
