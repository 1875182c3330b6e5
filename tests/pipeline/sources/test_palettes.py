"""Palettes of a data set: the same colours in another order are refused, whatever else differs."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from pipeline.errors import DatasetError
from pipeline.images import PixelLimit
from pipeline.init import mask_values
from pipeline.sources.palettes import palette_problems
from pipeline.stages.prepare import prepare

RED, GREEN, BLUE = 0xFF0000, 0x00FF00, 0x0000FF
IDS = [f"im{i:02d}" for i in range(12)]


def test_the_colours_of_one_mask_in_another_order_are_named():
    usual, sorted_by_a_program = {0: 0, 1: RED, 2: GREEN}, {0: 0, 1: GREEN, 2: RED}
    (problem,) = palette_problems({"a.png": usual, "b.png": sorted_by_a_program, "c.png": usual, "grey.png": {}})
    assert problem.startswith(
        "1 of 4 masks with a palette have its colours in another order: b.png; the colour #00ff00"
    )
    assert "is value 1 in b.png, but value 2 in a.png" in problem


@pytest.mark.parametrize(
    "masks",
    [
        {"a": {0: 0, 1: RED}, "b": {0: 0, 2: GREEN}},
        {"a": {0: 0, 1: RED}, "b": {0: BLUE, 1: GREEN}},  # another palette for the same values
        {"a": {0: 0, 1: 0, 2: 0}, "b": {2: 0, 1: 0}},  # one colour for all
        {"a": {}, "b": {}},
        {},
    ],
)
def test_palettes_that_swap_nothing_are_no_problem(masks):
    assert palette_problems(masks) == []


@given(st.permutations(range(5)), st.lists(st.frozensets(st.integers(0, 4), min_size=1), min_size=1, max_size=6))
def test_another_order_is_found_exactly_if_a_colour_with_another_value_occurs(order, contents):
    usual = {str(i): {v: 100 + v for v in range(5)} for i in range(8)}
    others = {f"other {i}": {v: 100 + order[v] for v in values} for i, values in enumerate(contents)}
    is_wrong = any(order[v] != v for values in contents for v in values)
    assert bool(palette_problems(usual | others)) == is_wrong


@pytest.fixture
def palette_masks(tmp_path, write_images):
    """Masks with a palette, one of them saved with its colours in another order."""
    write_images(tmp_path / "data", IDS)
    colours = np.random.default_rng(0).integers(1, 256, (256, 3), dtype=np.uint8)
    swapped = np.arange(256)
    swapped[[1, 2]] = 2, 1
    masks = sorted((tmp_path / "data/masks").iterdir())
    for path in masks:
        values = np.asarray(Image.open(path))
        order = swapped if path.stem in IDS[:1] else np.arange(256)
        picture = Image.fromarray(order[values].astype(np.uint8))
        picture.putpalette(colours[order].tobytes())
        picture.save(path)
    return {path.stem: path for path in masks}


def test_prepare_and_init_refuse_swapped_classes(palette_masks, make_settings):
    swapped = rf"1 of \d+ masks with a palette .*{IDS[0]}.png; .*; export the masks again with one palette"
    settings = make_settings(**{"splits.num_labeled": None})
    with pytest.raises(DatasetError, match=swapped):
        prepare(settings)
    with pytest.raises(DatasetError, match=swapped):
        mask_values(palette_masks, PixelLimit(10**6))
    assert not settings.folder.exists()
