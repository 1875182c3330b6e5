"""Which runs a table needs, and how long each trains, counted by hand on a small run."""

import pytest
import yaml
from tiny_run import write_run_file

from pipeline.errors import ConfigError
from pipeline.experiment.lengths import Sizes, curve_interval, length_of
from pipeline.experiment.plan import Experiment
from pipeline.experiment.request import Request
from pipeline.experiment.tables import TABLES

SIZES = Sizes(labeled=20, unlabeled=60)
ALL_MASKS = Sizes(labeled=80, unlabeled=0)


def experiment_on(tmp_path, table, arms=None, protocols=("steps", "epochs"), budget=1.0, **overrides):
    """60 + 20 epochs of 20 labeled and 60 unlabeled images: 20 steps of 4 and 30 steps of 2 + 2 an epoch."""
    path = write_run_file(tmp_path, stage1={}, stage2={})
    tree = yaml.safe_load(path.read_text())
    del tree["stage1"], tree["stage2"]
    path.write_text(yaml.safe_dump(tree))
    changes = {"stage1.epochs": 60, "stage2.epochs": 20, "train.holdout": 0, **overrides}
    return Experiment(str(path), changes, Request(table, 1, budget, arms, protocols))


def lengths(experiment):
    planned = {}
    for cell in experiment.cells:
        own = ALL_MASKS if cell.run.recipe.targets == "masks" else SIZES
        planned[cell.row.key, cell.protocol] = length_of(experiment, cell.run, SIZES, own)
    return planned


def test_under_equal_steps_every_row_takes_as_many_as_the_recipe_of_both_stages(tmp_path):
    planned = lengths(experiment_on(tmp_path, "evidence", ("label-only", "semi-baseline", "raw", "paper", "paper-both",
                                                          "plus", "every-mask"), ("steps",)))  # fmt: skip
    assert planned["paper-both", "steps"] == ((60, 20), (1200, 600))
    assert planned["label-only", "steps"] == ((360, 0), (1800, 0))  # 5 steps an epoch
    assert planned["semi-baseline", "steps"] == ((0, 60), (0, 1800))
    assert planned["raw", "steps"] == planned["paper", "steps"] == ((90, 0), (1800, 0))
    assert planned["plus", "steps"] == ((60, 20), (1200, 600))  # 1 + 3: 60 // 3 = 20 steps an epoch
    assert planned["every-mask", "steps"] == ((90, 0), (1800, 0))


def test_under_the_papers_epochs_a_recipe_of_one_stage_gets_both(tmp_path):
    experiment = experiment_on(tmp_path, "5", protocols=("epochs",))
    planned = {key: length.epochs for (key, _), length in lengths(experiment).items()}
    assert planned == {"semi-baseline": (0, 80), "raw": (60, 20), "raw-both": (60, 20), "paper": (60, 20),
                     "paper-both": (60, 20)}  # fmt: skip
    assert lengths(experiment_on(tmp_path, "1", protocols=("epochs",)))["raw", "epochs"].epochs == (60, 0)
    assert lengths(experiment_on(tmp_path, "1", protocols=("epochs",)))["label-only", "epochs"].epochs == (80, 0)


def test_beside_rows_of_both_stages_every_row_of_stage_1_is_the_start_of_both(tmp_path):
    experiment = experiment_on(tmp_path, "evidence", ("vanilla", "paper", "every-mask"), ("epochs",))
    assert set(experiment.runs) == {"vanilla-start-epochs", "paper-start-epochs", "every-mask-first-epochs"}
    assert experiment.run_named("vanilla-start-epochs").stages == ("stage1",)
    assert lengths(experiment)["vanilla", "epochs"].epochs == (60, 20)  # planned with both: one learning rate schedule


def test_a_name_of_no_run_and_of_no_labels_is_refused_with_those_that_exist(tmp_path):
    experiment = experiment_on(tmp_path, "1")
    with pytest.raises(ConfigError, match="table 1 has no run 'paper'; give one of label-only-"):
        experiment.run_named("paper")
    with pytest.raises(
        ConfigError, match=f"table 1 has no labels 'paper'; give one of {next(iter(experiment.labels))}"
    ):
        experiment.labels_named("paper")


def test_the_budget_scales_all_lengths(tmp_path):
    planned = lengths(experiment_on(tmp_path, "5", budget=0.1))
    assert planned["paper-both", "epochs"].steps == (120, 60)
    assert planned["raw", "steps"].steps == (180, 0)


def test_rows_and_protocols_share_the_runs_that_would_be_equal(tmp_path):
    experiment = experiment_on(tmp_path, "5")
    assert set(experiment.runs) == {
        "semi-baseline-second-steps",
        "semi-baseline-second-epochs",
        "raw-first-steps",
        "raw-both-epochs",
        "paper-first-steps",
        "paper-both-epochs",
    }
    stages = {(cell.row.key, cell.protocol): (cell.run.name, cell.stage) for cell in experiment.cells}
    assert stages["paper", "epochs"] == ("paper-both-epochs", "stage1")
    assert stages["paper-both", "steps"] == stages["paper-both", "epochs"] == ("paper-both-epochs", "stage2")
    assert set(experiment_on(tmp_path, "6").runs) == {f"{row.key}-first-epochs" for row in TABLES["6"].rows}


def test_recipes_share_the_labels_that_have_the_same_settings(tmp_path):
    assert len(experiment_on(tmp_path, "5").labels) == 1  # raw and calibrated labels lie in one store
    assert len(experiment_on(tmp_path, "6").labels) == 12
    assert experiment_on(tmp_path, "1", ("label-only",)).labels == {}


def test_figure_4_moves_the_start_of_stage_2_inside_the_same_training(tmp_path):
    planned = lengths(experiment_on(tmp_path, "fig4"))
    assert [planned[f"switch-{first}", "epochs"].epochs for first in (10, 40, 60, 70)] == [
        (10, 70), (40, 40), (60, 20), (70, 10),
    ]  # fmt: skip
    totals = [sum(length.steps) for (_, protocol), length in planned.items() if protocol == "steps"]
    assert all(abs(total - 1800) <= 10 + 15 for total in totals)  # half an epoch of each stage


def test_an_equal_recipe_trains_once_whatever_the_table(tmp_path):
    runs = experiment_on(tmp_path, "fig4").runs
    assert "paper-both-epochs" in runs  # 60 of 80 epochs


def test_a_row_that_the_annotator_cannot_have_is_left_out_and_refused_by_name(tmp_path):
    left_out = experiment_on(tmp_path, "evidence").left_out
    assert ["does not exist for annotator python" in reason for reason in left_out.values()] == [True]
    with pytest.raises(ConfigError, match=r"logit_bias.* does not exist for annotator python; remove it from arms"):
        _ = experiment_on(tmp_path, "evidence", ("bias",)).rows


def test_every_table_gives_settings_that_hold(tmp_path):
    for table in TABLES:
        experiment = experiment_on(tmp_path, table)
        assert experiment.cells
        assert all(experiment.tracked(run) for run in experiment.runs.values())


@pytest.mark.parametrize(("epochs", "expected"), [(1, 1), (7, 1), (30, 6), (180, 36)])
def test_every_stage_has_about_five_points_of_the_learning_curve(epochs, expected):
    assert curve_interval(epochs) == expected
