"""Mosaics of photographs: builds large images, and compares the stitched labels of runs with their parts and masks.

`build` writes one unlabeled mosaic (by default 12,000 x 9,000 pixels, a TIFF with a georeference), small labeled and
val mosaics, and two run files: with tiles, and whole. FOLDER holds voc_animals/ and models/, as for
config/voc_animals.yaml. The commands are in docs/howto/large-images.md.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import click
import numpy as np
import numpy.typing as npt
import yaml
from PIL import Image, ImageOps
from PIL.TiffImagePlugin import ImageFileDirectory_v2

from pipeline.datasets import IGNORE_INDEX, read_mask
from pipeline.exchange.labels import open_exported
from pipeline.images import PixelLimit, read_image
from pipeline.run import Run
from pipeline.run_file import load_settings
from pipeline.tiles import Window

CELL = (500, 375)  # width and height of a photograph in a mosaic; most of VOC's are as large
SMALL = (2, 2)  # photographs across and down of a labeled or val mosaic
MAX_PIXELS = 10**9
PLACE = {33550: (0.1, 0.1, 0.0), 33922: (0.0, 0.0, 0.0, 500000.0, 5400000.0, 0.0)}  # pixels of 10 cm, in metres
DOUBLE = 12

Array = npt.NDArray[np.uint8]


@click.group()
def main() -> None:
    """Build mosaics of photographs, and compare the labels of a run with them."""


@main.command()
@click.argument("folder", type=click.Path(exists=True, path_type=Path))
@click.argument("out", type=click.Path(path_type=Path))
@click.option("--size", type=(int, int), default=(12000, 9000), show_default=True, help="Of the unlabeled mosaic.")
def build(folder: Path, out: Path, size: tuple[int, int]) -> None:
    """Write the mosaics of the photographs in FOLDER/voc_animals, and run files for them."""
    source = folder / "voc_animals"
    for name in ("images", "masks", "unlabeled"):
        (out / name).mkdir(parents=True, exist_ok=True)
    ids = {split: (source / f"{split}.txt").read_text().split() for split in ("labeled_60", "unlabeled_103", "val_60")}
    rng = random.Random(0)
    num = SMALL[0] * SMALL[1]
    names: dict[str, list[str]] = {"labeled": [], "val": [], "unlabeled": ["large"]}
    for split, of_split in (("labeled", ids["labeled_60"]), ("val", ids["val_60"])):
        for first in range(0, len(of_split), num):
            name = f"{split}{first // num:02d}"
            names[split].append(name)
            mosaic(source, of_split[first : first + num], SMALL, out / "images", out / "masks", name)
    across, down = size[0] // CELL[0], size[1] // CELL[1]
    repeated = [one for _ in range(-(-across * down // 103)) for one in rng.sample(ids["unlabeled_103"], 103)]
    mosaic(source, repeated[: across * down], (across, down), out / "images", out / "masks", "large")
    link = out / "unlabeled/large.tif"
    link.unlink(missing_ok=True)
    link.symlink_to("../images/large.tif")
    for split, listed in names.items():
        (out / f"{split}.txt").write_text("\n".join([*listed, ""]))
    for name, tile in {"tiles": {"size": 512, "overlap": 128}, "whole": None}.items():
        write_run_file(folder.absolute(), out, name, tile)


def mosaic(source: Path, ids: Sequence[str], cells: tuple[int, int], images: Path, masks: Path, name: str) -> None:
    """Write a mosaic of photographs and one of their masks, row by row; every second photograph is mirrored."""
    size = (cells[0] * CELL[0], cells[1] * CELL[1])
    picture, mask = Image.new("RGB", size), Image.new("L", size)
    for k, sample_id in enumerate(ids):
        place = (k % cells[0] * CELL[0], k // cells[0] * CELL[1])
        path = next((source / "images").glob(f"{sample_id}.*"))
        photograph = Image.fromarray(read_image(path, PixelLimit(MAX_PIXELS)))
        with Image.open(source / f"labels/{sample_id}.png") as labels:
            values = Image.fromarray(np.asarray(labels))
        turn: Callable[[Image.Image], Image.Image] = ImageOps.mirror if k % 2 else lambda one: one
        picture.paste(turn(ImageOps.fit(photograph, CELL, Image.Resampling.BICUBIC)), place)
        mask.paste(turn(ImageOps.fit(values, CELL, Image.Resampling.NEAREST)), place)
    directory = ImageFileDirectory_v2()
    for tag, value in PLACE.items():
        directory.tagtype[tag], directory[tag] = DOUBLE, value
    picture.save(images / f"{name}.tif", compression="tiff_adobe_deflate", tiffinfo=directory)
    mask.save(masks / f"{name}.png", compress_level=1)


def write_run_file(folder: Path, out: Path, name: str, tile: dict[str, int] | None) -> None:
    """A run file for the mosaics: the classes, the annotator and the student of config/voc_animals.yaml."""
    base = yaml.safe_load((Path(__file__).parents[1] / "config/voc_animals.yaml").read_text())
    data = base["data"] | {"root": str(out), "images": "images", "masks": "masks", "tile": tile}
    data["splits"] = {split: f"{split}.txt" for split in ("labeled", "unlabeled", "val")}
    base["annotate"]["onnx"]["model"] = str(folder / "models/espnetv2_pascal.onnx")
    base["pseudolabel"] = {"rule": "paper"}  # rule auto would choose the annotator's argmax, without abstentions
    tree = base | {"name": name, "data": data, "train": base["train"] | {"total_epochs": 2, "validate_every": 2}}
    (out / f"{name}.yaml").write_text(yaml.safe_dump(tree, sort_keys=False))


@main.command()
@click.argument("out", type=click.Path(exists=True, path_type=Path))
@click.argument("runs", nargs=-1, required=True)
@click.option("--predicted", type=click.Path(exists=True, path_type=Path), help="Folder that predict wrote.")
def compare(out: Path, runs: Sequence[str], predicted: Path | None) -> None:
    """Print how right the labels of the large mosaic are, and count the pixels that differ from those of its tiles."""
    print("| labels | keep rate, % | precision, % | mIoU with abstained = wrong, % |", "|---|---|---|---|", sep="\n")
    truth = None
    for name in runs:
        settings = load_settings(str(out / f"{name}.yaml"))
        exported = open_exported(Run(settings).folder.labels)
        truth = read_mask(out / "masks/large.png", settings.data.model_copy(update={"max_pixels": MAX_PIXELS}))
        label = exported.label(exported.index_of["large"])
        print(row_of(name, label, truth, settings.data.num_classes), flush=True)
        if settings.data.tile is not None:
            print(f"({different_from_parts(Run(settings), label):,} of {label.size:,} pixels differ from their tile)")
    if predicted is not None and truth is not None:
        student = np.asarray(Image.open(predicted / "large.png"))
        print(row_of("the student", student, truth, settings.data.num_classes))


def row_of(name: str, label: Array, truth: Array, num_classes: int) -> str:
    """Row of the table, over the pixels that have a class in the mask."""
    known, kept = truth != IGNORE_INDEX, label != IGNORE_INDEX
    right, labeled = label == truth, known & kept
    iou = []
    for k in range(num_classes):
        union = ((label == k) | (truth == k)) & known
        iou.append((right & (truth == k)).sum() / union.sum())
    numbers = (labeled.sum() / known.sum(), (right & labeled).sum() / labeled.sum(), np.mean(iou))
    return f"| {name} | {' | '.join(f'{100 * number:.1f}' for number in numbers)} |"


def different_from_parts(run: Run, label: Array) -> int:
    """Pixels of a stitched label that are not those of their tile, from the ids, sizes and labels of the tiles alone.

    A pixel is of the tile in which it is farthest from the border, in each direction; at equal distances, of the later
    one. Borders of the image do not count.
    """
    store, tiles = run.open_labels(), list(positions(run))
    rows, columns = (owners(sorted({tile[axis] for _, tile in tiles}), tiles[0][1][2 + axis], label.shape[axis])
                     for axis in range(2))  # fmt: skip
    different = 0
    for row, window in tiles:
        of_tile = store.label(row)
        height, width = of_tile.shape
        inside = np.ix_(np.flatnonzero(rows == window.top), np.flatnonzero(columns == window.left))
        y = ((inside[0] - window.top + 0.5) * height / window.height).astype(int)
        x = ((inside[1] - window.left + 0.5) * width / window.width).astype(int)
        expected = np.nan_to_num(of_tile[y, x], nan=IGNORE_INDEX)
        different += int((label[inside] != expected).sum())
    return different


def positions(run: Run) -> Iterator[tuple[int, Window]]:
    """Row in the store, and window, of each tile, by its id."""
    sizes = {sample.id: sample.size for sample in run.samples().samples}
    for row, sample_id in enumerate(run.open_labels().sample_ids):
        top, left = map(int, sample_id.rpartition("@")[2].split(","))
        yield row, Window(top, left, *sizes[sample_id])


def owners(firsts: list[int], side: int, length: int) -> npt.NDArray[np.int64]:
    """First pixel of the tile that answers for each position of an axis: int64 [length]."""
    at = np.arange(length)
    distance = [
        np.where((first <= at) & (at < first + side), np.minimum(at - first + 1, first + side - at), 0).astype(float)
        for first in firsts
    ]
    distance[0][: side // 2] = distance[-1][length - side // 2 :] = np.inf
    farthest = len(firsts) - 1 - np.argmax(np.stack(distance)[::-1], axis=0)
    return np.asarray(firsts)[farthest]


if __name__ == "__main__":
    main()
