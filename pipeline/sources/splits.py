"""The field's split lists: which known split a list is, and those of ADE20K, which are a recipe."""

from __future__ import annotations

import random
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from pipeline.errors import DatasetError
from pipeline.files import IMAGE_SUFFIXES, files_with, write_text
from pipeline.settings import did_you_mean
from pipeline.sources.lists import NO_MASK, parse_list
from pipeline.sources.published import ADE_TRAIN, ADE_TRAIN_IMAGES, KNOWN, fingerprint

LABELED, UNLABELED = "labeled.txt", "unlabeled.txt"
ADE_PARTS = (128, 64, 32, 16, 8)


class Verdict(NamedTuple):
    """What is known of one list."""

    path: Path
    fingerprint: str
    num: int
    split: str | None
    """Name of the published split that the list belongs to; None if it is none."""
    is_labeled: bool

    def __str__(self) -> str:
        kind = "" if self.is_labeled else ", the unlabeled images"
        return f"{self.fingerprint}  {self.num:6}  {self.split or 'no published split'}{kind}  {self.path}"


def verify(paths: Sequence[Path], expected: str | None = None) -> list[Verdict]:
    """A verdict for every list; folders are searched for labeled.txt, unlabeled.txt and other .txt lists.

    expected: name of the published split that every list must belong to
    raises:   DatasetError for a path that is missing or holds no list
    """
    if expected is not None and expected not in names():
        raise DatasetError(f"{expected} is not a known split{did_you_mean(expected, names())}; known: {_listed()}")
    return [_verdict(path) for path in lists_in(paths)]


def names() -> list[str]:
    """Names of the published splits."""
    return [split.name for split in KNOWN]


def _listed() -> str:
    return ", ".join(names())


def lists_in(paths: Sequence[Path]) -> list[Path]:
    """Lists among files and folders, in order; DatasetError for a path that is missing or holds none."""
    found: list[Path] = []
    for path in paths:
        lists = [path] if path.is_file() else sorted(path.rglob("*.txt"))
        if not lists:
            raise DatasetError(f"{path} is neither a list nor a folder with lists (*.txt); give one of them")
        found += lists
    return list(dict.fromkeys(found))


def refuse_others(verdicts: Sequence[Verdict], expected: str) -> None:
    """DatasetError if a list does not belong to the expected split."""
    split = next(known for known in KNOWN if known.name == expected)
    for verdict in verdicts:
        if verdict.split != expected:
            num = split.num_labeled if verdict.is_labeled else split.num_unlabeled
            raise DatasetError(
                f"{verdict.path} is {verdict.split or 'no published split'} ({verdict.num} images, fingerprint "
                f"{verdict.fingerprint}), expected {expected} ({num} images"
                + (f", fingerprint {split.fingerprint}" if verdict.is_labeled else "")
                + "); get the list again from the project that publishes it"
            )


def _verdict(path: Path) -> Verdict:
    stems = _stems(path)
    labeled = path.with_name(LABELED)
    if path.name == UNLABELED and labeled.is_file():
        split = _split_with_rest(_stems(labeled), stems)
        return Verdict(path, fingerprint(stems), len(stems), split, is_labeled=False)
    found = fingerprint(stems)
    split = next((known.name for known in KNOWN if known.fingerprint == found), None)
    return Verdict(path, found, len(stems), split, is_labeled=True)


def _stems(path: Path) -> list[str]:
    try:
        return [entry.id for entry in parse_list(path.read_text(encoding="utf-8"), Path())]
    except UnicodeDecodeError:
        raise DatasetError(f"{path} is no text; give lists with an id or an image path a line") from None


def _split_with_rest(labeled: Sequence[str], unlabeled: Sequence[str]) -> str | None:
    """Name of the split that two lists are together: by their union where its fingerprint is known, else by counts."""
    split = next((known for known in KNOWN if known.fingerprint == fingerprint(labeled)), None)
    if split is None or len(unlabeled) != split.num_unlabeled or not set(unlabeled).isdisjoint(labeled):
        return None
    if split.whole is not None and fingerprint([*labeled, *unlabeled]) != split.whole:
        return None
    return split.name


def ade_lists(file_names: Iterable[str], part: int) -> tuple[list[str], list[str]]:
    """Labeled and unlabeled file names: one in `part` of ADE20K's training images is labeled.

    The recipe behind the published lists, whose order this is too: sort, shuffle with Python's generator seeded 0, take
    the first ones. So each split holds the smaller ones.
    """
    shuffled = sorted(file_names)
    random.Random(0).shuffle(shuffled)
    num = round(len(shuffled) / part)
    return shuffled[:num], shuffled[num:]


def write_ade_lists(root: Path, out: Path) -> Iterator[Verdict]:
    """Write OUT/1_<part>/labeled.txt and unlabeled.txt for every part, with paths relative to the data set's root.

    raises: DatasetError if the training images are not the official 20,210
    """
    folder = root / "images/training"
    file_names = [path.name for path in files_with(IMAGE_SUFFIXES, folder.glob("*"))]
    if fingerprint(Path(name).stem for name in file_names) != ADE_TRAIN:
        raise DatasetError(
            f"{folder} holds {len(file_names)} images, expected the {ADE_TRAIN_IMAGES} of ADEChallengeData2016, "
            "ADE_train_00000001.jpg and so on; unpack ADEChallengeData2016.zip again"
        )
    for part in ADE_PARTS:
        labeled, unlabeled = ade_lists(file_names, part)
        _write_lines(out / f"1_{part}" / LABELED, [_ade_pair(name) for name in labeled])
        _write_lines(out / f"1_{part}" / UNLABELED, [f"images/training/{name} {NO_MASK}" for name in unlabeled])
        yield _verdict(out / f"1_{part}" / LABELED)


def _ade_pair(name: str) -> str:
    return f"images/training/{name} annotations/training/{Path(name).stem}.png"


def _write_lines(path: Path, lines: Sequence[str]) -> None:
    write_text(path, "\n".join(lines) + "\n")
