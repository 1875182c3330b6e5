"""Weights and networks that are missing, damaged or do not fit, found without building a network."""

import json
import shutil

import onnx
import pytest
from onnx import TensorProto, helper

from pipeline.doctor.weights import seem_findings, seem_folder, seem_vocabulary, transformers_findings
from pipeline.settings import DataSettings, SeemSettings, TransformersSettings


@pytest.fixture
def checkpoint(tmp_path):
    """A copy of seem-nano, which tests damage."""
    return shutil.copytree(seem_folder(SeemSettings(checkpoint="seem-nano")), tmp_path / "nano")


def findings_of(checkpoint):
    return list(seem_findings(SeemSettings(checkpoint=str(checkpoint))))


def test_a_complete_checkpoint_has_no_findings(checkpoint):
    assert findings_of(checkpoint) == []
    assert findings_of("seem-nano") == []


def test_a_folder_without_weights_gets_the_commands_that_create_them(tmp_path):
    (finding,) = findings_of(tmp_path / "focal-l")
    assert finding.level == "error"
    assert finding.where == (f"annotate.seem.checkpoint: {tmp_path / 'focal-l'}",)
    assert f"conformalsam convert-seem FILE.pt {tmp_path / 'focal-l'}" in finding.fix


def test_a_published_file_must_be_converted_first(tmp_path):
    (tmp_path / "seem.pt").write_bytes(b"")
    (finding,) = findings_of(tmp_path / "seem.pt")
    assert "expected the folder" in finding.what
    assert finding.fix == f"run conformalsam convert-seem FILE.pt {tmp_path / 'seem'}"


def test_truncated_weights_are_found_by_their_header(checkpoint):
    weights = checkpoint / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1000])
    (finding,) = findings_of(checkpoint)
    assert finding.level == "error"
    assert "damaged" in finding.what


@pytest.mark.parametrize(("name", "text"), [("tokenizer.json", "no tokenizer"), ("config.json", "cannot be read")])
def test_a_missing_tokenizer_or_configuration_is_found(checkpoint, name, text):
    if name == "config.json":
        (checkpoint / name).write_text("no json")
    else:
        (checkpoint / name).unlink()
    (finding,) = findings_of(checkpoint)
    assert text in finding.what
    assert finding.fix


def test_a_damaged_configuration_does_not_end_the_checks(checkpoint, data, findings):
    (checkpoint / "config.json").write_text("no json")
    found = findings(annotator="seem", **{"annotate.seem": {"checkpoint": str(checkpoint)}})
    assert any("config.json cannot be read" in finding.what for finding in found)
    assert any("disk: probs.zarr ?" in finding.what for finding in found)


def test_the_vocabulary_is_that_of_the_configuration(checkpoint):
    config = json.loads((checkpoint / "config.json").read_text())
    vocabulary = seem_vocabulary(SeemSettings(checkpoint=str(checkpoint)))
    assert vocabulary.longest == config["text_config"]["max_position_embeddings"]
    assert len(vocabulary.sentences("fish")) == 81
    assert vocabulary.tokens(["fish"]) != vocabulary.tokens(["turtle"])


# --- ONNX ------------------------------------------------------------------------------------------------------------


ONE_CHANNEL = {"background": [0], "cat": [], "dog": []}


@pytest.fixture
def with_onnx(data):
    """Settings of a network that returns its three input channels."""
    image = helper.make_tensor_value_info("image", TensorProto.FLOAT, [1, 3, 16, 24])
    logits = helper.make_tensor_value_info("logits", TensorProto.FLOAT, [1, 3, 16, 24])
    graph = helper.make_graph([helper.make_node("Identity", ["image"], ["logits"])], "net", [image], [logits])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
    onnx.save(model, data / "net.onnx")
    classes = {"background": [0], "cat": [1], "dog": [2]}

    def settings(**changed):
        return {"annotator": "onnx", "annotate.onnx": {"model": "net.onnx", "class_map": classes} | changed}

    return settings


def test_a_network_that_fits_has_no_findings(with_onnx, findings):
    assert [finding for finding in findings(**with_onnx()) if finding.level != "note"] == []


@pytest.mark.parametrize(
    ("changed", "text"),
    [
        ({"model": "gone.onnx"}, "gone.onnx; correct annotate.onnx.model"),
        (
            {"class_map": {"background": [0], "cta": [1], "dog": [2]}},
            "names 'cta', which is not in data.classes; did you",
        ),
        ({"class_map": {"background": [0], "cat": [1]}}, "no entry for dog; add them"),
        ({"logit_bias": {"dgo": 1.0}}, "logit_bias names 'dgo', which is not in data.classes; did you mean dog?"),
        ({"class_map": {"background": [0], "cat": [1], "dog": [1]}}, "uses channels [1] more than once"),
        ({"class_map": {"background": [0], "cat": [1], "dog": [7]}}, "the channels 0 to 2, but annotate.onnx uses: 7"),
        ({"output_name": "masks"}, "output_name is 'masks', but the outputs of"),
        (
            {"input_size": [32, 32]},
            "input_size is [32, 32], but the network takes only [16, 24]; remove annotate.onnx.input",
        ),
    ],
)
def test_mistakes_of_the_network_are_found(with_onnx, only, changed, text):
    assert only(text, **with_onnx(**changed)).level == "error"


def test_classes_without_a_channel_are_found(with_onnx, only):
    finding = only("no prompt or channel means cat, dog, so their maps are 0", **with_onnx(class_map=ONE_CHANNEL))
    assert finding.level == "warning"


def test_a_wrong_class_map_does_not_hide_a_missing_network(with_onnx, findings):
    found = findings(**with_onnx(model="gone.onnx", class_map={"background": [0]}))
    assert sum(finding.level == "error" for finding in found) == 2


def test_a_wrong_class_map_is_the_only_mistake_of_a_network_that_exists(with_onnx, findings):
    found = findings(**with_onnx(class_map={"background": [0], "cat": [1]}, channels=[0, 1]))
    assert [finding.what for finding in found if finding.level == "error"] == [
        "annotate.onnx.class_map has no entry for dog"
    ]


# --- annotators of the user -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("factory", "text"),
    [("gone_module:build", "importing gone_module failed"), ("noisy_annotator:biuld", "has no function biuld")],
)
def test_a_missing_factory_is_found(data, only, factory, text):
    finding = only(text, **{"annotate.python": {"factory": factory}})
    assert (finding.level, finding.where) == ("error", (f"annotate.python.factory: {factory}",))


def test_a_module_that_breaks_on_import_is_found(data, only, tmp_path, monkeypatch):
    (tmp_path / "breaking_annotator.py").write_text("1 / 0")
    monkeypatch.syspath_prepend(tmp_path)
    assert (
        "ZeroDivisionError"
        in only("importing breaking_annotator", **{"annotate.python": {"factory": "breaking_annotator:f"}}).what
    )


# --- the student -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("weights", "level", "text"),
    [
        ("gone/mit_b0.pth", "error", "no such file"),
        ("EMPTY", "error", "no config.json in the weights' folder"),
        ("nobody/has-this-model", "warning", "the weights are not on this machine, so stage1 downloads"),
        ("gone", "warning", "not on this machine"),
    ],
)
def test_missing_weights_of_the_student_are_found(data, only, tmp_path, weights, level, text):
    (tmp_path / "empty").mkdir()
    weights = weights.replace("EMPTY", str(tmp_path / "empty"))
    finding = only(text, **{"train.weights": weights})
    assert (finding.level, finding.where) == (level, (f"train.weights: {weights}",))


def test_a_student_of_the_user_needs_its_configuration(data, only, tmp_path):
    (tmp_path / "empty").mkdir()
    assert only("no config.json in the student's folder", **{"train.student": str(tmp_path / "empty")}).level == "error"


def network_findings(
    folder, labels, architecture="SegformerForSemanticSegmentation", classes=("cat", "pole"), **section
):
    """Findings about a folder that has nothing but a config.json."""
    folder.mkdir(exist_ok=True)
    content = {"architectures": [architecture], "model_type": "segformer", "id2label": dict(enumerate(labels))}
    (folder / "config.json").write_text(json.dumps(content))
    data = DataSettings(classes=list(classes), root=str(folder.parent))
    return list(transformers_findings(TransformersSettings(model=folder.name, **section), data))


def test_the_labels_of_a_network_are_listed_by_class_without_building_it(tmp_path):
    (note,) = network_findings(tmp_path / "net", ["Pole", "cat"])
    assert (note.level, note.what) == ("note", "labels of the network by class: cat: cat (1); pole: Pole (0)")
    _, warning = network_findings(tmp_path / "net", ["sky", "cat"], class_map={"pole": []})
    assert warning.what.startswith("no prompt or channel means pole, so its map is 0")
    (error,) = network_findings(tmp_path / "net", ["poles", "cat"])
    assert error.level == "error"
    assert "no label for pole (pole: labels like it: poles)" in error.what
    (error,) = network_findings(tmp_path / "net", ["cat"], "SegformerForImageClassification")
    assert "the architecture SegformerForImageClassification, expected" in error.what
    assert network_findings(tmp_path / "net", [], "CLIPSegForImageSegmentation") == []


def test_prompts_that_name_no_label_are_listed(tmp_path):
    classes = [{"name": "cat", "prompts": ["cat", "kitty"]}, {"name": "pole", "prompts": ["mast", "lamp post"]}]
    _, note = network_findings(tmp_path / "net", ["pole", "Cat", "lamp-post"], classes=classes)
    assert note.what == "prompts that name no label of the network, so that they change nothing: kitty, mast"
    assert note.fix == "choose the labels of a class with annotate.transformers.class_map"
    listed = network_findings(tmp_path / "net", ["pole", "cat"], classes=classes, class_map={"cat": [1], "pole": [0]})
    assert len(listed) == 1
    (licence,) = network_findings(tmp_path / "net", [], "Sam3LiteTextModel")
    assert "net are under the SAM License" in licence.what


def test_a_detector_needs_a_sam2(tmp_path):
    (missing,) = network_findings(tmp_path / "net", [], "Owlv2ForObjectDetection")
    assert missing.where == ("annotate.transformers.mask_model: facebook/sam2.1-hiera-large",)
    assert "run hf download facebook/sam2.1-hiera-large if annotate will have no network" in missing.fix
    (error,) = network_findings(tmp_path / "net", [], "GroundingDinoForObjectDetection", mask_model="net")
    assert "GroundingDinoForObjectDetection, expected Sam2Model or Sam2VideoModel" in error.what
    (error,) = network_findings(tmp_path / "net", [], "CLIPSegForImageSegmentation", mask_model="net")
    assert "mask_model gives the masks of the boxes of a detector, but" in error.what
    (error,) = network_findings(tmp_path / "net", [], "Sam2VideoModel")
    assert error.what.endswith("net is SAM 2, which needs boxes")
    assert "set annotate.transformers.mask_model to it, and annotate.transformers.model to a detector" in error.fix


def test_a_network_of_the_hub_is_named_with_its_download_and_its_licence(tmp_path):
    data = DataSettings(classes=["cat", "pole"], root=str(tmp_path))
    licence, missing = transformers_findings(TransformersSettings(model="nvidia/segformer-b0@main"), data)
    assert "research and evaluation only" in licence.what
    assert "run hf download nvidia/segformer-b0 if annotate will have no network" in missing.fix
