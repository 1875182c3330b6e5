"""Views of an image: flips and crops, countable by hand, and equal to a literal implementation."""

import math
import sys
import time
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from stage_runs import digest_of, run_stages
from tiny_run import UNTRAINED, write_run_file

from pipeline.annotators.agreement import confusion
from pipeline.annotators.contract import classes_without_prompt
from pipeline.annotators.views import ViewsAnnotator, num_calls, spans
from pipeline.datasets import image_to_grid
from pipeline.doctor import examine
from pipeline.errors import AnnotatorError, ConfigError
from pipeline.prompt_search.candidates import Wording
from pipeline.prompt_search.search import count_wordings
from pipeline.run import Run
from pipeline.run_file import load_settings
from pipeline.settings import ViewsSettings
from pipeline.stages.annotate import annotate
from pipeline.store import open_probabilities

SIZE = (12, 20)
IMAGES = np.random.default_rng(0).integers(0, 256, (3, *SIZE, 3), dtype=np.uint8)
PROMPTS = [["red"], ["green"], ["blue"]]


class Colours:
    """Maps from the colours of single pixels, three classes; as probabilities or logits, at a stride, and moved."""

    name, fingerprint = "colours", "1"

    def __init__(self, space="probability", stride=1, shift=0):
        self.space, self.stride, self.shift = space, stride, shift
        self.calls = 0

    def prepare(self, class_prompts):
        pass

    def __call__(self, images):
        self.calls += 1
        moved = np.roll(images, self.shift, axis=2)[:, :: self.stride, :: self.stride]
        maps = moved.transpose(0, 3, 1, 2).astype(np.float32) / 64 + 1
        return maps if self.space == "logits" else maps / maps.sum(axis=1, keepdims=True)


class Listed(Colours):
    """The same, which takes several lists of prompts at once and ignores them."""

    def prepare_lists(self, lists):
        self.num_lists = len(lists)

    def __call__(self, images):
        return np.concatenate([super().__call__(images)] * self.num_lists, axis=1)


def wrapped(annotator, flips=False, scales=(1.0,), resolution="annotator", prompts=PROMPTS):
    views = ViewsAnnotator(annotator, ViewsSettings(flips=flips, scales=list(scales)), resolution)
    views.prepare(prompts)
    views.prepare_images("abc")
    return views


def softmax(logits):
    exponentials = np.exp(logits - logits.max(axis=1, keepdims=True))
    return exponentials / exponentials.sum(axis=1, keepdims=True)


def test_flips_change_nothing_for_an_annotator_that_mirrors_its_maps_with_the_image():
    maps = Colours()(IMAGES)
    assert np.abs(wrapped(Colours(), flips=True)(IMAGES, "abc") - maps).max() <= 1e-7
    logits = Colours("logits")
    assert np.abs(wrapped(logits, flips=True)(IMAGES, "abc") - softmax(logits(IMAGES))).max() <= 1e-6


def test_a_flip_averages_the_annotators_errors_to_both_sides():
    found = wrapped(Colours(shift=1), flips=True)(IMAGES, "abc")
    maps = Colours()(IMAGES)
    assert np.abs(found - (np.roll(maps, 1, axis=3) + np.roll(maps, -1, axis=3)) / 2).max() <= 1e-6


class WithoutDog(Colours):
    without_prompt = ("dog",)


class MeanRed:
    """The probability of the first of two classes is the mean of red, for the whole image at once."""

    name, fingerprint, space = "mean red", "1", "probability"

    def prepare(self, class_prompts):
        pass

    def __call__(self, images):
        red = images[..., 0].mean(axis=(1, 2)) / 255
        return np.stack([red, 1 - red], axis=1)[..., None, None].astype(np.float32)


def test_crops_of_scale_2_are_countable_by_hand():
    """The left half of 1 x 8 pixels is red. Crops: columns 0 to 3, 2 to 5 and 4 to 7, red in 1, 0.5 and 0 of them."""
    image = np.zeros((1, 1, 8, 3), np.uint8)
    image[..., :4, 0] = 255
    views = wrapped(MeanRed(), scales=[2.0], resolution="grid", prompts=[["red"], ["other"]])
    red = views(image)[0, 0, 0]
    assert red == pytest.approx([1, 1, 0.75, 0.75, 0.25, 0.25, 0, 0], abs=2e-3)
    both = wrapped(MeanRed(), scales=[1.0, 2.0], resolution="grid", prompts=[["red"], ["other"]])(image)[0]
    assert both[0, 0] == pytest.approx((red + 0.5) / 2, abs=2e-3)
    assert both.sum(axis=0) == pytest.approx(np.ones((1, 8)))


@given(st.integers(1, 600), st.floats(1, 4))
def test_parts_cover_a_side_and_share_a_third_with_their_neighbours(length, scale):
    parts = spans(length, scale)
    size = max(1, round(length / scale))
    assert {part.stop - part.start for part in parts} == {size}
    assert (parts[0].start, parts[-1].stop) == (0, length)
    for one, other in pairwise(parts):
        assert one.start < other.start
        assert one.stop - other.start >= size / 3 - 1  # whole pixels


def test_the_numbers_of_crops_are_those_of_the_manual():
    sides = [384, 500]
    numbers = [num_calls(ViewsSettings(scales=[scale]), sides) for scale in (1.0, 1.5, 2.0, 3.0)]
    assert numbers == [1, 4, 9, 16]
    assert num_calls(ViewsSettings(flips=True, scales=[1.0, 1.5]), sides) == 10
    annotator = Colours()
    wrapped(annotator, flips=True, scales=[1.0, 1.5])(IMAGES, "abc")
    assert annotator.calls == 10


def literal_maps(annotator, image, flips, scales, size):
    """The definition, pixel by pixel: the mean over views of the mean over the crops that contain a pixel's centre."""
    height, width = image.shape[:2]
    views = []
    for scale in scales:
        for is_mirrored in [False, True][: 1 + flips]:
            sums, numbers = np.zeros((3, *size)), np.zeros(size)
            for top, bottom in spans(height, scale):
                for left, right in spans(width, scale):
                    crop = Image.fromarray(image[top:bottom, left:right]).resize((width, height), Image.BILINEAR)
                    crop = np.asarray(crop)[:, ::-1] if is_mirrored else np.asarray(crop)
                    maps = annotator(crop[None])[0]
                    maps = maps[..., ::-1] if is_mirrored else maps
                    for i, j in np.ndindex(*size):
                        y, x = (i + 0.5) * height / size[0], (j + 0.5) * width / size[1]
                        if top <= y < bottom and left <= x < right:
                            row = (y - top) * maps.shape[1] / (bottom - top) - 0.5
                            column = (x - left) * maps.shape[2] / (right - left) - 0.5
                            value = bilinear(maps, row, column)
                            sums[:, i, j] += softmax(value[None])[0] if annotator.space == "logits" else value
                            numbers[i, j] += 1
            views.append(sums / numbers)
    return np.mean(views, axis=0)


def bilinear(maps, row, column):
    last = maps.shape[1] - 1, maps.shape[2] - 1
    row, column = min(max(row, 0), last[0]), min(max(column, 0), last[1])
    i, j = math.floor(row), math.floor(column)
    below, right = min(i + 1, last[0]), min(j + 1, last[1])
    v, h = row - i, column - j
    upper = maps[:, i, j] * (1 - h) + maps[:, i, right] * h
    lower = maps[:, below, j] * (1 - h) + maps[:, below, right] * h
    return upper * (1 - v) + lower * v


@settings(max_examples=12, deadline=None)
@given(
    st.integers(0, 2**32 - 1),
    st.sampled_from(["probability", "logits"]),
    st.integers(1, 3),
    st.booleans(),
    st.lists(st.sampled_from([1.0, 1.3, 1.5, 2.0, 2.7]), min_size=1, max_size=2, unique=True),
    st.sampled_from(["annotator", "grid"]),
)
def test_the_maps_are_those_of_the_definition(seed, space, stride, flips, scales, resolution):
    rng = np.random.default_rng(seed)
    image = rng.integers(0, 256, (rng.integers(5, 12), rng.integers(5, 12), 3), dtype=np.uint8)
    annotator = Colours(space, stride, shift=1)
    found = wrapped(annotator, flips, scales, resolution)(image[None], "a")[0]
    own = annotator(image[None]).shape[2:]
    enlarged = [min(round(max(scales) * side), limit) for side, limit in zip(own, image.shape[:2], strict=True)]
    size = found.shape[1:]
    assert list(size) == (list(image.shape[:2]) if resolution == "grid" else enlarged)
    assert np.abs(found - literal_maps(annotator, image, flips, scales, size)).max() <= 1e-5


def test_the_maps_of_an_image_are_the_same_in_every_batch():
    views = wrapped(Colours("logits", stride=2), flips=True, scales=[1.0, 1.5])
    together = views(IMAGES, "abc")
    assert together.shape == (3, 3, 9, 15)
    for position, name in enumerate("abc"):
        assert np.array_equal(views(IMAGES[position : position + 1], name)[0], together[position])


def test_lists_of_prompts_have_probabilities_of_their_own():
    views = wrapped(Listed("logits"), flips=True)
    views.prepare_lists([PROMPTS, PROMPTS])
    maps = views(IMAGES, "abc")
    assert np.abs(maps[:, :3] - softmax(Colours("logits")(IMAGES))).max() <= 1e-6
    assert np.array_equal(maps[:, :3], maps[:, 3:])
    assert not hasattr(wrapped(Colours()), "prepare_lists")


def test_the_fingerprint_is_that_of_the_annotator_and_the_views():
    prints = {
        wrapped(annotator, flips, scales).fingerprint
        for annotator in (Colours(), ById())
        for flips in (False, True)
        for scales in ([1.5], [1.0, 1.5])
    }
    assert len(prints) == 8
    assert wrapped(Colours(), True).fingerprint == wrapped(Colours(), True).fingerprint
    assert classes_without_prompt(wrapped(WithoutDog(), True)) == ["dog"]
    assert classes_without_prompt(wrapped(Colours(), True)) == []


class ById(Colours):
    """Its maps depend on the ids of the images, and its fingerprint on all of them."""

    def prepare_images(self, ids):
        self.fingerprint = f"of {ids}"

    def image_fingerprint(self, sample_id):
        return f"image {sample_id}"

    def __call__(self, images, ids):
        assert len(images) == len(ids)
        return super().__call__(images) * np.array([len(i) for i in ids], np.float32)[:, None, None, None]


def test_an_annotator_that_distinguishes_images_gets_their_ids():
    views = wrapped(ById("logits"), flips=True)
    assert views.image_fingerprint("x") == "image x"
    maps = views(IMAGES, ["a", "bb", "a"])
    assert np.abs(maps - softmax(Colours("logits")(IMAGES) * np.array([1, 2, 1])[:, None, None, None])).max() <= 1e-5


class Mislabeled(Colours):
    """Probabilities, which it calls logits."""

    def __call__(self, images):
        return softmax(super().__call__(images))


def test_probabilities_that_are_called_logits_are_refused():
    with pytest.raises(AnnotatorError, match="colours has space logits, but the maps of a are in"):
        wrapped(Mislabeled("logits"), flips=True)(IMAGES, "abc")


@pytest.fixture
def make(tmp_path, write_images, monkeypatch):
    """Function that makes the settings of a prepared run of `Colours` with these settings of the annotator."""
    write_images(tmp_path / "data", [f"im{i:02d}" for i in range(12)])
    monkeypatch.setitem(sys.modules, "colours_for_views", sys.modules[__name__])

    def make_settings(views=None, space="probability", factory="Listed", **annotate):
        python = {"factory": f"colours_for_views:{factory}", "arguments": {"space": space, "shift": 1}}
        chosen = {"annotator": "python", "python": python, "class_check": "warn", "batch_size": 2, "views": views}
        settings = load_settings(write_run_file(tmp_path, annotate=chosen | annotate), UNTRAINED)
        if not Run(settings).has_receipt("prepare"):
            run_stages(settings, "prepare")
        return settings

    return make_settings


FLIPS = {"flips": True, "scales": [1.0, 1.5]}


def stored(settings):
    store = open_probabilities(settings.folder / "probs.zarr")
    return {name: store.probabilities(i).maps for i, name in enumerate(store.sample_ids)}


def test_the_run_stores_the_mean_and_views_are_part_of_its_identity(make):
    chosen = {"factory": "WithoutDog", "space": "logits"}
    settings = make(FLIPS, **chosen)
    facts = annotate(settings)
    assert facts["annotator"] == "colours, flips and scales 1, 1.5"
    assert (facts["maps"], facts["dtype"], facts["without_prompt"]) == ([10, 3, 16, 24], "uint16", ["dog"])
    index = Run(settings).samples()
    sample = index.of("unlabeled")[0]
    image = image_to_grid(index.image(sample), settings.data.grid)
    expected = literal_maps(Colours("logits", shift=1), image, True, [1.0, 1.5], (16, 24))
    assert np.abs(stored(settings)[sample.id] - expected).max() <= 2e-5
    before = digest_of(settings.folder / "probs.zarr")
    assert annotate(settings)["fingerprint"] == facts["fingerprint"]
    assert digest_of(settings.folder / "probs.zarr") == before
    for other in (None, {"flips": True}, {"scales": [1.0, 1.5]}):
        assert annotate(make(other, **chosen))["cache"]["num_made"] == 10
    assert annotate(settings)["cache"]["num_made"] == 0
    assert digest_of(settings.folder / "probs.zarr") == before


def test_one_view_of_the_whole_image_is_the_annotator_itself(make):
    facts = annotate(make(factory="Colours"))
    assert facts["annotator"] == "colours"
    assert annotate(make({"scales": [1.0]}, factory="Colours"))["fingerprint"] == facts["fingerprint"]


def test_members_of_an_ensemble_have_views_of_their_own(make):
    python = {"factory": "colours_for_views:Colours", "arguments": {"shift": 1}}
    members = {"plain": {"annotator": "python", "python": python}, "two": {"annotator": "python", "python": python}}
    members["two"]["views"] = {"flips": True}
    settings = make(annotator="ensemble", ensemble={"members": members})
    facts = annotate(settings)
    assert facts["members"]["two"]["annotator"] == "colours, flips and scales 1"
    index = Run(settings).samples()
    sample = index.of("labeled")[0]
    image = image_to_grid(index.image(sample), settings.data.grid)
    left, right = (Colours(shift=shift)(image[None])[0] for shift in (1, -1))
    assert np.abs(stored(settings)[sample.id] - (0.75 * left + 0.25 * right)).max() <= 5e-5
    (note,) = [one.what for one in examine(settings) if "views" in one.what]
    calls = "2 calls of the annotator per image, so 2 times its time"
    assert note == f"member two: annotate.ensemble.members.two.views: {calls}"


SEEM = {"annotator": "seem", "seem": {"checkpoint": "x"}}


@pytest.mark.parametrize(
    ("views", "others", "message"),
    [
        (
            {"flips": True},
            {"annotator": "maps", "maps": {"folder": "x"}},
            "no maps from images; remove views, and",
        ),
        (
            {"flips": True},
            {
                "annotator": "ensemble",
                "ensemble": {"members": {"a": {"annotator": "seem", "seem": {"checkpoint": "x"}}}},
            },
            "annotator ensemble computes no maps from images; set views of its members",
        ),
        ({"scales": [0.5]}, {}, "annotate.views.scales"),
        ({"scales": [1.5, 1.5]}, {}, "scales has the scale 1.5 twice; remove one"),
        ({"scales": []}, {}, "annotate.views.scales"),
    ],
)
def test_views_that_cannot_be_are_refused(make, views, others, message):
    with pytest.raises(ConfigError, match=message):
        make(views, **others)


def test_wordings_are_compared_with_views(make):
    settings = make({"flips": True})
    counts = count_wordings(settings, [Wording(1, ("tom cat",)), Wording(2, ("hound",))])
    assert np.array_equal(counts.right[:, 0], counts.right[:, 2])
    own = Colours(shift=1)
    index = Run(settings).samples()
    sample = index.of("labeled")[0]
    image = image_to_grid(index.image(sample), settings.data.grid)
    both = own(image[None])[0] + Colours(shift=-1)(image[None])[0]
    assert np.array_equal(counts.right[0, 0], confusion(index.mask(sample, settings.data), both).diagonal())


def test_the_doctor_says_how_much_longer_it_takes(make):
    found = [one.what for one in examine(make(FLIPS, factory="Slow"), timed=True)]
    assert "annotate.views: 10 calls of the annotator per image, so 10 times its time" in found
    (text,) = [one for one in found if one.startswith("time of annotate")]
    assert float(text.partition("measured on 4: ")[2].split()[0]) >= 10 * SECONDS


SECONDS = 0.01


class Slow(Colours):
    def __call__(self, images):
        time.sleep(SECONDS * len(images))
        return super().__call__(images)
