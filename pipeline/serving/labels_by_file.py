"""The calibrated label of an image that a labeling tool names by its file."""

from __future__ import annotations

from pathlib import Path, PurePosixPath
from typing import NamedTuple

from pipeline.errors import StoreError
from pipeline.exchange.labels import ExportedLabels, Label, open_exported
from pipeline.run import Run
from pipeline.settings import Settings
from pipeline.sources.annotations.label_studio import file_name_of, name_before_upload


class LabelsByFile(NamedTuple):
    """Labels of a run, by the names of files.

    exported: the labels of one alpha
    """

    exported: ExportedLabels

    def label(self, name: str, size: tuple[int, int] | None = None) -> Label:
        """Label of the image that a file name, a path or an address ends in: uint8 [H, W], class index, 255 = abstain.

        size:   height and width that the tool has read; None: unknown
        raises: StoreError if no unlabeled image of the run, or more than one, has this name, or if its size differs
        """
        index = self._index(name)
        label = self.exported.label(index)
        if size is not None and label.shape != size:
            (height, width), own = size, label.shape
            raise StoreError(
                f"{name} is {height} x {width} (height x width), {self.exported.samples[index].image} of the run is "
                f"{own[0]} x {own[1]}; give the tool the run's own image files"
            )
        return label

    def _index(self, name: str) -> int:
        path = file_name_of(name)
        found = next((indices for one in (path, *name_before_upload(path)) if (indices := self._named(one))), [])
        if len(found) != 1:
            images = [self.exported.samples[i].image for i in found]
            problem = f"may be each of {', '.join(images[:3])}" if found else "is no unlabeled image of the run"
            raise StoreError(
                f"{name} {problem}; images are matched by the end of their path, and {self.exported.store.path} has "
                f"labels of {len(self.exported.samples)} images such as {self.exported.samples[0].image}"
            )
        return found[0]

    def _named(self, path: str) -> list[int]:
        """Images whose path ends in `path`, or the other way round; if there is none, those of the same file name."""
        images = self.exported.images
        return [self.exported.index_of[one] for one in images.named(path) or images.named(PurePosixPath(path).name)]


def labels_of(settings: Settings, alpha: float | None = None) -> LabelsByFile:
    """The finished labels of a run.

    alpha:  one of the stored alphas; default: the chosen one
    raises: StoreError if the labels are not finished, or are those of other images
    """
    return LabelsByFile(open_exported(Run(settings).folder.labels, alpha, Path(settings.data.root)))
