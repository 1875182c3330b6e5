"""Converts SBD's masks (Hariharan et al., ICCV 2011), which give VOC the 10,582 training images called train_aug."""

from __future__ import annotations

import logging
import os
import shutil
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import numpy.typing as npt
from scipy.io import loadmat

from pipeline.errors import DatasetError
from pipeline.files import remove_leftovers, replacing, write_text
from pipeline.progress import Progress
from pipeline.sources.convert_masks.png import write_mask
from pipeline.sources.lists import read_list

log = logging.getLogger(__name__)

AUGMENTED = "SegmentationClassAug"
NUM_CLASSES = 21
TRAIN_AUG = "ImageSets/Segmentation/train_aug.txt"


def convert_sbd(sbd: Path, voc: Path, workers: int | None = None) -> Path:
    """Write VOC/SegmentationClassAug/ID.png and VOC/ImageSets/Segmentation/train_aug.txt.

    If VOC has a mask of an image, it is copied unchanged. The list contains the ids of VOC's train and of SBD's train
    and val, without those of VOC's val.

    workers: threads; default: one per core
    returns: the folder of the masks
    raises:  DatasetError for folders that are not SBD or VOC, and for a .mat file that cannot be read
    """
    classes = find_classes(sbd)
    voc_masks = {
        path.stem: path for path in _files(voc / "SegmentationClass", "*.png", "unpack VOCtrainval_11-May-2012.tar")
    }
    sbd_masks = {path.stem: path for path in _files(classes, "*.mat", "unpack benchmark.tgz")}
    folder = voc / AUGMENTED
    folder.mkdir(exist_ok=True)
    remove_leftovers(folder)
    sources = sbd_masks | voc_masks
    todo = [sample_id for sample_id in sorted(sources) if not (folder / f"{sample_id}.png").is_file()]
    progress = Progress(log, "convert-sbd", len(sources), "masks", len(sources) - len(todo))

    def convert(sample_id: str) -> None:
        target, source = folder / f"{sample_id}.png", sources[sample_id]
        if source.suffix == ".png":
            copy_whole(source, target)
        else:
            write_mask(target, read_mat(source))

    with ThreadPoolExecutor(workers or os.cpu_count()) as pool:
        for _ in pool.map(convert, todo):
            progress.advance()
    write_train_aug(voc, sorted(sbd_masks))
    return folder


def find_classes(sbd: Path) -> Path:
    """SBD's folder `cls`, below any folder of its archive; DatasetError if there is none."""
    candidates = (sbd, sbd / "cls", sbd / "dataset/cls", sbd / "benchmark_RELEASE/dataset/cls")
    for folder in candidates:
        if folder.name == "cls" and folder.is_dir():
            return folder
    raise DatasetError(
        f"no folder dataset/cls in {sbd}; give the path of benchmark_RELEASE, unpacked from SBD's benchmark.tgz"
    )


def _files(folder: Path, pattern: str, fix: str) -> list[Path]:
    files = sorted(folder.glob(pattern))
    if not files:
        raise DatasetError(f"{folder} contains no {pattern}; {fix}")
    return files


def read_mat(path: Path) -> npt.NDArray[np.uint8]:
    """Mask of a .mat file, uint8 [H, W]: VOC's class index, 0 to 20. SBD has no void.

    raises: DatasetError if the file cannot be read or has other values
    """
    try:
        mask = np.asarray(loadmat(path)["GTcls"]["Segmentation"][0, 0])
    except Exception as error:  # for damaged files scipy raises zlib.error, OSError, MatReadError and four others
        raise DatasetError(f"{path} cannot be read as a mask of SBD ({error}); unpack benchmark.tgz again") from None
    if mask.ndim != 2 or mask.size == 0 or mask.min() < 0 or mask.max() >= NUM_CLASSES:
        raise DatasetError(f"{path} contains no mask of classes 0 to {NUM_CLASSES - 1}; unpack benchmark.tgz again")
    return mask.astype(np.uint8)


def copy_whole(source: Path, target: Path) -> None:
    """Copy a file atomically."""
    with replacing(target) as part:
        shutil.copyfile(source, part)


def write_train_aug(voc: Path, sbd_ids: Sequence[str]) -> None:
    """Write the list of the ids of VOC's train and of SBD, without those of VOC's val."""
    train, val = (_ids(voc / f"ImageSets/Segmentation/{name}.txt") for name in ("train", "val"))
    write_text(voc / TRAIN_AUG, "\n".join(sorted({*train, *sbd_ids} - set(val))) + "\n")


def _ids(path: Path) -> list[str]:
    if not path.is_file():
        raise DatasetError(f"no id list {path}; unpack VOCtrainval_11-May-2012.tar")
    return [entry.id for entry in read_list(path)]
