"""What imported masks changed: their images' labels before, and the run's numbers before and now."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from pipeline.datasets import SampleIndex
from pipeline.record import is_whole, read_record
from pipeline.report.mistakes import ImageMistakes
from pipeline.run import Run

Facts = Mapping[str, Any]


class Change(NamedTuple):
    """A number before the import and now, in [0, 1]; None if it was not measured."""

    name: str
    before: float | None
    now: float | None


class ImportChange(NamedTuple):
    """The effect of the last import.

    num_masks: imported masks
    labels:    num_images, pixels, labeled, right: the labels of the imported images before, compared with their masks;
               None without labels
    same:      number of images that were labeled before, on which the held-out numbers are compared
    """

    num_masks: int
    labels: Facts | None
    same: int
    changes: list[Change]


def import_change(
    run: Run, samples: SampleIndex, images: Sequence[ImageMistakes], receipts: Mapping[str, Facts]
) -> ImportChange | None:
    """The effect of the last import; None if there was none, or the run does not use its masks.

    images:   counts of the held-out images of now
    receipts: as shown in the report
    """
    path = run.folder.imported
    if not is_whole(path):
        return None
    record = read_record(path, "the import again")
    labeled = {sample.id for sample in samples.of("labeled")}
    if not labeled.issuperset([*record["ids"], *record["before"]["labeled"]]):
        return None
    before = set(record["before"]["labeled"])
    same = [image for image in images if image.id in before]
    kept, valid = np.sum([image.kept for image in same], axis=0), sum(image.valid for image in same)
    num_kept = int(np.sum(kept))
    precision = float(np.trace(kept)) / num_kept if same and num_kept else None
    evaluated = receipts.get("evaluate")
    miou = None if evaluated is None else evaluated["students"][evaluated["final"]]["miou"]
    changes = [
        Change("labels that are right", record["before"]["precision"], precision),
        Change("pixels that are labeled", record["before"]["keep_rate"], num_kept / valid if valid else None),
        Change("student’s mIoU on the val images", record["before"]["miou"], miou),
    ]
    known = [change for change in changes if change.before is not None or change.now is not None]
    return ImportChange(len(record["ids"]), record["labels"], len(same), known)
