"""Two rounds of a tiny run."""

import pytest
from round_runs import Rounds, run_stage, train, write_first
from stage_runs import STAGES

from pipeline.rounds.run_file import Choices, write_next_round
from pipeline.rounds.workflow import folds_for
from pipeline.run_file import load_settings


@pytest.fixture(scope="package")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Rounds:
    """Two rounds, of which the first and the folds have finished, and the second is annotated. Not to be changed."""
    run_file = write_first(tmp_path_factory.mktemp("rounds"))
    for stage in (*STAGES, "stage1", "stage2"):
        run_stage("", stage, run_file, {})
    write_next_round(Choices(str(run_file), {}, folds=2))
    second = load_settings(run_file.with_name("tiny_round2.yaml"), {"annotate.resolution": "grid"})
    for fold in folds_for(second):
        train(fold, second)
    for stage in ("prepare", "annotate"):
        run_stage("", stage, second.origin.run, dict(second.origin.overrides))
    return Rounds(load_settings(run_file), second)
