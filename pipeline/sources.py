"""From folders and id lists to samples: the known layouts, the files they hold, and the splits.

Nothing is decoded here: `pipeline.stages.prepare` checks each image.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import combinations
from pathlib import Path
from typing import NamedTuple

from pipeline.config import DataSettings
from pipeline.datasets import SPLITS, Sample, Split

IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".tif", ".tiff", ".webp")
MASK_SUFFIXES = (".png", ".bmp", ".tif", ".tiff", ".gif")
DEFAULT_VAL_SHARE = 0.2


class Layout(NamedTuple):
    images: str
    masks: str
    train: str | None
    val: str | None


LAYOUTS = {
    "folder": Layout("images", "masks", None, None),
    "voc": Layout(
        "JPEGImages",
        "SegmentationClass",
        "ImageSets/Segmentation/train.txt",
        "ImageSets/Segmentation/val.txt",
    ),
}


def find_samples(data: DataSettings) -> tuple[list[Sample], list[str]]:
    """Samples of all splits, and every problem found on the way (missing files, double stems, empty splits)."""
    root, layout = Path(data.root), _layout(data)
    images, masks, problems = _scan(root / layout.images, root / layout.masks)
    lists = {name: _read_list(root, name, path, problems) for name, path in _list_paths(data, layout, root).items()}
    if problems:
        return [], problems
    known = _files_by_id(images, masks, lists)
    ids = _split_ids(data, lists, known, problems)
    samples = [sample for split in SPLITS for sample in _samples_of(split, ids[split], known, root, problems)]
    return samples, problems + _split_problems(ids)


def truth_path(sample: Sample, data: DataSettings) -> Path | None:
    """Mask file of any sample, also of unlabelled ones, if there is one: for reports after the fact only."""
    root = Path(data.root)
    if sample.mask is not None:
        return root / sample.mask
    folder = root / _layout(data).masks
    candidates = (folder / f"{sample.id}{suffix}" for suffix in MASK_SUFFIXES)
    return next((path for path in candidates if path.is_file()), None)


def _layout(data: DataSettings) -> Layout:
    layout = LAYOUTS[data.layout]
    return layout._replace(images=data.images or layout.images, masks=data.masks or layout.masks)


def _scan(image_folder: Path, mask_folder: Path) -> tuple[dict[str, Path], dict[str, Path], list[str]]:
    problems: list[str] = []
    if not image_folder.is_dir():
        problems.append(f"no image folder {image_folder}; set data.root or data.images")
    images = _by_stem(image_folder, IMAGE_SUFFIXES, problems)
    masks = _by_stem(mask_folder, MASK_SUFFIXES, problems)
    if image_folder.is_dir() and not images:
        problems.append(f"{image_folder} holds no image ({', '.join(IMAGE_SUFFIXES)}); set data.images")
    return images, masks, problems


def _by_stem(folder: Path, suffixes: tuple[str, ...], problems: list[str]) -> dict[str, Path]:
    files: dict[str, Path] = {}
    for path in sorted(folder.glob("*")) if folder.is_dir() else ():
        if path.suffix.lower() not in suffixes:
            continue
        if path.stem in files:
            problems.append(f"{path} and {files[path.stem].name} share the stem {path.stem}; rename or remove one")
        files[path.stem] = path
    return files


class Entry(NamedTuple):
    """One line of an id list: a bare id, or with the paths that an `image mask` pair gives."""

    id: str
    image: Path | None
    mask: Path | None


def _list_paths(data: DataSettings, layout: Layout, root: Path) -> dict[str, str]:
    """Id lists to read: those that the settings name, else those of the layout that exist."""
    named = {name: getattr(data.splits, name) for name in ("train", *SPLITS)}
    if named["val"] is None and data.splits.num_val is None and layout.val and (root / layout.val).is_file():
        named["val"] = layout.val
    if named["train"] is None and layout.train and (root / layout.train).is_file():
        named["train"] = layout.train
    return {name: path for name, path in named.items() if path is not None}


def _read_list(root: Path, name: str, relative: str, problems: list[str]) -> list[Entry]:
    path = root / relative
    if not path.is_file():
        problems.append(f"no id list {path}; correct data.splits.{name}")
        return []
    entries = [_entry(line.split(), root) for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]
    seen: set[str] = set()
    for entry in entries:
        if entry.id in seen:
            problems.append(f"{path} names {entry.id} twice; remove one line")
        seen.add(entry.id)
    if not entries:
        problems.append(f"{path} is empty; list at least one id, or remove data.splits.{name}")
    return entries


def _entry(words: list[str], root: Path) -> Entry:
    if len(words) == 1 and "/" not in words[0] and Path(words[0]).suffix.lower() not in IMAGE_SUFFIXES:
        return Entry(words[0], None, None)
    image = root / words[0]
    mask = root / words[1] if len(words) > 1 and words[1] != "None" else None
    return Entry(image.stem, image, mask)


def _split_ids(
    data: DataSettings, lists: Mapping[str, Sequence[Entry]], known: Mapping[str, Entry], problems: list[str]
) -> dict[Split, list[str]]:
    """Ids of each split: listed ones as listed, the others drawn from those that have masks."""
    listed = {name: [entry.id for entry in entries] for name, entries in lists.items()}
    splits = data.splits
    pool = listed.get("train", list(known))
    named = {i for ids in listed.values() for i in ids}

    val = listed.get("val")
    if val is None:
        candidates = _with_mask((set(known) - named) or pool, known)
        val = _draw(
            candidates, splits.num_val or round(DEFAULT_VAL_SHARE * len(candidates)), "val", splits.seed, problems
        )
    if "train" not in listed or "val" not in listed:
        pool = [i for i in pool if i not in set(val)]

    labeled = listed.get("labeled")
    if labeled is None:
        candidates = _with_mask(set(pool) - set(listed.get("unlabeled", [])), known)
        labeled = _draw(candidates, splits.num_labeled or len(candidates), "labeled", splits.seed, problems)
    unlabeled = listed.get("unlabeled", [i for i in pool if i not in set(labeled)])
    return {"labeled": labeled, "unlabeled": unlabeled, "val": val}


def _with_mask(ids: Iterable[str], known: Mapping[str, Entry]) -> list[str]:
    return [i for i in ids if i in known and known[i].mask is not None]


def _draw(candidates: Sequence[str], num: int, split: str, seed: int, problems: list[str]) -> list[str]:
    """Seeded draw. Candidates are ranked by a hash, so that masks which were not drawn may vanish without effect."""
    if len(candidates) < num:
        problems.append(f"data.splits.num_{split} is {num}, but only {len(candidates)} candidates have masks; lower it")
    ranked = sorted(candidates, key=lambda i: hashlib.blake2b(f"{seed}/{i}".encode()).digest())
    return sorted(ranked[:num])


def _files_by_id(
    images: Mapping[str, Path], masks: Mapping[str, Path], lists: Mapping[str, Sequence[Entry]]
) -> dict[str, Entry]:
    known = {stem: Entry(stem, path, masks.get(stem)) for stem, path in images.items()}
    for entry in (entry for entries in lists.values() for entry in entries if entry.image):
        known[entry.id] = entry
    return known


def _samples_of(
    split: Split, ids: Sequence[str], known: Mapping[str, Entry], root: Path, problems: list[str]
) -> Iterator[Sample]:
    for sample_id in ids:
        entry = known.get(sample_id)
        if entry is None or entry.image is None or not entry.image.is_file():
            problems.append(f"{split} image {sample_id} has no file; add it, or remove the id from the list")
            continue
        mask = None
        if split != "unlabeled":
            if entry.mask is None or not entry.mask.is_file():
                problems.append(f"{split} image {sample_id} has no mask; add one, or make it unlabelled")
                continue
            mask = str(entry.mask.relative_to(root))
        yield Sample(sample_id, str(entry.image.relative_to(root)), mask, split)


def _split_problems(ids: Mapping[Split, Sequence[str]]) -> list[str]:
    problems = [f"the split {split} is empty; see data.splits" for split in SPLITS if not ids[split]]
    for first, second in combinations(SPLITS, 2):
        shared = sorted(set(ids[first]) & set(ids[second]))
        problems += [f"{i} is both in {first} and in {second}; remove it from one of them" for i in shared]
    return problems
