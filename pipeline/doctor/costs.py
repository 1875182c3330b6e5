"""Estimates of disk space and time, each with its basis. Without a measurement there is no estimate of time."""

from __future__ import annotations

import math
import os
import shutil
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

import calib
from pipeline.annotators.views import frame_size, num_calls
from pipeline.doctor.findings import Finding, on_annotator
from pipeline.doctor.steps import StepTimes
from pipeline.doctor.survey import Survey
from pipeline.doctor.trial import Trial
from pipeline.doctor.weights import seem_folder
from pipeline.folder import FILE_OF, Folder
from pipeline.progress import clock
from pipeline.receipt import has_receipt, read_receipt
from pipeline.settings import Settings
from pipeline.store import arrays_of, store_state

STAGES = ("prepare", "annotate", "calibrate", "pseudolabel", "stage1", "stage2", "evaluate", "report")
SHORT = 60.0  # seconds; shorter times are shown with a decimal


class StoreSize(NamedTuple):
    """Estimated size of a store on disk."""

    name: str
    num_bytes: float | None
    """None: unknown without a trial of the annotator."""
    basis: str = "before compression"
    is_measured: bool = False


def cost_findings(
    survey: Survey,
    num_images: Mapping[str, int],
    settings: Settings,
    trial: Trial | None,
    steps: Mapping[str, StepTimes],
) -> list[Finding]:
    """Findings about disk space and time.

    num_images: number of images by split
    trial:      measurements of the annotator; None without --time
    steps:      measurements of training steps by stage; empty without --time
    """
    sizes = store_sizes(num_images, settings, trial) if settings.needs_annotator else []
    views = on_annotator(settings, view_findings) if settings.needs_annotator else []
    return [*disk_findings(sizes, settings), *views, *time_findings(survey, num_images, settings, trial, steps)]


# --- disk ------------------------------------------------------------------------------------------------------------


def store_sizes(num_images: Mapping[str, int], settings: Settings, trial: Trial | None) -> list[StoreSize]:
    """Sizes of the three stores, without stores that are complete already."""
    data, num_labeled, num_unlabeled = settings.data, num_images["labeled"], num_images["unlabeled"]
    facts: dict[str, Any] = {
        "class_names": data.class_names,
        "background": data.background_index,
        "grid": data.grid,
        "alphas": settings.alphas,
        "variant": settings.calibrate.variant,
        "variants": settings.variants,
        "rules": calib.calibrated_rules(),
        "class_thresholds": settings.calibrate.class_thresholds,
        "keep_sets": settings.pseudolabel.keep_sets,
    }
    sizes = [
        _probability_size(num_labeled + num_unlabeled, settings, trial),
        StoreSize(FILE_OF["calibration"], array_bytes(facts, kind="calibration", num_samples=num_labeled)),
        StoreSize(FILE_OF["labels"], array_bytes(facts, kind="labels", num_samples=num_unlabeled)),
    ]
    return [size for size in sizes if not store_state(settings.folder / size.name).get("complete")]


def array_bytes(facts: Mapping[str, Any], **more: Any) -> int:
    """Bytes of the arrays of the store that has these facts, before compression; text is not counted."""
    specs = arrays_of({**facts, **more}).values()
    return sum(math.prod(spec.shape) * np.dtype(spec.dtype).itemsize for spec in specs if spec.dtype != "string")


def _probability_size(num_images: int, settings: Settings, trial: Trial | None) -> StoreSize:
    if trial is not None:
        basis = f"measured on {trial.num_images} images"
        return StoreSize(FILE_OF["probabilities"], trial.stored_bytes * num_images, basis, is_measured=True)
    size = map_size(settings)
    if size is None:
        return StoreSize(FILE_OF["probabilities"], None, "unknown; measure it with --time")
    dtype = "float16" if settings.annotate.dtype == "auto" else settings.annotate.dtype
    data, facts = settings.data, {"kind": "probabilities", "num_samples": num_images, "dtype": dtype}
    facts["space"] = "probability"  # or logits: the size is the same
    return StoreSize(
        FILE_OF["probabilities"],
        array_bytes(facts, maps=(data.num_classes, *size), class_names=data.class_names),
    )


def map_size(settings: Settings) -> tuple[int, int] | None:
    """Height and width of the stored maps; None if they do not follow from the settings."""
    height, width = settings.data.grid
    seem = settings.annotate.seem
    if settings.annotate.resolution == "grid":
        return height, width
    if settings.annotate.annotator != "seem" or seem is None:
        return None
    from pipeline.seem import SeemConfig
    from pipeline.seem.maps import plan_sizes

    try:
        config: Any = SeemConfig.from_pretrained(seem_folder(seem), local_files_only=True, trust_remote_code=False)
    except (OSError, ValueError):  # `weight_findings` reports it
        return None
    native = plan_sizes((height, width), seem.short_side or config.short_side, config).native
    views = settings.annotate.views
    return native if views is None else frame_size(native, views, settings.annotate.resolution, (height, width))


def disk_findings(sizes: Sequence[StoreSize], settings: Settings) -> Iterator[Finding]:
    """Compare the sizes with the free space: an error if the measured sizes do not fit, a warning if all may not."""
    if not sizes:
        return
    folder = next(parent for parent in [settings.folder, *settings.folder.parents] if parent.exists())
    free = shutil.disk_usage(folder).free
    needed = ", ".join(f"{size.name} {_bytes_text(size.num_bytes)} ({size.basis})" for size in sizes)
    what = f"disk: {needed}; students are not counted; {_bytes_text(free)} free"
    if sum(size.num_bytes or 0 for size in sizes) <= free:
        yield Finding("note", what)
        return
    measured = sum(size.num_bytes or 0 for size in sizes if size.is_measured)
    fix = "free disk space, set results to a folder on a larger disk, or set a smaller data.grid or annotate.resolution"
    yield Finding("error" if measured > free else "warning", what, (f"results: {settings.results}",), fix)


def _bytes_text(num_bytes: float | None) -> str:
    if num_bytes is None:
        return "?"
    unit, size = next((u, s) for u, s in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)) if num_bytes >= s / 10 or s == 1e3)
    return f"{num_bytes / size:.2f} {unit}"


def view_findings(settings: Settings) -> Iterator[Finding]:
    """How often the annotator is called for an image with several views."""
    views = settings.annotate.views
    if views is not None and views.is_several:
        calls = num_calls(views, settings.data.grid)
        yield Finding("note", f"annotate.views: {calls} calls of the annotator per image, so {calls} times its time")


# --- time ------------------------------------------------------------------------------------------------------------


def time_findings(
    survey: Survey,
    num_images: Mapping[str, int],
    settings: Settings,
    trial: Trial | None,
    steps: Mapping[str, StepTimes],
) -> Iterator[Finding]:
    """One finding per stage with a known time, and one for the others."""
    times = dict(_times(survey, num_images, settings, trial)) | {name: _of_steps(one) for name, one in steps.items()}
    for stage, text in times.items():
        yield Finding("note", f"time of {stage}: {text}")
    unknown = [stage for stage in STAGES if stage not in times]
    if unknown:
        hint = "" if trial or steps else "; --time measures the annotator and the training"
        yield Finding("note", f"time of {', '.join(unknown)}: not measured{hint}")


def _times(
    survey: Survey, num_images: Mapping[str, int], settings: Settings, trial: Trial | None
) -> Iterator[tuple[str, str]]:
    if survey.samples:
        total = survey.seconds * survey.num_samples / len(survey.samples)
        threads = settings.data.workers or os.cpu_count()
        yield "prepare", f"about {_duration(total)} (measured on {len(survey.samples)} images, {threads} threads)"
    if trial is not None:
        num = num_images["labeled"] + num_images["unlabeled"]
        total = trial.seconds_before + num * trial.seconds_per_image
        rate = f"{trial.seconds_per_image:.2g} s per image, one at a time, after {trial.seconds_before:.1f} s to load"
        yield "annotate", f"about {_duration(total)} for {num} images (measured on {trial.num_images}: {rate})"
    for stage in STAGES[1 if trial is None else 2 :]:
        seconds = _last_time(Folder(settings.folder).receipt(stage), stage)
        if seconds is not None:
            yield stage, f"{_duration(seconds)} in its last run (from its receipt)"


def _of_steps(steps: StepTimes) -> str:
    total, memory = _duration(steps.num_steps * steps.seconds), "GPU memory" if steps.on_gpu else "memory"
    return (
        f"about {total} for {steps.num_steps} steps, with {_bytes_text(steps.bytes)} of {memory} (estimate: "
        f"{steps.seconds:.2g} s per step on {steps.device}, the median of 3 on random images; reading images, "
        "validation and checkpoints are not counted)"
    )


def _duration(seconds: float) -> str:
    return f"{seconds:.1f} s" if seconds < SHORT else clock(seconds)


def _last_time(receipt: Path, stage: str) -> float | None:
    return read_receipt(receipt, stage).get("seconds") if has_receipt(receipt, stage) else None
