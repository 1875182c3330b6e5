"""Reads the images of `annotate` in batches, the next one while the annotator runs."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

from pipeline.annotators.contract import Images
from pipeline.datasets import Sample, SampleIndex, image_to_grid
from pipeline.errors import UnreadableSourceError


class Batch(NamedTuple):
    """Images read for one call of the annotator, and those that could not be read."""

    indices: list[int]
    ids: list[str]
    images: list[Images]
    errors: dict[int, str]


def read_batches(
    index: SampleIndex, samples: Sequence[Sample], pending: Sequence[int], size: int, grid: Sequence[int]
) -> Iterator[Batch]:
    """Batches in order; the next one is read while the annotator runs."""

    def read(indices: Sequence[int]) -> Batch:
        batch = Batch([], [], [], {})
        for i in indices:
            try:
                image = image_to_grid(index.image(samples[i]), grid)
            except UnreadableSourceError as error:
                batch.errors[i] = str(error)
                continue
            batch.indices.append(i)
            batch.ids.append(samples[i].id)
            batch.images.append(image)
        return batch

    chunks = [pending[start : start + size] for start in range(0, len(pending), size)]
    with ThreadPoolExecutor(1) as reader:
        upcoming = [reader.submit(read, chunk) for chunk in chunks[:1]]
        for position in range(len(chunks)):
            batch = upcoming.pop().result()
            upcoming = [reader.submit(read, chunk) for chunk in chunks[position + 1 : position + 2]]
            yield batch
