"""baseline: the student of a run, trained for as many steps on the labeled images alone, and measured."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from typing import Any

from pipeline.experiment.baseline import baseline_changes, baseline_length, baseline_run
from pipeline.folder import link, write_workflow
from pipeline.overrides import as_workflow_config
from pipeline.run import Run
from pipeline.settings import Settings
from pipeline.stage_calls import call

log = logging.getLogger(__name__)

STAGES = ("stage1", "evaluate")


def baseline(settings: Settings, run_stage: Callable[..., None] = call) -> dict[str, Any]:
    """Train and measure the baseline in `baseline/` of the run. A stage that was killed resumes.

    run_stage: runs a stage, as `call`
    returns:   facts for the receipt
    raises:    StoreError or DatasetError if prepare has not finished with these settings; StageError if a stage fails
    """
    start = time.monotonic()
    run = Run(settings)
    run.check_inputs("baseline")
    index = run.samples("baseline")
    run.begin("baseline")
    folder = run.folder.baseline
    write_workflow(folder, "baseline", as_workflow_config(settings, {}))
    link(run.folder.path, folder, ("prepare",))
    length, alone = baseline_length(settings, index), baseline_run(settings, index)
    log.info(
        "baseline: a student of the %d labeled images alone, %d steps, in %s",
        len(index.of("labeled")), length.steps[0], folder,
    )  # fmt: skip
    for stage in STAGES:
        if not alone.is_current(stage):
            run_stage("train", stage, settings.origin.run or settings.name, baseline_changes(settings, index))
    trained, measured = alone.recorded("stage1"), alone.recorded("evaluate")
    scores = measured["students"]["stage1"]
    return {
        "num_steps": trained["num_steps"],
        "num_val": measured["num_val"],
        **{name: scores[name] for name in ("miou", "miou_interval", "pixel_accuracy", "iou")},
        "seconds": round(time.monotonic() - start, 1),
    }
