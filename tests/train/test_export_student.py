"""Exported students: the file computes what `predict` writes, for images of any size, and annotates again."""

import json
import sys

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
import yaml
from PIL import Image
from receipts import facts_of
from torch import nn

import train.export_student as module
from pipeline.annotators.onnx import OnnxAnnotator
from pipeline.digests import digests_of
from pipeline.errors import StoreError, TrainingError
from pipeline.run import Run
from pipeline.settings import EvaluateSettings, OnnxSettings
from train.export_student import METADATA_FILE, Exported, export_student, format_exported
from train.machine.device import Compute
from train.measure.inference import class_scores
from train.plan import plan_fingerprint
from train.predict import Request, predict
from train.student import Student, load_student
from train.students import random_network, save_network
from train.students.network import Network

SIZES = [(30, 45), (64, 96), (101, 67)]  # one with a side smaller than any network takes
CPU = Compute(torch.device("cpu"), torch.float32)


@pytest.fixture
def trained(make_run):
    """Builds a run whose Stage I has ended with a random student, which is sure of several classes."""

    def build(kind="tiny"):
        settings = make_run()
        run = Run(settings)
        torch.manual_seed(0)
        network = random_network(kind, settings.data.class_names)
        spread(network)
        save_network(network, run.folder.student("stage1"))
        files = digests_of(run.folder.training("stage1"), run.folder.student("stage1").glob("*"))
        plan = plan_fingerprint(settings, run.samples())
        run.finish("stage1", facts_of("stage1", plan_fingerprint=plan, files=files))
        return settings

    return build


@torch.no_grad()
def spread(network):
    """Scale the last layer so that the logits of an image have mean 0 and standard deviation 3 in each class."""
    head = network.decode_head.classifier
    last = head[-1] if isinstance(head, nn.Sequential) else head
    nn.init.normal_(last.weight)
    logits = Student(network.eval(), CPU).logits(torch.from_numpy(two_halves(64, 96)))
    scale = 3 / logits.std(dim=(0, 2, 3))
    last.weight *= scale[:, None, None, None]
    last.bias.copy_((last.bias - logits.mean(dim=(0, 2, 3))) * scale)


def two_halves(height, width):
    """An image, uint8 [1, 3, H, W], of noise: grey on the left, red on the right."""
    image = np.random.default_rng(height).integers(0, 256, (1, 3, height, width), dtype=np.uint8)
    image[:, 1:, :, width // 2 :] //= 8
    return image


def written_by_predict(settings, folder):
    """Images of the SIZES, uint8 [1, 3, H, W], and what `predict` writes for each: probabilities and classes."""
    images = [two_halves(*size) for size in SIZES]
    (folder / "in").mkdir()
    for number, image in enumerate(images):
        Image.fromarray(image[0].transpose(1, 2, 0)).save(folder / f"in/{number}.png")
    student = Run(settings).folder.student("stage1")
    predict(Request(folder / "in", folder / "out", student, EvaluateSettings(workers=0), "cpu", True))
    for number, image in enumerate(images):
        classes = np.asarray(Image.open(folder / f"out/{number}.png"))
        yield image, np.load(folder / f"out/{number}.npy"), classes


def assert_computes_what_predict_writes(compute, written):
    found = set()
    for image, probabilities, classes in written:
        computed = compute(image)[0]
        np.testing.assert_allclose(computed, probabilities, atol=1e-3)  # predict writes float16
        is_sure = np.ptp(np.sort(probabilities, axis=0)[-2:], axis=0) > 1e-3
        assert (computed.argmax(axis=0) == classes)[is_sure].all()
        found |= set(classes[is_sure].tolist())
    assert len(found) > 1


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["efficientnet-lite0", "dinov2-tiny", "dinov3-tiny"])
def test_an_onnx_file_computes_what_predict_writes_for_images_of_any_size(kind, trained, tmp_path):
    settings = trained(kind)
    exported = export_student(settings, "onnx")
    assert (exported.path, exported.stage) == (settings.folder / "export/student.onnx", "stage1")
    session = onnxruntime.InferenceSession(exported.path)
    assert_computes_what_predict_writes(
        lambda image: session.run(None, {"image": image})[0], written_by_predict(settings, tmp_path)
    )


def test_a_torchscript_file_computes_what_predict_writes_and_holds_the_class_names(trained, tmp_path):
    settings = trained()
    exported = export_student(settings, "torchscript", tmp_path / "out.pt")
    files = {METADATA_FILE: ""}
    script = torch.jit.load(tmp_path / "out.pt", _extra_files=files)
    assert json.loads(json.loads(files[METADATA_FILE])["class_names"]) == exported.class_names
    written = list(written_by_predict(settings, tmp_path))
    assert_computes_what_predict_writes(lambda image: script(torch.from_numpy(image)).numpy(), written)


def test_it_annotates_again_with_the_printed_settings(trained):
    settings = trained()
    exported = export_student(settings, "onnx")
    names = settings.data.class_names
    metadata = {entry.key: entry.value for entry in onnx.load(exported.path).metadata_props}
    assert json.loads(metadata["class_names"]) == exported.class_names == names

    last = format_exported(exported, "onnx", settings.evaluate).splitlines()[-1]
    annotator = OnnxAnnotator(OnnxSettings(**yaml.safe_load(last)["annotate"]["onnx"]), settings.data)
    images = np.random.default_rng(1).integers(0, 256, (3, *settings.data.grid, 3), dtype=np.uint8)
    student = load_student(Run(settings).folder.student("stage1"), CPU)
    for image, maps in zip(images, annotator(images), strict=True):
        expected = class_scores(student, torch.from_numpy(image.transpose(2, 0, 1)[None].copy()), EvaluateSettings())
        np.testing.assert_allclose(maps, expected[0].numpy(), atol=1e-5)


class SizeInPython(Network):
    """A network whose logits depend on a size as a number in Python, which a trace keeps as a constant."""

    def forward(self, pixels, channel_masks=None):
        return pixels * (int(pixels.shape[-1]) / 100)


def test_a_network_whose_trace_holds_for_one_size_only_is_refused_and_leaves_no_file(trained, monkeypatch):
    settings = trained()
    monkeypatch.setattr(module, "load_student", lambda folder, compute: Student(SizeInPython(), compute))
    message = (
        r"SizeInPython cannot be exported for images of any size: its probabilities differ from torch's by up to "
        r"0\.\d+; no file was written; use conformalsam predict"
    )
    with pytest.raises(TrainingError, match=message):
        export_student(settings, "torchscript")
    assert not any(path.is_file() for path in (settings.folder / "export").rglob("*"))


def test_without_the_package_onnx_the_error_has_the_command_that_installs_it(trained, monkeypatch):
    monkeypatch.setitem(sys.modules, "onnx", None)
    with pytest.raises(TrainingError, match=r"extra conformalsam\[onnx\]\); run pip install onnx, or give --to torch"):
        export_student(trained(), "onnx")


def test_a_student_that_is_not_as_training_wrote_it_is_refused(trained):
    settings = trained()
    (Run(settings).folder.student("stage1") / "config.json").write_text("{}")
    with pytest.raises(StoreError, match=r"config.json is not as stage1 wrote it"):
        export_student(settings, "torchscript")


def test_what_evaluate_averages_over_is_said(tmp_path):
    (tmp_path / "student.pt").write_bytes(b"12")
    exported = Exported(tmp_path / "student.pt", "stage2", ["a", "b"], 2e-7)
    plain = format_exported(exported, "torchscript", EvaluateSettings(stride=None))
    assert "at most 2.0e-07, over images of 3 sizes" in plain
    assert "note:" not in plain
    averaged = format_exported(exported, "torchscript", EvaluateSettings(window=64, flips=True))
    assert "note: evaluate measured the student with evaluate.window: 64, evaluate.flips: True; the" in averaged
