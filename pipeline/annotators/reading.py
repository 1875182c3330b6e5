"""Reads the images of `annotate` in batches, the next one while the annotator runs."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
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
    index: SampleIndex, samples: Sequence[Sample], batches: Iterable[Sequence[int]], grid: Sequence[int]
) -> Iterator[Batch]:
    """Batches in order; the next one is read while the annotator runs.

    batches: indices of the images of each; a batch without any is passed on at once, when those before it are done
    """

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

    with ThreadPoolExecutor(1) as reader:
        coming = iter(batches)
        upcoming = reader.submit(read, next(coming, []))
        for indices in coming:
            batch, upcoming = upcoming.result(), reader.submit(read, indices)
            yield batch
        yield upcoming.result()
