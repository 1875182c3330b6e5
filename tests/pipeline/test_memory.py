"""The memory that a grid needs, and its refusal."""

import os
import re

import pytest

from pipeline.errors import ConfigError
from pipeline.memory import grid_bytes, grid_problem, total_memory
from pipeline.stages.prepare import prepare


def test_the_memory_of_a_grid_is_countable_by_hand(make_settings):
    small = {"data.grid": [10, 20], "annotate.batch_size": 4}
    assert grid_bytes(make_settings(**small)) == 200 * (4 * 3 + 16)
    assert grid_bytes(make_settings(**small, **{"annotate.resolution": "grid"})) == 200 * (4 * 3 + 3 * 8)


def test_there_is_no_more_memory_than_the_machine_has():
    assert 0 < total_memory() <= os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def test_a_grid_that_needs_more_memory_than_there_is_is_refused_with_one_that_fits(make_settings):
    settings = make_settings(**{"data.grid": [1600, 3200], "annotate.batch_size": 1})
    needed = grid_bytes(settings)
    assert grid_problem(settings, needed) is None
    problem = grid_problem(settings, needed // 4 - 1)
    assert re.match(r"data.grid \[1600, 3200\] needs .* set data.grid to less than \[784, 1584\], or", problem)
    fitting = make_settings(**{"data.grid": [784, 1584], "annotate.batch_size": 1})
    assert grid_problem(fitting, needed // 4 - 1) is None


def test_prepare_refuses_it_before_any_work(make_settings, write_images, tmp_path):
    write_images(tmp_path / "data", [f"im{i}" for i in range(6)])
    with pytest.raises(ConfigError, match=r"data.grid \[200000, 200000\] needs at least \d+ GB of memory"):
        prepare(make_settings(**{"data.grid": [200_000, 200_000]}))
    assert not (tmp_path / "results").exists()
