"""Id lists in the usual formats: one id, image path, or pair of image and mask path per line."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

from pipeline.files import IMAGE_SUFFIXES

NO_MASK = "None"


class Entry(NamedTuple):
    """One line of an id list: an id, and the paths if the line has any."""

    id: str
    image: Path | None = None
    mask: Path | None = None
    names_mask: bool = False
    """Whether the line has a second word: the mask of the image, or None for an image without a mask."""


def parse_list(text: str, root: Path) -> list[Entry]:
    """Entries of a list, in its order. Empty lines are skipped. Paths are joined to `root`."""
    return [_entry(line.split(), root) for line in text.splitlines() if line.strip()]


def _entry(words: list[str], root: Path) -> Entry:
    if len(words) == 1 and "/" not in words[0] and Path(words[0]).suffix.lower() not in IMAGE_SUFFIXES:
        return Entry(words[0])
    image = root / words[0]
    mask = root / words[1] if len(words) > 1 and words[1] != NO_MASK else None
    return Entry(image.stem, image, mask, names_mask=len(words) > 1)


def read_list(root: Path, name: str, relative: str, problems: list[str]) -> list[Entry]:
    """Entries of the list of `data.splits.<name>`. Messages of errors are added to `problems`."""
    path = root / relative
    if not path.is_file():
        problems.append(f"no id list {path}; correct data.splits.{name}")
        return []
    entries = parse_list(path.read_text(encoding="utf-8"), root)
    seen: set[str] = set()
    for entry in entries:
        if entry.id in seen:
            problems.append(f"{path} contains {entry.id} twice; remove one line")
        seen.add(entry.id)
    if not entries:
        problems.append(f"{path} is empty; add at least one id, or remove data.splits.{name}")
    return entries
