"""Samples of a data set: its images by layout and lists, divided into splits."""

from __future__ import annotations

import contextlib
import hashlib
import logging
from collections.abc import Container, Iterable, Iterator, Mapping, Sequence
from itertools import combinations
from pathlib import Path
from types import MappingProxyType

from pipeline.datasets import SPLITS, Sample, Split
from pipeline.errors import DatasetError
from pipeline.files import is_file
from pipeline.settings import DataSettings
from pipeline.sources.groups import groups_of, with_groups
from pipeline.sources.layouts import Tree
from pipeline.sources.lists import Entry, read_split
from pipeline.sources.pairs import pair_problems

log = logging.getLogger(__name__)

DEFAULT_VAL_FRACTION = 0.2


def find_samples(data: DataSettings, needs_unlabeled: bool = True) -> tuple[list[Sample], list[str]]:
    """Samples of all splits, and messages of all problems (missing files, equal stems, empty splits).

    needs_unlabeled: whether an empty unlabeled split is a problem
    returns:         the samples, ordered by split ([] after a problem with folders or lists), and the messages
    """
    problems: list[str] = []
    tree = Tree(data)
    files = tree.scan(problems)
    paths = _list_paths(data, tree)
    lists = {name: read_split(tree.root, name, path, files, problems) for name, path in paths.items()}
    if problems:
        return [], problems
    lists = {name: _completed(name, entries, tree, files) for name, entries in lists.items()}
    lists = _folder_lists(data, tree, files) | lists
    known = files | {entry.id: entry for entries in lists.values() for entry in entries if entry.image}
    listed = {name: [entry.id for entry in entries] for name, entries in lists.items()}
    unlabeled = set(listed.get("unlabeled", ()))
    unread = tree.unread_masks(entry for name, entry in known.items() if name not in unlabeled)
    problems += unread
    problems += pair_problems(data.splits, listed, known)
    ids = _split_ids(data, listed, known, problems)
    samples = [sample for split in SPLITS for sample in _samples_of(split, ids[split], known, tree.root, problems)]
    samples, without_group = with_groups(samples, data)
    problems += without_group
    problems += _split_problems(ids, needs_unlabeled)
    if not ids["labeled"] and not unread and not any(entry.mask for entry in known.values()):
        problems.append(f"no image has a mask: {tree.why_no_masks(known.values())}")
    return samples, problems


def _list_paths(data: DataSettings, tree: Tree) -> dict[str, str]:
    """Id lists to read, relative to the root: those of the settings, else those of the layout that exist."""
    layout, root = tree.layout, tree.root
    paths = {name: getattr(data.splits, name) for name in ("train", *SPLITS)}
    if paths["val"] is None and data.splits.num_val is None and layout.val_list and (root / layout.val_list).is_file():
        paths["val"] = layout.val_list
    if paths["train"] is None and layout.train_list and (root / layout.train_list).is_file():
        paths["train"] = layout.train_list
    return {name: path for name, path in paths.items() if path is not None}


def _folder_lists(data: DataSettings, tree: Tree, files: Mapping[str, Entry]) -> dict[str, list[Entry]]:
    """Entries of the splits train and val, for layouts with one image folder per split."""
    layout, lists = tree.layout, {}
    if layout.train_folder is not None:
        lists["train"] = tree.entries_in(layout.train_folder, files.values())
    if layout.val_folder is not None and data.splits.num_val is None:
        lists["val"] = tree.entries_in(layout.val_folder, files.values())
    return lists


def _completed(name: str, entries: Sequence[Entry], tree: Tree, files: Mapping[str, Entry]) -> list[Entry]:
    """Entries with the ids of the layout. Masks that the list does not name, or that do not exist, are looked up."""
    ending = tree.layout.image_ending
    entries = [
        e._replace(id=f"{e.id}{ending}") if e.image is None and e.id not in files and f"{e.id}{ending}" in files else e
        for e in entries
    ]
    if name == "unlabeled" or not tree.layout.completes_lists:
        return entries
    missing = {e.id for e in entries if e.mask is not None and not is_file(e.mask)}
    if missing:
        log.info("%d masks named in the list %s do not exist; those in %s are used", len(missing), name, tree.masks)
    return [
        e._replace(mask=tree.mask_of(e.image, e.id)) if e.image and (e.id in missing or not e.names_mask) else e
        for e in entries
    ]


def _split_ids(
    data: DataSettings, listed: Mapping[str, list[str]], known: Mapping[str, Entry], problems: list[str]
) -> dict[Split, list[str]]:
    """Ids of each split: those of its list, or a random draw from the images that have masks."""
    splits = data.splits
    pool = listed.get("train", list(known))
    named = {i for ids in listed.values() for i in ids}

    val = listed.get("val")
    groups: dict[str, str] = {}
    if val is None:
        candidates = _with_mask((set(known) - named) or pool, known)
        num = splits.num_val or round(DEFAULT_VAL_FRACTION * len(candidates))
        with contextlib.suppress(DatasetError):  # `with_groups` reports it
            groups = groups_of(list(known), data)
        val = _draw(candidates, num, "val", splits.seed, problems, groups)
    if "train" not in listed or "val" not in listed:
        taken = set(val) | _of_groups({groups[i] for i in val if i in groups}, groups)
        pool = [i for i in pool if i not in taken]
        if groups and val and not _with_mask(pool, known):
            problems.append(
                f"all images with masks are in the groups of the {len(val)} val images that were drawn; list val "
                "images in data.splits.val, or set data.groups to smaller groups"
            )

    labeled = listed.get("labeled")
    if labeled is None:
        candidates = _with_mask(set(pool) - set(listed.get("unlabeled", [])), known)
        labeled = _draw(candidates, splits.num_labeled or len(candidates), "labeled", splits.seed, problems)
    taken = set(labeled)
    unlabeled = listed.get("unlabeled", [i for i in pool if i not in taken])
    return {"labeled": labeled, "unlabeled": unlabeled, "val": val}


def _with_mask(ids: Iterable[str], known: Mapping[str, Entry]) -> list[str]:
    return [i for i in ids if i in known and known[i].mask is not None]


def _of_groups(chosen: Container[str], groups: Mapping[str, str]) -> set[str]:
    """Ids in the chosen groups. groups: id -> group"""
    return {sample_id for sample_id, group in groups.items() if group in chosen}


def _draw(
    candidates: Sequence[str],
    num: int,
    split: str,
    seed: int,
    problems: list[str],
    groups: Mapping[str, str] = MappingProxyType({}),
) -> list[str]:
    """Seeded draw of `num` ids, or of whole groups with at least so many ids together.

    They are ranked by a hash, so removing a mask that was not drawn changes nothing.

    groups: id -> group; an id without one is drawn alone
    """
    if len(candidates) < num:
        problems.append(
            f"data.splits.num_{split} is {num}, but only {len(candidates)} images to draw from have masks; set "
            f"data.splits.num_{split} to at most {len(candidates)}"
        )
    ranked = sorted(candidates, key=lambda i: hashlib.blake2b(f"{seed}/{groups.get(i, i)}".encode()).digest())
    drawn = ranked[:num]
    last = groups.get(drawn[-1]) if drawn else None
    return sorted([*drawn, *(i for i in ranked[num:] if last is not None and groups.get(i) == last)])


def _samples_of(
    split: Split, ids: Sequence[str], known: Mapping[str, Entry], root: Path, problems: list[str]
) -> Iterator[Sample]:
    for sample_id in ids:
        entry = known.get(sample_id)
        if entry is None or entry.image is None or not is_file(entry.image):
            named = f" ({entry.image})" if entry is not None and entry.image is not None else ""
            problems.append(
                f"{split} image {sample_id}{named} has no file; add the file, or remove the id from the list"
            )
            continue
        mask = None
        if split != "unlabeled":
            if entry.mask is None or not is_file(entry.mask):
                named = f" ({entry.mask})" if entry.mask is not None else ""
                problems.append(
                    f"{split} image {sample_id} has no mask{named}; add a mask, or list the image as unlabeled"
                )
                continue
            mask = _below(root, entry.mask)
        yield Sample(sample_id, _below(root, entry.image), mask, split)


def _below(root: Path, path: Path) -> str:
    """The path relative to the root; the absolute path if it is outside (`root / path` is right for both)."""
    try:
        return str(path.relative_to(root))
    except ValueError:
        return str(path.absolute())


def _split_problems(ids: Mapping[Split, Sequence[str]], needs_unlabeled: bool) -> list[str]:
    empty = [split for split in SPLITS if not ids[split] and (needs_unlabeled or split != "unlabeled")]
    problems = [f"the split {split} is empty; add images to it, or change data.splits" for split in empty]
    for first, second in combinations(SPLITS, 2):
        in_both = sorted(set(ids[first]) & set(ids[second]))
        if len(in_both) == 1:
            problems.append(f"{in_both[0]} is both in {first} and in {second}; remove it from one of them")
        elif in_both:
            problems.append(
                f"{len(in_both)} images are both in {first} and in {second}, e.g. {in_both[0]}; remove them from one "
                "of the lists, or use both lists of one split"
            )
    return problems
