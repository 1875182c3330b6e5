"""Features of a frozen encoder for the fixed views of every image: computed once, and kept in one file per image.

The name of a file is a digest of the encoder's weights, the views and the image. A file that has its name is complete.
"""

from __future__ import annotations

import hashlib
import logging
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from pipeline.datasets import Sample, SampleIndex
from pipeline.files import replacing
from pipeline.progress import Progress
from pipeline.receipt import fingerprint
from train.augment import Geometry, weak_views
from train.losses import upsampled
from train.probe.views import ViewPlan
from train.student import Student
from train.students import Network

log = logging.getLogger(__name__)

VERSION = 1  # raise it when a change of the code gives other features from the same image and encoder
STRIDE = 8  # of the finest feature map that is kept

Shapes = list[tuple[int, int, int]]
"""Height, width and number of channels of each feature map, finest first."""


class Job(NamedTuple):
    """One file to compute: the features of the views of an image, or of the whole image."""

    sample: Sample
    geometries: list[Geometry] | None
    """The views; None: the whole image."""
    path: Path


@dataclass(frozen=True)
class FeatureCache:
    """Features of the views of images, and of whole labeled images, in files.

    folder: of the files
    key:    fingerprint of the encoder and the views
    """

    folder: Path
    key: str
    plan: ViewPlan
    student: Student

    def geometries(self, sample: Sample) -> list[Geometry]:
        """The views of an image."""
        return self.plan.geometries(sample.image_digest, (sample.height, sample.width))

    def views(self, sample: Sample) -> npt.NDArray[np.float16]:
        """Features of each view, memory-mapped: float16 [V, L], all feature maps flattened one after the other."""
        mapped: npt.NDArray[np.float16] = np.load(self._path(sample, "views"), mmap_mode="r")
        return mapped

    def whole(self, sample: Sample) -> list[Tensor]:
        """Feature maps of the image at `ViewPlan.whole_size`: float32 [1, D, h, w] each, finest first."""
        with np.load(self._path(sample, "whole")) as file:
            return [torch.from_numpy(file[name])[None].float() for name in file.files]

    def shapes(self) -> Shapes:
        """Shapes of the feature maps of a view."""
        side = self.plan.crop
        maps = self._maps(torch.zeros((1, 3, side, side), dtype=torch.uint8))
        return [(one.shape[2], one.shape[3], one.shape[1]) for one in maps]

    def fill(self, index: SampleIndex, viewed: Sequence[Sample], judged: Sequence[Sample]) -> None:
        """Compute the missing files, and delete those of other images or settings.

        viewed: samples whose views are needed
        judged: samples that are needed whole
        """
        jobs = [self._job(sample, "views") for sample in viewed] + [self._job(sample, "whole") for sample in judged]
        self.folder.mkdir(parents=True, exist_ok=True)
        needed = {job.path for job in jobs}
        for path in self.folder.iterdir():
            if path not in needed:
                path.unlink()
        missing = [job for job in jobs if not job.path.is_file()]
        if not missing:
            return
        progress = Progress(log, "probe: features", len(jobs), "images", done=len(jobs) - len(missing))
        for job in missing:
            self._compute(index, job)
            progress.advance()

    def _path(self, sample: Sample, kind: str) -> Path:
        ending = {"views": "npy", "whole": "npz"}[kind]
        return self.folder / f"{self.key}-{sample.image_digest}.{ending}"

    def _job(self, sample: Sample, kind: str) -> Job:
        return Job(sample, self.geometries(sample) if kind == "views" else None, self._path(sample, kind))

    def _maps(self, images: Tensor) -> list[Tensor]:
        """Feature maps of images, uint8 [B, 3, H, W] RGB, at `STRIDE` and coarser; at least the coarsest one.

        Finer maps would take most of the disk space and of the time, and say little about the class of a region.
        """
        maps = self.student.features(images)
        return [one for one in maps if one.shape[-2] <= math.ceil(images.shape[-2] / STRIDE)] or maps[-1:]

    def _compute(self, index: SampleIndex, job: Job) -> None:
        image = torch.from_numpy(np.ascontiguousarray(index.image(job.sample).transpose(2, 0, 1)))
        with replacing(job.path) as temporary, temporary.open("wb") as file:
            if job.geometries is None:
                size = self.plan.whole_size(image.shape[-2:])
                resized = upsampled(image[None].float(), size).round().to(torch.uint8)
                maps = self._maps(resized)
                np.savez(file, *[one[0].cpu().half().numpy() for one in maps])
            else:
                num, crop = len(job.geometries), self.plan.crop
                target = torch.zeros(image.shape[-2:], dtype=torch.uint8)
                views, _ = weak_views([image] * num, [target] * num, job.geometries, crop)
                np.save(file, flattened(self._maps(views)))


def flattened(maps: Sequence[Tensor]) -> npt.NDArray[np.float16]:
    """Feature maps, float [B, D, h, w] each -> float16 [B, L], the maps one after the other, channels last."""
    return torch.cat([one.permute(0, 2, 3, 1).flatten(1) for one in maps], dim=1).cpu().half().numpy()


def unflattened(rows: npt.NDArray[np.float16], shapes: Shapes) -> list[Tensor]:
    """The inverse of `flattened`: float16 [B, L] -> float32 [B, D, h, w] each.

    The memory format is channels last, on which convolutions are faster.
    """
    flat = torch.from_numpy(rows).float()
    flat_maps = torch.split(flat, [h * w * d for h, w, d in shapes], dim=1)
    return [
        flat_map.reshape(-1, *shape).permute(0, 3, 1, 2).contiguous(memory_format=torch.channels_last)
        for flat_map, shape in zip(flat_maps, shapes, strict=True)
    ]


def feature_key(network: Network, plan: ViewPlan) -> str:
    """Fingerprint of what features depend on besides the image: the encoder's weights and the views."""
    digest = hashlib.blake2b(digest_size=8)
    for name, tensor in sorted(network.state_dict().items()):
        if not network.is_head(name):
            digest.update(name.encode() + tensor.cpu().contiguous().numpy().tobytes())
    return fingerprint({"version": VERSION, "encoder": digest.hexdigest(), "plan": plan._asdict()})
