"""Annotator python: the example of the documentation, as it is written there, annotates a run."""

import re
from pathlib import Path

import numpy as np
import pytest
import yaml
from PIL import Image
from stage_runs import run_stages
from tiny_run import write_run_file

from pipeline.errors import AnnotatorError
from pipeline.run import Run
from pipeline.run_file import load_settings
from pipeline.stages.annotate import annotate
from pipeline.store import open_probabilities

DOCS = Path(__file__).parents[3] / "docs/annotators.md"
SECTION = DOCS.read_text().partition("\n## `python`")[2].partition("\n## ")[0]
COLOURS = np.array([[90, 90, 90], [200, 40, 40], [40, 40, 200]], np.float32)  # of background, cat and dog
SIZE = (16, 24)


@pytest.fixture
def own(tmp_path, write_images, monkeypatch):
    """Settings of a prepared run of the example, whose images show the colours of their masks with noise."""
    write_images(tmp_path / "photos", [f"im{i:02d}" for i in range(13)], size=SIZE)
    for position, path in enumerate(sorted((tmp_path / "photos/masks").iterdir())):
        rng = np.random.default_rng(position)
        mask = np.sort(rng.integers(0, 3, SIZE[1]))[None].repeat(SIZE[0], axis=0).astype(np.uint8)
        Image.fromarray(mask).save(path)
        noisy = COLOURS[mask] + rng.normal(0, 10, (*SIZE, 3))
        Image.fromarray(noisy.clip(0, 255).astype(np.uint8)).save(tmp_path / "photos/images" / path.name)
    np.save(tmp_path / "photos/colours.npy", COLOURS)
    monkeypatch.chdir(tmp_path)
    (code,) = re.findall(r"```python\n(.*?)```", SECTION, re.DOTALL)
    Path("class_colours.py").write_text(code)
    (section,) = re.findall(r"```yaml\n(.*?)```", SECTION, re.DOTALL)
    path = write_run_file(tmp_path, **yaml.safe_load(section))
    settings = load_settings(path, {"data.root": "photos"})
    run_stages(settings, "prepare")
    return settings


def literal_maps(image, scale=20.0):
    """[K, H / 2, W / 2]: the probabilities of the example, pixel by pixel."""
    maps = np.zeros((3, SIZE[0] // 2, SIZE[1] // 2))
    for row, column in np.ndindex(*maps.shape[1:]):
        pixel = image[2 * row, 2 * column].astype(float)
        weights = [np.exp(-(sum((pixel - colour) ** 2) ** 0.5) / scale) for colour in COLOURS]
        maps[:, row, column] = np.array(weights) / sum(weights)
    return maps


def test_the_example_annotates_a_run_and_its_maps_are_stored(own):
    facts = annotate(own)
    assert (facts["annotator"], facts["space"], facts["maps"]) == ("class colours", "probability", [11, 3, 8, 12])
    assert (facts["failed"], facts["warnings"]) == ({}, [])
    store = open_probabilities(own.folder / "probs.zarr")
    for position in (0, 10):
        image = np.asarray(Image.open(f"photos/images/{store.sample_ids[position]}.png"))
        assert np.abs(store.probabilities(position).maps - literal_maps(image)).max() <= 1e-5


def test_other_weights_of_the_example_are_another_annotator(own):
    Run(own).finish("annotate", annotate(own))
    np.save("photos/colours.npy", COLOURS + 1)
    assert annotate(own)["cache"]["num_made"] == 11


def test_the_example_refuses_another_number_of_classes_with_its_line(own):
    np.save("photos/colours.npy", COLOURS[:2])
    with pytest.raises(
        AnnotatorError, match=r"class colours failed in prepare; .*2 colours for 3 classes \(.*class_colours.py, line"
    ):
        annotate(own)
