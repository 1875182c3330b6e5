"""Universal networks of the `transformers` annotator, against transformers' own post-processing of tiny networks."""

import shutil

import numpy as np
import pytest
import torch
import transformers as t
from tiny_networks import UNIVERSAL, write_network

from pipeline.annotators.build import build_annotator
from pipeline.annotators.contract import check_maps
from pipeline.errors import AnnotatorError, NetworkError

IMAGES = np.random.default_rng(0).integers(0, 256, (2, 80, 80, 3), dtype=np.uint8)
CLASSES = ["cat", {"name": "thing", "prompts": ["traffic light", "wall"]}]  # labels 2, 0 + 1; 3 is of no class
GROUPS = [[2], [0, 1]]
TASK = "the task is semantic"


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    root = tmp_path_factory.mktemp("universal")
    return {name: write_network(root / name, *network) for name, network in UNIVERSAL.items()}


@pytest.fixture
def build(make_settings):
    def make(folder, **section):
        overrides = {"data.classes": CLASSES, "data.background": None, "data.ignore_values": [255]}
        overrides["annotate.transformers"] = {"model": str(folder)} | section
        return build_annotator(make_settings(annotator="transformers", **overrides))

    return make


def stock_scores(folder, name):
    """Scores of all labels by transformers' own processor, network and post-processing, float32 [2, 4, h, w]."""
    processor = UNIVERSAL[name][1]()
    network = t.AutoModelForUniversalSegmentation.from_pretrained(folder).eval()
    further = {}
    if name == "oneformer":
        tokens = t.CLIPTokenizer.from_pretrained(folder)([TASK], padding="max_length", max_length=77)
        further["task_inputs"] = torch.tensor(tokens["input_ids"]) * torch.tensor(tokens["attention_mask"])
        further["task_inputs"] = further["task_inputs"].repeat(2, 1)
    task = {"task_inputs": ["semantic"] * 2} if name == "oneformer" else {}
    pixels = processor(list(IMAGES), return_tensors="pt", **task)["pixel_values"]
    with torch.inference_mode():
        outputs = network(pixel_values=pixels, **further)
    sizes = [(64, 64)] * 2 if name.startswith("eomt") else None
    found = processor.post_process_semantic_segmentation(outputs, sizes, return_segmentation_scores=True)
    return np.stack([one["segmentation_scores"].numpy() for one in found])


@pytest.mark.parametrize("name", UNIVERSAL)
def test_maps_are_the_scores_of_transformers_divided_by_their_sum_above_1(name, build, folders):
    annotator = build(folders[name])
    maps = annotator(IMAGES)
    scores = stock_scores(folders[name], name)
    sums = np.stack([scores[:, group].sum(axis=1) for group in GROUPS], axis=1)
    assert sums.sum(axis=1).max() > 1  # the division matters
    assert np.abs(maps - sums / np.maximum(1, sums.sum(axis=1, keepdims=True))).max() < 1e-5
    assert maps.std(axis=(2, 3)).min() > 1e-4
    check_maps(maps, 2, 2, annotator)
    for image, alone in zip(IMAGES, maps, strict=True):
        assert np.abs(annotator(image[None])[0] - alone).max() < 1e-5


def test_sums_above_1_are_not_probabilities(build, folders):
    with pytest.raises(AnnotatorError, match=r"normalise is none, but the sums .* can exceed 1; set .*normalise: cap"):
        build(folders["eomt"], normalise="none")


def test_a_network_without_its_tokenizer_is_refused(build, folders, tmp_path):
    folder = shutil.copytree(folders["oneformer"], tmp_path / "net")
    (folder / "merges.txt").unlink()
    with pytest.raises(NetworkError, match=r"has no tokenizer.json, or vocab.json and merges.txt, which the"):
        build(folder)
    (folder / "merges.txt").write_text("")
    (folder / "vocab.json").write_text("no json")
    with pytest.raises(NetworkError, match=r"the tokenizer in .* cannot be read"):
        build(folder)
