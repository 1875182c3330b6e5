"""Networks in ONNX files: images are cast to the type of the input, and other inputs and outputs are refused."""

import logging

import numpy as np
import onnx
import onnxruntime
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper

from pipeline.annotators.build import build_annotator
from pipeline.annotators.onnx_session import PROVIDERS, channel_axis
from pipeline.errors import AnnotatorError

NAMES = ["background", "cat", "dog"]


@pytest.fixture
def network(tmp_path, make_settings):
    """The annotator of a network: a cast to float32, a 1x1 convolution to three channels, then further nodes."""
    (tmp_path / "data").mkdir()

    def make(dtype=TensorProto.FLOAT, nodes=(), gives=TensorProto.FLOAT, further=(), last="conv", size=("H", "W"),
             **onnx_settings):  # fmt: skip
        weight = numpy_helper.from_array(np.eye(3, dtype=np.float32)[:, :, None, None], "weight")
        image = helper.make_tensor_value_info("image", dtype, ["B", 3, *size])
        others = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [1]) for name in further]
        first = [
            helper.make_node("Cast", ["image"], ["float"], to=TensorProto.FLOAT),
            helper.make_node("Conv", ["float", "weight"], ["conv"]),
        ]
        graph = helper.make_graph(
            [*first, *nodes], "g", [image, *others], [helper.make_tensor_value_info(last, gives, None)], [weight]
        )
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
        onnx.save(model, tmp_path / "data/net.onnx")
        section = {"model": "net.onnx", "class_map": {name: [k] for k, name in enumerate(NAMES)}} | onnx_settings
        return build_annotator(make_settings(annotator="onnx", **{"annotate.onnx": section}))

    return make


IMAGES = np.random.default_rng(0).integers(0, 256, (2, 16, 24, 3), dtype=np.uint8)
NORMALISED = (IMAGES / 255 - [0.485, 0.456, 0.406]) / [0.229, 0.224, 0.225]


@pytest.mark.parametrize(
    ("dtype", "expected", "tolerance"),
    [
        (TensorProto.FLOAT, NORMALISED, 1e-5),
        (TensorProto.FLOAT16, NORMALISED, 2e-3),
        (TensorProto.DOUBLE, NORMALISED, 1e-5),
        (TensorProto.UINT8, IMAGES.astype(float), 0),
    ],
)
def test_images_are_cast_to_the_type_of_the_networks_input(network, dtype, expected, tolerance):
    maps = network(dtype)(IMAGES)
    assert maps.dtype == np.float32
    assert np.abs(maps - expected.transpose(0, 3, 1, 2)).max() <= tolerance


SOFTMAX = helper.make_node("Softmax", ["conv"], ["softmax"], axis=1)
ARGMAX = helper.make_node("ArgMax", ["conv"], ["argmax"], axis=1, keepdims=0)
ARGMAX_OF_1 = helper.make_node("ArgMax", ["conv"], ["one"], axis=1, keepdims=1)
FLOAT = helper.make_node("Cast", ["one"], ["whole"], to=TensorProto.FLOAT)
MAXIMUM = helper.make_node("ReduceMax", ["conv"], ["maximum"], axes=[1], keepdims=0)
SUM = helper.make_node("Add", ["conv", "size"], ["sum"])


LAST = helper.make_node("Transpose", ["conv"], ["last"], perm=[0, 2, 3, 1])


def test_channels_that_are_the_last_axis_are_used_and_said(network, caplog):
    caplog.set_level(logging.INFO)
    first = network()(IMAGES)
    annotator = network(nodes=[LAST], last="last")
    assert np.array_equal(annotator(IMAGES), first)
    annotator(IMAGES)
    said = "annotate: last has shape [2, 16, 24, 3] for an input of 16 x 24, so its last axis is taken as the channels"
    assert caplog.messages.count(said) == 1


@pytest.mark.parametrize(
    ("shape", "size", "axis"),
    [
        ([1, 20, 512, 1024], (512, 1024), 1), ([1, 512, 1024, 20], (512, 1024), 3), ([1, 33, 33, 21], (513, 513), 3),
        ([1, 21, 33, 33], (513, 513), 1), ([1, 33, 33, 33], (513, 513), 1), ([1, 12, 15, 150], (360, 480), 3),
        ([1, 150, 12, 15], (360, 480), 1), ([1, 5, 7, 9], (512, 512), 1), ([1, 21, 1, 1], (64, 64), 1),
    ],
)  # fmt: skip
def test_the_axis_of_the_channels_follows_from_the_shape_of_the_input(shape, size, axis):
    assert channel_axis(shape, size) == axis


@settings(max_examples=80, deadline=None)
@given(st.integers(1, 32), st.data())
def test_an_output_of_any_stride_with_its_channels_first_is_used_as_it_is(stride, data):
    rounded = data.draw(st.sampled_from([lambda length: length // stride, lambda length: -(-length // stride)]))
    height, width = (data.draw(st.integers(stride, 2000)) for _ in range(2))
    channels = data.draw(st.integers(1, 200))
    assert channel_axis([1, channels, rounded(height), rounded(width)], (height, width)) == 1


@pytest.mark.parametrize(("declared", "taken"), [(("H", 24), (16, 24)), ((32, "W"), (32, 24)), (("H", "W"), (16, 24))])
def test_an_axis_without_a_fixed_length_has_that_of_the_grid(network, declared, taken):
    assert network(size=declared)(IMAGES).shape == (2, 3, *taken)


def test_an_input_size_that_differs_in_the_fixed_axis_is_refused(network):
    assert network(size=("H", 24), input_size=[8, 24])(IMAGES).shape == (2, 3, 8, 24)
    with pytest.raises(AnnotatorError, match=r"is \[16, 8\], but the network takes only \[any, 24\]; remove"):
        network(size=("H", 24), input_size=[16, 8])


def test_the_providers_are_a_setting_that_is_logged_and_changes_no_fingerprint(network, caplog):
    caplog.set_level(logging.INFO)
    annotator = network(providers=["cpu"])
    assert annotator.runs_on == ["CPUExecutionProvider"]
    assert "annotate: net.onnx runs on cpu" in caplog.messages
    assert annotator.fingerprint == network().fingerprint
    missing = [word for word, name in PROVIDERS.items() if name not in onnxruntime.get_available_providers()]
    with pytest.raises(
        AnnotatorError, match=rf"providers lists {missing[0]}, but the installed .* has .*cpu.*; install"
    ):
        network(providers=[missing[0], "cpu"])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"dtype": TensorProto.INT64}, r"takes an input of tensor\(int64\), expected one of .*; export it"),
        ({"dtype": TensorProto.UINT8, "mean": [0.0] * 3}, r"as uint8 .*, but annotate.onnx.mean is set; remove ann"),
        (
            {"further": ["size"], "nodes": [SUM], "last": "sum"},
            r"takes 2 inputs \(image .*size \[1\]\), expected",
        ),
        ({"nodes": [ARGMAX], "last": "argmax", "gives": TensorProto.INT64}, r"argmax of .* is tensor\(int64\), expect"),
        (
            {"nodes": [MAXIMUM], "last": "maximum"},
            r"maximum of shape \[2, 16, 24\] for 2 images, expected",
        ),
        (
            {"nodes": [ARGMAX_OF_1, FLOAT], "last": "whole"},
            r"whole of .* has one channel of whole numbers from 0 to 2, as after an argmax; set annotate.onnx.output_n",
        ),
        ({"nodes": [SOFTMAX], "last": "softmax"}, "as after a softmax; set annotate.onnx.output: probabilities"),
        ({"output": "probabilities"}, r"has values from -.* to .*; set annotate.onnx.output: logits"),
        ({"output_name": "cnov"}, r"output_name is 'cnov', but the outputs of .* are conv; set it to one of them; did"),
    ],
)
def test_a_network_that_does_not_fit_is_refused_with_what_to_change(network, options, message):
    with pytest.raises(AnnotatorError, match=message):
        network(**options)(IMAGES)
