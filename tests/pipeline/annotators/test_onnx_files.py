"""Files of an ONNX network: the walk finds what the onnx package finds, and nothing outside the folder is opened."""

import shutil

import numpy as np
import onnx
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper
from onnx.external_data_helper import _get_all_tensors, set_external_data

from pipeline.annotators.onnx import OnnxAnnotator
from pipeline.annotators.onnx_files import digest_of, files_of
from pipeline.errors import AnnotatorError
from pipeline.settings import DataSettings, OnnxSettings

WEIGHTS = np.arange(6, dtype=np.float32).reshape(2, 3, 1, 1)


def tensor(name, location=None, values=WEIGHTS):
    made = numpy_helper.from_array(values, name)
    if location is not None:
        set_external_data(made, location, offset=0, length=values.nbytes)
        made.ClearField("raw_data")
    return made


def network(initializers, nodes=()):
    """A convolution [B, 3, H, W] -> [B, 2, H, W] with the first initializer as its weights."""
    shapes = [("x", ["B", 3, 4, 4]), ("y", ["B", 2, 4, 4])]
    ends = [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name, shape in shapes]
    conv = helper.make_node("Conv", ["x", initializers[0].name], ["y"])
    graph = helper.make_graph([*nodes, conv], "g", ends[:1], ends[1:], initializers)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)])
    model.ir_version = 9
    return model


def nested(location):
    """A node with a constant in each branch; that of the second one is external."""
    branches = []
    for name, where in (("a", None), ("b", location)):
        constant = helper.make_node("Constant", [], [name], value=tensor(name, where))
        end = helper.make_tensor_value_info(name, TensorProto.FLOAT, WEIGHTS.shape)
        branches.append(helper.make_graph([constant], name, [], [end]))
    return helper.make_node("If", ["c"], ["z"], then_branch=branches[0], else_branch=branches[1])


def written(folder, model):
    (folder / "net.onnx").write_bytes(model.SerializeToString())
    return folder / "net.onnx"


def test_external_data_is_found_wherever_a_tensor_may_stand(tmp_path):
    model = network([tensor("w", "w.bin"), tensor("v"), tensor("u", "more/u.bin")], [nested("branch.bin")])
    path = written(tmp_path, model)
    (tmp_path / "more").mkdir()
    for name in ("w.bin", "more/u.bin", "branch.bin"):
        (tmp_path / name).write_bytes(WEIGHTS.tobytes())
    entries = [
        entry for found in _get_all_tensors(onnx.load(path, load_external_data=False)) for entry in found.external_data
    ]
    expected = sorted({entry.value for entry in entries if entry.key == "location"})
    assert expected == ["branch.bin", "more/u.bin", "w.bin"]
    assert files_of(path) == [path, *(tmp_path / name for name in expected)]


@pytest.mark.parametrize("location", ["../w.bin", "/etc/passwd", "a/../../w.bin", "..\\w.bin", "C:/w.bin", ""])
@pytest.mark.parametrize("is_nested", [False, True])
def test_external_data_outside_the_folder_is_refused(tmp_path, location, is_nested):
    (tmp_path / "w.bin").write_bytes(WEIGHTS.tobytes())
    folder = tmp_path / "model"
    folder.mkdir()
    model = network([tensor("w")], [nested(location)]) if is_nested else network([tensor("w", location)])
    with pytest.raises(AnnotatorError, match=r"net.onnx takes tensors from '.*', which is outside its folder; export"):
        files_of(written(folder, model))


def test_missing_external_data_and_malformed_models_are_refused(tmp_path):
    with pytest.raises(AnnotatorError, match=r"takes tensors from .*w.bin, which does not exist; copy it there"):
        files_of(written(tmp_path, network([tensor("w", "w.bin")])))
    (tmp_path / "net.onnx").write_bytes(b"no network")
    with pytest.raises(AnnotatorError, match="is not a network that onnxruntime can run: it is malformed"):
        files_of(tmp_path / "net.onnx")


def annotator(folder):
    (folder / "images").mkdir(exist_ok=True)
    onnx_settings = OnnxSettings(model="net.onnx", class_map={"a": [0], "b": [1]}, output="logits")
    return OnnxAnnotator(onnx_settings, DataSettings(root=str(folder), classes=["a", "b"], grid=[4, 4]))


def test_the_fingerprint_changes_with_the_external_data_and_not_with_the_folder(tmp_path):
    first, second = tmp_path / "first", tmp_path / "second"
    first.mkdir()
    (first / "w.bin").write_bytes(WEIGHTS.tobytes())
    written(first, network([tensor("w", "w.bin")]))
    shutil.copytree(first, second)
    fingerprints = [annotator(folder).fingerprint for folder in (first, second)]
    assert fingerprints[0] == fingerprints[1]
    (second / "w.bin").write_bytes((WEIGHTS + 1).tobytes())
    changed = annotator(second)
    assert changed.fingerprint != fingerprints[0]
    image = np.zeros((1, 4, 4, 3), np.uint8)
    assert not np.array_equal(changed(image), annotator(first)(image)), "its maps are others, too"


def test_a_model_alone_has_the_digest_of_its_bytes_and_the_settings(tmp_path):
    import hashlib

    path = written(tmp_path, network([tensor("w")]))
    assert files_of(path) == [path]
    assert digest_of([path], b"{}") == hashlib.sha256(path.read_bytes() + b"{}").hexdigest()


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.data())
def test_a_damaged_model_is_refused_or_has_no_file_outside(tmp_path, data):
    content = bytearray(network([tensor("w", "w.bin")], [nested("../b.bin")]).SerializeToString())
    for _ in range(data.draw(st.integers(1, 3))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    (tmp_path / "net.onnx").write_bytes(content)
    (tmp_path / "w.bin").touch()
    try:
        files = files_of(tmp_path / "net.onnx")
    except AnnotatorError:
        return
    assert all(file.resolve().is_relative_to(tmp_path.resolve()) for file in files)
