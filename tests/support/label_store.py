"""A finished label store with chosen labels, its photographs and samples.json; and random labels for properties."""

from collections.abc import Sequence
from pathlib import Path

import hypothesis.strategies as st
import numpy as np
from digests import with_digests
from hypothesis.extra import numpy as hnp
from PIL import Image

import calib
from pipeline.datasets import Sample, SampleIndex, save_samples
from pipeline.store import DONE, FAILED, create_store, open_labels

NAMES = ["background", "cat", "dog", "newt"]
NAN = float("nan")


@st.composite
def labels_and_sizes(draw, max_images: int = 3):
    """float32 [1, N, h, w] with classes 0 to 3 and NaN, the last image all NaN; and N sizes of photographs."""
    num, height, width = (draw(st.integers(1, most)) for most in (max_images, 7, 9))
    values = st.sampled_from([0.0, 1.0, 2.0, 3.0, NAN])
    labels = draw(hnp.arrays(np.float32, (1, num, height, width), elements=values))
    labels[0, -1] = NAN
    return labels, [(draw(st.integers(1, 12)), draw(st.integers(1, 12))) for _ in range(num)]


def write_label_store(
    folder: Path,
    labels: np.ndarray,
    sizes: Sequence[tuple[int, int]],
    *,
    names: Sequence[str] = NAMES,
    background: int | None = 0,
    alphas: Sequence[float] = (0.1,),
    failed: Sequence[int] = (),
    sets: Sequence[np.ndarray] | None = None,
    seed: int = 0,
) -> Path:
    """Write FOLDER/labels.zarr of images im_0, im_1, ... and FOLDER/images; returns the store.

    labels: float [A, N, h, w], class index or NaN, for each alpha, the chosen one first
    sizes:  (height, width) of each photograph
    failed: indices of images that have no labels
    sets:   uint8 [bytes, h, w] of each image; None for a store without sets
    """
    rng = np.random.default_rng(seed)
    (folder / "images").mkdir(parents=True, exist_ok=True)
    samples = [Sample(f"im_{i}", f"images/im_{i}.png", None, "unlabeled", *size) for i, size in enumerate(sizes)]
    for sample in samples:
        photograph = rng.integers(0, 256, (sample.height, sample.width, 3), dtype=np.uint8)
        Image.fromarray(photograph).save(folder / sample.image)
    save_samples(folder / "samples.json", with_digests(SampleIndex(folder, tuple(samples))))
    path, grid = folder / "labels.zarr", labels.shape[2:]
    facts = {"fingerprint": "f1", "planes": "p1", "calibration": "c1", "relabel": False, "class_names": list(names)}
    facts |= {
        "background": background,
        "grid": list(grid),
        "alpha": alphas[0],
        "alphas": list(alphas),
        "rule": "paper",
        "variant": "pixel",
    }
    facts |= {} if sets is None else {"keep_sets": True}
    create_store(path, "labels", facts, samples)
    store = open_labels(path, writable=True)
    for i in range(len(sizes)):
        if i in failed:
            store.mark(i, FAILED)
            continue
        best = rng.integers(background is not None, len(names), grid, dtype=np.uint8)
        p_best, p_second, p_background = rng.random((3, *grid), dtype=np.float32)
        planes = calib.Planes(best, p_best, p_second, None if background is None else p_background)
        store.write(i, labels[:, i].astype(np.float32), planes, None if sets is None else sets[i])
        kept = labels[0, i][~np.isnan(labels[0, i])].astype(np.intp)
        outcomes, of_class = np.array([best.size, kept.size, 0, 0, 0, 0]), np.bincount(kept, minlength=len(names))
        abstained = None if sets is None else calib.abstained_by_size(sets[i], labels[0, i], len(names))
        store.write_counts(i, outcomes, of_class, abstained)
        store.write_observed(i, calib.observe(planes, background, len(names)))
        store.mark(i, DONE)
    store.finish()
    return path


def at_own_size(label: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """uint8 [H, W], 255 = NaN: each pixel takes the label at its centre, looked up one by one."""
    height, width = label.shape
    result = np.empty(size, np.uint8)
    for y, x in np.ndindex(*size):
        value = label[(2 * y + 1) * height // (2 * size[0]), (2 * x + 1) * width // (2 * size[1])]
        result[y, x] = 255 if np.isnan(value) else value
    return result
