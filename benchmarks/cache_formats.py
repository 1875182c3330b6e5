"""Size and speed of each format of the probability cache, and its effect on the labels, on real maps.

    python benchmarks/cache_formats.py voc_animals --set data.root=FOLDER
    python benchmarks/cache_formats.py camvid --set data.root=FOLDER --native

A probs.zarr is written and read in every dtype and resolution that the settings offer. The reference are the
annotator's float32 maps, up-sampled to the grid in their own space (logits or probabilities). A label counts as changed
if thresholds (variant pixel, exact) and labels (rule paper, an uncalibrated location accepts every class) computed from
a format give another label than those computed from the reference. These exported networks end with an up-sampling;
with --native it is removed, and the grid is four times the size of their maps, as for SEEM.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import click
import numpy as np

import calib
from pipeline.annotators.build import build_annotator
from pipeline.datasets import Sample, SampleIndex, image_to_grid, load_samples, resize_nearest
from pipeline.overrides import parse_overrides
from pipeline.resample import resize_bilinear
from pipeline.run_file import full_names, load_settings
from pipeline.settings import Settings
from pipeline.stages.prepare import prepare
from pipeline.store import (
    ProbabilityReader,
    ProbabilityStore,
    create_store,
    open_probabilities,
)

ALPHAS = (0.1, 0.05, 0.01)
ADE20K_CLASS_PIXELS = 20_210 * 150 * 512 * 512


class Data(NamedTuple):
    """Native maps float32 [K, h, w] of labeled, then of unlabeled images; masks of the labeled images on the grid."""

    settings: Settings
    space: str
    samples: list[Sample]
    maps: list[np.ndarray]
    masks: list[np.ndarray]

    @property
    def grid(self) -> tuple[int, int]:
        height, width = self.settings.data.grid
        return height, width

    def reader(self, maps: np.ndarray) -> ProbabilityReader:
        return ProbabilityReader(maps, self.space == "logits", self.grid)


def cut_last_upsampling(path: Path, folder: Path) -> Path:
    """Write the network without its last node, which must be an up-sampling; returns its file."""
    import onnx

    model = onnx.load(path)
    last = model.graph.node[-1]
    if last.op_type != "Resize":
        raise click.ClickException(f"{path} ends in {last.op_type}, not in an up-sampling")
    model.graph.node.remove(last)
    model.graph.output[0].name = last.input[0]
    for dim in model.graph.output[0].type.tensor_type.shape.dim[2:]:
        dim.ClearField("dim_value")
    onnx.save(model, folder / path.name)
    return folder / path.name


def annotate(settings: Settings, index: SampleIndex, num_unlabeled: int) -> Data:
    """Maps of all labeled and some unlabeled images."""
    annotator = build_annotator(settings)
    samples = [*index.of("labeled"), *index.of("unlabeled")[:num_unlabeled]]
    maps = [annotator(image_to_grid(index.image(s), settings.data.grid)[np.newaxis])[0] for s in samples]
    masks = [resize_nearest(index.mask(s, settings.data), settings.data.grid) for s in index.of("labeled")]
    return Data(settings, annotator.space, samples, maps, masks)


def native(settings: Settings, folder: Path) -> Settings:
    """The same run with the network's own maps, on a grid four times as large."""
    assert settings.annotate.onnx is not None
    model = cut_last_upsampling(Path(settings.data.root) / settings.annotate.onnx.model, folder)
    tree = settings.model_dump()
    tree["annotate"]["onnx"]["model"] = str(model.absolute())
    cut = Settings.model_validate(tree)
    image = np.zeros((1, *settings.data.grid, 3), np.uint8)
    height, width = build_annotator(cut)(image).shape[2:]
    tree["data"]["grid"] = [4 * height, 4 * width]
    return Settings.model_validate(tree)


def labels(data: Data, read: Any) -> Iterator[list[np.ndarray]]:
    """For each unlabeled image its labels at every alpha. read: number of an image -> ProbabilityReader"""
    background = data.settings.data.background_index
    scores = np.stack([score(read(i), mask) for i, mask in enumerate(data.masks)])
    thresholds = [calib.pixel_quantile(scores, alpha) for alpha in ALPHAS]
    for i in range(len(data.masks), len(data.maps)):
        planes = calib.stack_planes([calib.class_planes(strip, background) for _, strip in read(i).strips()])
        yield [calib.label_pixels(planes, q_hat, "paper", background, "accept") for q_hat in thresholds]


def score(reader: ProbabilityReader, mask: np.ndarray) -> np.ndarray:
    return np.concatenate([calib.true_class_scores(strip, mask[rows]) for rows, strip in reader.strips()])


class Format(NamedTuple):
    """Size and speed of a format, and its effect on probabilities and labels."""

    bytes_per_image: float
    write_rate: float
    read_rate: float
    largest_error: float
    changed: list[float]


def try_format(data: Data, resolution: str, dtype: str, reference: list[list[np.ndarray]], folder: Path) -> Format:
    path = folder / "probs.zarr"
    store, seconds = write(data, resolution, dtype, path)
    size = sum(file.stat().st_size for file in path.rglob("*") if file.is_file())
    start = time.perf_counter()
    for i in range(len(data.maps)):
        for _ in store.probabilities(i).strips():
            pass
    read_seconds = time.perf_counter() - start
    errors = [
        float(np.abs(store.probabilities(i).rows(slice(None)) - data.reader(data.maps[i]).rows(slice(None))).max())
        for i in range(0, len(data.maps), 5)
    ]
    changed = np.zeros(len(ALPHAS))
    for by_alpha, expected_by_alpha in zip(labels(data, store.probabilities), reference, strict=True):
        for a, (label, expected) in enumerate(zip(by_alpha, expected_by_alpha, strict=True)):
            changed[a] += np.mean(~((label == expected) | (np.isnan(label) & np.isnan(expected))))
    count = len(data.maps)
    return Format(size / count, count / seconds, count / read_seconds, max(errors), list(changed / len(reference)))


def write(data: Data, resolution: str, dtype: str, path: Path) -> tuple[ProbabilityStore, float]:
    """Write the store; returns it and the seconds that writing took."""
    maps = data.maps[0].shape if resolution == "annotator" else (len(data.maps[0]), *data.grid)
    names = data.settings.data.class_names
    facts = {"fingerprint": "f1", "class_names": names, "space": data.space, "grid": list(data.grid), "annotator": "x"}
    facts |= {"maps": list(maps), "dtype": dtype}
    create_store(path, "probabilities", facts, data.samples)
    store = open_probabilities(path, writable=True)
    seconds = 0.0
    for i, own in enumerate(data.maps):
        sized = own if resolution == "annotator" else resize_bilinear(own, data.grid)
        start = time.perf_counter()
        store.write(i, sized)
        seconds += time.perf_counter() - start
    return store, seconds


def print_formats(data: Data, folder: Path) -> None:
    num_classes, (height, width) = len(data.maps[0]), data.grid
    full = num_classes * height * width * 4
    click.echo(
        f"\n{data.settings.name}: {len(data.masks)} labeled, {len(data.maps) - len(data.masks)} unlabeled images, "
        f"maps of {' x '.join(map(str, data.maps[0].shape))} ({data.space}), grid {height} x {width}; "
        f"float32 at full size: {full / 1e6:.1f} MB per image\n"
    )
    changed = " | ".join(f"labels changed at {alpha:g}" for alpha in ALPHAS)
    click.echo(
        "| resolution, dtype | kB per image | times smaller | written, images/s | read and up-sampled, images/s "
        f"| largest error of P | {changed} | ADE20K |\n|{'---|' * (7 + len(ALPHAS))}"
    )
    reference = list(labels(data, lambda i: data.reader(data.maps[i])))
    dtypes = ["float16", "float32"] + (["uint16"] if data.space == "probability" else [])
    default = "float16" if data.space == "logits" else "uint16"
    for resolution in ("annotator", "grid"):
        for dtype in dtypes:
            measured = try_format(data, resolution, dtype, reference, folder)
            mark = " (default)" if (resolution, dtype) == ("annotator", default) else ""
            changed_labels = " | ".join(f"{100 * fraction:.3f} %" for fraction in measured.changed)
            gigabytes = measured.bytes_per_image / (num_classes * height * width) * ADE20K_CLASS_PIXELS / 1e9
            click.echo(
                f"| {resolution}, {dtype}{mark} | {measured.bytes_per_image / 1e3:.0f} "
                f"| {full / measured.bytes_per_image:.0f} | {measured.write_rate:.0f} | {measured.read_rate:.0f} "
                f"| {measured.largest_error:.1e} | {changed_labels} | {gigabytes:.0f} GB |"
            )


@click.command(help=__doc__)
@click.argument("run")
@click.option("--set", "overrides", multiple=True, metavar="NAME=VALUE", help="Settings, as for the stages.")
@click.option("--unlabeled", default=30, show_default=True, help="Unlabeled images to compare labels on.")
@click.option("--native", "is_native", is_flag=True, help="Remove the network's last up-sampling.")
def main(run: str, overrides: Sequence[str], unlabeled: int, is_native: bool) -> None:
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        settings = load_settings(run, {**full_names(parse_overrides(overrides)), "results": scratch})
        if is_native:
            settings = native(settings, folder)
        settings.folder.mkdir(parents=True, exist_ok=True)
        prepare(settings)
        print_formats(annotate(settings, load_samples(settings.folder / "samples.json"), unlabeled), folder)


if __name__ == "__main__":
    main()
