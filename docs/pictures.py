"""Draws the pictures of the documents from a finished run of the demo: python docs/pictures.py (after make demo)."""

from __future__ import annotations

import subprocess
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw, ImageFont

import calib
from pipeline.calibration.sweep import sweep_run
from pipeline.drawing.pictures import Picture, fit_label, paint_classes
from pipeline.palette import class_colours
from pipeline.run import Run
from pipeline.run_file import load_settings
from pipeline.settings import Settings
from pipeline.store import LabelStore, open_labels

IMAGES = Path(__file__).parent / "images"
SIDE, GAP, HEADING = 208, 8, 26  # pixels of a panel, between panels, above them
ALPHAS = (0.3, 0.15, 0.06)  # with the demo's 24 labeled images, an alpha below 0.04 abstains everywhere


def main() -> None:
    settings = load_settings("demo")
    store = open_labels(settings.folder / "labels.zarr")
    index = telling_image(store)
    samples = Run(settings).samples()
    sample = next(sample for sample in samples.of("unlabeled") if sample.id == store.sample_ids[index])
    image = np.array(Image.open(samples.root / sample.image).convert("RGB"))
    colours = class_colours(settings.data.num_classes, settings.data.background_index)

    def painted(label: npt.NDArray[np.generic]) -> Picture:
        return paint_classes(image, fit_label(label, image), colours)

    demo = {
        "image": image,
        "annotator": painted(store.raw_argmax(index)),
        "calibrated": painted(store.label(index)),
        "student": painted(predicted(samples.root / sample.image, settings.folder / "stage2/student")),
        "truth": painted(np.array(Image.open(samples.root / "SegmentationClass" / f"{sample.id}.png"))),
    }
    save(demo, "demo.png")
    labels = {f"alpha {alpha}": painted(label_at(settings, store, index, alpha)) for alpha in ALPHAS}
    save(demo | labels, "alphas.png", ("annotator", *labels, "truth"))


def telling_image(store: LabelStore) -> int:
    """The image in which calibration abstains or changes the class at the most pixels, but labels at least half."""
    changed = [np.mean(store.label(i) != store.raw_argmax(i)) for i in range(len(store.sample_ids))]
    kept = [np.mean(~np.isnan(store.label(i))) for i in range(len(store.sample_ids))]
    return int(np.argmax(np.where(np.array(kept) > 0.5, changed, 0)))


def label_at(settings: Settings, store: LabelStore, index: int, alpha: float) -> npt.NDArray[np.float32]:
    """The label of an image by Eq. 4 at another alpha."""
    sweep = sweep_run(settings, "pixel")
    q_hat = sweep.thresholds.map(sweep.alphas.index(alpha))
    return calib.label_pixels(store.planes(index), q_hat, "paper", settings.data.background_index, "abstain")


def predicted(image: Path, student: Path) -> npt.NDArray[np.uint8]:
    """The prediction of a student for an image: uint8 [H, W], class index."""
    with tempfile.TemporaryDirectory() as folder:
        images, out = Path(folder) / "images", Path(folder) / "out"
        images.mkdir()
        (images / image.name).write_bytes(image.read_bytes())
        words = ["predict", str(images), str(out), "--student", str(student)]
        subprocess.run([sys.executable, "-m", "train", *words], check=True)
        return np.array(Image.open(out / f"{image.stem}.png"))


def save(panels: Mapping[str, Picture], name: str, chosen: tuple[str, ...] = ()) -> None:
    """Write panels side by side, each below its heading. chosen: their names in order, default: all"""
    chosen = chosen or tuple(panels)
    sheet = Image.new("RGB", (len(chosen) * (SIDE + GAP) - GAP, SIDE + HEADING), "white")
    draw, font = ImageDraw.Draw(sheet), ImageFont.load_default(size=16)
    for column, heading in enumerate(chosen):
        left = column * (SIDE + GAP)
        draw.text((left, 3), heading, fill="black", font=font)
        panel = Image.fromarray(panels[heading]).resize((SIDE, SIDE), Image.Resampling.LANCZOS)
        sheet.paste(panel, (left, HEADING))
    IMAGES.mkdir(exist_ok=True)
    sheet.quantize(128).save(IMAGES / name, optimize=True)


if __name__ == "__main__":
    main()
