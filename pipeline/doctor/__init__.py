"""What could go wrong with a run, told before any heavy work: every finding with what, where and the fix.

findings  what a finding is, and the verdict        survey    one look at every image and mask
files     files that are not what they should be    masks     what masks hold
classes   the labeled set, and the alpha it allows grid      shapes and sizes
prompts   the words the annotator is asked for      weights   networks and weights that are needed
twins     images that are there twice               costs     disk and time; trial: a few images annotated
machine   versions and devices
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from pipeline.datasets import SPLITS, Sample
from pipeline.doctor.classes import class_findings
from pipeline.doctor.costs import cost_findings
from pipeline.doctor.files import file_findings
from pipeline.doctor.findings import Finding, as_json, by_severity, counts, from_message, verdict
from pipeline.doctor.grid import grid_findings
from pipeline.doctor.machine import machine_findings
from pipeline.doctor.masks import mask_findings
from pipeline.doctor.prompts import Vocabulary, prompt_findings
from pipeline.doctor.survey import survey
from pipeline.doctor.trial import Trial, try_annotator
from pipeline.doctor.twins import twin_findings
from pipeline.doctor.weights import seem_vocabulary, weight_findings
from pipeline.errors import UserError
from pipeline.settings import Settings
from pipeline.sources import find_samples

__all__ = ["Finding", "as_json", "counts", "examine", "verdict"]


def examine(settings: Settings, quick: int | None = None, timed: bool = False) -> list[Finding]:
    """Every finding, errors first. Nothing is written, and masks of unlabeled images are not opened.

    quick: look at this many images only
    timed: try the annotator on a few images
    """
    findings = weight_findings(settings)
    if settings.needs_annotator:
        findings += prompt_findings(settings, _vocabulary(settings))
    samples, problems = find_samples(settings.data, settings.needs_unlabeled)
    if settings.data.scenes is not None and problems:
        fix = f"run conformalsam prepare {settings.name} first, to have them looked at"
        findings.append(
            Finding("note", "prepare draws the scenes of this run, and they are not all there yet", fix=fix)
        )
    else:
        findings += map(from_message, problems)
        findings += _of_samples(samples, settings, quick, timed) if samples else []
    return by_severity([*findings, *machine_findings(settings)])


def _vocabulary(settings: Settings) -> Vocabulary | None:
    """SEEM's; None for other annotators, and if it cannot be read, which `weight_findings` tells."""
    if settings.annotate.annotator != "seem" or settings.annotate.seem is None:
        return None
    vocabulary = seem_vocabulary(settings.annotate.seem)
    return vocabulary if isinstance(vocabulary, Vocabulary) else None


def _of_samples(samples: Sequence[Sample], settings: Settings, quick: int | None, timed: bool) -> list[Finding]:
    data, looked = settings.data, survey(samples, settings.data, quick)
    number: Counter[str] = Counter(sample.split for sample in samples)
    told = ", ".join(f"{number[split]} {split}" for split in SPLITS)
    part = "" if looked.is_whole else f"; looked at {len(looked.looks)} of them only (--quick)"
    findings = [Finding("note", f"images: {told}{part}")]
    findings += file_findings(looked, data)
    findings += mask_findings(looked, data)
    findings += class_findings(looked, number["labeled"], settings)
    findings += grid_findings(looked, settings)
    findings += twin_findings(looked)
    trial, untried = _trial(settings, samples) if timed and settings.needs_annotator else (None, [])
    return [*findings, *untried, *cost_findings(looked, number, settings, trial)]


def _trial(settings: Settings, samples: Sequence[Sample]) -> tuple[Trial | None, list[Finding]]:
    try:
        return try_annotator(settings, [sample for sample in samples if sample.split != "val"]), []
    except UserError as error:
        return None, [from_message(str(error))]
    except Exception as error:  # an annotator is foreign code: whatever it raises is told
        what = f"the annotator failed on an image ({type(error).__name__}: {error})"
        return None, [Finding("error", what, fix="fix it, or choose another annotator")]
