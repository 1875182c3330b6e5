"""Samples with the current digests of their files, as `prepare` would list them, without its checks."""

from dataclasses import replace

from pipeline.datasets import SampleIndex, load_samples, save_samples
from pipeline.files import file_digest


def with_digests(index: SampleIndex) -> SampleIndex:
    """The same samples, each with the digests of its image and of its mask."""
    samples = [
        replace(
            sample,
            image_digest=file_digest(index.root / sample.image),
            mask_digest="" if sample.mask is None else file_digest(index.root / sample.mask),
        )
        for sample in index.samples
    ]
    return replace(index, samples=tuple(samples))


def take_in(settings) -> None:
    """Write the samples.json of a run again, after a test has changed its files."""
    path = settings.folder / "samples.json"
    save_samples(path, with_digests(load_samples(path)))
