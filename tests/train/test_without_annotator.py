"""A recipe that learns from masks alone runs from images to report: no annotator, no unlabeled image, no stores."""

import numpy as np
import pytest
from PIL import Image
from report_run import Page

from pipeline.datasets import load_samples
from pipeline.errors import AnnotatorError, ConfigError, DatasetError
from pipeline.run import Run
from pipeline.run_file import load_settings
from pipeline.stages.annotate import annotate
from pipeline.stages.prepare import prepare
from pipeline.stages.report import report
from train.evaluate import evaluate
from train.stage1 import stage1
from train.stage2 import stage2

RUN = """
results: {folder}/results
data:
  root: {folder}/data
  classes: [floor, square]
  grid: [32, 32]
  splits: {{num_val: 2}}
train: {{student: tiny, crop: 32, workers: 0, threads: 1, device: cpu, total_epochs: 2, validate_every: 1}}
"""


@pytest.fixture
def run_file(tmp_path):
    """Six images, all with masks."""
    for folder in ("images", "masks"):
        (tmp_path / "data" / folder).mkdir(parents=True)
    for i in range(6):
        mask = np.zeros((40, 48), np.uint8)
        mask[5 + i : 25, 10:30] = 1
        noise = np.random.default_rng(i).integers(0, 40, (40, 48, 3), dtype=np.uint8)
        Image.fromarray(noise + 200 * mask[..., None]).save(tmp_path / f"data/images/{i}.png")
        Image.fromarray(mask).save(tmp_path / f"data/masks/{i}.png")
    path = tmp_path / "alone.yaml"
    path.write_text(RUN.format(folder=tmp_path))
    return path


def test_runs_to_the_report(run_file):
    settings = load_settings(run_file, {"preset": "label-only"})
    for name, stage in {"prepare": prepare, "stage1": stage1, "stage2": stage2, "evaluate": evaluate}.items():
        Run(settings).finish(name, stage(settings))
    facts = report(settings)
    page = Page(settings)
    val = [sample.id for sample in load_samples(settings.folder / "samples.json").of("val")]
    assert (facts["audit"], facts["examples"]) == (None, val)
    assert "was trained on 4 labeled images. There was no annotator" in page.text
    assert "4 labeled, 0 unlabeled, 2 val images" in page.text
    assert "switched off (0 epochs)" in page.text
    panels = [picture for picture in page.pictures if picture["src"].startswith("data:image/webp")]
    assert len(panels) == 3 * len(val)  # image, student, true mask
    assert not list(settings.folder.glob("*.zarr"))


def test_another_recipe_says_what_it_lacks(run_file):
    with pytest.raises(
        ConfigError, match=r"stage1\.labels calibrated needs an annotator, but annotate\.annotator is none"
    ):
        load_settings(run_file)
    alone, others = (load_settings(run_file, {"preset": name}) for name in ("label-only", "semi-baseline"))
    with pytest.raises(DatasetError, match="the split unlabeled is empty"):
        prepare(others)
    Run(alone).finish("prepare", prepare(alone))
    with pytest.raises(DatasetError, match="no unlabeled image, but this recipe trains on unlabeled images; add"):
        stage2(others)
    with pytest.raises(DatasetError, match="no unlabeled image"):
        annotate(alone)
    Image.new("RGB", (48, 40)).save(run_file.parent / "data/images/more.png")
    Run(alone).finish("prepare", prepare(alone))
    with pytest.raises(
        AnnotatorError, match=r"needs an annotator; set annotate.annotator to seem, transformers, onnx, maps, student"
    ):
        annotate(alone)
