"""Networks in ONNX files: images are cast to the type of the input, and other inputs and outputs are refused."""

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from pipeline.annotators.build import build_annotator
from pipeline.errors import AnnotatorError

NAMES = ["background", "cat", "dog"]


@pytest.fixture
def network(tmp_path, make_settings):
    """The annotator of a network: a cast to float32, a 1x1 convolution to three channels, then further nodes."""
    (tmp_path / "data").mkdir()

    def make(dtype=TensorProto.FLOAT, nodes=(), gives=TensorProto.FLOAT, further=(), last="conv", **onnx_settings):
        weight = numpy_helper.from_array(np.eye(3, dtype=np.float32)[:, :, None, None], "weight")
        image = helper.make_tensor_value_info("image", dtype, ["B", 3, "H", "W"])
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
MAXIMUM = helper.make_node("ReduceMax", ["conv"], ["maximum"], axes=[1], keepdims=0)
SUM = helper.make_node("Add", ["conv", "size"], ["sum"])


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
        ({"nodes": [SOFTMAX], "last": "softmax"}, "as after a softmax; set annotate.onnx.output: probabilities"),
        ({"output": "probabilities"}, r"has values from -.* to .*; set annotate.onnx.output: logits"),
        ({"output_name": "cnov"}, r"output_name is 'cnov', but the outputs of .* are conv; set it to one of them; did"),
    ],
)
def test_a_network_that_does_not_fit_is_refused_with_what_to_change(network, options, message):
    with pytest.raises(AnnotatorError, match=message):
        network(**options)(IMAGES)
