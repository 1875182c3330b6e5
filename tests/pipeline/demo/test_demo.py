"""The embedded demo: scenes that depend on their number alone, and an annotator that errs as it should."""

import numpy as np
import pytest
from PIL import Image

from pipeline.demo.annotator import WEIGHTS, build
from pipeline.demo.scenes import CLASS_NAMES, IGNORE_INDEX, numbered_scene, write_scenes
from pipeline.errors import AnnotatorError

SIZE = (128, 128)


def files_of(folder):
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def confusion(annotator, domain, num):
    """int [true, predicted] over fresh scenes that no training saw."""
    counts = np.zeros((len(CLASS_NAMES), len(CLASS_NAMES)), int)
    for index in range(num):
        scene = numbered_scene(99, domain, "fresh", index, SIZE)
        logits = annotator(scene.image[None])[0]
        scale = SIZE[0] // logits.shape[1]
        predicted = logits.argmax(axis=0).repeat(scale, axis=0).repeat(scale, axis=1)
        known = scene.mask != IGNORE_INDEX
        np.add.at(counts, (scene.mask[known], predicted[known]), 1)
    return counts


def mean_iou(counts):
    hits = np.diag(counts)
    return (hits / (counts.sum(0) + counts.sum(1) - hits)).mean()


def test_a_scene_does_not_depend_on_how_many_are_drawn(tmp_path):
    write_scenes(tmp_path / "few", domain="target", seed=3, num_train=2, num_val=1)
    write_scenes(tmp_path / "many", domain="target", seed=3, num_train=4, num_val=2)
    few, many = files_of(tmp_path / "few"), files_of(tmp_path / "many")
    pictures = [name for name in few if name.startswith(("JPEG", "Segmentation"))]
    assert len(pictures) == 6
    assert all(few[name] == many[name] for name in pictures)


def test_an_interrupted_call_is_completed_and_another_recipe_starts_afresh(tmp_path):
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


def test_the_annotator_knows_its_own_domain_and_leans_to_background_on_the_other():
    annotator = build()
    source, target = confusion(annotator, "source", 30), confusion(annotator, "target", 30)
    assert mean_iou(source) > 0.75  # blocky quarter-size maps; 0.84 with smooth up-sampling
    assert 0.35 < mean_iou(target) < mean_iou(source) - 0.1
    missed, invented = target[1:, 0].sum(), target[0, 1:].sum()
    assert missed > 3 * invented


def test_prompts_order_the_channels_and_aliases_count():
    images = numbered_scene(0, "target", "fresh", 0, SIZE).image[None]
    plain, shuffled = build(), build()
    plain.prepare([[name] for name in CLASS_NAMES])
    shuffled.prepare([["medusa", "Jellyfish"], ["fish"]])
    assert np.array_equal(
        shuffled(images), plain(images)[:, [CLASS_NAMES.index("jellyfish"), CLASS_NAMES.index("fish")]]
    )


def test_a_creature_that_it_does_not_know_is_named():
    with pytest.raises(AnnotatorError, match=r"knows background, fish, .*, not whale / orca"):
        build().prepare([["whale", "orca"]])


def test_the_weights_are_small():
    assert WEIGHTS.stat().st_size <= 3_000_000
