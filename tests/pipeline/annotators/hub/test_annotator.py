"""The `transformers` annotator: every architecture against transformers' own processing of a tiny network."""

import json
import shutil

import numpy as np
import pytest
import torch
import transformers as t
from safetensors.torch import load_file, save_file
from stage_runs import forget_maps, run_stages
from tiny_networks import SEMANTIC, write_network

from pipeline.annotators.batches import FittingBatches
from pipeline.annotators.build import build_annotator
from pipeline.annotators.contract import check_maps
from pipeline.errors import AnnotatorError, ConfigError, NetworkError
from pipeline.stages.annotate import annotate
from pipeline.store import open_probabilities

IMAGES = np.random.default_rng(0).integers(0, 256, (3, 48, 64, 3), dtype=np.uint8)
CLASSES = ["Cat", {"name": "thing", "prompts": ["traffic_light", "wall"]}, "dog"]  # labels 2, 0 + 1, 3
GROUPS = [[2], [0, 1], [3]]


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """Architecture -> folder of a tiny network, each written once."""
    root, written = tmp_path_factory.mktemp("networks"), {}

    def folder(name):
        if name not in written:
            written[name] = write_network(root / name, *SEMANTIC[name])
        return written[name]

    return folder


@pytest.fixture
def build(folders, make_settings):
    def make(folder, classes=CLASSES, background_class=None, **section):
        overrides = {"data.classes": classes, "data.background": background_class, "data.grid": [48, 64]}
        overrides |= {"data.ignore_values": [255], "annotate.transformers": {"model": str(folder)} | section}
        return build_annotator(make_settings(annotator="transformers", **overrides))

    return make


def logits_of(folder, processor):
    """Logits of transformers' own processor and network, float32 [3, 4, h, w]."""
    network = t.AutoModelForSemanticSegmentation.from_pretrained(folder).eval()
    with torch.inference_mode():
        return network(**processor()(list(IMAGES), return_tensors="pt")).logits


@pytest.mark.parametrize("name", SEMANTIC)
def test_maps_of_semantic_networks_are_the_sums_of_the_softmax(name, build, folders):
    annotator = build(folders(name))
    maps = annotator(IMAGES)
    probabilities = logits_of(folders(name), SEMANTIC[name][1]).softmax(dim=1).numpy()
    expected = np.stack([probabilities[:, group].sum(axis=1) for group in GROUPS], axis=1)
    assert np.abs(maps - expected).max() < 1e-5
    assert maps.std(axis=(2, 3)).min() > 1e-4  # the maps have contrast
    check_maps(maps, 3, 3, annotator)
    assert annotator.space == "probability"
    for image, alone in zip(IMAGES, maps, strict=True):
        assert np.abs(annotator(image[None])[0] - alone).max() < 1e-5


def test_logits_are_kept_if_every_class_has_one_label_and_no_other_label_counts(build, folders):
    folder = folders("segformer")
    logits = logits_of(folder, SEMANTIC["segformer"][1]).numpy()
    classes = ["dog", "kitty", "wall", "traffic light"]
    annotator = build(folder, classes)
    assert annotator.space == "logits"
    assert np.abs(annotator(IMAGES) - logits[:, [3, 2, 0, 1]]).max() < 1e-4
    assert build(folder, classes[:2]).space == "probability"
    two = build(folder, classes[:2], normalise="sum")
    assert two.space == "logits"
    assert np.abs(two(IMAGES) - logits[:, [3, 2]]).max() < 1e-4


def test_a_class_without_a_label_has_probability_0_and_is_said(build, folders, caplog):
    annotator = build(folders("segformer"), ["cat", "pole"], class_map={"pole": []})
    assert annotator(IMAGES)[:, 1].max() == 0
    assert annotator.without_prompt == ["pole"]
    assert "annotate: no prompt or channel means pole, so its map is 0" in caplog.text


def test_the_labels_of_each_class_are_listed_before_the_run(build, folders, caplog):
    caplog.set_level("INFO")
    build(folders("segformer"))
    assert "Cat: cat, kitty (2); thing: wall (0) + traffic light (1); dog: dog (3)" in caplog.text


def test_the_complement_is_1_minus_the_others(build, folders):
    folder = folders("segformer")
    maps = build(folder, ["cat", "rest", "dog"], "rest", background="complement")(IMAGES)
    probabilities = logits_of(folder, SEMANTIC["segformer"][1]).softmax(dim=1).numpy()
    assert np.abs(maps[:, 1] - probabilities[:, :2].sum(axis=1)).max() < 1e-5
    assert np.abs(maps.sum(axis=1) - 1).max() < 1e-5


def test_the_size_of_the_input_is_a_setting(build, folders):
    assert build(folders("segformer"), input_size=[32, 96])(IMAGES).shape == (3, 3, 8, 24)


def test_a_lower_precision_gives_similar_maps(build, folders):
    exact, rounded = (build(folders("segformer"), precision=p)(IMAGES) for p in ("float32", "bfloat16"))
    assert rounded.dtype == np.float32
    assert 0 < np.abs(rounded - exact).max() < 0.05


def test_the_fingerprint_depends_on_what_changes_maps_only(build, folders, tmp_path):
    original, moved = folders("segformer"), tmp_path / "moved"
    shutil.copytree(original, moved)
    prints = {"same": build(original).fingerprint, "moved": build(moved).fingerprint}
    (moved / "README.md").write_text("a note")
    prints["note"] = build(moved).fingerprint
    prints["size"] = build(moved, input_size=[32, 32]).fingerprint
    weights = load_file(moved / "model.safetensors")
    weights["decode_head.classifier.bias"][0] += 1e-3
    save_file(weights, moved / "model.safetensors", {"format": "pt"})
    prints["weights"] = build(moved).fingerprint
    shutil.copytree(original, moved, dirs_exist_ok=True)
    processor = json.loads((moved / "preprocessor_config.json").read_text())
    (moved / "preprocessor_config.json").write_text(json.dumps(processor | {"image_mean": [0, 0, 0.5]}))
    prints["mean"] = build(moved).fingerprint
    assert prints["same"] == prints["moved"] == prints["note"]
    assert len(set(prints.values())) == 4


def test_an_interrupted_run_goes_on_to_the_same_maps(folders, make_settings, write_images, tmp_path, monkeypatch):
    write_images(tmp_path / "data", [f"im{i:02}" for i in range(14)])
    section = {"model": str(folders("segformer")), "class_map": {"background": ["wall"]}}
    settings = make_settings(annotator="transformers", **{"annotate.transformers": section})
    run_stages(settings, "prepare", "annotate")
    path = settings.folder / "probs.zarr"
    expected = [open_probabilities(path).probabilities(i).maps for i in range(12)]
    forget_maps(settings)
    sizes, maps = [], FittingBatches.maps

    def interrupted(batches, network, images):
        sizes.append(len(images))
        if sizes.count(2) == 2 and "interrupted" not in sizes:
            sizes.append("interrupted")
            raise KeyboardInterrupt
        return maps(batches, network, images)

    monkeypatch.setattr(FittingBatches, "maps", interrupted)
    with pytest.raises(KeyboardInterrupt):
        annotate(settings)
    assert annotate(settings)["num_done"] == 12
    assert sizes[: sizes.index("interrupted")] == [1] * 6 + [2, 2]  # six are compared with their masks
    assert sizes[sizes.index("interrupted") + 1 :] == [2, 2]  # eight of twelve were done
    resumed = [open_probabilities(path).probabilities(i).maps for i in range(12)]
    assert all(np.array_equal(a, b) for a, b in zip(resumed, expected, strict=True))


def test_weights_of_nvidia_are_named_with_their_licence(build, folders, tmp_path, caplog):
    shutil.copytree(folders("segformer"), tmp_path / "segformer-b0-ade")
    build(tmp_path / "segformer-b0-ade")
    assert "are under NVIDIA's source code licence: research and evaluation only" in caplog.text
    caplog.clear()
    build(folders("segformer"))
    assert "licence" not in caplog.text


def changed(folder, to, **content):
    """A copy of a folder whose config.json has other entries."""
    shutil.copytree(folder, to)
    config = json.loads((to / "config.json").read_text())
    (to / "config.json").write_text(json.dumps(config | content))
    return to


def test_networks_that_cannot_be_used_are_refused(build, folders, tmp_path, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    folder = folders("segformer")
    with pytest.raises(
        NetworkError, match=r"annotate.transformers.model is no/where, which is not a folder, and the h"
    ):
        build("no/where")
    other = changed(folder, tmp_path / "other", architectures=["SegformerForImageClassification"])
    with pytest.raises(AnnotatorError, match=r"has the architecture SegformerForImageClassification, expected ...ForS"):
        build(other)
    weights = load_file(other / "model.safetensors")
    save_file(
        {k: v for k, v in weights.items() if "classifier" not in k}, other / "model.safetensors", {"format": "pt"}
    )
    changed(other, tmp_path / "headless", architectures=["SegformerForSemanticSegmentation"])
    with pytest.raises(NetworkError, match=r"lacks 2 of its network's weights, e.g. decode_head.classifier.bias; copy"):
        build(tmp_path / "headless")
    with pytest.raises(ConfigError, match=r"annotate\.transformers\.device is cuda:99, but torch finds"):
        build(folder, device="cuda:99")


def test_a_class_map_and_class_wise_thresholds_do_not_mix(make_settings):
    section = {"model": "x", "class_map": {"cat": []}}
    with pytest.raises(ConfigError, match=r"annotate.transformers.class_map has no label for cat, and under class_thr"):
        make_settings(
            annotator="transformers",
            **{"annotate.transformers": section, "calibrate.variant": "image", "class_thresholds": "each"},
        )
