"""Maps of an image in bands of rows, from the top, because all rows together do not fit into memory."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

import torch
from torch import Tensor

from train.losses import upsampled


def in_step(versions: Sequence[Iterable[Tensor]]) -> Iterator[list[Tensor]]:
    """The same rows of several versions of an image, whose own bands end at different rows.

    versions: bands [1, K, h, W] of each; all have the same rows and columns
    """
    iterators = [iter(version) for version in versions]
    left = [next(iterator, None) for iterator in iterators]
    while all(band is not None for band in left):
        bands = [band for band in left if band is not None]
        num = min(band.shape[2] for band in bands)
        yield [band[:, :, :num] for band in bands]
        left = [
            band[:, :, num:] if band.shape[2] > num else next(iterator, None)
            for band, iterator in zip(bands, iterators, strict=True)
        ]


def resampled(bands: Iterable[Tensor], num_rows: int, size: Sequence[int]) -> Iterator[Tensor]:
    """Bands of the map that `upsampled` makes of all rows at once, to the same rounding.

    bands:    float32 [1, K, h, w] each
    num_rows: of all bands together
    size:     H, W of the result
    """
    # as torch computes them: in float32, at pixel centres, not above the first row
    places = (torch.tensor(num_rows, dtype=torch.float32) / size[0]) * (torch.arange(size[0]) + 0.5) - 0.5
    places.clamp_(min=0)
    above = places.long().clamp_(max=num_rows - 1)
    below, weights = (above + 1).clamp_(max=num_rows - 1), places - above
    rows, first, done = torch.zeros(0), 0, 0
    for band in bands:
        wide = upsampled(band, (band.shape[2], size[1]))
        rows = torch.cat([rows, wide], dim=2) if rows.numel() else wide
        stop = int(torch.searchsorted(below, first + rows.shape[2]))
        if stop > done:
            part = slice(done, stop)
            weight = weights[part, None].to(rows.device)
            yield (1 - weight) * rows[:, :, above[part] - first] + weight * rows[:, :, below[part] - first]
            done = stop
        if done < size[0]:
            start = min(int(above[done]) - first, rows.shape[2])  # a map that is made smaller may skip rows
            rows, first = rows[:, :, start:], first + start
