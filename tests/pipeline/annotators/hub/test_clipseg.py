"""CLIPSeg in the `transformers` annotator, against one call of transformers' processor and network per prompt."""

import logging

import numpy as np
import pytest
import torch
import transformers as t
from tiny_networks import CLIPSEG, write_network

from pipeline.annotators.build import build_annotator
from pipeline.annotators.contract import check_maps
from pipeline.annotators.hub.prompted import ClipSeg
from pipeline.errors import AnnotatorError

IMAGES = np.random.default_rng(0).integers(0, 256, (3, 48, 64, 3), dtype=np.uint8)
CLASSES = ["cat", {"name": "rest", "prompts": ["rest"]}, {"name": "dog", "prompts": ["a dog", "puppy", "hound dog"]}]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return write_network(tmp_path_factory.mktemp("clipseg"), *CLIPSEG)


@pytest.fixture(scope="module")
def expected(folder):
    """Prompt -> sigmoid of the logits of transformers' own processor and network, float32 [3, 96, 96]."""
    network, processor = t.CLIPSegForImageSegmentation.from_pretrained(folder).eval(), CLIPSEG[1]()
    tokenizer, masks = t.CLIPTokenizer.from_pretrained(folder), {}
    for prompt in ("cat", "rest", "a dog", "puppy", "hound dog"):
        pixels = processor(list(IMAGES), return_tensors="pt")["pixel_values"]
        with torch.inference_mode():
            logits = network(**tokenizer([prompt] * 3, return_tensors="pt"), pixel_values=pixels).logits
        masks[prompt] = logits.sigmoid().numpy()
    return masks


@pytest.fixture
def build(folder, make_settings):
    def make(classes=CLASSES, background=None, background_from="auto", **section):
        overrides = {"data.classes": classes, "data.background": background, "data.ignore_values": [255]}
        overrides["annotate.transformers"] = {"model": str(folder), "background": background_from} | section
        return build_annotator(make_settings(annotator="transformers", **overrides))

    return make


def test_the_map_of_a_class_is_the_maximum_over_its_prompts(build, expected):
    annotator = build(normalise="none")
    maps = annotator(IMAGES)
    dog = np.max([expected[prompt] for prompt in ("a dog", "puppy", "hound dog")], axis=0)
    assert np.abs(maps - np.stack([expected["cat"], expected["rest"], dog], axis=1)).max() < 1e-5
    assert maps.std(axis=(2, 3)).min() > 1e-4
    check_maps(maps, 3, 3, annotator)
    for image, alone in zip(IMAGES, maps, strict=True):
        assert np.abs(annotator(image[None])[0] - alone).max() < 1e-5
    aliases = [*CLASSES[:2], {"name": "dog", "prompts": ["hound dog", "a dog", "puppy"]}]
    assert np.abs(build(aliases, normalise="none")(IMAGES) - maps).max() < 1e-5


def test_a_background_is_1_minus_the_others_by_default(build, expected):
    maps = build(background="rest")(IMAGES)
    dog = np.max([expected[prompt] for prompt in ("a dog", "puppy", "hound dog")], axis=0)
    others = expected["cat"] + dog
    assert np.abs(maps[:, 1] - np.clip(1 - others, 0, 1)).max() < 1e-5
    assert np.abs(maps[:, 0] - expected["cat"] / np.maximum(1, others)).max() < 1e-5
    prompted = build(background="rest", background_from="prompt", normalise="none")(IMAGES)
    assert np.abs(prompted[:, 1] - expected["rest"]).max() < 1e-5


def test_many_prompts_are_decoded_in_parts(build, monkeypatch):
    whole = build()(IMAGES)
    monkeypatch.setattr(ClipSeg, "max_rows", 4)
    assert np.abs(build()(IMAGES) - whole).max() < 1e-6


def test_prompts_are_embedded_once_and_read_from_disk_after_that(build, monkeypatch, tmp_path):
    maps = build()(IMAGES)
    assert len(list((tmp_path / "results/text_embeddings").glob("*.npz"))) == 1
    monkeypatch.setattr(ClipSeg, "embed", lambda *_: pytest.fail("embedded again"))
    assert np.array_equal(build()(IMAGES), maps)


def test_prompts_that_cannot_be_used_are_refused(build, caplog):
    caplog.set_level(logging.INFO)
    with pytest.raises(
        AnnotatorError, match=r"data.classes: the prompt 'd+' has 92 tokens, the text encoder takes at m"
    ):
        build(["cat", "d" * 90])
    with pytest.raises(AnnotatorError, match=r"data.classes: the prompt 'Cat' is given twice"):
        build(["cat", {"name": "dog", "prompts": ["Cat"]}])
    with pytest.raises(AnnotatorError, match=r"class_map is for networks with labels, but CLIPSeg is prompted"):
        build(class_map={"cat": [0]})
    with pytest.raises(AnnotatorError, match=r"takes square images, but .* 48 x 64; set .*input_size: \[64, 64\]"):
        build(input_size=[48, 64])
    with pytest.raises(AnnotatorError, match=r"score_threshold is for SAM 3 and detectors, but .* is a clipseg netw"):
        build(score_threshold=0.3)
    with pytest.raises(AnnotatorError, match=r"mask_model gives the masks of the boxes of a detector, but .* is a cli"):
        build(mask_model="facebook/sam2.1-hiera-large")


@pytest.mark.parametrize("background", [None, "rest"])
def test_maps_of_several_lists_are_those_of_each_list(build, background):
    lists = [[["cat"], ["rest"], ["a dog", "puppy"]], [["puppy"], ["rest"], ["a dog"]]]
    annotator = build(background=background)
    annotator.prepare_lists(lists)
    maps = annotator(IMAGES)
    assert maps.shape == (3, 6, 96, 96)
    for number, class_prompts in enumerate(lists):
        annotator.prepare(class_prompts)
        assert np.abs(maps[:, 3 * number : 3 * number + 3] - annotator(IMAGES)).max() < 1e-6
