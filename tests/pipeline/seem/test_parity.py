"""Our SEEM equals the official code: every tensor of two tiny official-format models, one of each block type.

The reference is in ../shared/parity, or in the folder of CONFORMALSAM_PARITY. A fresh clone checks each module with
test_boxes.py instead.
"""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from reference_data import PARITY, SET_IT, published_keys, seeded_weights

from pipeline.seem import Seem
from pipeline.seem.checkpoint import detect_config, rename_weights, unused_names, variant_name
from pipeline.seem.maps import network_input

TOLERANCE = 2e-5  # of a tensor's largest absolute value
HEADS = {"encoder_heads": 4, "decoder_heads": 4}  # the shapes do not tell them
TEXT_HEADS = 2
VOC_NAMES = [
    "aeroplane", "bicycle", "bird", "boat", "bottle", "bus", "car", "cat", "chair", "cow", "diningtable", "dog",
    "horse", "motorbike", "person", "pottedplant", "sheep", "sofa", "train", "tvmonitor",
]  # fmt: skip

pytestmark = pytest.mark.skipif(
    not PARITY.is_dir(),
    reason=f"no reference tensors of the official code in {PARITY}; {SET_IT}",
)


def reference_weights(name, reference):
    return seeded_weights(json.loads((PARITY / f"{name}.json").read_text()), seed=int(reference["seed"]))


@pytest.fixture(scope="module", params=["tiny_dw", "tiny_focal"])
def case(request, tmp_path_factory):
    """One tiny model and the official tensors."""
    reference = np.load(PARITY / f"{request.param}.npz")
    published = PARITY / f"{request.param}.pt"
    if not published.is_file():
        published = tmp_path_factory.mktemp("parity") / published.name
        torch.save(reference_weights(request.param, reference), published)
    seem = Seem.from_checkpoint(
        published, tokenizer=PARITY / "clip_tokenizer", text_heads=TEXT_HEADS, short_side=64, **HEADS
    )
    return seem, reference


@pytest.fixture(scope="module")
def intermediates(case):
    """Maps and queries of the reference image, module by module."""
    seem, reference = case
    with torch.inference_mode():
        pixels, geometry = network_input(reference["image_original"][None], 64, seem.config)
        features = seem.model.backbone(pixels)
        maps, finest = seem.model.pixel_decoder(features)
        memory = seem.model.read_image(pixels)
        queries = seem.model.mask_decoder(memory)
    return {
        "pixels": pixels, "geometry": geometry, "features": features, "maps": maps, "finest": finest,
        "memory": memory, "queries": queries,
    }  # fmt: skip


def assert_close(found, expected):
    found, expected = np.asarray(found), np.asarray(expected)
    assert found.shape == expected.shape
    assert np.abs(found - expected).max() <= TOLERANCE * np.abs(expected).max()


def test_the_seeded_weights_are_those_of_the_stored_checkpoint():
    stored = torch.load(PARITY / "tiny_dw.pt", weights_only=True)
    made = reference_weights("tiny_dw", np.load(PARITY / "tiny_dw.npz"))
    assert all(torch.equal(stored[name], made[name]) for name in made)


def test_network_input(case, intermediates):
    _, reference = case
    height, width = intermediates["geometry"].resized
    assert (height, width) == reference["image_resized"].shape[:2]
    assert_close(intermediates["pixels"], reference["input"])


def test_backbone(case, intermediates):
    for stage, found in enumerate(intermediates["features"], start=2):
        assert_close(found, case[1][f"res{stage}"])


@torch.inference_mode()
def test_pixel_decoder(case, intermediates):
    seem, reference = case
    decoder = seem.model.pixel_decoder
    assert_close(decoder.encode(intermediates["features"][-1]), reference["enc_features"])
    for level, found in enumerate(intermediates["maps"]):
        assert_close(found, reference[f"ms{level}"])
    assert_close(decoder.mask_features(intermediates["finest"]), reference["mask_features"])


def test_class_texts(case):
    seem, reference = case
    assert_close(seem.model.logit_scale.detach().exp(), np.exp(reference["logit_scale"]))
    assert_close(seem.text_embeddings([*VOC_NAMES, "background"]), reference["text_emb"])


@torch.inference_mode()
def test_tokens_and_prompts(case):
    seem, reference = case
    prompts = ["background", *VOC_NAMES]
    ids = seem._tokenize(prompts)
    assert np.array_equal(seem._padded(ids), reference["g_input_ids"])
    assert [len(row) for row in ids] == reference["g_attention_mask"].sum(axis=1).tolist()
    tokens, ends = seem._prompt_features(prompts)
    assert_close(torch.cat(tokens), reference["g_token_emb"])
    assert_close(ends, reference["g_class_emb"])


@torch.inference_mode()
def test_queries_after_every_layer(case, intermediates):
    seem, reference = case
    texts = torch.from_numpy(reference["text_emb"])
    names = [*(f"aux{i}" for i in range(4)), "pred"]
    for name, queries in zip(names, intermediates["queries"], strict=True):
        found = seem.model.predict(queries, intermediates["memory"], texts)
        assert_close(found.text_logits, reference[f"{name}_logits"])
        assert_close(found.mask_logits, reference[f"{name}_masks"])


def test_semantic_map(case):
    seem, reference = case
    image = reference["image_original"]
    assert_close(seem.semantic_map(image, VOC_NAMES), reference["sem_seg"])
    assert_close(seem.semantic_map(image, VOC_NAMES, background="prompt"), reference["sem_seg21"])
    with_void = seem.semantic_map(image, VOC_NAMES, background="void")
    assert_close(with_void[0], reference["sem_void"])
    assert_close(with_void[1:], reference["sem_seg"])


@torch.inference_mode()
def test_grounding_of_all_prompts_in_one_pass(case, intermediates):
    seem, reference = case
    tokens, ends = seem._prompt_features(["background", *VOC_NAMES])
    found = seem.model.ground(intermediates["memory"], torch.cat(tokens), ends)
    assert_close(found.mask_logits, reference["g_masks_all"])
    assert_close(found.text_logits[0], reference["g_similarity"])
    assert np.array_equal(found.text_logits[0].argmax(dim=0), reference["g_matched"])


@pytest.mark.parametrize(("joint", "name"), [(True, "grounding_mask"), (False, "gs_grounding_mask")])
def test_grounding_map(case, joint, name):
    seem, reference = case
    found = seem.grounding_map(reference["image_original"], ["background", *VOC_NAMES], joint=joint)
    expected = torch.from_numpy(reference[name])
    assert_close(found, expected.sigmoid())
    logits = torch.from_numpy(found).double().logit()
    certain = expected.abs() < 4  # beyond, a float32 probability has lost the digits of its logit
    assert_close(logits[certain], expected[certain].double())


def test_every_published_name_is_mapped():
    """The complete key lists of the four published networks, by name and shape."""
    for files, shapes in published_keys().items():
        weights = {name: torch.empty(shape, device="meta") for name, shape in shapes.items()}
        path = Path(files.split("+")[0])
        config = detect_config(weights, path, text_heads=8)
        assert variant_name(config) in files
        assert len(rename_weights(weights, config, path)) > len(weights) - len(unused_names(weights))
