import pytest
import torch

from pipeline.settings import TrainSettings
from train.engine.state import optimizer_of
from train.machine.device import Compute, compute_of
from train.student import Student, evaluating
from train.students import num_parameters, random_network

NAMES = ["background", "cat", "dog"]
CPU = Compute(torch.device("cpu"), torch.float32)


def test_the_head_learns_faster_than_the_encoder():
    student = Student(random_network("tiny", NAMES), CPU)
    settings = TrainSettings(lr=0.01, head_lr_multiplier=10, decay_norms=True)
    encoder, head = optimizer_of(student, settings).param_groups
    assert (encoder["initial_lr"], head["initial_lr"]) == (0.01, 0.1)
    assert sum(p.numel() for p in head["params"]) == num_parameters(student.model.decode_head)
    assert sum(p.numel() for p in encoder["params"]) == num_parameters(student.model.segformer)


def test_optimisers_have_the_settings_values():
    student = Student(random_network("tiny", NAMES), CPU)
    sgd = optimizer_of(student, TrainSettings(momentum=0.8, weight_decay=0.02))
    assert isinstance(sgd, torch.optim.SGD)
    assert (sgd.defaults["momentum"], sgd.defaults["nesterov"]) == (0.8, False)
    adamw = optimizer_of(student, TrainSettings(optimizer="adamw", weight_decay=0.02))
    assert isinstance(adamw, torch.optim.AdamW)
    assert adamw.defaults["betas"] == (0.9, 0.999)
    assert {group["weight_decay"] for group in (*sgd.param_groups, *adamw.param_groups)} == {0.02, 0.0}


@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
@pytest.mark.parametrize("decay_norms", [False, True])
def test_weight_decay_applies_to_norms_and_biases_only_if_set(optimizer, decay_norms):
    student = Student(random_network("tiny", NAMES), CPU)
    decayed = TrainSettings(optimizer=optimizer, lr=0.1, weight_decay=0.5, decay_norms=decay_norms)
    before = {name: p.detach().clone() for name, p in student.model.named_parameters()}
    optimizer = optimizer_of(student, decayed)
    for group in optimizer.param_groups:
        group["lr"] = 0.1
        for parameter in group["params"]:
            parameter.grad = torch.zeros_like(parameter)
    optimizer.step()
    for layer_name, layer in student.model.named_modules():
        is_norm = "norm" in type(layer).__name__.lower()
        for name, parameter in layer.named_parameters(layer_name, recurse=False):
            shrinks = decay_norms or not (is_norm or name.endswith("bias"))
            assert torch.allclose(parameter, before[name] * (0.95 if shrinks else 1)), name


def test_pixels_are_normalised_by_imagenets_mean_and_deviation():
    image = torch.tensor([0, 128, 255], dtype=torch.uint8)[None, :, None, None]
    expected = [(0 - 0.485) / 0.229, (128 / 255 - 0.456) / 0.224, (1 - 0.406) / 0.225]
    student = Student(random_network("tiny", NAMES), CPU)
    assert student._normalised(image).flatten().tolist() == pytest.approx(expected, rel=1e-5)


def test_evaluation_mode_ends_with_its_block_even_after_an_error():
    network = random_network("tiny", NAMES).train()
    was_training = []

    def fail():
        with evaluating(network):
            was_training.append(network.training)
            raise KeyError

    with pytest.raises(KeyError):
        fail()
    assert (was_training, network.training) == ([False], True)


def test_a_network_that_takes_multiples_of_a_patch_gets_stretched_images():
    student = Student(random_network("dinov2-tiny", NAMES), CPU)
    images = torch.randint(0, 256, (1, 3, 30, 45), dtype=torch.uint8)
    assert student.model.multiple > 1
    assert student.logits(images).shape == (1, 3, 30, 45)


@pytest.mark.parametrize("size", [(64, 96), (45, 33), (9, 20), (1, 1)])
def test_logits_have_the_size_of_any_image(size):
    student = Student(random_network("tiny", NAMES), CPU)
    images = torch.randint(0, 256, (2, 3, *size), dtype=torch.uint8)
    assert student.logits(images).shape == (2, 3, *size)
    assert student.classes(images).shape == (2, *size)


def test_classes_are_those_of_transformers_up_sampled_logits():
    student = Student(random_network("tiny", NAMES).eval(), CPU)
    images = torch.randint(0, 256, (2, 3, 48, 80), dtype=torch.uint8)
    with torch.no_grad():
        logits = student.model(student._normalised(images))
        expected = torch.nn.functional.interpolate(logits, (48, 80), mode="bilinear", align_corners=False).argmax(1)
    assert torch.equal(student.classes(images), expected.to(torch.uint8))


def test_labeling_uses_evaluation_mode_and_leaves_no_trace():
    student = Student(random_network("tiny", NAMES), CPU)
    student.model.train()
    images = torch.randint(0, 256, (2, 3, 64, 64), dtype=torch.uint8)
    before = {name: value.clone() for name, value in student.model.state_dict().items()}
    assert torch.equal(student.classes(images), student.classes(images))
    assert student.model.training
    assert all(torch.equal(value, before[name]) for name, value in student.model.state_dict().items())


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_every_weight_gets_a_gradient_after_labeling_without_one(dtype):
    torch.manual_seed(0)  # with few weights, a unit may be dead
    student = Student(random_network("tiny", NAMES), CPU._replace(dtype=dtype))
    images = torch.randint(0, 256, (2, 3, 64, 64), dtype=torch.uint8)
    student.model.train()
    student.classes(images)
    student.logits(images).square().mean().backward()
    assert all(p.grad is not None and p.grad.any() for p in student.model.parameters())


def test_half_precision_gives_float32_logits_close_to_the_exact_ones():
    student = Student(random_network("tiny", NAMES).eval(), CPU)
    images = torch.randint(0, 256, (1, 3, 64, 64), dtype=torch.uint8)
    exact = student.logits(images)
    student.compute = CPU._replace(dtype=torch.bfloat16)
    half = student.logits(images)
    assert half.dtype == torch.float32
    torch.testing.assert_close(half, exact, atol=0.05, rtol=0.05)


def test_precision_and_device_follow_the_settings():
    assert compute_of(TrainSettings(device="cpu")) == CPU
    assert compute_of(TrainSettings(device="cpu", precision="bfloat16")).dtype == torch.bfloat16
