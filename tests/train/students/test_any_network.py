import importlib.util
import json
import logging

import pytest
import torch
from safetensors.torch import save_file
from torch import nn
from transformers import (
    AutoModelForSemanticSegmentation,
    ConvNextConfig,
    DPTConfig,
    DPTForSemanticSegmentation,
    MobileNetV2Config,
    MobileNetV2ForSemanticSegmentation,
    TimmBackboneConfig,
    UperNetConfig,
    UperNetForSemanticSegmentation,
)

from pipeline.errors import ConfigError, NetworkError, TrainingError
from pipeline.student_folders import DIVISIBLE
from train.machine.device import Compute
from train.student import Student
from train.students import freeze, load_network, new_network, save_network
from train.students.any_network import AnyNetwork
from train.students.dino import DinoDPT
from train.students.files import PLAIN
from train.students.network import MEAN, STD
from train.students.norm import BatchNorm2d

NAMES = ["background", "cat", "dog"]
CPU = Compute(torch.device("cpu"), torch.float32)


@pytest.fixture(autouse=True)
def one_thread_and_seed():
    torch.set_num_threads(1)
    torch.manual_seed(0)


def upernet(num_labels=3):
    backbone = ConvNextConfig(
        hidden_sizes=[8, 8, 16, 16], depths=[1, 1, 1, 1], out_features=["stage1", "stage2", "stage3", "stage4"]
    )
    config = UperNetConfig(
        backbone_config=backbone, hidden_size=16, auxiliary_in_channels=16, auxiliary_channels=8, num_labels=num_labels
    )
    return UperNetForSemanticSegmentation(config)


def mobilenet(num_labels=3):
    config = MobileNetV2Config(depth_multiplier=0.25, min_depth=4, depth_divisible_by=4, num_labels=num_labels)
    return MobileNetV2ForSemanticSegmentation(config)


@pytest.mark.parametrize("build", [upernet, mobilenet])
def test_trains_saves_and_reads_networks_it_knows_nothing_of(build, tmp_path):
    build().save_pretrained(tmp_path / "given")
    network = new_network(str(tmp_path / "given"), "random", NAMES)
    assert isinstance(network, AnyNetwork)
    assert network.training
    pixels = torch.randn(2, 3, 64, 96)
    network(pixels).square().mean().backward()
    assert all((p.grad is not None) == p.requires_grad for p in network.parameters())
    network.zero_grad()
    network.eval()
    save_network(network, tmp_path / "saved")
    saved = load_network(tmp_path / "saved").eval()
    torch.testing.assert_close(saved.state_dict(), network.state_dict(), rtol=0, atol=0)
    torch.testing.assert_close(saved(pixels), network(pixels))  # kernels round by the address of the weights
    theirs = AutoModelForSemanticSegmentation.from_pretrained(tmp_path / "saved").eval()
    torch.testing.assert_close(theirs(pixels).logits, network(pixels))
    assert theirs.config.id2label == dict(enumerate(NAMES))


def test_the_head_of_an_auxiliary_loss_is_left_out(tmp_path):
    upernet().save_pretrained(tmp_path)
    names = [name for name, _ in new_network(str(tmp_path), "random", NAMES).named_parameters()]
    assert not any("auxiliary" in name for name in names)


@pytest.mark.parametrize("build", [upernet, mobilenet])
def test_a_classifier_of_other_classes_starts_afresh(build, tmp_path, caplog):
    source = build()
    source.save_pretrained(tmp_path)
    with caplog.at_level(logging.INFO):
        network = new_network(str(tmp_path), "random", [*NAMES, "horse"])
    assert "of the decode head start from random weights" in caplog.text
    assert network.eval()(torch.randn(2, 3, 64, 64)).shape[1] == 4
    changed = {name for name, p in source.state_dict().items() if not same(p, network.model.state_dict().get(name))}
    assert {name.partition(".")[0] for name in changed} <= {"decode_head", "segmentation_head", "auxiliary_head"}


def same(one, other):
    return other is not None and torch.equal(one, other)


@pytest.mark.parametrize(("build", "encoder"), [(upernet, "backbone"), (mobilenet, "mobilenet_v2")])
def test_tells_the_head_from_the_encoder_by_the_name(build, encoder, tmp_path):
    network = AnyNetwork(build())
    for name, _ in network.named_parameters():
        assert network.is_head(name) == (not name.startswith(f"model.{encoder}."))


def test_batch_norms_are_ours():
    norms = [m for m in AnyNetwork(mobilenet()).modules() if isinstance(m, nn.BatchNorm2d)]
    assert norms
    assert all(type(m) is BatchNorm2d for m in norms)


def test_says_which_settings_need_a_network_that_can_be_split():
    network = AnyNetwork(upernet())
    pixels = torch.randn(1, 3, 64, 64)
    message = r"UperNetForSemanticSegmentation has no known encoder .*set stage2\.complementary_dropout: false"
    with pytest.raises(TrainingError, match=message):
        network(pixels, channel_masks=[torch.ones(1, 8, 1, 1)])
    for call in (lambda: network.encode(pixels), lambda: network.decode([]), network.feature_widths):
        with pytest.raises(TrainingError, match=message):
            call()


def test_the_settings_refuse_what_needs_an_encoder_before_any_work(make_settings, tmp_path):
    mobilenet().save_pretrained(tmp_path / "student")
    folder = str(tmp_path / "student")
    make_settings(**{"train.student": folder, "stage2.views": 2})
    needs = {
        "stage2.complementary_dropout: false": {"stage2.complementary_dropout": True, "stage2.views": 2},
        "train.framework: plain": {"train.framework": "allspark", "stage1.batch_labeled": 1},
        "train.frozen_stages: 0": {"train.frozen_stages": 1},
    }
    for fix, settings in needs.items():
        with pytest.raises(ConfigError, match=f"{folder}, a network of type mobilenet_v2, whose .*; set {fix}, or"):
            make_settings(**{"train.student": folder, **settings})
        make_settings(**{"train.student": "tiny", **settings})
    with pytest.raises(ConfigError, match=r"probe.*encoder is .*, a network of type mobilenet_v2"):
        make_settings(**{"probe.encoder": folder})


def test_the_networks_with_a_known_encoder_are_our_students():
    assert sorted(DIVISIBLE) == sorted([*PLAIN, DinoDPT.config_class.model_type])


def test_refuses_a_network_for_square_images_only(tmp_path):
    sizes = {"hidden_size": 16, "num_hidden_layers": 4, "num_attention_heads": 2, "intermediate_size": 16}
    config = DPTConfig(
        **sizes, backbone_out_indices=[0, 1, 2, 3], neck_hidden_sizes=[8] * 4, fusion_hidden_size=8, num_labels=3
    )
    DPTForSemanticSegmentation(config).save_pretrained(tmp_path)
    with pytest.raises(TrainingError, match="DPTForSemanticSegmentation cannot segment an image of 64 x 128 pixels"):
        new_network(str(tmp_path), "random", NAMES)


@pytest.mark.skipif(importlib.util.find_spec("timm") is not None, reason="timm is installed")
def test_names_the_library_that_a_backbone_needs(tmp_path):
    config = UperNetConfig(backbone_config=TimmBackboneConfig(backbone="resnet18"), num_labels=3)
    config.architectures = ["UperNetForSemanticSegmentation"]
    config.save_pretrained(tmp_path)
    save_file({"weight": torch.zeros(1)}, tmp_path / "model.safetensors", {"format": "pt"})
    message = r"needs a library that is not installed \(TimmBackbone requires the timm .*\); run pip install timm$"
    with pytest.raises(NetworkError, match=message):
        new_network(str(tmp_path), "random", NAMES)


def test_refuses_a_network_that_segments_nothing(tmp_path):
    ConvNextConfig().save_pretrained(tmp_path)
    with pytest.raises(NetworkError, match="holds no segmentation network in transformers format"):
        new_network(str(tmp_path), "random", NAMES)


def test_a_folder_without_a_whole_encoder_is_refused(tmp_path):
    source = upernet()
    weights = {name: value for name, value in source.state_dict().items() if not name.startswith("backbone.encoder")}
    source.save_pretrained(tmp_path, state_dict=weights)
    with pytest.raises(TrainingError, match=r"do not fit the config\.json beside .*e\.g\. model\.backbone"):
        new_network(str(tmp_path), "random", NAMES)


def test_a_folder_can_give_the_architecture_and_another_one_the_weights(tmp_path):
    upernet().save_pretrained(tmp_path / "student")
    source = upernet()
    source.save_pretrained(tmp_path / "weights")
    network = new_network(str(tmp_path / "student"), str(tmp_path / "weights"), NAMES)
    own = network.model.state_dict()
    assert all(same(value, own[name]) for name, value in source.state_dict().items() if "auxiliary" not in name)
    mobilenet().save_pretrained(tmp_path / "others")
    with pytest.raises(TrainingError, match=r"others do not fit train\.student .*student: \d+ tensors are missing"):
        new_network(str(tmp_path / "student"), str(tmp_path / "others"), NAMES)


def test_pixels_are_normalised_as_the_folder_says(tmp_path):
    mobilenet().save_pretrained(tmp_path)
    preprocessor = tmp_path / "preprocessor_config.json"
    image = torch.tensor([0, 51, 255], dtype=torch.uint8)[None, :, None, None].expand(1, 3, 1, 1)

    def normalised(**content):
        preprocessor.write_text(json.dumps(content))
        student = Student(new_network(str(tmp_path), "random", NAMES), CPU)
        return student._normalised(image).flatten().tolist()

    halves = {"image_mean": [0.5] * 3, "image_std": [0.5] * 3}
    assert normalised(**halves) == pytest.approx([-1, -0.6, 1])
    assert normalised(**halves, do_rescale=True, rescale_factor=1 / 127.5) == pytest.approx([-1, -0.2, 3])
    assert normalised(image_mean=[100.0] * 3, image_std=[10.0] * 3, do_rescale=False) == pytest.approx(
        [-10, -4.9, 15.5], rel=1e-5
    )
    assert normalised(do_normalize=False) == pytest.approx([0, 0.2, 1])
    assert normalised() == pytest.approx([(v - m) / s for v, m, s in zip([0, 0.2, 1], MEAN, STD, strict=True)])
    with pytest.raises(TrainingError, match=r"preprocessor_config\.json has do_flip_channel_order \(BGR\)"):
        normalised(do_flip_channel_order=True)


def test_a_saved_student_keeps_its_normalisation(tmp_path):
    mobilenet().save_pretrained(tmp_path / "given")
    (tmp_path / "given" / "preprocessor_config.json").write_text(
        '{"image_mean": [0.5, 0.5, 0.5], "image_std": [1, 1, 2]}'
    )
    save_network(new_network(str(tmp_path / "given"), "random", NAMES), tmp_path / "saved")
    again = load_network(tmp_path / "saved")
    assert (list(again.mean), list(again.std)) == (pytest.approx([0.5] * 3), pytest.approx([1, 1, 2]))


def test_says_that_its_stages_cannot_be_frozen(tmp_path):
    with pytest.raises(TrainingError, match="encoder has no known stages"):
        freeze(AnyNetwork(mobilenet()), 1, norms=False)
