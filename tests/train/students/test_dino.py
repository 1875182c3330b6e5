import logging

import pytest
import torch
from transformers import AutoModelForSemanticSegmentation, Dinov2Backbone, Dinov2Config, Dinov2Model, DINOv3ViTModel

from pipeline.errors import TrainingError
from train.students import load_network, new_network, num_parameters, random_network, save_network
from train.students.dino import Fusion, dino_config
from train.students.drop import DropPath

NAMES = ["background", "cat", "dog"]
TINY = ["dinov2-tiny", "dinov3-tiny"]


@pytest.fixture(autouse=True)
def one_thread_and_seed():
    torch.set_num_threads(1)
    torch.manual_seed(0)


def pixels_for(network, height=6, width=4, batch=2):
    """float [B, 3, H, W], sides counted in patches."""
    return torch.randn(batch, 3, height * network.multiple, width * network.multiple)


# Depth Anything V2 publishes 24.8, 97.5 and 335.3 million. Its head is the same but for the layers after the fusion,
# and for a residual that it has at the coarsest level and never uses.
@pytest.mark.parametrize(
    ("student", "width", "millions"), [("dinov2-s", 64, 24.8), ("dinov2-b", 128, 97.5), ("dinov2-l", 256, 335.3)]
)
def test_sizes_have_as_many_parameters_as_published(student, width, millions):
    with torch.device("meta"):
        network = random_network(student, [str(i) for i in range(21)])
    unused = 2 * (9 * width + 1) * width
    last = num_parameters(network.decode_head.classifier)
    their_last = (9 * width + 1) * width // 2 + (9 * width // 2 + 1) * 32 + 33
    assert (num_parameters(network) + unused - last + their_last) / 1e6 == pytest.approx(millions, abs=0.05)


@pytest.mark.parametrize("student", TINY)
@pytest.mark.parametrize(("height", "width"), [(2, 2), (3, 5), (6, 4)])
def test_takes_any_number_of_patches_and_gives_logits_coarser_than_the_image(student, height, width):
    network = random_network(student, NAMES).eval()
    pixels = pixels_for(network, height, width)
    assert min(pixels.shape[-2:]) >= network.smallest_side
    assert [tuple(f.shape) for f in network.encode(pixels)] == [(2, 32, height, width)] * 4
    assert network(pixels).shape == (2, 3, 8 * height, 8 * width)
    assert network.feature_widths() == [32] * 4


def test_feature_maps_of_dinov2_are_those_of_transformers_backbone():
    network = random_network("dinov2-tiny", NAMES).eval()
    indices = {"out_features": None, "out_indices": [1, 2, 3, 4]}
    config = Dinov2Config(**network.config.encoder_config.to_dict() | indices)
    backbone = Dinov2Backbone(config).eval()
    backbone.load_state_dict(network.encoder.state_dict())
    pixels = pixels_for(network)
    for one, other in zip(network.encode(pixels), backbone(pixels).feature_maps, strict=True):
        torch.testing.assert_close(one, other, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("student", TINY)
def test_the_last_feature_map_is_what_transformers_gives_for_the_patches(student):
    network = random_network(student, NAMES).eval()
    pixels = pixels_for(network, 3, 5)
    tokens = network.encoder(pixels).last_hidden_state[:, -15:]
    torch.testing.assert_close(network.encode(pixels)[-1].flatten(2).mT, tokens, atol=1e-5, rtol=1e-4)


def test_projecting_before_up_sampling_is_projecting_after_it():
    fusion, level, coarser = Fusion(6, is_first=False), torch.randn(1, 6, 5, 7), torch.randn(1, 6, 5, 7)
    total = fusion.sum(coarser + fusion.level(level))
    up = torch.nn.functional.interpolate(total, (10, 14), mode="bilinear", align_corners=True)
    torch.testing.assert_close(fusion(level, coarser, (10, 14)), fusion.project(up))


def test_channel_masks_silence_channels_of_all_four_levels():
    network = random_network("dinov2-tiny", NAMES).eval()
    pixels = pixels_for(network)
    ones, zeros = ([torch.full((2, 32, 1, 1), value) for _ in range(4)] for value in (1.0, 0.0))
    torch.testing.assert_close(network(pixels, channel_masks=ones), network(pixels))
    nothing = network.decode([torch.zeros_like(f) for f in network.encode(pixels)])
    torch.testing.assert_close(network(pixels, channel_masks=zeros), nothing)


@pytest.mark.parametrize("student", TINY)
def test_every_parameter_learns_except_those_frozen_for_they_play_no_part(student, tmp_path):
    network = random_network(student, NAMES, drop_path=0.0)
    save_network(network, tmp_path)
    for one in (network, load_network(tmp_path), new_network(student, str(tmp_path), NAMES)):
        one.train()(pixels_for(one)).square().mean().backward()
        without = {name for name, p in one.named_parameters() if p.grad is None}
        assert without == {name for name, p in one.named_parameters() if not p.requires_grad}
        assert without == {"encoder.embeddings.mask_token"}


def test_drop_path_grows_with_depth_and_is_ours():
    network = random_network("dinov2-tiny", NAMES, drop_path=0.3)
    rates = [m.probability for m in network.modules() if isinstance(m, DropPath)]
    assert rates == pytest.approx([0, 0.1, 0.2, 0.3])


@pytest.mark.parametrize("student", TINY)
def test_a_saved_student_is_the_same_when_read_with_its_class_names(student, tmp_path):
    network = random_network(student, NAMES).eval()
    save_network(network, tmp_path)
    pixels = pixels_for(network)
    for again in (load_network(tmp_path), AutoModelForSemanticSegmentation.from_pretrained(tmp_path)):
        assert torch.equal(again.eval()(pixels), network(pixels))
        assert again.config.id2label == {0: "background", 1: "cat", 2: "dog"}


@pytest.mark.parametrize(("student", "kind"), [("dinov2-tiny", Dinov2Model), ("dinov3-tiny", DINOv3ViTModel)])
def test_takes_the_encoder_of_a_folder_and_its_details(student, kind, tmp_path, caplog):
    encoder_config = dino_config(*student.split("-"), NAMES, 0.0).encoder_config
    encoder_config.image_size = 56  # another table of positions than ours, where there is one
    source = kind(encoder_config)
    source.save_pretrained(tmp_path)
    with caplog.at_level(logging.INFO):
        network = new_network(student, str(tmp_path), NAMES, drop_path=0.2)
    assert all(torch.equal(value, network.encoder.state_dict()[name]) for name, value in source.state_dict().items())
    assert network.config.encoder_config.image_size == 56
    assert [m.probability for m in network.modules() if isinstance(m, DropPath)][-1] == pytest.approx(0.2)
    assert "encoder loaded; the decode head starts from random weights" in caplog.text
    save_network(network, tmp_path / "saved")
    pixels = pixels_for(network)
    assert torch.equal(load_network(tmp_path / "saved").eval()(pixels), network.eval()(pixels))


def test_keeps_all_but_the_classifier_of_a_student_for_other_classes(tmp_path):
    source = random_network("dinov2-tiny", NAMES)
    save_network(source, tmp_path)
    network = new_network("dinov2-tiny", str(tmp_path), ["a", "b"])
    assert network.decode_head.classifier[2].weight.shape[0] == 2
    assert torch.equal(network.decode_head.classifier[0].weight, source.decode_head.classifier[0].weight)
    assert torch.equal(network.encoder.embeddings.cls_token, source.encoder.embeddings.cls_token)


def test_refuses_an_encoder_of_another_size(tmp_path):
    random_network("dinov2-tiny", NAMES).encoder.save_pretrained(tmp_path)
    with (
        torch.device("meta"),
        pytest.raises(
            TrainingError,
            match=r"dinov2-s: they are a dinov2 of width 32 and 4 layers, expected a dinov2 of width 384 and 12 layers",
        ),
    ):
        new_network("dinov2-s", str(tmp_path), NAMES)


def test_random_weights_depend_on_the_seed_alone():
    networks = []
    for seed in (1, 1, 2):
        torch.manual_seed(seed)
        networks.append(random_network("dinov2-tiny", NAMES).state_dict())
    one, again, other = networks
    assert all(torch.equal(one[name], again[name]) for name in one)
    assert not torch.equal(one["decode_head.classifier.2.weight"], other["decode_head.classifier.2.weight"])


def test_half_precision_is_close():
    network = random_network("dinov2-tiny", NAMES).eval()
    pixels = pixels_for(network)
    with torch.autocast("cpu", torch.bfloat16):
        half = network(pixels)
    torch.testing.assert_close(half.float(), network(pixels), atol=0.05, rtol=0.05)
