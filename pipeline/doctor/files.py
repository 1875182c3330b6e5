"""Findings about files: unreadable files, dark images, modes, orientations, sizes of masks, files that are not read."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

from pipeline.doctor.findings import Finding, from_message
from pipeline.doctor.survey import SampleFacts, Survey
from pipeline.errors import DatasetError
from pipeline.settings import DataSettings
from pipeline.sources.image_checks import counted, darkness_problems, orientation_doubts, refuse_other_size
from pipeline.sources.unread import unread_files

TRANSPARENT_MODES = ("RGBA", "LA", "PA", "La", "RGBa")


def file_findings(survey: Survey, data: DataSettings) -> list[Finding]:
    """Findings about files, independent of their content. The errors and warnings are those of prepare."""
    samples = survey.samples
    problems = [problem for facts in samples for problem in facts.problems]
    deep = {f.sample.image: f.image.brightest for f in samples if f.image is not None and f.image.header.is_deep}
    masked = [(f.sample.image, f.image.header) for f in samples if f.image is not None and f.mask is not None]
    doubts = [*orientation_doubts(masked), *unread_files(data)]
    return [
        *map(from_message, [*problems, *_other_sizes(samples), *darkness_problems(deep)]),
        *(finding for finding in _modes(samples) if finding.where),
        *(Finding("warning", *doubt) for doubt in doubts),
    ]


def _modes(samples: Iterable[SampleFacts]) -> Iterator[Finding]:
    by_mode: dict[str, list[str]] = {}
    for facts in samples:
        if facts.image is not None:
            by_mode.setdefault(facts.image.header.mode, []).append(facts.sample.image)
    transparent, cmyk = (
        tuple(name for mode in modes for name in by_mode.get(mode, [])) for modes in (TRANSPARENT_MODES, ("CMYK",))
    )
    what = counted("image", transparent, "with transparency, which is ignored: transparent pixels become visible")
    yield Finding("note", what, transparent)
    fix = "convert them to RGB with their colour profile"
    yield Finding("warning", counted("image", cmyk, "in CMYK colours"), cmyk, fix)


def _other_sizes(samples: Sequence[SampleFacts]) -> Iterator[str]:
    """Messages on masks with another size than their image."""
    for facts in samples:
        if facts.image is not None and facts.mask is not None:
            try:
                refuse_other_size(str(facts.sample.mask), facts.mask.size, facts.image.header)
            except DatasetError as error:
                yield str(error)
