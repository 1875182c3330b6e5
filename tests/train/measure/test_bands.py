"""Bands of rows: resampled as all rows at once, and in step with those of other versions."""

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from train.losses import upsampled
from train.measure.bands import in_step, resampled

cuts = st.lists(st.integers(1, 9), min_size=1, max_size=8)


@settings(max_examples=15)
@given(cuts, st.integers(1, 9), st.integers(1, 90), st.integers(1, 12), st.integers(0, 99))
def test_resampled_bands_are_the_map_that_all_rows_give(heights, width, num_rows, num_columns, seed):
    whole = torch.rand((1, 2, sum(heights), width), generator=torch.Generator().manual_seed(seed))
    bands = list(resampled(whole.split(heights, dim=2), sum(heights), (num_rows, num_columns)))
    expected = upsampled(whole, (num_rows, num_columns))
    torch.testing.assert_close(torch.cat(bands, dim=2), expected, atol=1e-5, rtol=0)


def test_rows_of_a_large_image_are_placed_as_by_torch():
    whole = torch.arange(15000.0)[None, None, :, None]
    bands = list(resampled(whole.split(640, dim=2), 15000, (12000, 1)))
    torch.testing.assert_close(torch.cat(bands, dim=2), upsampled(whole, (12000, 1)), atol=1e-3, rtol=0)
    assert max(band.shape[2] for band in bands) <= 640


@given(st.lists(cuts, min_size=1, max_size=4))
def test_versions_in_step_have_the_same_rows(versions):
    num_rows = max(map(sum, versions)) + 1
    whole = [torch.arange(float(num_rows))[None, None, :, None] + 1000 * i for i in range(len(versions))]
    cut = [
        rows.split([*heights, num_rows - sum(heights)], dim=2) for rows, heights in zip(whole, versions, strict=True)
    ]
    steps = list(in_step(cut))
    for i, rows in enumerate(whole):
        assert torch.cat([bands[i] for bands in steps], dim=2).equal(rows)
    assert all(len({band.shape[2] for band in bands}) == 1 for bands in steps)
