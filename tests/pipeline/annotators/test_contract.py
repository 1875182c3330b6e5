"""Adapters: an exported network with its channels mapped to the classes of a run, and a factory of the user."""

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from pipeline.annotators.build import build_annotator
from pipeline.annotators.contract import check_maps
from pipeline.errors import AnnotatorError

WEIGHT = np.random.default_rng(0).normal(size=(5, 3, 1, 1)).astype(np.float32)
IMAGES = np.random.default_rng(1).integers(0, 256, (3, 16, 24, 3), dtype=np.uint8)
MEAN, STD = [0.5, 0.4, 0.3], [0.2, 0.3, 0.4]


@pytest.fixture
def build(tmp_path, make_settings):
    """Annotator of a network that is one 1x1 convolution to five channels."""

    def make(shape=("B", 3, "H", "W"), **onnx_settings):
        image = helper.make_tensor_value_info("image", TensorProto.FLOAT, list(shape))
        logits = helper.make_tensor_value_info("logits", TensorProto.FLOAT, None)
        node = helper.make_node("Conv", ["image", "weight"], ["logits"])
        graph = helper.make_graph([node], "g", [image], [logits], [numpy_helper.from_array(WEIGHT, "weight")])
        (tmp_path / "data").mkdir(exist_ok=True)
        onnx.save(
            helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9),
            tmp_path / "data/net.onnx",
        )
        section = {
            "model": "net.onnx", "mean": MEAN, "std": STD,
            "class_map": {"background": [0], "cat": [3], "dog": [1]},
        } | onnx_settings  # fmt: skip
        settings = make_settings(annotator="onnx", **{"annotate.onnx": section})
        return build_annotator(settings)

    return make


def network_output(images):
    inputs = (images / 255.0 - MEAN) / STD
    return np.einsum("bhwc,kc->bkhw", inputs, WEIGHT[:, :, 0, 0])


def softmax(values):
    exponentials = np.exp(values - values.max(axis=1, keepdims=True))
    return exponentials / exponentials.sum(axis=1, keepdims=True)


def test_with_one_channel_per_class_the_maps_are_the_chosen_logits(build):
    annotator = build()
    assert annotator.space == "logits"
    assert np.abs(annotator(IMAGES) - network_output(IMAGES)[:, [0, 3, 1]]).max() < 1e-4


def test_several_channels_of_a_class_are_summed_as_probabilities(build):
    annotator = build(class_map={"background": [0, 4], "cat": [3], "dog": [1]})
    p = softmax(network_output(IMAGES)[:, [0, 4, 3, 1]])
    assert annotator.space == "probability"
    assert np.abs(annotator(IMAGES) - np.stack([p[:, 0] + p[:, 1], p[:, 2], p[:, 3]], axis=1)).max() < 1e-5


def test_channels_of_no_class_may_take_part_in_the_softmax(build):
    annotator = build(channels=[0, 1, 2, 3])
    p = softmax(network_output(IMAGES)[:, :4])
    assert np.abs(annotator(IMAGES) - p[:, [0, 3, 1]]).max() < 1e-5


@pytest.mark.parametrize("channels", [None, [0, 1, 2, 3, 4]])
def test_a_class_without_a_channel_has_probability_0_everywhere(build, channels):
    annotator = build(class_map={"background": [0], "cat": [], "dog": [1]}, channels=channels)
    p = softmax(network_output(IMAGES)[:, channels or [0, 1]])
    assert annotator.space == "probability"
    maps = annotator(IMAGES)
    assert (maps[:, 1] == 0).all()
    assert np.abs(maps[:, [0, 2]] - p[:, :2]).max() < 1e-5


def test_classes_without_a_channel_are_named_once_in_the_log(build, caplog):
    annotator = build(class_map={"background": [0, 1], "cat": [], "dog": []})
    annotator(IMAGES)
    assert [record.getMessage() for record in caplog.records] == [
        "annotate: no prompt or channel means cat, dog, so their maps are 0 and their pixels carry other labels"
    ]


def test_a_bias_is_added_to_the_logits_of_its_class(build):
    biased, plain = build(logit_bias={"cat": 2.5, "dog": -1.0}), build()
    assert biased.space == "logits"
    assert np.array_equal(biased(IMAGES), plain(IMAGES) + np.float32([0, 2.5, -1])[:, None, None])
    assert biased.fingerprint != plain.fingerprint


def constant_maps(build, **onnx_settings):
    """One pixel of a network that returns [log 1, log 2, log 3, log 4, log 10], or those probabilities over 20."""
    annotator = build(**onnx_settings)
    parts = np.array([1, 2, 3, 4, 10], np.float32)
    output = np.log(parts) if onnx_settings.get("output", "logits") == "logits" else parts / 20
    return annotator._to_classes(output.reshape(1, 5, 1, 1).astype(np.float32))[0, :, 0, 0]


@pytest.mark.parametrize("output", ["logits", "probabilities"])
def test_a_bias_multiplies_every_channel_of_its_class_before_they_are_normalised(build, output):
    """Countable by hand: weights 1, 2, 3, 4 and 10; a bias of log 5 makes the cat's 2 + 3 a 10 + 15."""
    class_map, bias = {"background": [0], "cat": [1, 2], "dog": [3]}, {"cat": float(np.log(5))}
    common = {"output": output, "class_map": class_map}
    assert constant_maps(build, **common) == pytest.approx(np.array([1, 5, 4]) / 10)
    assert constant_maps(build, **common, logit_bias=bias) == pytest.approx(np.array([1, 25, 4]) / 30)
    everything = [0, 1, 2, 3, 4]  # channel 4 has no class: its 10 is in the denominator only
    assert constant_maps(build, **common, logit_bias=bias, channels=everything) == pytest.approx(
        np.array([1, 25, 4]) / 40
    )


def test_one_bias_for_all_channels_changes_nothing(build):
    class_map = {"background": [0], "cat": [1, 2], "dog": [3]}
    for output in ("logits", "probabilities"):
        same = dict.fromkeys(class_map, 80.0)
        plain = constant_maps(build, output=output, class_map=class_map)
        biased = constant_maps(build, output=output, class_map=class_map, logit_bias=same)
        assert biased == pytest.approx(plain, rel=1e-5)  # a logit of 80 has an error of 4e-6


def test_a_network_of_fixed_batch_gives_the_same_maps(build):
    fixed = build(shape=(2, 3, 16, 24))(IMAGES)
    assert fixed.shape == (3, 3, 16, 24)
    assert np.abs(fixed - build()(IMAGES)).max() < 1e-5


def test_images_are_resized_to_the_input_size(build):
    assert build(input_size=[32, 40])(IMAGES).shape == (3, 3, 32, 40)


def test_the_fingerprint_depends_on_the_settings(build):
    assert build().fingerprint == build().fingerprint
    assert build().fingerprint != build(mean=[0.0, 0.0, 0.0]).fingerprint
    assert build(threads=2).fingerprint == build().fingerprint


@pytest.mark.parametrize(
    ("onnx_settings", "message"),
    [
        ({"model": "gone.onnx"}, r"no network at .*gone.onnx; correct annotate.onnx.model"),
        ({"class_map": {"background": [0], "cat": [3]}}, "class_map has no entry for dog"),
        ({"class_map": {"background": [0], "cat": [3], "dgo": [1]}},
         "'dgo', which is not in data.classes; did you mean dog"),
        ({"class_map": {"background": [0], "cat": [3], "dog": [3]}}, r"uses channels \[3\] more than once"),
        ({"channels": [0, 3]}, r"channels lacks \[1\]"),
        ({"class_map": {"background": [], "cat": [], "dog": []}}, "no channel for any class; add the channels"),
        ({"logit_bias": {"backgruond": 5.0}},
         "logit_bias names 'backgruond', which is not in data.classes; did you mean background"),
        ({"class_map": {"background": [0], "cat": [], "dog": [3]}, "logit_bias": {"cat": 1.0}},
         "logit_bias names cat, but annotate.onnx.class_map has no channel for them; remove them"),
    ],
)  # fmt: skip
def test_a_wrong_setting_is_named(build, onnx_settings, message):
    with pytest.raises(AnnotatorError, match=message):
        build(**onnx_settings)


def test_a_channel_that_the_network_lacks_is_named(build):
    annotator = build(class_map={"background": [0], "cat": [3], "dog": [9]})
    with pytest.raises(AnnotatorError, match="channel 9, but the network has 5 channels; use 0 to 4"):
        annotator(IMAGES)


def test_a_fixed_input_size_cannot_be_changed(build):
    with pytest.raises(AnnotatorError, match=r"input_size is \[8, 8\], but the network takes only \[16, 24\]"):
        build(shape=(1, 3, 16, 24), input_size=[8, 8])


def test_a_file_that_is_no_network_is_refused(build, tmp_path):
    build()
    (tmp_path / "data/junk.onnx").write_bytes(b"junk")
    with pytest.raises(AnnotatorError, match="not a network that onnxruntime can run"):
        build(model="junk.onnx")


@pytest.mark.parametrize("factory", ["no_such_module:build", "noisy_annotator:no_such_function"])
def test_a_factory_that_cannot_be_loaded_is_named(make_settings, factory):
    settings = make_settings(factory=factory)
    with pytest.raises(AnnotatorError, match=f"factory {factory} cannot be loaded"):
        build_annotator(settings)


@pytest.mark.parametrize(
    ("maps", "message"),
    [
        (np.zeros((1, 2, 4, 4), np.float32), r"shape \(1, 2, 4, 4\), expected \[1, 3, h, w\]"),
        (np.full((1, 3, 4, 4), np.nan, np.float32), "NaN or infinite"),
        (np.full((1, 3, 4, 4), 1e39), "NaN or infinite"),
        (np.full((1, 3, 4, 4), 1.5, np.float32), r"values from 1.5 to 1.5, expected probabilities in \[0, 1\]; fix"),
    ],
)
def test_maps_that_break_the_contract_are_refused(make_settings, maps, message):
    settings = make_settings(**{"python.arguments": {"space": "probability"}})
    annotator = build_annotator(settings)
    with pytest.raises(AnnotatorError, match=message):
        check_maps(maps, 1, 3, annotator)
