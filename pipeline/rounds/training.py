"""Trains the student of a fold. Finished stages are kept, and a killed one resumes."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence

from pipeline.datasets import SPLITS, save_samples
from pipeline.folder import link, write_workflow
from pipeline.rounds.folds import Fold
from pipeline.stage_calls import call

log = logging.getLogger(__name__)

OF_PIPELINE = ("calibrate", "pseudolabel")


def train_fold(fold: Fold, config: Sequence[str], run_stage: Callable[..., None] = call) -> None:
    """Run the stages of a fold that have not finished.

    The fold's run has its own samples.json, and links to the maps of the base, which depend on no mask.

    config:    arguments of Snakemake's `--config` of the run that is annotated, for the commands in messages
    run_stage: runs a stage, as `call`
    raises:    StageError if a stage fails; StoreError if the base has no maps of its settings and images
    """
    base, run, stages = fold.base, fold.run, fold.unfinished()
    base.check_inputs("calibrate" if base.settings.needs_annotator else "stage1")
    write_workflow(fold.folder, "annotate", config)
    index = fold.samples()
    save_samples(run.folder.samples, index)
    run.finish("prepare", base.recorded("prepare") | {"num_samples": {split: len(index.of(split)) for split in SPLITS}})
    link(base.folder.path, fold.folder, ("annotate",))
    log.info(
        "fold %d of %d: training run %s without the masks of %d labeled images, in %s",
        fold.number, fold.num, base.settings.name, len(fold.labeled()), fold.folder,
    )  # fmt: skip
    for stage in stages:
        run_stage("pipeline" if stage in OF_PIPELINE else "train", stage, fold.run_file, fold.changes)
