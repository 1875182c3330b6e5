"""The `seem` annotator: the order of channels, cached text embeddings, batches that fit into memory, and errors."""

import logging

import numpy as np
import pytest
import torch
from tiny_seem import UNTOLD, write_checkpoint

from pipeline.annotators.build import build_annotator
from pipeline.annotators.contract import check_maps
from pipeline.errors import AnnotatorError, ConfigError, UserError
from pipeline.seem import Seem

IMAGES = np.random.default_rng(0).integers(0, 256, (3, 64, 96, 3), dtype=np.uint8)
CLASSES = ["cat", {"name": "background", "prompts": ["background", "wall"]}, {"name": "dog", "prompts": ["dog", "pup"]}]


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    """Folder of a converted tiny network."""
    folder = tmp_path_factory.mktemp("tiny")
    published = write_checkpoint(folder / "focal.pt", "focal")
    Seem.from_checkpoint(published, folder / "tokenizer", **UNTOLD).save_pretrained(folder / "converted")
    return folder / "converted"


@pytest.fixture
def build(checkpoint, make_settings):
    def make(classes=CLASSES, background="background", background_from="prompt", **seem_settings):
        seem_settings["background"] = background_from
        section = {"checkpoint": str(checkpoint), "short_side": 64, "templates": ["{}.", "a {}."]} | seem_settings
        overrides = {"data.classes": classes, "data.background": background, "data.ignore_values": [255]}
        return build_annotator(make_settings(annotator="seem", **{"annotate.seem": section}, **overrides))

    return make


@pytest.fixture
def plain(checkpoint):
    """The same network without the adapter."""
    return Seem.from_pretrained(checkpoint, templates=["{}.", "a {}."])


def native(seem, names, background, **options):
    texts = seem.class_texts(names, background, **options)
    return seem.semantic_maps(IMAGES, texts, normalise="cap", short_side=64, size="native")


def test_a_background_with_a_prompt_has_the_channel_of_its_class(build, plain):
    maps = build()(IMAGES)
    assert maps.shape == (3, 3, 16, 24)
    expected = native(plain, ["cat", ["background", "wall"], ["dog", "pup"]], "none")
    assert np.array_equal(maps, np.minimum(expected, 1))


@pytest.mark.parametrize("background", ["void", "complement"])
def test_a_background_without_a_prompt_has_that_channel_too(build, plain, background):
    expected = native(plain, ["cat", ["dog", "pup"]], background)[:, [1, 0, 2]]
    assert np.array_equal(build(background_from=background)(IMAGES), np.minimum(expected, 1))


def test_without_a_background_class_there_is_no_background_channel(build, plain):
    maps = build(classes=["cat", "dog"], background=None)(IMAGES)
    assert np.array_equal(maps, np.minimum(native(plain, ["cat", "dog"], "none"), 1))


@pytest.mark.parametrize("aliases", ["max", "mean"])
def test_grounding_gives_one_mask_per_class(build, plain, aliases):
    maps = build(mode="grounding", aliases=aliases, normalise="cap")(IMAGES)
    masks = plain.grounding_maps(IMAGES, ["cat", "background", "wall", "dog", "pup"], short_side=64, size="native")
    combine = np.max if aliases == "max" else np.mean
    expected = np.stack([masks[:, 0], combine(masks[:, 1:3], axis=1), combine(masks[:, 3:5], axis=1)], axis=1)
    # prompts in the order background, cat, dog: tokens attend to each other, but not by their position
    assert np.abs(maps - expected / np.maximum(expected.sum(axis=1, keepdims=True), 1)).max() < 1e-5


def test_the_background_of_grounding_is_the_complement_of_the_others(build):
    maps = build(mode="grounding", background_from="complement", joint=False)(IMAGES)
    foreground = maps[:, 0] + maps[:, 2]
    assert np.allclose(maps[:, 1], np.clip(1 - foreground, 0, 1), atol=1e-6)


@pytest.mark.parametrize(
    "options",
    [{}, {"mode": "grounding"}, {"normalise": "sum"}, {"precision": "bfloat16"}, {"background_from": "void"}],
)
def test_maps_keep_the_contract(build, options):
    annotator = build(**options)
    check_maps(annotator(IMAGES), 3, 3, annotator)


def test_class_texts_are_embedded_once_and_read_from_disk_after_that(build, monkeypatch, caplog, tmp_path):
    with caplog.at_level(logging.INFO):
        maps = build()(IMAGES)
    assert "class texts, 2 sentences per name: 5/5 names" in caplog.text  # background, wall, cat, dog, pup
    (cached,) = (tmp_path / "results/text_embeddings").glob("*.npz")
    monkeypatch.setattr(Seem, "_embed", lambda *_: pytest.fail("embedded again"))
    assert np.array_equal(build()(IMAGES), maps)
    monkeypatch.undo()
    cached.write_bytes(cached.read_bytes()[:-40])
    caplog.clear()
    assert np.array_equal(build()(IMAGES), maps)
    assert "is damaged" in caplog.text


def test_other_prompts_or_templates_have_their_own_embeddings(build, tmp_path):
    build()
    build(templates=["the {}."])
    build(classes=["cat", "background", "horse"])
    assert len(list((tmp_path / "results/text_embeddings").glob("*.npz"))) == 3


@pytest.mark.parametrize("error", [torch.OutOfMemoryError("CUDA out of memory"), RuntimeError("not enough memory: x")])
def test_the_batch_is_halved_until_it_fits(build, monkeypatch, error):
    annotator = build()
    expected = annotator(IMAGES)
    sizes, annotate = [], annotator.annotate

    def narrow(images):
        sizes.append(len(images))
        if len(images) > 1:
            raise error
        return annotate(images)

    monkeypatch.setattr(annotator, "annotate", narrow)
    assert np.abs(annotator(IMAGES) - expected).max() < 1e-6
    assert sizes == [3, 1, 1, 1]
    annotator(IMAGES)
    assert sizes[4:] == [1, 1, 1]  # the smaller batch is kept


def test_a_single_image_that_does_not_fit_is_an_error_with_a_fix(build, monkeypatch):
    annotator = build()
    monkeypatch.setattr(annotator, "annotate", lambda images: (_ for _ in ()).throw(torch.OutOfMemoryError("CUDA")))
    with pytest.raises(AnnotatorError, match=r"memory runs out with a single image; set a smaller data.grid"):
        annotator(IMAGES)


def test_another_error_is_raised_again(build, monkeypatch):
    annotator = build()
    monkeypatch.setattr(annotator, "annotate", lambda images: (_ for _ in ()).throw(RuntimeError("bad shape")))
    with pytest.raises(RuntimeError, match="bad shape"):
        annotator(IMAGES)


def test_the_fingerprint_depends_on_what_changes_maps_only(build):
    threads = torch.get_num_threads()
    prints = {
        name: build(**options).fingerprint
        for name, options in {
            "same": {}, "threads": {"threads": 1}, "mode": {"mode": "grounding"}, "templates": {"templates": ["{}."]},
            "short_side": {"short_side": 96}, "background": {"background_from": "void"},
        }.items()
    }  # fmt: skip
    torch.set_num_threads(threads)
    assert prints["threads"] == prints["same"]
    assert len(set(prints.values())) == 5


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"checkpoint": "nowhere"}, r"annotate.seem.checkpoint: nowhere has no config.json; create the folder: conf"),
        ({"classes": ["cat", "background", {"name": "dog", "prompts": ["Cat"]}]}, "data.classes: the prompt 'Cat' is"),
        ({"classes": ["cat", "background", "d" * 90]}, r"data.classes: the prompt 'd+\.' has 93 tokens"),
        ({"device": "cuda:99"}, "annotate.seem.device is cuda:99, but torch finds"),
    ],
)
def test_a_mistake_is_named_with_its_setting(build, options, message):
    with pytest.raises(UserError, match=message):
        build(**options)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"mode": "grounding", "background": "void"}, "background void needs mode semantic; set mode: semantic"),
        ({"templates": ["a photo"]}, r"annotate.seem.templates\[0\] must"),
        ({"templates": []}, r"annotate.seem.templates has the wrong length"),
        ({"precission": "float16"}, "did you mean annotate.seem.precision"),
    ],
)
def test_contradictory_settings_are_refused_before_anything_is_loaded(make_settings, options, message):
    with pytest.raises(ConfigError, match=message):
        make_settings(annotator="seem", **{"annotate.seem": {"checkpoint": "x"} | options})


def test_an_empty_class_list_and_a_blank_prompt_are_refused_before_anything_is_loaded(make_settings):
    with pytest.raises(ConfigError, match=r"data\.classes has the wrong length: list should have at least 2 items"):
        make_settings(**{"data.classes": []})
    with pytest.raises(ConfigError, match=r"data\.classes\[1\]\.prompts\[0\]: ' ' is blank; write a text"):
        make_settings(**{"data.classes": ["background", {"name": "dog", "prompts": [" "]}]})


@pytest.mark.parametrize("mode", ["semantic", "grounding"])
@pytest.mark.parametrize("background", ["prompt", "complement"])
def test_maps_of_several_lists_are_those_of_each_list(build, mode, background):
    lists = [
        [["cat"], ["background", "wall"], ["dog", "pup"]],
        [["kitten"], ["background", "wall"], ["dog", "pup"]],
        [["cat"], ["background", "wall"], ["dog"]],
    ]
    annotator = build(mode=mode, background_from=background)
    annotator.prepare_lists(lists)
    maps = annotator(IMAGES)
    assert maps.shape == (3, 9, 16, 24)
    for number, class_prompts in enumerate(lists):
        annotator.prepare(class_prompts)
        assert np.abs(maps[:, 3 * number : 3 * number + 3] - annotator(IMAGES)).max() < 1e-6
    assert np.abs(maps[:, :3] - maps[:, 3:6]).max() > 1e-3  # the wording matters
