"""SAM 3 and SAM3-LiteText in the `transformers` annotator, against a literal computation with one call per prompt."""

import shutil

import numpy as np
import pytest
import torch
import transformers as t
from safetensors.torch import load_file, save_file
from tiny_networks import SAM3, write_network

from pipeline.annotators.build import build_annotator
from pipeline.annotators.contract import check_maps
from pipeline.errors import AnnotatorError, ConfigError, NetworkError

IMAGES = np.random.default_rng(0).integers(0, 256, (3, 64, 64, 3), dtype=np.uint8)
CLASSES = ["cat", "rest", {"name": "dog", "prompts": ["a dog", "puppy", "hound dog"]}]
PROMPTS = ("cat", "rest", "a dog", "puppy", "hound dog")


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    root = tmp_path_factory.mktemp("sam3")
    return {name: write_network(root / name, *network) for name, network in SAM3.items()}


@pytest.fixture
def build(folders, make_settings):
    def make(folder="sam3", classes=CLASSES, background=None, **section):
        overrides = {"data.classes": classes, "data.background": background, "data.grid": [64, 64]}
        overrides |= {"data.ignore_values": [255]}
        overrides["annotate.transformers"] = {"model": str(folders.get(folder, folder))} | section
        return build_annotator(make_settings(annotator="transformers", **overrides))

    return make


def sigmoid(logits):
    return 1 / (1 + np.exp(-logits.double().numpy()))


THRESHOLDS = (0, 0.5, 1)


def literal(folder):
    """Threshold -> prompt -> probabilities, float64 [3, h, w]: the recipe, with a call of the network per mask."""
    network, tokenizer = t.AutoModel.from_pretrained(folder).eval(), t.AutoTokenizer.from_pretrained(folder)
    maps = {threshold: {prompt: [] for prompt in PROMPTS} for threshold in THRESHOLDS}
    for prompt in PROMPTS:
        words = tokenizer(prompt, padding="max_length", max_length=32, return_tensors="pt")
        for image in IMAGES:
            pixels = torch.tensor((image / 255 - 0.5) / 0.5, dtype=torch.float32).permute(2, 0, 1)[None]
            with torch.inference_mode():
                outputs = network(pixel_values=pixels, **words)
            presence = sigmoid(outputs.presence_logits)[0, 0]
            for threshold in THRESHOLDS:
                best = sigmoid(outputs.semantic_seg)[0, 0]
                for logit, mask in zip(outputs.pred_logits[0], outputs.pred_masks[0], strict=True):
                    score = sigmoid(logit) * presence
                    if score > threshold:
                        best = np.maximum(best, sigmoid(mask) * score)
                maps[threshold][prompt].append(presence * best)
    return {threshold: of_classes(masks) for threshold, masks in maps.items()}


def of_classes(masks):
    dog = np.max([masks[prompt] for prompt in PROMPTS[2:]], axis=0)
    return np.stack([masks["cat"], masks["rest"], dog], axis=1)


@pytest.fixture(scope="module")
def expected(folders):
    """Network -> threshold -> maps, float64 [3, K, h, w]."""
    return {name: literal(folder) for name, folder in folders.items()}


@pytest.mark.parametrize("name", SAM3)
def test_maps_are_those_of_the_recipe_with_one_call_per_prompt(name, build, expected):
    annotator = build(name, normalise="none")
    maps, of_recipe = annotator(IMAGES), expected[name][0.5]
    assert maps.shape == (3, 3, 32, 32)
    assert np.abs(maps - of_recipe).max() < 1e-5
    assert np.ptp(of_recipe, axis=1).max() > 1e-2  # the prompts have different maps
    assert maps.std(axis=(2, 3)).min() > 1e-3
    check_maps(maps, 3, 3, annotator)
    for image, alone in zip(IMAGES, maps, strict=True):
        assert np.abs(annotator(image[None])[0] - alone).max() < 1e-5
    aliases = [*CLASSES[:2], {"name": "dog", "prompts": ["hound dog", "a dog", "puppy"]}]
    assert np.abs(build(name, aliases, normalise="none")(IMAGES) - maps).max() < 1e-5


def test_instances_count_if_their_score_exceeds_the_threshold(build, expected):
    of_all, of_some, of_none = expected["sam3"].values()
    assert np.abs(build(score_threshold=0, normalise="none")(IMAGES) - of_all).max() < 1e-5
    assert np.abs(build(score_threshold=1, normalise="none")(IMAGES) - of_none).max() < 1e-5
    assert (of_all - of_some).max() > 1e-2 < (of_some - of_none).max()


def test_the_background_is_1_minus_the_others_and_sums_above_1_are_divided(build, expected):
    maps, of_recipe = build(background="rest")(IMAGES), expected["sam3"][0.5]
    others = of_recipe[:, 0] + of_recipe[:, 2]
    assert np.abs(maps[:, 1] - np.clip(1 - others, 0, 1)).max() < 1e-5
    prompted_maps = build()(IMAGES)
    sums = of_recipe.sum(axis=1, keepdims=True)
    assert sums.max() > 1
    assert np.abs(prompted_maps - of_recipe / np.maximum(1, sums)).max() < 1e-5


def test_masks_are_decoded_in_parts_that_fit_into_memory(build, caplog, monkeypatch):
    annotator = build()
    expected, sizes = annotator(IMAGES), []

    def small_memory(_, arguments):
        sizes.append(len(arguments["decoder_queries"]))
        if sizes[-1] > limit:
            raise torch.OutOfMemoryError("CUDA out of memory")

    annotator.model.mask_decoder.register_forward_pre_hook(lambda *a: small_memory(*a[::2]), with_kwargs=True)
    limit = 2
    assert np.abs(annotator(IMAGES) - expected).max() < 1e-6
    assert sizes == [4, *[2] * 7, 1]  # 3 images with 5 prompts each
    assert "a batch of 4 masks does not fit into memory; now using 2" in caplog.text
    limit = 0
    with pytest.raises(AnnotatorError, match=r"runs out with a single image; set .* annotate\.transformers\.inp"):
        annotator(IMAGES)


def test_prompts_are_embedded_once_and_read_from_disk_after_that(build, monkeypatch, tmp_path):
    maps = build()(IMAGES)
    assert len(list((tmp_path / "results/text_embeddings").glob("*.npz"))) == 1
    monkeypatch.setattr(t.CLIPTextModelWithProjection, "forward", lambda *_, **__: pytest.fail("embedded again"))
    assert np.array_equal(build()(IMAGES), maps)


def test_the_detector_of_a_video_model_is_used(build, folders, expected, tmp_path):
    shutil.copytree(folders["sam3"], tmp_path / "video")
    config = t.Sam3VideoConfig(detector_config=t.AutoConfig.from_pretrained(folders["sam3"]))
    config.architectures = ["Sam3VideoModel"]
    config.save_pretrained(tmp_path / "video")
    weights = {f"detector_model.{key}": value for key, value in load_file(tmp_path / "video/model.safetensors").items()}
    weights["tracker_model.mask_downsample.weight"] = torch.zeros(1)
    save_file(weights, tmp_path / "video/model.safetensors", {"format": "pt"})
    assert np.abs(build(tmp_path / "video", normalise="none")(IMAGES) - expected["sam3"][0.5]).max() < 1e-5


def test_the_fingerprint_depends_on_the_weights_and_the_threshold(build, folders, tmp_path):
    folder = shutil.copytree(folders["sam3"], tmp_path / "net")
    prints = [build().fingerprint, build(folder).fingerprint, build(score_threshold=0.3).fingerprint]
    weights = load_file(folder / "model.safetensors")
    weights["mask_decoder.semantic_projection.bias"] += 1e-3
    save_file(weights, folder / "model.safetensors", {"format": "pt"})
    prints.append(build(folder).fingerprint)
    assert prints[0] == prints[1]
    assert len(set(prints)) == 3


def test_a_lower_precision_gives_similar_maps(build, expected):
    rounded = build(precision="bfloat16", score_threshold=0, normalise="none")(IMAGES)
    assert rounded.dtype == np.float32
    assert 1e-5 < np.abs(rounded - expected["sam3"][0]).max() < 0.1


def test_the_size_of_the_input_is_a_setting(build):
    assert build(input_size=[96, 96])(IMAGES).shape == (3, 3, 48, 48)


def test_what_cannot_be_used_is_refused(build, folders, tmp_path):
    with pytest.raises(AnnotatorError, match=r"prompt 'd+' has 35 tokens, the text encoder takes at most 32; sh"):
        build(classes=["cat", "d" * 33])
    with pytest.raises(AnnotatorError, match=r"class_map is for networks with labels, but SAM 3 is prompted; remov"):
        build(class_map={"cat": [0]})
    for size in ([60, 60], [64, 56]):
        with pytest.raises(AnnotatorError, match=r"square images whose side is a multiple of 8, but .*: \[64, 64\]$"):
            build(input_size=size)
    with pytest.raises(ConfigError, match=r"annotate\.transformers\.score_threshold .*less than or equal to 1"):
        build(score_threshold=1.5)
    folder = shutil.copytree(folders["sam3"], tmp_path / "net")
    (folder / "merges.txt").unlink()
    with pytest.raises(NetworkError, match=r"has no tokenizer.json, or vocab.json and merges.txt, which the network's"):
        build(folder)


def test_the_licence_of_the_weights_is_named_whatever_the_folder_is_called(build, folders, tmp_path, caplog):
    build(shutil.copytree(folders["sam3_lite_text"], tmp_path / "net"))
    assert "net are under the SAM License, or derived from such weights (SAM3-LiteText" in caplog.text
