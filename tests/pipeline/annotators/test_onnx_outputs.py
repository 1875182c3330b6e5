"""Whatever a network in an ONNX file returns becomes the maps that it means, or is refused."""

import math
import re

import numpy as np
import onnx
import pytest
from hypothesis import HealthCheck, given
from hypothesis import settings as examples
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from onnx import TensorProto, helper, numpy_helper

from pipeline.annotators.contract import check_maps
from pipeline.annotators.onnx import OnnxAnnotator
from pipeline.errors import AnnotatorError

NAMES = ["background", "cat", "dog"]
GROUPS = {"one each": [[0], [1], [2]], "several": [[0, 3], [2], [1]], "none": [[1], [], [0, 2]]}
IMAGES = np.zeros((2, 4, 4, 3), np.uint8)
NUM_EXAMPLES = 80


@pytest.fixture
def annotator_of(make_settings, tmp_path):
    """The annotator of a network that returns an array, whatever the images."""
    (tmp_path / "data").mkdir()
    made = {
        (kind, groups): make_settings(
            annotator="onnx",
            **{"annotate.onnx": {"model": "net.onnx", "output": kind, "class_map": dict(zip(NAMES, of, strict=True))}},
        )
        for kind in ("logits", "probabilities")
        for groups, of in GROUPS.items()
    }

    def build(array, kind, groups):
        own = made[kind, groups]
        tensor = numpy_helper.from_array(array, "value")
        image = helper.make_tensor_value_info("image", TensorProto.FLOAT, [2, 3, "H", "W"])
        out = helper.make_tensor_value_info("out", tensor.data_type, None)
        graph = helper.make_graph([helper.make_node("Constant", [], ["out"], value=tensor)], "g", [image], [out])
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
        onnx.save(model, tmp_path / "data/net.onnx")
        return OnnxAnnotator(own.annotate.onnx, own.data)

    return build


def pixel(values, groups, kind):
    """Probabilities of the classes at a pixel, from the values of all channels, one by one."""
    chosen = [channel for group in groups for channel in group]
    largest = max(values[channel] for channel in chosen)
    weights = {c: math.exp(values[c] - largest) if kind == "logits" else values[c] for c in chosen}
    total = math.fsum(weights.values())
    return [math.fsum(weights[c] for c in group) / total for group in groups]


DTYPES = st.sampled_from([np.float32] * 4 + [np.float16, np.float64, np.int64, np.bool_])
SHAPES = st.tuples(st.just(2), st.sampled_from([5, 4, 3, 2]), st.integers(1, 2), st.integers(1, 3)) | hnp.array_shapes(
    max_side=3
)


@st.composite
def outputs(draw):
    dtype, shape = np.dtype(draw(DTYPES)), draw(SHAPES)
    if dtype.kind != "f":
        return draw(hnp.arrays(dtype, shape))
    width = 8 * dtype.itemsize
    values = st.sampled_from([st.floats(width=width), st.floats(-30, 30, width=width), st.floats(0, 1, width=width)])
    return draw(hnp.arrays(dtype, shape, elements=draw(values)))


@examples(max_examples=NUM_EXAMPLES, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.data())
def test_every_output_is_the_maps_that_it_means_or_refused(annotator_of, data):
    array, kind, groups = (data.draw(of) for of in (outputs(), st.sampled_from(["logits", "probabilities"]),
                                                    st.sampled_from(sorted(GROUPS))))  # fmt: skip
    try:
        annotator = annotator_of(array, kind, groups)
        maps = check_maps(annotator(IMAGES), len(IMAGES), len(NAMES), annotator)
    except AnnotatorError as error:
        if advised := re.search(r"set annotate.onnx.output: (\w+)", str(error)):
            annotator_of(array, advised[1], groups)(IMAGES)  # is not refused with the opposite advice
        return
    for image, row, column in np.ndindex(len(IMAGES), *maps.shape[2:]):
        values = array[image, :, row, column].astype(float).tolist()
        if annotator.space == "logits":
            expected = [values[channel] for (channel,) in GROUPS[groups]]
        else:
            expected = pixel(values, GROUPS[groups], kind)
        assert maps[image, :, row, column].tolist() == pytest.approx(expected, rel=1e-4, abs=1e-5)
