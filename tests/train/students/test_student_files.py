import json
import logging
import re
from dataclasses import asdict

import pytest
import torch
from flips import missed_flips
from safetensors.torch import load_file, save_file
from transformers import (
    AutoImageProcessor,
    AutoModelForSemanticSegmentation,
    SegformerConfig,
    SegformerForSemanticSegmentation,
    SegformerImageProcessorPil,
)

from pipeline.errors import NetworkError, TrainingError
from train.students import load_network, new_network, num_parameters, save_network
from train.students.drop import DropPath
from train.students.network import MEAN, STD
from train.students.segformer import SegFormer

NAMES = ["background", "cat", "dog"]


@pytest.fixture(autouse=True)
def one_thread():
    torch.set_num_threads(1)


def tiny(weights="random", names=NAMES, seed=0, student="tiny", **kwargs):
    torch.manual_seed(seed)
    return new_network(student, str(weights), names, **kwargs)


def same_weights(one, other):
    pairs = zip(one.state_dict().items(), other.state_dict().items(), strict=True)
    return all(a[0] == b[0] and torch.equal(a[1], b[1]) for a, b in pairs)


def in_transformers(network):
    """The same network of transformers."""
    theirs = SegformerForSemanticSegmentation(SegformerConfig(**asdict(network.config)))
    theirs.load_state_dict(network.state_dict())
    return theirs


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


def test_random_weights_depend_on_the_seed_alone():
    first = tiny(seed=1)
    torch.rand(7)
    assert same_weights(first, tiny(seed=1))
    assert not same_weights(first, tiny(seed=2))


def test_a_saved_student_gives_the_same_logits_in_transformers(tmp_path):
    network = tiny().eval()
    save_network(network, tmp_path)
    assert json.loads((tmp_path / "config.json").read_text())["architectures"] == ["SegformerForSemanticSegmentation"]
    pixels = torch.randn(2, 3, 64, 96)
    for kind in (SegformerForSemanticSegmentation, AutoModelForSemanticSegmentation):
        again = kind.from_pretrained(tmp_path).eval()
        assert type(again) is SegformerForSemanticSegmentation
        assert same_weights(network, again)
        torch.testing.assert_close(again(pixels).logits, network(pixels), atol=1e-5, rtol=1e-5)
        assert again.config.id2label == {0: "background", 1: "cat", 2: "dog"}
        assert again.config.label2id == {"background": 0, "cat": 1, "dog": 2}
        assert again.config.semantic_loss_ignore_index == 255


def test_a_saved_student_is_read_again_as_it_was(tmp_path):
    network = tiny(drop_path=0.2)
    save_network(network, tmp_path)
    again = load_network(tmp_path)
    assert type(again) is SegFormer
    assert same_weights(network, again)
    assert [repr(m) for m in again.modules()] == [repr(m) for m in network.modules()]


def test_the_saved_processor_normalises_as_training_does(tmp_path):
    save_network(tiny(), tmp_path)
    processor = AutoImageProcessor.from_pretrained(tmp_path)
    assert isinstance(processor, SegformerImageProcessorPil)
    image = torch.randint(0, 256, (40, 56, 3), dtype=torch.uint8)
    theirs = processor(image.numpy(), return_tensors="pt")["pixel_values"][0]
    expected = (image / 255 - torch.tensor(MEAN)) / torch.tensor(STD)
    torch.testing.assert_close(theirs, expected.permute(2, 0, 1), atol=1e-5, rtol=0)


def test_takes_an_encoder_and_starts_the_head_afresh(tmp_path, caplog):
    source = tiny(seed=5)
    in_transformers(source).segformer.save_pretrained(tmp_path)
    with caplog.at_level(logging.INFO):
        network = tiny(tmp_path, ["a", "b", "c", "d"])
    assert same_weights(network.segformer, source.segformer)
    assert not torch.equal(network.decode_head.linear_fuse.weight, source.decode_head.linear_fuse.weight)
    assert "decode head start from random weights" in caplog.text
    assert same_weights(network, tiny(tmp_path, ["a", "b", "c", "d"]))
    assert not same_weights(network, tiny(tmp_path, ["a", "b", "c", "d"], seed=1))


def test_takes_weights_under_their_published_names(tmp_path):
    source = tiny(seed=5)
    in_transformers(source).config.save_pretrained(tmp_path)
    published = {as_published(name): weight for name, weight in source.segformer.state_dict().items()}
    assert "segformer.encoder.block.0.0.attention.self.query.weight" in published
    assert "segformer.encoder.block.1.0.layer_norm_2.bias" in published
    torch.save(published | {"classifier.weight": torch.zeros(1000, 96)}, tmp_path / "pytorch_model.bin")
    assert same_weights(tiny(tmp_path).segformer, source.segformer)


@pytest.mark.parametrize("is_student", [False, True])
def test_takes_a_whole_network_and_replaces_a_classifier_of_other_classes(tmp_path, caplog, is_student):
    source = tiny(seed=5)
    save_network(source, tmp_path)

    def taken(names):
        return tiny(student=str(tmp_path), names=names) if is_student else tiny(tmp_path, names)

    with caplog.at_level(logging.INFO):
        network = taken(["a", "b", "c", "d"])
    assert "2 tensors of the decode head start from random weights" in caplog.text
    assert type(network) is SegFormer
    assert network.decode_head.classifier.weight.shape[0] == 4
    assert torch.equal(network.decode_head.linear_fuse.weight, source.decode_head.linear_fuse.weight)
    assert network.config.id2label == {0: "a", 1: "b", 2: "c", 3: "d"}
    assert same_weights(taken(NAMES), source)


def test_a_folder_given_as_student_drops_paths_as_asked_for(tmp_path):
    save_network(tiny(drop_path=0.1), tmp_path)
    for student in ("tiny", str(tmp_path)):
        network = tiny(student=student, drop_path=0.3)
        rates = [m.probability for m in network.modules() if isinstance(m, DropPath)]
        assert rates == pytest.approx([0, 0.1, 0.2, 0.3])


def test_refuses_weights_of_another_size(tmp_path):
    in_transformers(tiny(seed=5)).segformer.save_pretrained(tmp_path)
    with pytest.raises(TrainingError, match=r"do not fit train\.student b0: \d+ tensors.*set train\.student"):
        tiny(tmp_path, student="b0")


def test_says_what_to_do_about_weights_that_are_not_there(tmp_path):
    with pytest.raises(NetworkError, match=r"not a folder.*hf download.*or to random"):
        tiny(tmp_path / "nowhere")
    with pytest.raises(
        NetworkError, match=r"holds no segmentation network.*give a folder with config\.json and model\.saf"
    ):
        tiny(tmp_path)
    with pytest.raises(
        NetworkError, match=r"holds no segmentation network.*give a folder with config\.json and model\.saf"
    ):
        load_network(tmp_path)
    with pytest.raises(NetworkError, match=r"nowhere holds no segmentation network"):
        load_network(tmp_path / "nowhere")


def test_says_what_to_do_about_a_hub_name_without_a_network(monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(NetworkError, match=r"nobody/mit-b0, which is not a folder, and the hub gave .*hf download"):
        tiny("nobody/mit-b0")


def test_says_when_the_weights_beside_a_configuration_are_missing_or_damaged(tmp_path):
    network = tiny()
    save_network(network, tmp_path)
    (tmp_path / "SHA256SUMS").unlink()
    (tmp_path / "model.safetensors").write_bytes(b"broken")
    with pytest.raises(NetworkError, match="holds no segmentation network"):
        load_network(tmp_path)
    (tmp_path / "model.safetensors").unlink()
    with pytest.raises(NetworkError, match="holds no segmentation network"):
        load_network(tmp_path)
    assert num_parameters(network) > 0


def test_a_network_that_transformers_saved_gives_the_same_logits(tmp_path):
    stock = in_transformers(tiny()).eval()
    stock.save_pretrained(tmp_path)
    network = load_network(tmp_path).eval()
    pixels = torch.randn(2, 3, 64, 96)
    torch.testing.assert_close(network(pixels), stock(pixels).logits, atol=1e-5, rtol=1e-5)


def test_a_student_that_lacks_weights_is_not_read_as_one(tmp_path):
    save_network(tiny(), tmp_path)
    (tmp_path / "SHA256SUMS").unlink()
    weights = load_file(tmp_path / "model.safetensors")
    weights = {name: value for name, value in weights.items() if "classifier" not in name}
    save_file(weights, tmp_path / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(TrainingError, match=r"lacks 2 of its network's weights, .*classifier.*; copy the folder again"):
        load_network(tmp_path)


@pytest.mark.parametrize("name", ["model.safetensors", "config.json", "preprocessor_config.json", "SHA256SUMS"])
def test_every_flipped_bit_of_a_saved_student_is_found(tmp_path, name):
    save_network(tiny(), tmp_path)
    assert missed_flips(tmp_path / name, lambda: is_refused(tmp_path), num=20) == []
    load_network(tmp_path)


def is_refused(folder):
    try:
        load_network(folder)
    except NetworkError as error:
        return "differs from its checksum" in str(error)
    return False


def test_a_student_that_was_changed_on_purpose_says_how_it_is_taken(tmp_path):
    save_network(tiny(), tmp_path)
    config = tmp_path / "config.json"
    config.write_text(config.read_text().replace("cat", "dot"))
    for read in (lambda: load_network(tmp_path), lambda: tiny(student=str(tmp_path)), lambda: tiny(tmp_path)):
        with pytest.raises(NetworkError, match=rf"if the change is intended, run rm {tmp_path}/SHA256SUMS"):
            read()
    (tmp_path / "SHA256SUMS").unlink()
    assert load_network(tmp_path).config.id2label[1] == "dot"
