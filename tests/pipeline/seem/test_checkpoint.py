"""Published checkpoints: read strictly, mapped completely, refused with the reason."""

import os
import pickle

import numpy as np
import pytest
import torch
from tiny_seem import DEPTHS, LEVELS, UNTOLD, WIDTH, write_tokenizer

from pipeline.seem import Seem, SeemConfig, SeemError, SeemModel
from pipeline.seem.checkpoint import detect_config, read_weights, unused_names

IMAGE = np.random.default_rng(0).integers(0, 256, (40, 52, 3), dtype=np.uint8)


@pytest.fixture
def altered(tmp_path, tiny_checkpoints):
    """Write a copy of a tiny checkpoint after a change to its weights, and try to load it."""

    def load(change, name="altered.pt"):
        weights = torch.load(tiny_checkpoints["focal"], weights_only=True)
        torch.save(change(weights), tmp_path / name)
        return Seem.from_checkpoint(tmp_path / name, write_tokenizer(tmp_path / "tokenizer"), **UNTOLD)

    return load


@pytest.mark.parametrize("backbone", ["focal_dw", "focal", "sam_vit"])
def test_the_variant_is_detected_from_the_contents(tiny_checkpoints, backbone):
    weights = read_weights(tiny_checkpoints[backbone])
    config = detect_config(weights, tiny_checkpoints[backbone], text_heads=2, decoder_heads=4)
    assert config.backbone == backbone
    if backbone == "sam_vit":
        assert (config.width, config.depths, config.vit_heads, config.vit_global_blocks) == (16, [2], 2, [1])
        assert (config.image_size, config.short_side) == (64, 62)
    else:
        assert (config.width, tuple(config.depths), tuple(config.focal_levels)) == (WIDTH, DEPTHS, LEVELS)
    assert config.text_config.eos_token_id == config.text_config.vocab_size - 1


@pytest.mark.parametrize("backbone", ["focal_dw", "focal", "sam_vit"])
def test_every_weight_is_mapped(tiny_checkpoints, load_tiny, backbone):
    published = read_weights(tiny_checkpoints[backbone])
    unused = unused_names(published)
    assert len(unused) == 8
    ours = load_tiny(backbone).model.state_dict()
    sums = sorted(
        part.double().sum().item() for n, w in published.items() if n not in unused for part in in_parts(n, w)
    )
    assert sorted(w.double().sum().item() for w in ours.values()) == pytest.approx(sums, abs=1e-9)


def in_parts(name, weight):
    return weight.chunk(3) if "resblocks" in name and "in_proj" in name else [weight]


@pytest.mark.parametrize(
    ("dimensions", "parameters"),
    [
        ({"backbone": "focal_dw", "width": 96, "depths": [2, 2, 6, 2], "focal_levels": [3] * 4}, 164_619_249),
        ({}, 341_181_177),
        ({"backbone": "sam_vit", "width": 768, "depths": [12], "vit_heads": 12, "encoder_ffn_dim": 1024}, 215_563_649),
        (
            {"backbone": "sam_vit", "width": 1024, "depths": [24], "vit_heads": 16, "encoder_ffn_dim": 1024,
             "vit_global_blocks": [5, 11, 17, 23]},
            440_538_689,
        ),
    ],
)  # fmt: skip
def test_the_published_dimensions_give_the_published_numbers_of_parameters(dimensions, parameters):
    clicks_only = 820_224
    with torch.device("meta"):
        model = SeemModel(SeemConfig(**dimensions))
    assert sum(p.numel() for p in model.parameters()) == parameters - clicks_only


def test_a_saved_network_loads_in_two_lines_and_gives_the_same_maps(load_tiny, tmp_path):
    seem = load_tiny(short_side=64)
    seem.save_pretrained(tmp_path / "saved")
    loaded = Seem.from_pretrained(tmp_path / "saved")
    expected, found = (s.semantic_map(IMAGE, ["cat", "dog"]) for s in (seem, loaded))
    assert np.array_equal(expected, found)
    assert loaded.config.source_sha256 == seem.config.source_sha256
    assert os.stat(tmp_path / "saved/model.safetensors").st_mode & 0o044


def test_weights_in_half_precision_are_computed_with_in_float32(load_tiny, tmp_path):
    seem = load_tiny(short_side=64)
    seem.model.half().save_pretrained(tmp_path)
    seem.tokenizer.save_pretrained(tmp_path)
    assert {p.dtype for p in Seem.from_pretrained(tmp_path).model.parameters()} == {torch.float32}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda w: {n: t for n, t in w.items() if "decoder_norm" not in n},
         r"2 missing: mask_decoder.norm.bias, mask_decoder.norm.weight;"),
        (lambda w: {**w, "sem_seg_head.predictor.caption_bias": torch.zeros(2)},
         r"1 unexpected: sem_seg_head.predictor.caption_bias;"),
        (lambda w: {**w, "backbone.norm0.bias": torch.zeros(3)},
         r"1 of another shape: backbone.norm0.bias \[3\] instead of \[8\];"),
        (lambda w: {n.replace("backbone.", "image_encoder."): t for n, t in w.items()},
         r"not a known SEEM checkpoint: it lacks backbone.*; use a published Focal-T, Focal-L, SAM"),
        (lambda w: {"model": w}, r"contains model, expected a flat dict of tensors"),
        (lambda w: {"vit.cls_token": torch.zeros(1)}, "not a known SEEM checkpoint: it lacks "),
    ],
)  # fmt: skip
def test_a_file_of_another_network_is_refused_with_the_names(altered, change, message):
    with pytest.raises(SeemError, match=message):
        altered(change)


def test_many_names_are_cut_short(altered):
    with pytest.raises(SeemError, match=r"12 unexpected: (\S+ ){7}\S+ and 4 more;"):
        altered(lambda w: {**w, **{f"extra.{i}": torch.zeros(1) for i in range(12)}})


def test_a_file_named_as_another_variant_is_refused(altered):
    with pytest.raises(SeemError, match=r"seem_samvitb_v1.pt is named samvitb, but contains focal of width 8"):
        altered(lambda w: w, name="seem_samvitb_v1.pt")


@pytest.mark.parametrize("kept", [0, 100, 0.5, 0.999])
def test_a_truncated_file_is_refused(tmp_path, tiny_checkpoints, kept):
    content = tiny_checkpoints["focal"].read_bytes()
    path = tmp_path / "short.pt"
    path.write_bytes(content[: int(kept * len(content)) if isinstance(kept, float) else kept])
    with pytest.raises(SeemError, match=r"short.pt \(\d+ bytes\) is truncated or not a torch checkpoint .* download"):
        read_weights(path)


class Surprise:
    def __reduce__(self):
        return (os.system, ("touch surprise",))


@pytest.mark.parametrize("wrapped", [True, False])
def test_a_pickle_with_a_foreign_class_is_refused_and_not_run(tmp_path, monkeypatch, wrapped):
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "foreign.pt"
    if wrapped:
        torch.save({"weight": torch.zeros(1), "extra": Surprise()}, path)
    else:
        path.write_bytes(pickle.dumps(Surprise()))
    with pytest.raises(SeemError, match=r"foreign.pt contains .*which could run code when loaded, expected only"):
        read_weights(path)
    assert not (tmp_path / "surprise").exists()


def test_a_missing_file_names_the_command_that_gets_one(tmp_path):
    with pytest.raises(SeemError, match=r"no checkpoint .*gone.pt; get one with: conformalsam download"):
        read_weights(tmp_path / "gone.pt")


def test_a_missing_tokenizer_is_named(tmp_path, tiny_checkpoints):
    with pytest.raises(SeemError, match=r"no tokenizer in .*, expected tokenizer.json, or vocab.json and merges.txt"):
        Seem.from_checkpoint(tiny_checkpoints["focal"], tmp_path, **UNTOLD)


@pytest.mark.parametrize("content", ["", "{", '{"model": 3}'])
def test_a_damaged_tokenizer_is_refused(load_tiny, tmp_path, content):
    load_tiny().save_pretrained(tmp_path)
    (tmp_path / "tokenizer.json").write_text(content)
    with pytest.raises(SeemError, match=r"the tokenizer in .* cannot be read: .*; download it again"):
        Seem.from_pretrained(tmp_path)


def test_a_tokenizer_of_another_vocabulary_is_refused(altered):
    def fewer(weights):
        name = "sem_seg_head.predictor.lang_encoder.lang_encoder.token_embedding.weight"
        return {**weights, name: weights[name][:-5]}

    with pytest.raises(SeemError, match="has 514 entries, but the network has 509; use"):
        altered(fewer)


@pytest.mark.parametrize("gone", ["config.json", "model.safetensors"])
def test_an_incomplete_folder_is_refused(load_tiny, tmp_path, gone):
    load_tiny().save_pretrained(tmp_path)
    (tmp_path / gone).unlink()
    with pytest.raises(SeemError, match=rf"has no {gone}; create the folder: conformalsam convert-seem"):
        Seem.from_pretrained(tmp_path)


def test_a_damaged_folder_is_refused(load_tiny, tmp_path):
    load_tiny().save_pretrained(tmp_path)
    weights = tmp_path / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1000])
    with pytest.raises(SeemError, match=r"cannot be loaded: .*; convert the published file again"):
        Seem.from_pretrained(tmp_path)


def test_weights_that_do_not_fit_the_config_are_refused(load_tiny, tmp_path):
    from safetensors.torch import load_file, save_file

    load_tiny().save_pretrained(tmp_path)
    weights = load_file(tmp_path / "model.safetensors")
    weights["mask_decoder.norm.weigth"] = weights.pop("mask_decoder.norm.weight")
    save_file(weights, tmp_path / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(SeemError, match=r"does not fit its config.json: .*mask_decoder.norm.weight"):
        Seem.from_pretrained(tmp_path)
