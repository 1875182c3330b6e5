"""The embedded demo: scenes that depend on their number only, and a small SEEM with the intended errors."""

import itertools
import json

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from PIL import Image

from pipeline.demo import train_seem_nano as training
from pipeline.demo.scenes import CLASS_NAMES, IGNORE_INDEX, numbered_scene, write_scenes
from pipeline.demo.vocabulary import ABSENT, SYNONYMS, build_tokenizer, learn_merges
from pipeline.seem import Seem
from pipeline.seem.maps import network_input

SIZE = (128, 128)
ANIMALS = CLASS_NAMES[1:]
NUM_FRESH = 40


def files_of(folder):
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def fresh(domain, num=NUM_FRESH):
    """Scenes that were not used in training."""
    scenes = [numbered_scene(99, domain, "fresh", index, SIZE) for index in range(num)]
    return np.stack([scene.image for scene in scenes]), np.stack([scene.mask for scene in scenes])


def maps_of(seem, images, names):
    return seem.semantic_maps(images, seem.class_texts(names, background="prompt"), normalise="cap")


def confusion(maps, masks):
    """Confusion matrix int [true, predicted] of pixels with a class."""
    counts = np.zeros((len(CLASS_NAMES), len(CLASS_NAMES)), int)
    known = masks != IGNORE_INDEX
    np.add.at(counts, (masks[known], maps.argmax(axis=1)[known]), 1)
    return counts


def mean_iou(counts):
    hits = np.diag(counts)
    return (hits / (counts.sum(0) + counts.sum(1) - hits)).mean()


@pytest.fixture(scope="module")
def seem():
    return Seem.from_pretrained(training.FOLDER)


@pytest.fixture(scope="module")
def source():
    return fresh("source")


@pytest.fixture(scope="module")
def source_maps(seem, source):
    return maps_of(seem, source[0], ANIMALS)


@pytest.fixture
def tiny_training(monkeypatch):
    """Trains for three steps on a few scenes, and restores the number of threads."""
    monkeypatch.setattr(training, "NUM_TRAIN", 12)
    monkeypatch.setattr(training, "NUM_HELD_OUT", 4)
    threads = torch.get_num_threads()

    def run(folder, seed):
        arguments = ["--out", str(folder), "--steps", "3", "--seed", str(seed)]
        assert CliRunner().invoke(training.main, arguments, catch_exceptions=False).exit_code == 0
        return (folder / "model.safetensors").read_bytes()

    yield run
    torch.set_num_threads(threads)


# --- scenes ----------------------------------------------------------------------------------------------------------


def test_a_scene_does_not_depend_on_how_many_are_drawn(tmp_path):
    write_scenes(tmp_path / "few", domain="target", seed=3, num_train=2, num_val=1)
    write_scenes(tmp_path / "many", domain="target", seed=3, num_train=4, num_val=2)
    few, many = files_of(tmp_path / "few"), files_of(tmp_path / "many")
    pictures = [name for name in few if name.startswith(("JPEG", "Segmentation"))]
    assert len(pictures) == 6
    assert all(few[name] == many[name] for name in pictures)


def test_an_interrupted_call_is_completed_and_another_recipe_starts_again(tmp_path):
    write_scenes(tmp_path, domain="target", seed=3, num_train=3, num_val=1)
    expected = files_of(tmp_path)
    (tmp_path / "JPEGImages/train_0001.jpg").unlink()
    write_scenes(tmp_path, domain="target", seed=3, num_train=3, num_val=1)
    assert files_of(tmp_path) == expected
    write_scenes(tmp_path, domain="source", seed=3, num_train=3, num_val=1)
    assert all(files_of(tmp_path)[name] != expected[name] for name in expected if name.endswith(".jpg"))


def test_masks_are_palette_indices_with_an_ignored_rim(tmp_path):
    write_scenes(tmp_path, domain="source", seed=0, num_train=9, num_val=1)
    values = set()
    for path in (tmp_path / "SegmentationClass").glob("*.png"):
        with Image.open(path) as mask, Image.open(tmp_path / f"JPEGImages/{path.stem}.jpg") as image:
            assert mask.mode == "P"
            assert mask.size == image.size
            values |= set(np.unique(np.array(mask)).tolist())
    assert values <= {*range(len(CLASS_NAMES)), IGNORE_INDEX}
    assert len(values) == len(CLASS_NAMES) + 1


# --- tokenizer -------------------------------------------------------------------------------------------------------


def test_the_end_token_has_the_largest_id_and_the_ids_have_no_gap(seem):
    tokenizer, text = seem.tokenizer, seem.config.text_config
    assert tokenizer.eos_token_id == tokenizer.pad_token_id == text.eos_token_id == len(tokenizer) - 1
    assert tokenizer.bos_token_id == text.bos_token_id == len(tokenizer) - 2
    assert sorted(tokenizer.get_vocab().values()) == list(range(text.vocab_size))
    assert len(tokenizer) <= 1000


def test_the_demos_words_are_one_token_each_and_others_are_bytes(seem):
    words = {word for name in [*itertools.chain(*SYNONYMS.values()), *ABSENT] for word in name.split()}
    assert all(len(seem.tokenizer.tokenize(word)) == 1 for word in words)
    for word in ("zebra", "œuvre", "鱼", "42nd"):
        tokens = seem.tokenizer(word, add_special_tokens=False)["input_ids"]
        assert max(tokens) < seem.tokenizer.bos_token_id
        assert seem.tokenizer.decode(tokens).replace(" ", "") == word


def test_merges_join_the_most_common_pair_and_in_a_tie_the_first():
    assert learn_merges(["ab ab b", "ca"]) == [("a", "b</w>"), ("c", "a</w>")]
    assert learn_merges(["xy", "ab"]) == [("a", "b</w>"), ("x", "y</w>")]


def test_the_committed_tokenizer_is_the_one_that_the_script_builds(seem):
    text = "a photo of the tortoise in a video game, unheard of."
    assert build_tokenizer().get_vocab() == seem.tokenizer.get_vocab()
    assert build_tokenizer()(text)["input_ids"] == seem.tokenizer(text)["input_ids"]


# --- seem-nano -------------------------------------------------------------------------------------------------------


def test_the_folder_is_small_and_names_its_training(seem):
    assert sum(map(len, files_of(training.FOLDER).values())) <= 4_000_000
    num_parameters = sum(parameter.numel() for parameter in seem.model.parameters())
    assert num_parameters <= 1_000_000
    assert {parameter.dtype for parameter in seem.model.parameters()} == {torch.float32}
    facts = json.loads((training.FOLDER / "config.json").read_text())["training"]
    assert facts["parameters"] == num_parameters
    assert facts["source_miou"] >= 0.85
    assert facts["command"].startswith("python -m pipeline.demo.train_seem_nano")


def test_seem_nano_is_right_on_its_own_domain_and_favours_background_on_the_other(seem, source, source_maps):
    images, masks = fresh("target")
    own, other = confusion(source_maps, source[1]), confusion(maps_of(seem, images, ANIMALS), masks)
    assert mean_iou(own) > 0.85
    assert 0.35 < mean_iou(other) < mean_iou(own) - 0.1
    missed, invented = other[1:, 0].sum(), other[0, 1:].sum()
    assert missed > 3 * invented


def test_no_class_is_ruled_out(source, source_maps):
    """Absent classes have some probability, so that conformal thresholds can include them."""
    true = np.take_along_axis(source_maps, np.minimum(source[1], 5)[:, None].astype(int), axis=1)[:, 0]
    wrong = (source_maps.argmax(axis=1) != source[1]) & (source[1] != IGNORE_INDEX)
    assert np.median(true[wrong]) > 0.01


def test_names_of_one_animal_are_similar_and_those_of_two_are_not(seem):
    names = [(animal, name) for animal in ANIMALS for name in SYNONYMS[animal]]
    vectors = seem.text_embeddings([name for _, name in names])
    same = np.array([[one == other for other, _ in names] for one, _ in names])
    cosines = vectors @ vectors.T
    assert cosines[same].min() > 0.9
    assert cosines[~same].max() < 0.8


@pytest.mark.parametrize("place", [1, -1])
def test_another_name_finds_the_same_animal(seem, source, place):
    names = [SYNONYMS[name][place] for name in ANIMALS]
    assert not set(names) & set(ANIMALS)
    assert mean_iou(confusion(maps_of(seem, source[0], names), source[1])) > 0.8


def test_absent_objects_get_almost_no_pixel(seem, source):
    absent = ["crab", "whale", "lighthouse", "guitar"]  # two that training named, two that it did not
    maps = maps_of(seem, source[0], [*ANIMALS, *absent])
    claimed = maps.argmax(axis=1) > len(ANIMALS)
    assert claimed.mean() < 0.005
    assert mean_iou(confusion(maps[:, : len(CLASS_NAMES)], source[1])) > 0.8


def test_the_order_of_names_changes_only_the_order_of_the_maps(seem, source, source_maps):
    shuffled = maps_of(seem, source[0][:4], ANIMALS[::-1])
    assert np.abs(shuffled[:, 1:] - source_maps[:4, :0:-1]).max() < 1e-5
    assert np.abs(shuffled[:, 0] - source_maps[:4, 0]).max() < 1e-5


# --- training --------------------------------------------------------------------------------------------------------


def test_training_and_inference_compute_the_same_map(seem, source):
    texts = seem.class_texts(ANIMALS, background="prompt")
    pixels, _ = network_input(source[0][:2], SIZE[0], seem.config)
    with torch.inference_mode():
        predictions = seem.model(pixels, torch.from_numpy(texts.embeddings))
        found = training.capped_maps(predictions, SIZE)
    assert np.abs(found.numpy() - seem.semantic_maps(source[0][:2], texts, normalise="cap")).max() < 1e-5


def test_a_perfect_map_has_no_loss_and_a_smoothed_target_the_least():
    masks = torch.tensor([[[0, 1], [5, IGNORE_INDEX]]])
    sure = torch.zeros(1, 8, 2, 2)  # six classes, two absent names
    sure[0, [0, 1, 5], [0, 0, 1], [0, 1, 0]] = 1.0
    smoothed = 0.9 * sure
    smoothed[:, :6] += 0.1 / 6
    assert training.map_loss(sure, masks, smoothing=0.0) < 1e-5
    best = training.map_loss(smoothed, masks, smoothing=0.1)
    for other in (sure, 0.5 * (sure + smoothed), 0.9 * smoothed, 0.8 * smoothed + 0.2 / 8):
        assert training.map_loss(other, masks, smoothing=0.1) > best


def test_texts_name_every_class_in_order_and_then_absent_objects():
    rng = np.random.default_rng(0)
    for _ in range(20):
        names = training.draw_names(rng)
        assert names[: len(CLASS_NAMES)] == list(SYNONYMS.values())
        assert len(names) == len(CLASS_NAMES) + training.NUM_ABSENT
        texts = training.draw_texts(names, rng)
        assert all(any(name in text for name in synonyms) for text, synonyms in zip(texts, names, strict=True))


def test_training_embeds_texts_as_inference_does_and_the_background_again_for_the_void(seem):
    texts = ["background.", "a long sentence on a jellyfish.", "fish."]
    with torch.inference_mode():
        vectors = training.embed_texts(seem.model, seem.tokenizer, texts).numpy()
    expected = Seem(seem.model, seem.tokenizer, templates=["{}"]).text_embeddings(texts)
    assert np.abs(vectors[:-1] - expected).max() < 1e-5
    assert np.array_equal(vectors[0], vectors[-1])


def test_the_learning_rate_rises_to_its_peak_and_ends_near_zero():
    fractions = [training.lr_fraction(step, 100) for step in range(100)]
    assert fractions[:3] == pytest.approx([0.1, 0.2, 0.3])
    assert 0.95 < max(fractions) <= 1
    assert 0 < fractions[-1] < 0.001


@pytest.mark.slow
def test_training_writes_a_folder_that_loads_and_is_reproducible(tiny_training, tmp_path):
    first, again, other = (tiny_training(tmp_path / str(i), seed) for i, seed in enumerate([7, 7, 8]))
    assert first == again
    assert first != other
    assert maps_of(Seem.from_pretrained(tmp_path / "0"), fresh("source", 1)[0], ANIMALS).shape == (1, 6, *SIZE)
