"""Full-size Focal-T and Focal-L with seeded weights: from the published format to stored maps of photographs.

Needs the shared reference folder (see test_parity.py) and photographs beside it: `pytest -m full_size -s`.
"""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from photograph_run import VOC_NAMES
from reference_data import PARITY, SET_IT, published_keys, seeded_weights

from pipeline.datasets import image_to_grid, load_samples
from pipeline.seem import Seem
from pipeline.store import open_probabilities

ROOT = Path(__file__).parents[3]
PHOTOGRAPHS = PARITY.parent / "data/voc_animals"
VARIANTS = {"seem_focalt_v0.pt": 164_619_249, "seem_focall_v0.pt": 341_181_177}  # parameters
CLICKS_ONLY = 820_224

pytestmark = [
    pytest.mark.full_size,
    pytest.mark.skipif(
        not (PARITY.is_dir() and PHOTOGRAPHS.is_dir()),
        reason=f"no reference weights in {PARITY} or no photographs in {PHOTOGRAPHS}; {SET_IT}",
    ),
]


def run(folder, *command):
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    finished = subprocess.run(
        [sys.executable, *map(str, command)], cwd=folder, env=environment, capture_output=True, text=True
    )
    assert finished.returncode == 0, finished.stderr
    return finished.stdout + finished.stderr


@pytest.fixture(scope="module", params=list(VARIANTS))
def converted(request, tmp_path_factory):
    """Folder that convert-seem made of a full-size file of published names and shapes."""
    folder = tmp_path_factory.mktemp("full_size")
    shapes = next(shapes for files, shapes in published_keys().items() if request.param in files)
    torch.save(seeded_weights(shapes, seed=0), folder / request.param)
    options = ["--tokenizer", PARITY / "clip_tokenizer"]
    run(folder, "-m", "pipeline", "convert-seem", request.param, "converted", *options)
    (folder / request.param).unlink()
    yield request.param, folder / "converted"
    shutil.rmtree(folder)


def test_it_runs_on_a_photograph_with_21_prompts(converted):
    name, folder = converted
    photograph = min((PHOTOGRAPHS / "images").iterdir())
    facts = json.loads(run(folder, ROOT / "tests/support/photograph_run.py", folder, photograph))
    print(f"\n{name}: {facts}")
    assert facts["parameters"] == VARIANTS[name] - CLICKS_ONLY
    assert facts["map"] == [21, *facts["image"][:2]]
    assert 0 <= facts["range"][0] <= facts["range"][1] <= 101
    assert facts["capped_sum"] <= 1 + 1e-5


def test_the_stored_maps_of_three_photographs_have_the_argmax_of_the_network(converted, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    name, folder = converted
    ids = [path.stem for path in sorted((PHOTOGRAPHS / "images").iterdir())[:4]]
    for part in ("images", "labels"):
        target = tmp_path / "data" / {"images": "images", "labels": "masks"}[part]
        target.mkdir(parents=True)
        for path in (p for p in (PHOTOGRAPHS / part).iterdir() if p.stem in ids):
            shutil.copy(path, target)
    tree = {
        "data": {
            "classes": ["background", *VOC_NAMES], "background": "background",
            "splits": {"num_labeled": 1, "num_val": 1},
        },
        "annotate": {"annotator": "seem", "seem": {"checkpoint": str(folder), "templates": ["{}."]}, "batch_size": 2},
    }  # fmt: skip
    (tmp_path / "photographs.yaml").write_text(yaml.safe_dump(tree))
    for stage in ("prepare", "annotate"):
        printed = run(tmp_path, "-m", "pipeline", stage, "photographs.yaml")
    print(f"\n{name}: {printed}")
    assert_argmax_is_kept(tmp_path, Seem.from_pretrained(folder, templates=["{}."]), num_images=3)


def assert_argmax_is_kept(folder, seem, num_images):
    index = load_samples(folder / "results/photographs/samples.json")
    store = open_probabilities(folder / "results/photographs/probs.zarr")
    samples = index.of("labeled", "unlabeled")
    assert len(samples) == num_images
    texts = seem.class_texts(VOC_NAMES, background="prompt")
    for i, sample in enumerate(samples):
        image = image_to_grid(index.image(sample), store.grid)
        expected = seem.semantic_maps(image[None], texts, "cap", size="native")[0]
        cached = store.probabilities(i).maps
        best, second = np.sort(expected, axis=0)[[-1, -2]]
        clear = best - second > 2 / 65535  # of what the cache can tell apart
        assert clear.mean() > 0.9
        assert np.array_equal(cached.argmax(axis=0)[clear], expected.argmax(axis=0)[clear])
