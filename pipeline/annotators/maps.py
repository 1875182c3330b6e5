"""Annotator from files: maps that other code has written, one file per image."""

from __future__ import annotations

import logging
from collections import defaultdict
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from pipeline.annotators.contract import Images, Maps, Space
from pipeline.annotators.map_files import (
    ClassOfPixels,
    Probabilities,
    read_classes,
    read_coloured,
    read_confidence,
    read_probabilities,
)
from pipeline.errors import AnnotatorError, UserError
from pipeline.files import content_digest, existing, files_in, image_id
from pipeline.images import packed_colours
from pipeline.progress import Progress
from pipeline.receipt import fingerprint
from pipeline.settings import DataSettings, MapsSettings, did_you_mean
from pipeline.sources.image_checks import shortened

log = logging.getLogger(__name__)

VERSION = 1  # raise it when the same files would give other maps
MASK = ".png"
SUFFIXES = (".npz", ".npy", MASK)
EXPECTED = {"folder": "ID.npz, ID.npy or ID.png", "confidence": "ID.png"}
"""Setting of a folder -> names of its files."""


class MapsAnnotator:
    """Reads the maps of an image from its file. Every file is read and checked before the first image is annotated.

    The maps have the size of the files if all have the same one, which is not larger than `data.grid`; else that of
    `data.grid`.
    """

    space: Space = "probability"

    def __init__(self, settings: MapsSettings, data: DataSettings):
        """AnnotatorError if a folder does not exist."""
        self.settings, self.data = settings, data
        self.folders = {"folder": self._folder("folder", settings.folder)}
        if settings.confidence is not None:
            self.folders["confidence"] = self._folder("confidence", settings.confidence)
        self.legend = _legend(settings, data)
        self.without_prompt = [name for name in data.class_names if settings.colours and name not in settings.colours]
        self.name = f"maps of {self.folders['folder'].name}"
        self.fingerprint = ""
        self.files: dict[str, list[Path]] = {}
        self.digests: dict[Path, str] = {}
        self.size: tuple[int, int] = (data.grid[0], data.grid[1])

    def _folder(self, setting: str, name: str) -> Path:
        path = existing(Path(self.data.root) / name)
        if not path.is_dir():
            raise AnnotatorError(
                f"no folder {path}; correct annotate.maps.{setting}, which is relative to data.root {self.data.root}"
            )
        return path

    def prepare(self, class_prompts: Sequence[Sequence[str]]) -> None:
        """Do nothing: the classes of the files are those of `data.classes`, in the same order."""

    def prepare_images(self, ids: Sequence[str]) -> None:
        """Find, read and check the files of all images, and compute the fingerprints from their content.

        The fingerprint is of the size of the maps; that of an image, of its files. So only the maps of images whose
        files are new or have changed are stored again.

        raises: AnnotatorError that lists the images without a file, with several, or with one that cannot be used
        """
        of_image = {setting: _by_id(folder) for setting, folder in self.folders.items()}
        for setting, files in of_image.items():
            self._refuse_missing(setting, files, ids)
        self.files = {i: [files[i][0] for files in of_image.values()] for i in ids}
        self.digests = {}
        sizes = set(self._checked_sizes(ids))
        height, width = self.data.grid
        is_kept = len(sizes) == 1 and all(h <= height and w <= width for h, w in sizes)
        self.size = sizes.pop() if is_kept else (height, width)
        self.fingerprint = fingerprint({"version": VERSION, "size": self.size})

    def image_fingerprint(self, sample_id: str) -> str:
        """Fingerprint of the files of an image, and of the values or colours of the classes if it is a mask."""
        files = self.files[sample_id]
        codes: list[Any] = sorted(self.legend.items()) or [self.data.mask_values, self.data.ignore_values]
        is_mask = files[0].suffix.lower() == MASK
        facts = {"files": [[path.suffix.lower(), self.digests[path]] for path in files]}
        return fingerprint({**facts, "codes": codes if is_mask else None})

    def _refuse_missing(self, setting: str, files: dict[str, list[Path]], ids: Sequence[str]) -> None:
        folder = self.folders[setting]
        missing = [i for i in ids if i not in files]
        if missing:
            raise AnnotatorError(
                f"{folder} has no file for {len(missing)} of {len(ids)} images ({shortened(missing)}), expected "
                f"{EXPECTED[setting]}; write their files, or correct annotate.maps.{setting}"
            )
        several = [path.name for i in ids if len(files[i]) > 1 for path in files[i]]
        if several:
            raise AnnotatorError(f"{folder} has several files for an image: {shortened(several)}; keep one of them")

    def _checked_sizes(self, ids: Sequence[str]) -> Iterator[tuple[int, int]]:
        """Height and width of the maps of each image; AnnotatorError if a file cannot be used."""
        problems: dict[str, str] = {}
        progress = Progress(log, f"annotate: checking {self.folders['folder']}", len(ids), "files")
        for sample_id in ids:
            try:
                yield self._read(sample_id).size
            except UserError as error:
                problems[sample_id] = str(error)
            progress.advance()
        if problems:
            first = next(iter(problems.values()))
            others = f"the maps of {len(problems)} of {len(ids)} images cannot be used ({shortened(list(problems))}): "
            raise AnnotatorError(f"{others if len(problems) > 1 else ''}{first}")

    def __call__(self, images: Images, ids: Sequence[str] = ()) -> Maps:
        """Maps of the images with these ids, float32 [B, K, h, w]; AnnotatorError for a file that has changed."""
        return np.stack([self._read(sample_id).resized(self.size) for sample_id in ids])

    def _read(self, sample_id: str) -> Probabilities | ClassOfPixels:
        path, *confidences = self.files[sample_id]
        content, data = self._content(path), self.data
        if path.suffix.lower() != MASK:
            if confidences:
                raise AnnotatorError(
                    f"{path} is no index mask, but annotate.maps.confidence is set; remove it, or write ID.png"
                )
            return read_probabilities(content, path, data, self.settings.sums)
        classes = read_coloured(content, path, self.legend, data) if self.legend else read_classes(content, path, data)
        if not confidences:
            return ClassOfPixels(classes, np.ones(classes.shape, np.float32), data.num_classes)
        (other,) = confidences
        confidence = read_confidence(self._content(other), other, (classes.shape[0], classes.shape[1]), data)
        return ClassOfPixels(classes, confidence, data.num_classes)

    def _content(self, path: Path) -> bytes:
        """Content of a file; AnnotatorError if it cannot be read, or has changed since it was read first."""
        try:
            content = path.read_bytes()
        except OSError as error:
            raise AnnotatorError(f"{path} cannot be read ({error.strerror}); make it readable for you") from None
        digest = content_digest(content)
        if self.digests.setdefault(path, digest) != digest:
            raise AnnotatorError(f"{path} has changed since annotate started; run annotate again")
        return content


def _legend(settings: MapsSettings, data: DataSettings) -> dict[int, int]:
    """Class index by colour, 0xRRGGBB; K for colours to ignore; {} without colours.

    raises: AnnotatorError for an unknown class, and for a colour that is given twice
    """
    legend: dict[int, int] = {}
    if settings.ignore_colours and not settings.colours:
        raise AnnotatorError(
            "annotate.maps.ignore_colours is set, but annotate.maps.colours is not; add the colours of the classes"
        )
    for name, colour in [*settings.colours.items(), *((None, colour) for colour in settings.ignore_colours)]:
        if name is not None and name not in data.class_names:
            hint = did_you_mean(name, data.class_names)
            raise AnnotatorError(
                f"annotate.maps.colours names {name!r}, which is not in data.classes{hint}; correct or remove it"
            )
        code = int(packed_colours(np.array(colour, np.uint8)))
        if code in legend:
            raise AnnotatorError(f"annotate.maps.colours has {colour} twice; give each class another colour")
        legend[code] = data.num_classes if name is None else data.class_names.index(name)
    return legend


def _by_id(folder: Path) -> dict[str, list[Path]]:
    """Files of maps in a folder by image id."""
    found = defaultdict(list)
    for path in files_in(folder, SUFFIXES):
        found[image_id(path)].append(path)
    return dict(found)
