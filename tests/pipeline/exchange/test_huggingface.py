"""The folder for Hugging Face: `datasets` reads images, labels and names from it, without the network."""

import json

import numpy as np
import pytest
import yaml
from datasets import disable_progress_bars, load_dataset
from hypothesis import HealthCheck, given, settings
from label_store import NAMES, NAN, at_own_size, labels_and_sizes, write_label_store
from PIL import Image

from pipeline.exchange import export_labels
from pipeline.exchange.huggingface import card

QUICK = settings(max_examples=3, deadline=None, suppress_health_check=[HealthCheck.too_slow])


@pytest.fixture(autouse=True)
def offline(monkeypatch):
    monkeypatch.setattr("datasets.config.HF_HUB_OFFLINE", True)
    disable_progress_bars()


@QUICK
@given(labels_and_sizes())
def test_the_standard_reader_gives_back_images_and_labels(tmp_path_factory, case):
    labels, sizes = case
    run = tmp_path_factory.mktemp("run")
    folder = export_labels(write_label_store(run, labels, sizes), "huggingface").folder
    data = load_dataset(str(folder), split="train", cache_dir=str(run / "cache"))
    assert data["id"] == [f"im_{i}" for i in range(len(sizes))]
    assert list(data.features["pixels"]) == NAMES
    assert json.loads((folder / "id2label.json").read_text()) == {str(k): name for k, name in enumerate(NAMES)}
    for i, (row, size) in enumerate(zip(data, sizes, strict=True)):
        label = np.array(row["label"])
        assert np.array_equal(label, at_own_size(labels[0, i], size))
        with Image.open(run / f"images/im_{i}.png") as photograph:
            assert np.array_equal(np.array(row["image"]), np.array(photograph))
        assert row["keep_rate"] == pytest.approx((label != 255).mean())
        assert row["pixels"] == {name: (label == k).sum() for k, name in enumerate(NAMES)}


def test_the_card_describes_the_labels_and_says_that_no_licence_is_stated(tmp_path):
    labels = np.array([[[[0, NAN]]]], np.float32)
    folder = export_labels(write_label_store(tmp_path, labels, [(1, 2)]), "huggingface").folder
    _, head, text = (folder / "README.md").read_text().split("---\n", 2)
    assert "license" not in yaml.safe_load(head)
    assert "# license: none is stated" in head
    assert yaml.safe_load(head)["task_categories"] == ["image-segmentation"]
    assert "variant pixel, alpha 0.1, rule paper" in text
    assert "| 3 | newt |" in text
    assert "annotator | not recorded" in text


def test_the_card_has_held_out_estimates_that_exist():
    held_out = {"coverage": {"value": 0.9, "low": 0.85, "high": 0.95}, "precision": None}
    facts = {"num_images": 3, "classes": ["a"], "annotator": "x", "variant": "v", "alpha": 0.1, "rule": "r"}
    facts |= {
        "format": "huggingface",
        "licence": None,
        "annotator_licence": "MIT",
        "coverage_target": 0.9,
        "guarantee": None,
        "versions": {"numpy": "2.0"},
    }
    text = card(facts | {"num_labeled": 5, "fingerprint": "f", "held_out": held_out})
    assert "coverage on held-out labeled images | 0.900 (95 % interval 0.850 to 0.950)" in text
    assert "precision on" not in text
    assert ", 5 labeled images" in text
