import logging
import re

import pytest
import torch
from transformers import AutoImageProcessor, SegformerForSemanticSegmentation, SegformerImageProcessorPil

from pipeline.config import TrainSettings
from pipeline.errors import TrainingError
from train.compute import Compute, compute_of
from train.student import (
    ARCHITECTURES,
    Student,
    load_model,
    new_model,
    normalised,
    num_parameters,
    parameter_groups,
    random_model,
    save_model,
)

NAMES = ["background", "cat", "dog"]
TINY = TrainSettings(size="tiny")
CPU = Compute(torch.device("cpu"), torch.float32)


def same_weights(one, other):
    pairs = zip(one.state_dict().items(), other.state_dict().items(), strict=True)
    return all(a[0] == b[0] and torch.equal(a[1], b[1]) for a, b in pairs)


def as_published(name):
    """Name of a weight in nvidia/mit-b*, which transformers renames on loading."""
    renames = {
        r"^(?:segformer\.)?stages\.(\d)\.patch_embeddings\.": r"segformer.encoder.patch_embeddings.\1.",
        r"^(?:segformer\.)?stages\.(\d)\.blocks\.": r"segformer.encoder.block.\1.",
        r"^(?:segformer\.)?stages\.(\d)\.layer_norm": r"segformer.encoder.layer_norm.\1",
        r"attention\.q_proj": "attention.self.query",
        r"attention\.k_proj": "attention.self.key",
        r"attention\.v_proj": "attention.self.value",
        r"attention\.sequence_reduction\.sequence_reduction": "attention.self.sr",
        r"attention\.sequence_reduction\.layer_norm": "attention.self.layer_norm",
        r"attention\.o_proj": "attention.output.dense",
        r"mlp\.fc": "mlp.dense",
        r"layernorm_before": "layer_norm_1",
        r"layernorm_after": "layer_norm_2",
    }
    for pattern, replacement in renames.items():
        name = re.sub(pattern, replacement, name)
    return name


@pytest.mark.parametrize(
    ("size", "millions"), [("b0", 3.7), ("b1", 13.7), ("b2", 27.4), ("b3", 47.2), ("b4", 64.0), ("b5", 84.6)]
)
def test_sizes_have_as_many_parameters_as_published(size, millions):
    with torch.device("meta"):
        model = random_model(size, [str(i) for i in range(21)])
    assert num_parameters(model) / 1e6 == pytest.approx(millions, abs=0.05)


def test_tiny_stays_tiny_and_has_every_kind_of_layer():
    model = random_model("tiny", NAMES)
    assert num_parameters(model) < 400_000
    assert len(model.segformer.stages) == 4
    assert set(ARCHITECTURES) == {"tiny", "b0", "b1", "b2", "b3", "b4", "b5"}


def test_random_weights_depend_on_the_seed_alone():
    first = new_model(TINY, NAMES, seed=1)
    torch.rand(7)
    assert same_weights(first, new_model(TINY, NAMES, seed=1))
    assert not same_weights(first, new_model(TINY, NAMES, seed=2))


def test_a_saved_student_loads_in_transformers_with_its_class_names(tmp_path):
    model = new_model(TINY, NAMES, seed=0)
    save_model(model, tmp_path)
    again = SegformerForSemanticSegmentation.from_pretrained(tmp_path)
    assert same_weights(model, again)
    assert same_weights(model, load_model(tmp_path))
    assert again.config.id2label == {0: "background", 1: "cat", 2: "dog"}
    assert again.config.label2id == {"background": 0, "cat": 1, "dog": 2}
    assert again.config.semantic_loss_ignore_index == 255


def test_the_saved_processor_normalises_as_training_does(tmp_path):
    save_model(new_model(TINY, NAMES, seed=0), tmp_path)
    processor = AutoImageProcessor.from_pretrained(tmp_path)
    assert isinstance(processor, SegformerImageProcessorPil)
    image = torch.randint(0, 256, (1, 3, 40, 56), dtype=torch.uint8)
    theirs = processor(image[0].permute(1, 2, 0).numpy(), return_tensors="pt")["pixel_values"]
    torch.testing.assert_close(theirs, normalised(image), atol=1e-5, rtol=0)


def test_takes_an_encoder_and_starts_the_head_afresh(tmp_path, caplog):
    source = new_model(TINY, NAMES, seed=5)
    source.segformer.save_pretrained(tmp_path)
    with caplog.at_level(logging.INFO):
        model = new_model(tiny_from(tmp_path), ["a", "b", "c", "d"], seed=0)
    assert same_weights(model.segformer, source.segformer)
    assert not torch.equal(model.decode_head.linear_fuse.weight, source.decode_head.linear_fuse.weight)
    assert "decode head start afresh" in caplog.text


def test_takes_weights_under_their_published_names(tmp_path):
    source = new_model(TINY, NAMES, seed=5)
    source.config.save_pretrained(tmp_path)
    published = {as_published(name): weight for name, weight in source.segformer.state_dict().items()}
    assert "segformer.encoder.block.0.0.attention.self.query.weight" in published
    assert "segformer.encoder.block.1.0.layer_norm_2.bias" in published
    torch.save(published | {"classifier.weight": torch.zeros(1000, 96)}, tmp_path / "pytorch_model.bin")
    assert same_weights(new_model(tiny_from(tmp_path), NAMES, seed=0).segformer, source.segformer)


def test_takes_a_whole_network_and_replaces_a_classifier_of_other_classes(tmp_path):
    source = new_model(TINY, NAMES, seed=5)
    save_model(source, tmp_path)
    model = new_model(tiny_from(tmp_path), ["a", "b", "c", "d"], seed=0)
    assert model.decode_head.classifier.weight.shape[0] == 4
    assert torch.equal(model.decode_head.linear_fuse.weight, source.decode_head.linear_fuse.weight)
    assert model.config.id2label == {0: "a", 1: "b", 2: "c", 3: "d"}
    assert same_weights(new_model(tiny_from(tmp_path), NAMES, seed=0), source)


def tiny_from(folder):
    return TrainSettings(size="tiny", weights=str(folder))


def test_refuses_weights_of_another_size(tmp_path):
    new_model(TINY, NAMES, seed=5).segformer.save_pretrained(tmp_path)
    with pytest.raises(TrainingError, match=r"do not fit train\.size b0: \d+ tensors.*set train\.size"):
        new_model(TrainSettings(size="b0", weights=str(tmp_path)), NAMES, seed=0)


def test_says_what_to_do_about_weights_that_are_not_there(tmp_path):
    with pytest.raises(TrainingError, match=r"no folder.*hf download.*or random"):
        new_model(tiny_from(tmp_path / "nowhere"), NAMES, seed=0)
    with pytest.raises(TrainingError, match=r"holds no SegFormer.*expected config\.json and model\.safetensors"):
        new_model(tiny_from(tmp_path), NAMES, seed=0)


def test_the_head_learns_faster_than_the_encoder():
    model = random_model("tiny", NAMES)
    encoder, head = parameter_groups(model, lr=0.01, head_lr_multiplier=10)
    assert (encoder["initial_lr"], head["initial_lr"]) == (0.01, 0.1)
    assert sum(p.numel() for p in head["params"]) == num_parameters(model.decode_head)
    assert sum(p.numel() for p in encoder["params"]) == num_parameters(model.segformer)


@pytest.mark.parametrize("size", [(64, 96), (45, 33), (9, 20), (1, 1)])
def test_logits_have_the_size_of_any_image(size):
    student = Student(random_model("tiny", NAMES), CPU)
    images = torch.randint(0, 256, (2, 3, *size), dtype=torch.uint8)
    assert student.logits(images).shape == (2, 3, *size)
    assert student.classes(images).shape == (2, *size)


def test_classes_are_those_of_transformers_up_sampled_logits():
    student = Student(random_model("tiny", NAMES).eval(), CPU)
    images = torch.randint(0, 256, (2, 3, 48, 80), dtype=torch.uint8)
    with torch.no_grad():
        logits = student.model(normalised(images)).logits
        expected = torch.nn.functional.interpolate(logits, (48, 80), mode="bilinear", align_corners=False).argmax(1)
    assert torch.equal(student.classes(images), expected.to(torch.uint8))


def test_labelling_uses_evaluation_mode_and_leaves_no_trace():
    student = Student(random_model("tiny", NAMES), CPU)
    student.model.train()
    images = torch.randint(0, 256, (2, 3, 64, 64), dtype=torch.uint8)
    before = {name: value.clone() for name, value in student.model.state_dict().items()}
    assert torch.equal(student.classes(images), student.classes(images))
    assert student.model.training
    assert all(torch.equal(value, before[name]) for name, value in student.model.state_dict().items())


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_every_weight_gets_a_gradient_after_labelling_without_one(dtype):
    student = Student(random_model("tiny", NAMES), CPU._replace(dtype=dtype))
    images = torch.randint(0, 256, (2, 3, 64, 64), dtype=torch.uint8)
    student.model.train()
    student.classes(images)
    student.logits(images).square().mean().backward()
    assert all(p.grad is not None and p.grad.any() for p in student.model.parameters())


def test_half_precision_gives_float32_logits_close_to_the_exact_ones():
    student = Student(random_model("tiny", NAMES).eval(), CPU)
    images = torch.randint(0, 256, (1, 3, 64, 64), dtype=torch.uint8)
    exact = student.logits(images)
    student.compute = CPU._replace(dtype=torch.bfloat16)
    half = student.logits(images)
    assert half.dtype == torch.float32
    torch.testing.assert_close(half, exact, atol=0.05, rtol=0.05)


def test_precision_and_device_follow_the_settings():
    assert compute_of(TrainSettings(device="cpu")) == CPU
    assert compute_of(TrainSettings(device="cpu", precision="bfloat16")).dtype == torch.bfloat16


@pytest.mark.skipif(torch.cuda.is_available(), reason="tells what happens without a GPU")
def test_a_missing_gpu_is_an_error_and_auto_falls_back():
    assert compute_of(TrainSettings(device="auto")) == CPU
    with pytest.raises(TrainingError, match="torch finds 0 CUDA devices; use auto or cpu"):
        compute_of(TrainSettings(device="cuda"))
