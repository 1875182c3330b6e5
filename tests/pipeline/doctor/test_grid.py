"""Whether the grid fits the shape and size of the images, and the grid that does."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.doctor.grid import MULTIPLE, crop_of, fitting_grid
from pipeline.errors import ConfigError
from pipeline.stages.prepare import prepare

LENGTHS = st.integers(16, 4000)


@pytest.mark.parametrize(
    ("sizes", "grid"),
    [
        ([[512, 512]], [512, 512]),
        ([[1024, 2048]], [368, 720]),  # area 512^2 at 1 : 2 is 362 x 724
        ([[128, 128], [144, 128], [128, 144]], [128, 128]),
        ([[360, 480]] * 3 + [[10, 10]], [352, 480]),
        ([[5, 5]], [16, 16]),
    ],
)
def test_a_fitting_grid_has_the_images_shape_and_at_most_the_area_of_seem(sizes, grid):
    assert fitting_grid(np.array(sizes)) == grid


@given(LENGTHS, LENGTHS)
def test_a_fitting_grid_is_a_multiple_of_16_and_keeps_the_aspect_ratio(height, width):
    grid = fitting_grid(np.array([[height, width]]))
    assert all(length % MULTIPLE == 0 and length >= MULTIPLE for length in grid)
    if min(height, width) >= 200 and max(height, width) <= 4 * min(height, width):
        assert abs(np.log(grid[1] / grid[0] * height / width)) < 0.1


def test_distorted_images_get_another_grid(data, only):
    finding = only("the grid changes the aspect ratio of 12 of 12 images by more than 1.5", **{"data.grid": [32, 16]})
    assert (finding.level, finding.where, finding.fix) == (
        "warning",
        ("data.grid: [32, 16]",),
        "set data.grid: [32, 32]",  # images of 24 x 32
    )


def test_images_far_larger_than_the_grid_lose_small_objects(tmp_path, write_images, only):
    write_images(tmp_path / "data", [f"im{i}" for i in range(12)], size=(120, 160))
    assert "so small objects are lost" in str(only("times as large as the grid", **{"data.grid": [24, 32]}))


def test_a_grid_far_larger_than_the_images_is_a_warning(data, only):
    finding = only("the grid is 4.0 times as large as the images", **{"data.grid": [96, 128]})
    assert finding.level == "warning"


def test_a_grid_that_prepare_refuses_is_an_error_and_is_not_tried(data, findings, make_settings):
    settings = {"data.grid": [200_000, 200_000]}
    found = findings(timed=True, **settings)
    assert not any("the annotator failed" in str(finding) for finding in found)
    (error,) = [finding for finding in found if "GB of memory for each image" in str(finding)]
    assert error.level == "error"
    with pytest.raises(ConfigError) as refused:
        prepare(make_settings(**settings))
    assert str(refused.value) == f"{error.what}; {error.fix}"


def test_crops_larger_than_the_images_are_mostly_padding(data, only):
    finding = only("crops are larger than the images (short side 24)", **{"train.crop": 513})
    assert (finding.level, finding.where) == ("warning", ("train.crop: 513",))
    assert finding.fix == "set train.crop to 33, or increase train.scale"


@pytest.mark.parametrize(("grid", "crop"), [([368, 480], 353), ([512, 512], 513), ([2048, 1024], 513), ([16, 16], 32)])
def test_a_crop_is_a_multiple_of_32_plus_1_that_fits_into_the_grid(grid, crop):
    assert crop_of(grid) == crop
