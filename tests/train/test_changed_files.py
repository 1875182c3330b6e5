"""The trainer on images and masks that are not those that prepare read: one line, whoever reads them."""

from pathlib import Path

import numpy as np
import pytest
from digests import take_in
from PIL import Image

from pipeline.datasets import load_samples
from pipeline.errors import DatasetError, TrainingError, UnreadableSourceError
from pipeline.run import Run
from train.engine.checkpoint import load_checkpoint
from train.evaluate import evaluate
from train.plan import plan_fingerprint
from train.stage1 import stage1
from train.stage2 import stage2


def blacken(path):
    with Image.open(path) as opened:
        black = np.zeros_like(np.asarray(opened))
    Image.fromarray(black).save(path)


def file_of(settings, kind, split):
    index = load_samples(settings.folder / "samples.json")
    sample = index.of(split)[-1]
    return index.root / (sample.image if kind == "image" else sample.mask)


@pytest.mark.parametrize(
    ("kind", "split", "workers"),
    [
        ("image", "labeled", 1),
        ("mask", "labeled", 0),
        ("image", "unlabeled", 0),
        ("image", "val", 1),
        ("mask", "val", 0),
    ],
)
def test_stage1_refuses_a_file_that_has_changed(make_run, kind, split, workers):
    settings = make_run(train={"workers": workers}, stage1={"epochs": 1})
    path = file_of(settings, kind, split)
    blacken(path)
    with pytest.raises(DatasetError, match=rf"^{path} is not the file that prepare read .* run snakemake .*stage1 -R"):
        stage1(settings)
    assert not Run(settings).has_receipt("stage1")
    path.unlink()
    with pytest.raises(UnreadableSourceError, match=rf"^{path} cannot be read .* run snakemake .*$"):
        stage1(settings)


def test_later_stages_refuse_a_file_that_has_changed_and_keep_what_is_finished(make_run):
    settings = make_run(evaluate={"workers": 1}, stage1={"epochs": 1})
    Run(settings).finish("stage1", stage1(settings))
    weights = Path(settings.folder / "stage1/student/model.safetensors").read_bytes()
    image, mask = file_of(settings, "image", "unlabeled"), file_of(settings, "mask", "val")
    kept = image.read_bytes()
    blacken(image)
    with pytest.raises(DatasetError, match=rf"^{image} is not the file .* run snakemake .*stage2 -R prepare"):
        stage2(settings)
    image.write_bytes(kept)
    blacken(mask)
    with pytest.raises(DatasetError, match=rf"^{mask} is not the file .* run snakemake .*evaluate -R prepare"):
        evaluate(settings)
    assert Path(settings.folder / "stage1/student/model.safetensors").read_bytes() == weights
    assert load_checkpoint(settings.folder / "stage1/checkpoint.pt")["finished"]


@pytest.mark.parametrize(
    ("kind", "split"),
    [("image", "labeled"), ("mask", "labeled"), ("image", "unlabeled"), ("image", "val"), ("mask", "val")],
)
def test_training_is_not_resumed_on_files_that_prepare_has_taken_in(make_run, kind, split):
    settings = make_run()
    before = plan_fingerprint(settings, load_samples(settings.folder / "samples.json"))
    blacken(file_of(settings, kind, split))
    take_in(settings)
    assert plan_fingerprint(settings, load_samples(settings.folder / "samples.json")) != before


def test_a_student_that_was_chosen_on_another_val_mask_is_not_evaluated(make_run):
    settings = make_run(stage1={"epochs": 1})
    Run(settings).finish("stage1", stage1(settings))
    blacken(file_of(settings, "mask", "val"))
    take_in(settings)
    with pytest.raises(TrainingError, match=r"the best of them chosen on val, .* run snakemake .* stage1 -R stage1"):
        evaluate(settings)
    Run(settings).finish("stage1", stage1(settings))
    assert evaluate(settings)["num_val"] > 0
