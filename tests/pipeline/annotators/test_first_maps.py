"""What an annotator returns: used, or refused in one line with its reason."""

import logging
import sys
import types

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as of_numpy
from stage_runs import run_stages

from pipeline.annotators.build import build_annotator
from pipeline.annotators.contract import check_maps
from pipeline.annotators.first_maps import first_maps
from pipeline.errors import AnnotatorError
from pipeline.run import Run
from pipeline.stages.annotate import annotate


class Returning:
    """An annotator that returns what a function makes of each call's images."""

    def __init__(self, call, space="probability", prepare=lambda prompts: None):
        self.name, self.fingerprint, self.space = "mine", "1", space
        self.call, self.prepare = call, prepare

    def __call__(self, images):
        return self.call(images)


@pytest.fixture
def prepared(tmp_path, make_settings, write_images, monkeypatch):
    """Settings of a run that is prepared, with a factory of a user that makes this annotator."""
    write_images(tmp_path / "data", [f"im{i:02d}" for i in range(13)])

    def make(factory, **overrides):
        module = types.ModuleType("users_module")
        module.make = factory
        monkeypatch.setitem(sys.modules, "users_module", module)
        own = make_settings(factory="users_module:make", **overrides)
        run_stages(own, "prepare")
        return own

    return make


def maps_of(images, values=(0.5, 0.3, 0.2), slope=0.01):
    """float32 [B, 3, 4, 5]: a value for each class, a little more from row to row."""
    rows = slope * np.arange(4, dtype=np.float32)[:, None]
    return np.stack([np.stack([np.full((4, 5), value, np.float32) + rows for value in values])] * len(images))


def failing(*_, **__):
    raise KeyError("no such thing")


@pytest.mark.parametrize(
    ("factory", "message"),
    [
        (failing, r"users_module:make failed with the arguments {}; fix it or .*: KeyError: 'no such thing' \(.*line"),
        (
            lambda: Returning(failing),
            r"each of the first 4 images; fix .* image, im\d\d: KeyError.*line \d+\)",
        ),
        (lambda: Returning(maps_of, prepare=failing), r"mine failed in prepare; fix it: KeyError: 'no such thing' \("),
        (lambda: Returning(maps_of, space="odds"), r"space of users_module:make is 'odds', expected logits or prob"),
        (
            lambda: Returning(lambda images: maps_of(images, (0.9,) * 3)),
            "returned the same map for all 3 classes of im",
        ),
        (
            lambda: Returning(lambda images: maps_of(images, slope=0), space="logits"),
            r"a softmax, .* set its space",
        ),
        (
            lambda: Returning(lambda images: maps_of(images).tolist()),
            "returned list, expected a numpy array",
        ),
        (lambda: Returning(lambda images: maps_of(images).argmax(1)), "returned an array of int64, expected a numpy"),
        (lambda: Returning(lambda images: maps_of(images)[:, :, :0]), r"shape \(1, 3, 0, 5\), expected \[1, 3, h, w\]"),
    ],
)
def test_an_annotator_that_cannot_be_used_is_refused_before_anything_is_stored(prepared, factory, message):
    own = prepared(factory)
    with pytest.raises(AnnotatorError, match=message):
        annotate(own)
    assert not Run(own).folder.probabilities.exists()


@pytest.mark.parametrize(
    ("values", "slope", "text"),
    [
        ((0.4, 0.4, 0.2), 0.01, "mine returned equal maps for background and cat (im"),
        ((0.5, 0.3, 0.2), 0.0, "mine returned maps without any contrast for im"),
        ((0.9, 0.9, 0.8), 0.01, "sum to 2.64 on average, expected at most 1"),
    ],
)
def test_doubtful_maps_are_used_and_said(prepared, caplog, values, slope, text):
    own = prepared(lambda: Returning(lambda images: maps_of(images, values, slope)))
    annotate(own)
    assert [text in line for line in caplog.messages].count(True) == 1


def test_maps_of_another_size_than_the_first_fail_unless_they_are_resized(prepared):
    def factory():
        sizes = iter([*[(4, 5)] * 8, (8, 10), *[(4, 5)] * 30])  # the first image, the 6 labeled ones, then all
        return Returning(lambda images: np.resize(maps_of(images), (len(images), 3, *next(sizes))))

    for resolution, num_failed in (("annotator", 1), ("grid", 0)):
        settings = {"annotate.batch_size": 1, "annotate.resolution": resolution, "max_failed_fraction": 0.5}
        facts = annotate(prepared(factory, name=resolution, **settings))
        reasons = list(facts["failed"].values())
        assert len(reasons) == num_failed
        assert all("of 8 x 10, but those of the first image have 4 x 5; fix its __call__" in one for one in reasons)


def test_one_image_that_fails_first_does_not_end_the_stage(prepared):
    def call(images):
        if call.count == 0 or len(images) > 1:
            call.count += 1
            raise RuntimeError("not this one")
        return maps_of(images)

    call.count = 0
    assert annotate(prepared(lambda: Returning(call)))["num_done"] == 11


DTYPES = st.sampled_from([np.float16, np.float32, np.float64, np.int64, np.uint8, np.bool_, np.complex64])
SHAPES = st.tuples(st.just(2), st.just(3), st.integers(0, 3), st.integers(1, 3)) | of_numpy.array_shapes(
    min_dims=0, max_dims=5, max_side=3
)
ANYTHING = st.one_of(
    st.none(), st.text(), st.lists(st.floats()), DTYPES.flatmap(lambda dtype: of_numpy.arrays(dtype, SHAPES))
)


@settings(max_examples=60, deadline=None)
@given(ANYTHING, st.sampled_from(["logits", "probability"]))
def test_whatever_an_annotator_returns_is_maps_of_its_space_or_refused(returned, space):
    annotator = Returning(None, space=space)
    try:
        maps = check_maps(returned, 2, 3, annotator)
    except AnnotatorError:
        return
    assert maps.shape[:2] == (2, 3)
    assert maps.dtype in (np.float16, np.float32, np.float64)
    assert all(np.isfinite(value) for value in maps.ravel().tolist())
    assert space == "logits" or all(0 <= value <= 1 for value in maps.ravel().tolist())


def test_first_maps_are_those_of_the_first_image(prepared, caplog):
    caplog.set_level(logging.WARNING)
    own = prepared(lambda: Returning(maps_of))
    index = Run(own).samples()
    first = first_maps(index, index.of("labeled"), build_annotator(own), own.data)
    assert first.id == index.of("labeled")[0].id
    assert np.array_equal(first.maps, maps_of([None])[0])
    assert caplog.messages == []
