"""Duplicate images: exact copies, other formats, and nothing else."""

import shutil

import imagehash
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from pipeline.demo.scenes import numbered_scene
from pipeline.doctor.survey import perceptual_hash
from pipeline.doctor.twins import MAX_DISTANCE, find_twins, hash_distances
from pipeline.sources import find_samples

HASHES = st.lists(st.integers(0, 2**64 - 1) | st.integers(0, 40), max_size=12).map(lambda x: np.array(x, np.uint64))


def bits(a, b):
    return (int(a) ^ int(b)).bit_count()


@given(HASHES, HASHES)
def test_distances_count_differing_bits(first, second):
    distances = hash_distances(first, second)
    assert all(distances[i, j] == bits(a, b) for i, a in enumerate(first) for j, b in enumerate(second))


@given(HASHES, HASHES)
def test_each_image_gets_its_nearest_other_if_it_is_near(images, others):
    found = {twin.image: twin for twin in find_twins(images, others)}
    for i, image in enumerate(images):
        nearest = min((bits(image, other) for other in others), default=64)
        assert (i in found) == (nearest <= MAX_DISTANCE)
        if i in found:
            assert found[i].distance == nearest == bits(image, others[found[i].other])


@given(HASHES)
def test_within_a_split_images_are_compared_with_earlier_ones(images):
    found = {twin.image: twin for twin in find_twins(images)}
    for i, image in enumerate(images):
        near = [j for j in range(i) if bits(image, images[j]) <= MAX_DISTANCE]
        assert (i in found) == bool(near)
        assert i not in found or found[i].other in near


def test_hashes_agree_with_imagehash_and_survive_jpeg_and_size(tmp_path):
    scenes = [numbered_scene(5, "target", "twins", i, (128, 160)).image for i in range(12)]
    hashes = [perceptual_hash(scene) for scene in scenes]
    for scene, found in zip(scenes, hashes, strict=True):
        assert f"{found:016x}" == str(imagehash.phash(Image.fromarray(scene)))
        Image.fromarray(scene).resize((200, 160)).save(tmp_path / "again.jpg", quality=60)
        with Image.open(tmp_path / "again.jpg") as again:
            assert bits(found, perceptual_hash(np.asarray(again))) <= MAX_DISTANCE
    assert min(bits(a, b) for i, a in enumerate(hashes) for b in hashes[:i]) > MAX_DISTANCE


@pytest.fixture
def samples(data, make_settings):
    """Split -> samples."""
    found, _ = find_samples(make_settings().data)
    return {split: [sample for sample in found if sample.split == split] for split in ("labeled", "unlabeled", "val")}


@pytest.mark.parametrize(
    ("first", "second", "level"),
    [
        ("labeled", "val", "warning"),
        ("unlabeled", "val", "warning"),
        ("labeled", "labeled", "warning"),
        ("labeled", "unlabeled", "note"),
        ("unlabeled", "unlabeled", "note"),
        ("val", "val", "note"),
    ],
)
def test_a_copy_is_named_with_its_original(data, samples, only, first, second, level):
    original, copy = samples[first][0], samples[second][1]
    shutil.copy(data / original.image, data / copy.image)
    finding = only("equal (=) or similar (~) to")
    assert finding.level == level
    assert finding.where == (f"{original.id} = {copy.id}",)
    assert (level == "warning") == bool(finding.fix)


def test_a_copy_in_another_format_is_nearly_equal(data, samples, only):
    original, copy = samples["labeled"][0], samples["val"][0]
    scene = Image.fromarray(numbered_scene(5, "target", "twins", 0, (24, 32)).image)
    scene.save(data / original.image)
    (data / copy.image).unlink()
    scene.save((data / copy.image).with_suffix(".jpg"), quality=90)
    assert only("1 of 2 val images is equal (=) or similar (~) to a labeled image").where == (
        f"{original.id} ~ {copy.id}",
    )
