"""Runs from Python: what the commands of the same names do."""

import re
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from stage_runs import run_stages
from tiny_run import CLASSES, write_run_file, write_sample_files

from pipeline import api
from pipeline.demo.scenes import CLASS_NAMES, numbered_scene
from pipeline.errors import ConfigError, StageError, StoreError
from pipeline.run_file import load_settings
from pipeline.store import open_labels

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def run_file(tmp_path_factory):
    """The run file of a run that has labels at two alphas."""
    folder = tmp_path_factory.mktemp("api")
    write_sample_files(folder / "data", [f"im{i}" for i in range(10)])
    path = write_run_file(folder, calibrate={"alphas": [0.2, 0.5]})
    run_stages(load_settings(path))
    return path


def test_labels_are_those_of_the_store_at_the_size_of_their_images(run_file):
    store = open_labels(load_settings(run_file).folder / "labels.zarr")
    for alpha_index, alpha in enumerate(store.alphas):
        labels = api.labels(str(run_file), alpha=alpha)
        assert (labels.class_names, labels.alpha) == (CLASSES, alpha)
        assert list(labels) == store.sample_ids
        for index, label in enumerate(labels.values()):
            assert (label.dtype, label.shape) == (np.uint8, (24, 32))
            on_grid = store.label(index, alpha_index)  # 16 x 24
            rows, columns = np.arange(24) * 16 // 24, np.arange(32) * 24 // 32
            expected = np.nan_to_num(on_grid, nan=255).astype(np.uint8)
            assert set(np.unique(label)) <= set(np.unique(expected))
            assert (label == expected[rows][:, columns]).mean() > 0.5  # up to the rounding of positions
    assert api.labels(str(run_file)).alpha == store.alphas[0]


def test_an_image_without_labels_is_a_missing_key_and_a_run_without_labels_an_error(run_file):
    with pytest.raises(KeyError):
        api.labels(str(run_file))["nowhere"]
    with pytest.raises(StoreError, match=r"has labels of alpha .*0.5, not of 0.3; choose .* alpha=0.3"):
        api.labels(str(run_file), alpha=0.3)
    with pytest.raises(StoreError, match="run "):
        api.labels(str(run_file), settings={"name": "another"})
    with pytest.raises(ConfigError, match="no run file nowhere"):
        api.labels("nowhere")


@pytest.mark.slow
def test_the_lines_of_the_guide_label_photographs(tmp_path, monkeypatch, capfd):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    for folder in ("photos", "masks"):
        Path(folder).mkdir()
    for i in range(12):
        scene = numbered_scene(1, "target", "mine", i, (64, 96))
        Image.fromarray(scene.image).save(f"photos/{i:02d}.jpg", quality=95)
        if i < 8:
            Image.fromarray(scene.mask).save(f"masks/{i:02d}.png")
    Path("classes.txt").write_text("\n".join(CLASS_NAMES) + "\n")
    blocks = re.findall(r"^```python\n(.*?)^```$", (ROOT / "docs/python.md").read_text(), re.MULTILINE | re.DOTALL)
    (block,) = [block for block in blocks if "api.run(" in block]
    names = {"api": api}
    exec(block, names)
    assert len(names["labels"]) == 4
    assert {label.shape for label in names["labels"].values()} == {(64, 96)}
    assert names["labels"].alpha == 0.2
    with pytest.raises(StageError, match=r"mine stopped before prepare; see the reason above, or in results/mine/logs"):
        api.run("mine", until="prepare", settings={"data.root": str(tmp_path / "nowhere")})
    assert "nowhere" in capfd.readouterr().err
