"""Published split lists: identifies the split of a list, and generates the lists of ADE20K by their recipe."""

from __future__ import annotations

import random
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from pipeline.errors import DatasetError
from pipeline.files import IMAGE_SUFFIXES, files_in, write_text
from pipeline.settings import did_you_mean
from pipeline.sources.lists import NO_MASK, read_list
from pipeline.sources.published import ADE_TRAIN, ADE_TRAIN_IMAGES, KNOWN, fingerprint

LABELED, UNLABELED = "labeled.txt", "unlabeled.txt"
ADE_DENOMINATORS = (128, 64, 32, 16, 8)  # 1/128 to 1/8 of the training images are labeled


class Verdict(NamedTuple):
    """The result for one list."""

    path: Path
    fingerprint: str
    num: int
    split: str | None
    """Name of the published split that the list belongs to; None if it belongs to none."""
    is_labeled: bool
    """Whether it is the list of labeled images."""

    def __str__(self) -> str:
        kind = "" if self.is_labeled else ", the unlabeled images"
        return f"{self.fingerprint}  {self.num:6}  {self.split or 'no published split'}{kind}  {self.path}"


def verify(paths: Sequence[Path], expected: str | None = None) -> list[Verdict]:
    """Compare every list with the published splits. Folders are searched for all .txt files.

    expected: name of a published split; only its spelling is checked, see `refuse_others`
    raises:   DatasetError for an unknown name, and for a path that is missing or contains no list
    """
    if expected is not None and expected not in names():
        raise DatasetError(
            f"{expected} is not a known split{did_you_mean(expected, names())}; set --expect to one of {_all_names()}"
        )
    return [_verdict(path) for path in lists_in(paths)]


def names() -> list[str]:
    """Names of the published splits."""
    return [split.name for split in KNOWN]


def _all_names() -> str:
    return ", ".join(names())


def lists_in(paths: Sequence[Path]) -> list[Path]:
    """Lists among files and folders, in order; DatasetError for a path that is missing or contains none."""
    lists: list[Path] = []
    for path in paths:
        below = [path] if path.is_file() else sorted(path.rglob("*.txt"))
        if not below:
            raise DatasetError(f"{path} is neither a list nor a folder with lists (*.txt); correct the path")
        lists += below
    return list(dict.fromkeys(lists))


def refuse_others(verdicts: Sequence[Verdict], expected: str) -> None:
    """DatasetError if a list does not belong to the split `expected`."""
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
        split = _split_of_pair(_stems(labeled), stems)
        return Verdict(path, fingerprint(stems), len(stems), split, is_labeled=False)
    of_list = fingerprint(stems)
    split = next((known.name for known in KNOWN if known.fingerprint == of_list), None)
    return Verdict(path, of_list, len(stems), split, is_labeled=True)


def _stems(path: Path) -> list[str]:
    return [entry.id for entry in read_list(path)]


def _split_of_pair(labeled: Sequence[str], unlabeled: Sequence[str]) -> str | None:
    """Name of the split to which both lists belong; None if there is none.

    The union is compared by its fingerprint if that is known; otherwise the numbers of images are compared.
    """
    split = next((known for known in KNOWN if known.fingerprint == fingerprint(labeled)), None)
    if split is None or len(unlabeled) != split.num_unlabeled or not set(unlabeled).isdisjoint(labeled):
        return None
    if split.union is not None and fingerprint([*labeled, *unlabeled]) != split.union:
        return None
    return split.name


def ade_lists(file_names: Iterable[str], denominator: int) -> tuple[list[str], list[str]]:
    """Labeled and unlabeled file names: 1/`denominator` of ADE20K's training images is labeled.

    This is the recipe of the published lists and gives the same order: sort, shuffle with Python's generator seeded
    with 0, and take the first ones. Each split therefore contains all smaller ones.
    """
    shuffled = sorted(file_names)
    random.Random(0).shuffle(shuffled)
    num = round(len(shuffled) / denominator)
    return shuffled[:num], shuffled[num:]


def write_ade_lists(root: Path, out: Path) -> Iterator[Verdict]:
    """Write OUT/1_<denominator>/labeled.txt and unlabeled.txt, with paths relative to the data set's root.

    returns: the verdict on each labeled.txt, as soon as it is written
    raises:  DatasetError if the training images are not the official 20,210
    """
    folder = root / "images/training"
    file_names = [path.name for path in files_in(folder, IMAGE_SUFFIXES)]
    if fingerprint(Path(name).stem for name in file_names) != ADE_TRAIN:
        raise DatasetError(
            f"{folder} contains {len(file_names)} images, expected the {ADE_TRAIN_IMAGES} of ADEChallengeData2016, "
            "ADE_train_00000001.jpg and so on; unpack ADEChallengeData2016.zip again"
        )
    for denominator in ADE_DENOMINATORS:
        labeled, unlabeled = ade_lists(file_names, denominator)
        split = out / f"1_{denominator}"
        _write_lines(split / LABELED, [_ade_pair(name) for name in labeled])
        _write_lines(split / UNLABELED, [f"images/training/{name} {NO_MASK}" for name in unlabeled])
        yield _verdict(split / LABELED)


def _ade_pair(name: str) -> str:
    return f"images/training/{name} annotations/training/{Path(name).stem}.png"


def _write_lines(path: Path, lines: Sequence[str]) -> None:
    write_text(path, "\n".join(lines) + "\n")
