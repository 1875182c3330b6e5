"""Id lists in the usual formats: one id, image path, or pair of image and mask path per line."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Collection, Container, Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

from pipeline.errors import DatasetError
from pipeline.files import IMAGE_SUFFIXES, MASK_SUFFIXES, existing, image_id, is_file, normal
from pipeline.sources.ids import ImageIds
from pipeline.text import read_lines

NO_MASK = "None"
COMMENT = "#"
MAX_SHOWN = 60  # characters of a line in messages
MISTAKES = (
    (re.compile(r"(^|\s)[A-Za-z]:[\\/]"), "has a drive of Windows; write paths relative to the folder of the data"),
    (re.compile(r"[,;]"), "has a comma or semicolon; write one image per line, with a space or tab before its mask"),
    (re.compile(r"^['\"]|['\"]$"), "is in quotes; remove them, because names may contain spaces"),
    (re.compile(r"[\x00-\x1f\x7f]"), "has control characters; separate image and mask by one space or tab"),
)
"""What other programs write into lists, and the fix. A file or an image whose name looks like it is no mistake."""


class Entry(NamedTuple):
    """One line of an id list: an id, and the paths if the line has any."""

    id: str
    """In Unicode's normal form C, as all ids."""
    image: Path | None = None
    mask: Path | None = None
    names_mask: bool = False
    """Whether the line has a second path: the mask of the image, or None for an image without a mask."""


class Parsed(NamedTuple):
    """The entries of a list in its order, and a message for each line that cannot be used."""

    entries: list[Entry]
    problems: list[str]


def read_list(path: Path, root: Path = Path(), known: Container[str] = ()) -> list[Entry]:
    """Entries of a list; as `parse_list`, but raises DatasetError if a line cannot be used."""
    entries, problems = parse_list(path, root, known)
    if problems:
        more = f" (and {len(problems) - 1} more lines)" if len(problems) > 1 else ""
        raise DatasetError(problems[0] + more)
    return entries


def named_images(path: Path, ids: Collection[str]) -> list[str]:
    """Ids of the images that a list names, in its order; a name that no image has stays as it is.

    ids:    of the images of the run
    raises: DatasetError as `read_list`, and for a name that several images have
    """
    images = ImageIds(ids)
    entries = read_list(path, known=set(ids))
    try:
        return [images.resolve(str(entry.image or entry.id)) for entry in entries]
    except DatasetError as error:
        raise DatasetError(f"{path}: {error}") from None


def parse_list(path: Path, root: Path = Path(), known: Container[str] = ()) -> Parsed:
    """Read a list. Empty lines and comments (`#` at the start of a line, or after a space) are skipped.

    Names may contain spaces. A pair is separated by a tab, or by the space after the suffix of an image.

    root:   folder of the paths in the list
    known:  ids of images. A line that is one of them is an id, whatever its characters.
    raises: DatasetError for a file that cannot be read, or is no text
    """
    entries, problems = [], []
    for number, line in enumerate(read_lines(path), 1):
        text = line.strip()
        try:
            entry = _entry(text, root, known) if text else None
        except DatasetError as error:
            problems.append(f"{path} line {number}: {error}")
            continue
        if entry is not None:
            entries.append(entry)
    return Parsed(entries, problems)


def _entry(text: str, root: Path, known: Container[str]) -> Entry | None:
    """The entry of a line that is not empty; None for a comment. DatasetError for a line that cannot be used.

    A `#` may be part of a name: the line ends at a comment only if what it names with the comment does not exist.
    """
    *with_comment, without = _readings(text)
    for reading in with_comment:
        with contextlib.suppress(DatasetError):
            entry = _parsed(reading, root, known)
            if _exists(entry, known):
                return entry
    return _parsed(without, root, known) if without else None


def _readings(text: str) -> list[str]:
    """The line, and the line without each comment that it may end with, the last one without any."""
    starts = [match.start() for match in re.finditer(rf"(^|\s+){COMMENT}", text)]
    return [text, *(text[:start] for start in reversed(starts))]


def _exists(entry: Entry, known: Container[str]) -> bool:
    if entry.image is None:
        return entry.id in known
    return is_file(entry.image) and (entry.mask is None or is_file(entry.mask))


def _parsed(text: str, root: Path, known: Container[str]) -> Entry:
    """The entry of a line without a comment. Backslashes separate folders, as in Windows, unless a file has them."""
    if normal(text) in known:
        return Entry(normal(text))
    if "\\" in text:
        with contextlib.suppress(DatasetError):
            entry = _with_paths(text, root, known)
            if _exists(entry, known):
                return entry
        text = text.replace("\\", "/")
    return _with_paths(text, root, known)


def _with_paths(text: str, root: Path, known: Container[str]) -> Entry:
    pair = _pair(text, root)
    if pair is not None:
        image, mask = (_path(root, word) for word in pair)
        return Entry(image_id(image), image, None if pair[1] == NO_MASK else mask, names_mask=True)
    if "/" in text or _has_suffix(text, IMAGE_SUFFIXES):
        image = _path(root, text)
        return Entry(image_id(image), image)
    first = text.split()[0]
    if first != text and normal(first) in known:
        raise DatasetError(f"{_shown(text)} is no image, but {first} is; remove the rest of the line")
    _refuse_mistakes(text)
    return Entry(normal(text))


def _pair(text: str, root: Path) -> tuple[str, str] | None:
    """Image and mask of a line that has both; None for another line. DatasetError if there are several ways to read it.

    Without a tab, names with spaces are recognised by their suffixes: the image ends in one, and so does the mask.
    """
    words = text.split("\t") if "\t" in text else text.split()
    if len(words) == 2:
        image, mask = (word.strip() for word in words)
        return (image, mask) if _has_suffix(image, IMAGE_SUFFIXES) else None
    pairs = [pair for pair in _cuts(text) if _has_suffix(pair[0], IMAGE_SUFFIXES) and _may_be_mask(pair[1])]
    if len(pairs) > 1:
        pairs = [pair for pair in pairs if is_file(root / pair[0])]
        if len(pairs) != 1:
            raise DatasetError(f"{_shown(text)} can be read in several ways; put a tab between image and mask")
    return pairs[0] if pairs else None


def _cuts(text: str) -> Iterator[tuple[str, str]]:
    """Every way to divide a line at white space."""
    return ((text[: gap.start()], text[gap.end() :]) for gap in re.finditer(r"\s+", text))


def _has_suffix(name: str, suffixes: tuple[str, ...]) -> bool:
    return name.lower().endswith(suffixes)


def _may_be_mask(name: str) -> bool:
    return name == NO_MASK or _has_suffix(name, (*MASK_SUFFIXES, *IMAGE_SUFFIXES))


def _path(root: Path, name: str) -> Path:
    """The path of a name in a list. DatasetError for a usual mistake, unless there is a file with this name."""
    path = existing(root / name)
    if not is_file(path):
        _refuse_mistakes(name)
    return path


def _refuse_mistakes(text: str) -> None:
    for pattern, message in MISTAKES:
        if pattern.search(text):
            raise DatasetError(f"{_shown(text)} {message}")


def _shown(text: str) -> str:
    return repr(text if len(text) <= MAX_SHOWN else f"{text[:MAX_SHOWN]}...")


def read_split(root: Path, name: str, relative: str, known: Mapping[str, Entry], problems: list[str]) -> list[Entry]:
    """Entries of the list of `data.splits.<name>`. Messages of errors are added to `problems`.

    known: the images in the image folder by id
    """
    path = existing(root / relative)
    if not is_file(path):
        problems.append(f"no id list {path}; correct data.splits.{name}")
        return []
    try:
        entries, unusable = parse_list(path, root, known)
    except DatasetError as error:
        problems.append(str(error))
        return []
    problems += unusable
    id_of = {entry.image: entry.id for entry in known.values()}  # may be more than the stem
    entries = [entry._replace(id=id_of.get(entry.image, entry.id)) if entry.image else entry for entry in entries]
    images = ImageIds(known)
    try:
        entries = [_found(entry, known, images) for entry in entries]
    except DatasetError as error:
        problems.append(f"{path}: {error}")
    seen: set[str] = set()
    for entry in entries:
        if entry.id in seen:
            problems.append(f"{path} contains {entry.id} twice; remove one line")
        seen.add(entry.id)
    if not entries and not unusable:
        problems.append(f"{path} is empty; add at least one id, or remove data.splits.{name}")
    return entries


def _found(entry: Entry, known: Mapping[str, Entry], images: ImageIds) -> Entry:
    """An entry without a file name, such as `1` or `cam1/1`, with the id and the image that it means."""
    if entry.id in known or (entry.image and _has_suffix(entry.image.name, IMAGE_SUFFIXES)):
        return entry
    sample_id = images.resolve(str(entry.image or entry.id))
    return Entry(sample_id) if sample_id in known else entry
