"""Annotator from files: maps that other code has written, one file per image, or all in a Zarr."""

from __future__ import annotations

import logging
from collections import defaultdict
from collections.abc import Container, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from pipeline.annotators.contract import Images, Maps, Space
from pipeline.annotators.map_files import (
    ClassOfPixels,
    Probabilities,
    checked_probabilities,
    read_classes,
    read_coloured,
    read_confidence,
    read_probabilities,
)
from pipeline.annotators.map_zarr import SUFFIX, StoredMaps, ZarrMaps, is_zarr, maps_of_image, maps_of_images
from pipeline.errors import AnnotatorError, UserError
from pipeline.files import content_digest, existing, files_in, folders_in, image_id
from pipeline.images import packed_colours
from pipeline.progress import Progress
from pipeline.receipt import fingerprint
from pipeline.settings import DataSettings, MapsSettings, did_you_mean
from pipeline.sources.image_checks import shortened
from pipeline.sources.lists import named_images

log = logging.getLogger(__name__)

VERSION = 1  # raise it when the same files would give other maps
MASK = ".png"
SUFFIXES = (".npz", ".npy", MASK)
EXPECTED = {"folder": "ID.npz, ID.npy, ID.zarr or ID.png", "confidence": "ID.png"}
"""Setting of a folder -> names of its files."""

Source = Path | ZarrMaps | StoredMaps
"""Where the maps of an image are. Its `suffix` is that of a file, its text names it in messages."""

S = TypeVar("S", bound=Source)


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
        self.sources: dict[str, Source] = {}
        self.confidences: dict[str, Path] = {}
        self.digests: dict[str, str] = {}
        self.size: tuple[int, int] = (data.grid[0], data.grid[1])

    def _folder(self, setting: str, name: str) -> Path:
        path = existing(Path(self.data.root) / name)
        with _readable():
            is_folder = path.is_dir()
        if not is_folder:
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
        with _readable():
            self.sources = self._one_each("folder", self._found(ids), ids)
            if "confidence" in self.folders:
                masks = files_in(self.folders["confidence"], [MASK])
                self.confidences = self._one_each("confidence", _by_id(masks), ids)
        self.digests = {}
        sizes = set(self._checked_sizes(ids))
        height, width = self.data.grid
        is_kept = len(sizes) == 1 and all(h <= height and w <= width for h, w in sizes)
        self.size = sizes.pop() if is_kept else (height, width)
        self.fingerprint = fingerprint({"version": VERSION, "size": self.size})

    def image_fingerprint(self, sample_id: str) -> str:
        """Fingerprint of the files of an image, and of the values or colours of the classes if it is a mask."""
        source, confidence = self.sources[sample_id], self.confidences.get(sample_id)
        codes: list[Any] = sorted(self.legend.items()) or [self.data.mask_values, self.data.ignore_values]
        is_mask = source.suffix.lower() == MASK
        files = [source] if confidence is None else [source, confidence]
        facts = {"files": [[file.suffix.lower(), self.digests[str(file)]] for file in files]}
        return fingerprint({**facts, "codes": codes if is_mask else None})

    def _found(self, ids: Sequence[str]) -> Mapping[str, Sequence[Source]]:
        """Where the maps are, by image id. ids: of the images of the run"""
        folder, listing = self.folders["folder"], self.settings.ids
        if is_zarr(folder):
            listed = None if listing is None else named_images(Path(self.data.root) / listing, ids)
            return maps_of_images(folder, listed, self.data)
        if listing is not None:
            raise AnnotatorError(f"annotate.maps.ids is set, but {folder} is no Zarr; remove annotate.maps.ids")
        return _by_id([*files_in(folder, SUFFIXES), *folders_in(folder, SUFFIX)])

    def _one_each(self, setting: str, found: Mapping[str, Sequence[S]], ids: Sequence[str]) -> dict[str, S]:
        """The only source of each image; AnnotatorError that lists the images without one, or with several."""
        folder = self.folders[setting]
        missing = [i for i in ids if i not in found]
        if missing:
            self._refuse_whole(folder, missing, found)
            lacks = f"no file for {len(missing)} of {len(ids)} images ({shortened(missing)}), expected"
            expected = f"{EXPECTED[setting]}; write their files"
            if setting == "folder" and is_zarr(folder):
                lacks = f"no maps of {len(missing)} of {len(ids)} images ({shortened(missing)}), but those of"
                expected = f"{len(found)} ids ({shortened(sorted(found))}); write their maps under their ids"
            raise AnnotatorError(f"{folder} has {lacks} {expected}, or correct annotate.maps.{setting}")
        several = [source for i in ids if len(found[i]) > 1 for source in found[i]]
        if several:
            names = shortened([source.name if isinstance(source, Path) else str(source) for source in several])
            raise AnnotatorError(f"{folder} has several files for an image: {names}; keep one of them")
        return {i: found[i][0] for i in ids}

    def _refuse_whole(self, folder: Path, missing: Sequence[str], found: Container[str]) -> None:
        """AnnotatorError if the maps that tiles lack are there of their whole images."""
        whole = dict.fromkeys(image for image in (one.rpartition("@")[0] for one in missing) if image in found)
        if self.data.tile is not None and whole:
            raise AnnotatorError(
                f"{folder} has maps of {len(whole)} whole images ({shortened(list(whole))}), which data.tile cuts into "
                f"tiles, expected maps of each tile, e.g. {missing[0]}; cut them by the code of "
                "docs/howto/large-images.md, or remove data.tile"
            )

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
        source, data = self.sources[sample_id], self.data
        if source.suffix.lower() != MASK and self.confidences:
            raise AnnotatorError(
                f"{source} is no index mask, but annotate.maps.confidence is set; remove it, or write ID.png"
            )
        if not isinstance(source, Path) or source.suffix.lower() == SUFFIX:
            return self._read_array(source)
        content = self._content(source)
        if source.suffix.lower() != MASK:
            return read_probabilities(content, source, data, self.settings.sums)
        legend = self.legend
        classes = read_coloured(content, source, legend, data) if legend else read_classes(content, source, data)
        if not self.confidences:
            return ClassOfPixels(classes, np.ones(classes.shape, np.float32), data.num_classes)
        other = self.confidences[sample_id]
        confidence = read_confidence(self._content(other), other, (classes.shape[0], classes.shape[1]), data)
        return ClassOfPixels(classes, confidence, data.num_classes)

    def _read_array(self, source: Source) -> Probabilities:
        """The maps of an image in Zarr; the sums of those of a run are as its annotator predicted them."""
        with _readable():
            maps = maps_of_image(source) if isinstance(source, Path) else source
        values = maps.values()
        self._refuse_changed(source, f"{values.dtype} {values.shape}".encode() + values.tobytes())
        sums = "any" if isinstance(maps, StoredMaps) else self.settings.sums
        return checked_probabilities(values, str(maps), self.data, sums)

    def _content(self, path: Path) -> bytes:
        """Content of a file; AnnotatorError if it cannot be read, or has changed since it was read first."""
        with _readable():
            content = path.read_bytes()
        self._refuse_changed(path, content)
        return content

    def _refuse_changed(self, source: Source, content: bytes) -> None:
        digest = content_digest(content)
        if self.digests.setdefault(str(source), digest) != digest:
            raise AnnotatorError(f"{source} has changed since annotate started; run annotate again")


@contextmanager
def _readable() -> Iterator[None]:
    """Context in which an error of the disk is an AnnotatorError."""
    try:
        yield
    except OSError as error:
        raise AnnotatorError(f"{error.filename} cannot be read ({error.strerror}); make it readable for you") from None


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


def _by_id(paths: Iterable[Path]) -> dict[str, list[Path]]:
    """Files by image id."""
    found = defaultdict(list)
    for path in paths:
        found[image_id(path)].append(path)
    return dict(found)
