"""A run from Python: start it from images and masks, run its stages, and read its labels.

Each function does what the command of the same name does, and raises a UserError where the command prints an error.
"""

from __future__ import annotations

import subprocess
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from pipeline.errors import StageError
from pipeline.exchange.choice import choose_images
from pipeline.exchange.labels import ExportedLabels, Label, open_exported
from pipeline.init import Choices, start
from pipeline.overrides import as_workflow_config
from pipeline.run import Run
from pipeline.run_file import load_settings
from pipeline.workflow import snakemake_call


def init(images: str | Path, masks: str | Path, settings: Mapping[str, Any] | None = None, **options: Any) -> list[str]:
    """Write the run file config/NAME.yaml for a folder of images and a few masks.

    images:   folder of images; those without a mask are unlabeled
    masks:    folder of index masks, or annotations as `conformalsam init --masks` reads them
    settings: further settings by full or short name, e.g. {"alpha": 0.1}
    options:  further fields of `pipeline.init.Choices`: class_list, name, background, annotator, checkpoint, colours,
              unannotated
    returns:  lines of text: what was found, what was chosen, and the commands to run next
    raises:   DatasetError for folders, masks or class lists that cannot be used; ConfigError for a run file that exists
              already, or an unknown setting
    """
    files = {name: Path(options[name]) for name in ("class_list", "colours") if options.get(name) is not None}
    return start(Choices(Path(images), Path(masks), overrides=dict(settings or {}), **(options | files)))


def run(
    name: str, *, until: str = "all", settings: Mapping[str, Any] | None = None, options: Sequence[str] = ()
) -> Run:
    """Run the stages of a run that have not finished, in processes of Snakemake; their logs go to standard error.

    name:     a run file, or its name in config/
    until:    the last stage, e.g. pseudolabel. Default: all of them
    settings: settings that differ from the run file, by full or short name
    options:  of Snakemake, e.g. ["--cores", "2"]. Default: all cores
    raises:   ConfigError for an unknown run or setting; StageError if a stage fails
    """
    run = Run(load_settings(name, settings))
    _, *config = as_workflow_config(run.settings, {})
    words = snakemake_call(name, [until, *options, *(["--config", *config] if config else [])])
    finished = subprocess.run(words, check=False)
    if finished.returncode:
        raise StageError(
            f"the run {run.settings.name} stopped before {until}; see the reason above, or in "
            f"{run.folder.path / 'logs'}, remove it and run it again: finished work is kept"
        )
    return run


class Labels(Mapping[str, Label]):
    """The labels of a run, by the ids of its images: each uint8 [H, W] at its image's own size, read when asked for.

    A value is an index into `class_names`; 255 = abstain. Images on which the annotator failed are left out.
    """

    def __init__(self, exported: ExportedLabels):
        self._exported = exported
        self._index_of = {exported.samples[index].id: index for index in choose_images(exported).indices}

    @property
    def class_names(self) -> list[str]:
        return self._exported.class_names

    @property
    def alpha(self) -> float:
        return self._exported.alpha

    def __getitem__(self, sample_id: str) -> Label:
        return self._exported.label(self._index_of[sample_id])

    def __iter__(self) -> Iterator[str]:
        return iter(self._index_of)

    def __len__(self) -> int:
        return len(self._index_of)


def labels(name: str, *, alpha: float | None = None, settings: Mapping[str, Any] | None = None) -> Labels:
    """The pseudo-labels of a run.

    name:     a run file, or its name in config/
    alpha:    one of the stored alphas. Default: the chosen one
    settings: settings that differ from the run file and place the results, e.g. {"results": "elsewhere"}
    raises:   ConfigError for an unknown run; StoreError if it has no finished labels, or none of this alpha
    """
    return Labels(open_exported(Run(load_settings(name, settings)).folder.labels, alpha))
