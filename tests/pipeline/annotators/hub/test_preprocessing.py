"""The input of a network, compared with the image processors of transformers that need no torchvision."""

import json

import numpy as np
import pytest
import transformers as t
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.annotators.hub.preprocessing import Preprocessing, read_preprocessing
from pipeline.errors import AnnotatorError

RNG = np.random.default_rng(0)
PROCESSORS = {
    "square": lambda: t.SegformerImageProcessorPil(size={"height": 40, "width": 40}),
    "nearest": lambda: t.BeitImageProcessorPil(size={"height": 31, "width": 50}, resample=0),
    "short side": lambda: t.MobileNetV2ImageProcessorPil(size={"shortest_edge": 33}, do_center_crop=False),
    "both sides": lambda: t.Mask2FormerImageProcessorPil(size=50, max_size=61, size_divisor=1),
    "divisor": lambda: t.Mask2FormerImageProcessorPil(size={"shortest_edge": 40, "longest_edge": 90}),
    "limited": lambda: t.OneFormerImageProcessorPil(size=30, max_size=50),
    "as it is": lambda: t.SegformerImageProcessorPil(do_resize=False, do_normalize=False),
    "multiple": lambda: t.DPTImageProcessorPil(size=50, ensure_multiple_of=32, keep_aspect_ratio=True),
    "detector": lambda: t.GroundingDinoImageProcessorPil(size={"shortest_edge": 40, "longest_edge": 55}),
    "padded": lambda: t.Owlv2ImageProcessorPil(size={"height": 45, "width": 45}),
    "unscaled": lambda: t.SegformerImageProcessorPil(size=24, rescale_factor=1 / 127.5, image_mean=[1, 1, 1]),
}  # fmt: skip


@pytest.fixture(scope="module")
def processors():
    return {name: (make(), json.loads(make().to_json_string())) for name, make in PROCESSORS.items()}


@given(name=st.sampled_from(list(PROCESSORS)), height=st.integers(20, 70), width=st.integers(20, 70))
@settings(max_examples=40, deadline=None)
def test_is_equal_to_the_stock_processor(processors, name, height, width):
    stock, content = processors[name]
    images = RNG.integers(0, 256, (2, height, width, 3), dtype=np.uint8)
    task = {"task_inputs": ["semantic"] * 2} if name == "limited" else {}
    expected = np.stack(stock(list(images), **task)["pixel_values"])
    assert np.abs(Preprocessing(content, None)(images) - expected).max() < 1e-6


def test_channels_in_the_order_of_opencv_are_swapped():
    image = RNG.integers(0, 256, (1, 8, 8, 3), dtype=np.uint8)
    content = {"do_flip_channel_order": True, "do_normalize": False, "do_resize": False}
    assert np.array_equal(Preprocessing(content, None)(image)[0, 0], np.float32(image[0, :, :, 2] * (1 / 255)))


def test_eomt_takes_a_square_of_its_size_instead_of_patches():
    content = json.loads(t.EomtImageProcessorPil(size={"shortest_edge": 48, "longest_edge": None}).to_json_string())
    assert Preprocessing(content, None).input_size(30, 40) == (48, 48)


OF_SAM3 = bytes.fromhex(
    "62757a5e5a3f757b968076856898b093a47c9991855e5884935879707a7c909181876ea3aa7575765a88ae89725e576e9a82656f6a647385"
    "88667f5a7c78968d6a526e8da68c8ea481769072787a566063916a40765791697c73507595688687a79c7495756c7d735a6a6e88"
)  # levels [3, 6, 6] by transformers' Sam3ImageProcessor 5.23 with torchvision 0.28, which Pillow does not give


@pytest.mark.parametrize("name", ["Sam3ImageProcessor", "Sam2ImageProcessorFast"])
def test_the_processors_of_sam_resize_as_torchvision_does(name):
    image = np.random.default_rng(5).integers(0, 256, (1, 11, 13, 3), dtype=np.uint8)
    content = {"image_processor_type": name, "size": {"height": 6, "width": 6}}
    content |= {"image_mean": [0.5] * 3, "image_std": [0.5] * 3}
    expected = np.frombuffer(OF_SAM3, np.uint8).reshape(3, 6, 6) / 127.5 - 1
    assert np.abs(Preprocessing(content, None)(image)[0] - expected).max() < 1e-5
    of_pillow = Preprocessing(content | {"image_processor_type": "ViTImageProcessor"}, None)(image)[0]
    assert np.abs(of_pillow - expected).max() > 1e-3


class Config:
    image_size = 48


@pytest.mark.parametrize(
    ("content", "config", "size", "expected"),
    [
        ({"size": 32}, Config, None, (32, 32)),
        ({"size": [20, 24]}, Config, None, (20, 24)),
        ({}, Config, None, (48, 48)),  # of the network
        ({}, object, None, (30, 40)),  # of the image
        ({"size": 32}, Config, [16, 24], (16, 24)),  # of the setting
    ],
)
def test_the_size_is_that_of_the_setting_the_file_the_network_or_the_image(tmp_path, content, config, size, expected):
    (tmp_path / "preprocessor_config.json").write_text(json.dumps({"do_normalize": False} | content))
    assert read_preprocessing(tmp_path, config, size).input_size(30, 40) == expected


def test_the_file_of_newer_folders_is_read(tmp_path):
    (tmp_path / "processor_config.json").write_text(json.dumps({"image_processor": {"size": 8, "do_normalize": False}}))
    assert read_preprocessing(tmp_path, Config, None).input_size(30, 40) == (8, 8)


def test_a_normalisation_is_never_guessed(tmp_path):
    with pytest.raises(AnnotatorError, match=r"no readable preprocessor_config.json .*; copy it from the page"):
        read_preprocessing(tmp_path, Config, None)
    (tmp_path / "preprocessor_config.json").write_text("{}")
    with pytest.raises(
        AnnotatorError, match=r"has no image_mean and image_std; add those .* or add \"do_normalize\": f"
    ):
        read_preprocessing(tmp_path, Config, None)
    with pytest.raises(AnnotatorError, match=r"has the size \{'max_height': 3\}; set annotate.transformers.input_size"):
        Preprocessing({"size": {"max_height": 3}}, None).input_size(30, 40)
