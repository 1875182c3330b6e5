"""Checks a run before any heavy work. Every finding has what was found, where, and the fix.

findings  the finding, and the verdict              survey    facts of every image and mask
files     damaged or unsuitable files               masks     the values of masks
classes   the labeled images, and possible alphas   grid      shapes and sizes of images
prompts   the prompts of the annotator              weights   the networks and weights that are needed
twins     duplicate images                          costs     disk and time; trial: annotates a few images
sequences groups of images, e.g. of one video       steps     times a few training steps
machine   versions and devices
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from pipeline.datasets import SPLITS, Sample
from pipeline.doctor.classes import class_findings
from pipeline.doctor.costs import cost_findings
from pipeline.doctor.files import file_findings
from pipeline.doctor.findings import Finding, as_json, by_severity, counts, from_message, on_annotator, verdict
from pipeline.doctor.grid import grid_findings
from pipeline.doctor.machine import machine_findings
from pipeline.doctor.masks import mask_findings
from pipeline.doctor.prompts import Vocabulary, prompt_findings
from pipeline.doctor.sequences import group_findings
from pipeline.doctor.steps import try_training
from pipeline.doctor.survey import survey
from pipeline.doctor.trial import Trial, of_all, try_annotator
from pipeline.doctor.twins import twin_findings
from pipeline.doctor.weights import maps_findings, seem_vocabulary, weight_findings
from pipeline.errors import UserError
from pipeline.memory import grid_problem
from pipeline.run import Run
from pipeline.settings import Settings
from pipeline.sources import find_samples

__all__ = ["Finding", "as_json", "counts", "examine", "verdict"]


def examine(settings: Settings, quick: int | None = None, timed: bool = False) -> list[Finding]:
    """All findings, errors first. Nothing is written, and masks of unlabeled images are not opened.

    quick: check only this many images
    timed: run the annotator on a few images, and the training for a few steps
    """
    findings = weight_findings(settings)
    if settings.needs_annotator:
        findings += on_annotator(settings, lambda one: prompt_findings(one, _vocabulary(one)))
        too_large = grid_problem(settings)
        if too_large is not None:
            findings.append(from_message(too_large))
            timed = False  # it would fill the memory
    samples, problems = find_samples(settings.data, settings.needs_unlabeled)
    if settings.data.scenes is not None and problems:
        fix = f"run {Run(settings).tool('prepare')} first, so that they can be checked"
        findings.append(Finding("note", "prepare draws the scenes of this run, and not all exist yet", fix=fix))
    else:
        findings += map(from_message, problems)
        findings += _of_samples(samples, settings, quick, timed) if samples else []
    return by_severity([*findings, *machine_findings(settings)])


def _vocabulary(settings: Settings) -> Vocabulary | None:
    """SEEM's vocabulary; None for other annotators, and if it cannot be read (`weight_findings` reports that)."""
    if settings.annotate.annotator != "seem" or settings.annotate.seem is None:
        return None
    vocabulary = seem_vocabulary(settings.annotate.seem)
    return vocabulary if isinstance(vocabulary, Vocabulary) else None


def _of_samples(samples: Sequence[Sample], settings: Settings, quick: int | None, timed: bool) -> list[Finding]:
    data, surveyed = settings.data, survey(samples, settings.data, quick)
    number: Counter[str] = Counter(sample.split for sample in samples)
    num_labeled = number["labeled"]
    numbers = ", ".join(f"{number[split]} {split}" for split in SPLITS)
    checked = "" if surveyed.is_complete else f"; only {len(surveyed.samples)} of them were checked (--quick)"
    findings = [Finding("note", f"images: {numbers}{checked}")]
    if data.tile is not None:
        number = Counter({split: surveyed.num_samples_of(split, number[split], data.tile) for split in SPLITS})
        findings.append(Finding("note", f"samples: {', '.join(f'{number[s]} {s}' for s in SPLITS)}, tiles included"))
    findings += file_findings(surveyed, data)
    findings += mask_findings(surveyed, data)
    findings += class_findings(surveyed, num_labeled, settings)
    findings += grid_findings(surveyed, settings)
    findings += twin_findings(surveyed)
    findings += group_findings(surveyed, data)
    is_tried = timed and settings.needs_annotator
    if not is_tried:  # the trial reads all files of maps
        listed = [facts.sample for facts in surveyed.samples]
        findings += on_annotator(settings, lambda one: maps_findings(listed, one))
    trial, failures = _trial(settings, samples) if is_tried else (None, [])
    findings += failures
    is_trained = timed and not counts(findings)["error"]  # the run would not come to its training
    steps, failures = try_training(settings, number) if is_trained else ({}, [])
    return [*findings, *failures, *cost_findings(surveyed, number, settings, trial, steps)]


def _trial(settings: Settings, samples: Sequence[Sample]) -> tuple[Trial | None, list[Finding]]:
    """Measurements of the annotator, together for the members of an ensemble; None if one fails. And all findings."""
    trials: list[Trial] = []

    def check(one: Settings) -> list[Finding]:
        trial, findings = _trial_of(one, samples)
        trials.extend([trial] if trial else [])
        return findings

    findings = on_annotator(settings, check)
    is_complete = len(trials) == len(settings.each_annotator)
    return (of_all(trials, settings) if is_complete else None), findings


def _trial_of(settings: Settings, samples: Sequence[Sample]) -> tuple[Trial | None, list[Finding]]:
    try:
        trial = try_annotator(settings, [sample for sample in samples if sample.split != "val"])
    except UserError as error:
        return None, [from_message(str(error))]
    except Exception as error:  # an annotator may be the user's code and raise anything
        what = f"the annotator failed on an image ({type(error).__name__}: {error})"
        return None, [Finding("error", what, fix="fix the annotator, or set annotate.annotator to another one")]
    fix = "compare the class map, the prompts, and the values of data.classes"
    return trial, [Finding("warning", doubt.text, fix=fix) for doubt in trial.doubts]
