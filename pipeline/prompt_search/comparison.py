"""IoU of each wording with intervals, the best one of each class, and the text that `conformalsam prompts` prints."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

import calib
from pipeline.datasets import in_groups
from pipeline.prompt_search.candidates import Wording
from pipeline.prompt_search.search import Counts
from pipeline.settings import DataSettings
from pipeline.yaml_text import yaml_text

MAX_FAILED = 3  # images that are named


def compare(counts: Counts, wordings: Sequence[Wording], data: DataSettings, seed: int) -> dict[str, Any]:
    """IoU, difference to the prompts of the run file, and mIoU of every wording, as JSON types.

    The best wording of a class has the largest IoU. It is recommended if the 95 % interval of its difference, from
    resampling whole images or groups, is above 0.

    counts: of the prompts of the run file, then of each wording
    seed:   of the resampling
    """
    miou = _mean_iou(counts)
    classes = []
    for k in sorted({wording.class_index for wording in wordings}):
        columns = [0, *(v for v, wording in enumerate(wordings, 1) if wording.class_index == k)]
        of_class = [Wording(k, tuple(data.class_prompts[k])), *(wordings[v - 1] for v in columns[1:])]
        rows = _rows(counts, of_class, columns, miou, seed)
        best = max(rows, key=lambda row: -1.0 if row["iou"] is None else row["iou"][0])
        is_better = best is not rows[0] and best["difference"] is not None and best["difference"][1] > 0
        entry = _entry(data, k, best["prompts"]) if is_better else None
        num_images = int((counts.true[:, k] > 0).sum())
        classes.append({"class": data.class_names[k], "num_images": num_images, "wordings": rows, "recommended": entry})
    is_equal = [bool((of == of[:, :1]).all()) for of in (counts.right, counts.union)]
    groups = None if counts.units is None else calib.num_units(counts.units)
    numbers = {"num_images": len(counts.true), "num_groups": groups}
    return {**numbers, "failed": counts.failed, "classes": classes, "all_equal": all(is_equal)}


def _rows(
    counts: Counts, wordings: Sequence[Wording], columns: Sequence[int], miou: npt.NDArray[np.float64], seed: int
) -> list[dict[str, Any]]:
    """Numbers of the wordings of a class, the current one first. A class that no mask has gets None."""
    k = wordings[0].class_index
    right, union = counts.right[:, columns, k], counts.union[:, columns, k]
    iou, difference = calib.compare_with_first(right, union, np.random.default_rng(seed), counts.units)
    is_shown = bool(counts.true[:, k].any())

    def triple(of: calib.Estimate, row: int) -> list[float] | None:
        return [float(of.value[row]), float(of.low[row]), float(of.high[row])] if is_shown else None

    return [
        {
            "prompts": list(wording.prompts),
            "iou": triple(iou, row),
            "difference": triple(difference, row) if row else None,
            "miou": float(miou[column]),
        }
        for row, (wording, column) in enumerate(zip(wordings, columns, strict=True))
    ]


def _mean_iou(counts: Counts) -> npt.NDArray[np.float64]:
    """float64 [V], mean IoU of each list of prompts over the classes that a mask has."""
    has_pixels = counts.true.any(axis=0)
    right, union = (of.sum(axis=0)[:, has_pixels] for of in (counts.right, counts.union))
    mean: npt.NDArray[np.float64] = (right / union).mean(axis=1)
    return mean


def _entry(data: DataSettings, class_index: int, prompts: Sequence[str]) -> dict[str, Any]:
    """The entry of `data.classes` with other prompts."""
    one = data.classes[class_index]
    own = {} if list(prompts) == [one.name] else {"prompts": list(prompts)}
    return {"name": one.name, **own, **({"values": one.values} if one.values else {})}


def text_of(facts: Mapping[str, Any], run: str, next_command: str) -> str:
    """Tables of the wordings, and the lines for the run file.

    run:          the run file, as on the command line
    next_command: that runs the whole workflow
    """
    lines = [
        f"IoU on {in_groups(facts['num_images'], facts['num_groups'])} when the prompts of one class change and the "
        "others stay as they are (in %, with 95 % interval)"
    ]
    if facts["failed"]:
        named = "; ".join(f"{i}: {reason}" for i, reason in list(facts["failed"].items())[:MAX_FAILED])
        lines.append(f"left out: {len(facts['failed'])} images ({named})")
    for one in facts["classes"]:
        lines += ["", *_table(one)]
    entries = [one["recommended"] for one in facts["classes"] if one["recommended"] is not None]
    lines.append("")
    if facts["all_equal"]:
        lines.append("Every wording gives the same numbers of pixels, as with an annotator that ignores the prompts.")
    if not entries:
        return "\n".join([*lines, "No wording is better beyond noise: keep the prompts."])
    lines.append(f"Lines for data.classes of {run}, in the place of those of the same classes:")
    lines += [f"  - {yaml_text(entry)}" for entry in entries]
    if len(entries) > 1:
        lines.append("Each change was measured alone; with these lines in the file, this command measures all of them.")
    lines.append(f"next: {next_command}")
    return "\n".join(lines)


def _table(one: Mapping[str, Any]) -> Iterator[str]:
    num = one["num_images"]
    if not num:
        yield f"{one['class']}: no labeled image shows it, so its wordings cannot be compared"
        return
    yield f"{one['class']}, in {num} image{'' if num == 1 else 's'}"
    names = [" + ".join(row["prompts"]) for row in one["wordings"]]
    names[0] += " (now)"
    width = max(map(len, names))
    yield f"  {'':{width}}  {'IoU':20}  {'difference':22}  mIoU"
    for name, row in zip(names, one["wordings"], strict=True):
        difference = "" if row["difference"] is None else _interval(row["difference"], "+")
        yield f"  {name:{width}}  {_interval(row['iou']):20}  {difference:22}  {100 * row['miou']:5.1f}"


def _interval(triple: Sequence[float], sign: str = "") -> str:
    value, low, high = (f"{100 * number:{sign}5.1f}" for number in triple)
    return f"{value} [{low.strip()}, {high.strip()}]"
