"""Small stores, one of each kind, whose numbers can be counted by hand; and those of a finished run."""

import shutil

import numpy as np
import pytest
from digests import with_digests
from PIL import Image
from stage_runs import run_stages
from store_damage import RUN
from tiny_run import write_run_file, write_sample_files

import calib
from pipeline.datasets import Sample, SampleIndex, save_samples
from pipeline.run_file import load_settings
from pipeline.store import (
    DONE,
    FAILED,
    create_store,
    open_calibration,
    open_labels,
    open_probabilities,
)

NAMES = ["background", "cat", "dog"]
GRID = (4, 10)
NAN = float("nan")
PHOTO_SIZE = (8, 40)
SETS = {"pseudolabel": {"rule": "paper", "keep_sets": True}}


def samples_in(folder, num):
    """Grey images with a samples.json that lists them."""
    samples = [Sample(f"im_{i}", f"im_{i}.png", None, "unlabeled", *PHOTO_SIZE) for i in range(num)]
    for sample in samples:
        Image.fromarray(np.full((*PHOTO_SIZE, 3), 100, np.uint8)).save(folder / sample.image)
    save_samples(folder / "samples.json", with_digests(SampleIndex(folder, tuple(samples))))
    return samples


@pytest.fixture
def empty_labels(tmp_path):
    """A label store of three images, at two alphas, before anything is labeled."""
    facts = {"fingerprint": "f1", "class_names": NAMES, "background": 0, "grid": list(GRID), "alphas": [0.1, 0.3]}
    facts |= {"alpha": 0.1, "rule": "no_background", "variant": "pixel"}
    create_store(tmp_path / "labels.zarr", "labels", facts, samples_in(tmp_path, 3))
    return open_labels(tmp_path / "labels.zarr", writable=True)


@pytest.fixture
def write_label():
    """Label an image: cat in the first `kept` pixels, abstention in the others."""

    def write(store, index, kept):
        label = np.where(np.arange(40) < kept, 1.0, NAN).reshape(GRID)
        plane = np.full(GRID, 0.5, np.float32)
        planes = calib.Planes(np.ones(GRID, np.uint8), plane, plane, plane)
        store.write(index, np.stack([label, label]), planes)
        store.write_counts(index, np.array([40, kept, 40 - kept, 0, 0, 0]), np.array([0, kept, 0]))
        store.write_observed(index, calib.observe(planes, 0, 3))
        store.mark(index, DONE)

    return write


@pytest.fixture
def labels(empty_labels, write_label):
    """An unfinished label store: the first image keeps 30 of its 40 pixels, the second 10; the third is absent."""
    for index, kept in enumerate((30, 10)):
        write_label(empty_labels, index, kept)
    return empty_labels


@pytest.fixture
def probabilities(tmp_path):
    """A probability store whose first image is dog on the left and cat on the right; the second failed."""
    path = tmp_path / "probs.zarr"
    facts = {"fingerprint": "f2", "class_names": NAMES, "annotator": "x", "space": "probability", "grid": list(GRID)}
    facts |= {"maps": [3, *GRID], "dtype": "uint16"}
    create_store(path, "probabilities", facts, samples_in(tmp_path, 3))
    store = open_probabilities(path, writable=True)
    maps = np.full((3, *GRID), 0.1, np.float32)
    maps[2, :, :5] = maps[1, :, 5:] = 0.8
    store.write(0, maps)
    store.mark(0, DONE)
    store.mark(1, FAILED)
    return store


@pytest.fixture
def calibration(tmp_path):
    """A calibration store with one score map that is void in its left half, otherwise 1; no thresholds yet."""
    path = tmp_path / "calibration.zarr"
    facts = {"fingerprint": "f3", "class_names": NAMES, "alpha": 0.1, "quantile": "exact", "variant": "pixel"}
    facts |= {"background": None, "grid": list(GRID), "class_thresholds": "pooled"}
    facts |= {"alphas": [0.1], "variants": ["pixel"], "rules": ["paper", "singleton"]}
    create_store(path, "calibration", facts, samples_in(tmp_path, 1))
    store = open_calibration(path, writable=True)
    score = np.ones(GRID, np.float32)
    score[:, :5] = NAN
    plane = np.full(GRID, 0.5, np.float32)
    truth = np.where(np.isnan(score), 255, 1)
    store.write_image(
        0,
        {"score": score, "truth": truth, "best_foreground": plane, "p_foreground": plane, "p_second": plane},
    )
    store.write_observed(0, calib.Observed(np.array([0, 40, 0]), np.array([0.0, 20.0, 0.0])))
    store.mark(0, DONE)
    return store


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A run file, and a folder with the stores of its finished run."""
    folder = tmp_path_factory.mktemp("finished")
    write_sample_files(folder / "data", [f"im{i:02d}" for i in range(14)])
    run_file = write_run_file(folder, name=RUN, calibrate={"alpha": 0.4, "alphas": [0.3], "folds": 2}, **SETS)
    run_stages(load_settings(run_file))
    return run_file, folder / "results" / RUN


@pytest.fixture
def run(finished, tmp_path):
    """Settings of a copy of the finished run."""
    run_file, folder = finished
    shutil.copytree(folder, tmp_path / "results" / RUN)
    return load_settings(run_file, {"results": str(tmp_path / "results")})
