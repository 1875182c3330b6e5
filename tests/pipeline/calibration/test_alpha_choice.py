"""The choice of alpha and rule: computed from the rows, and as printed."""

import json
import xml.etree.ElementTree as ElementTree

import pytest
from click.testing import CliRunner
from report_run import run_with_receipts
from tiny_run import write_run_file, write_sample_files

from pipeline.__main__ import main
from pipeline.calibration.alpha_choice import Goal, choose_alpha, format_choice
from pipeline.errors import ConfigError
from pipeline.run_file import load_settings


@pytest.fixture(scope="module")
def run_file(tmp_path_factory):
    folder = tmp_path_factory.mktemp("run")
    write_sample_files(folder / "data", [f"im{i}" for i in range(12)])
    path = write_run_file(folder, calibrate={"alpha": 0.4})
    run_with_receipts(load_settings(path))
    return path


@pytest.fixture(scope="module")
def settings(run_file):
    return load_settings(run_file)


def value(row, measure):
    return row[measure]["value"] if row[measure] else 0.0


GOALS = [Goal(), Goal("precision", 0.345), Goal("precision", 0.32, "low"), Goal("keep_rate", 0.4)]


@pytest.mark.parametrize("rule", [None, "singleton"])
@pytest.mark.parametrize("goal", GOALS, ids=str)
def test_chooses_the_best_row_by_the_goal(settings, goal, rule):
    facts = choose_alpha(settings, goal, rule)
    assert {row["rule"] for row in facts["rows"]} == ({rule} if rule else {"paper", "argmax", "singleton", "raw"})
    usable = [row for row in facts["rows"] if value(row, "keep_rate") > 0]
    chosen = facts["chosen"]
    assert facts["is_reached"]
    if goal.measure == "precision":
        enough = [row for row in usable if row["precision"][goal.end] >= goal.target]
        assert value(chosen, "keep_rate") == max(value(row, "keep_rate") for row in enough)
    elif goal.measure == "keep_rate":
        enough = [row for row in usable if value(row, "keep_rate") >= goal.target]
        assert value(chosen, "precision") == max(value(row, "precision") for row in enough)
    else:
        enough = usable
        assert value(chosen, "miou") == max(value(row, "miou") for row in usable)
    assert chosen in enough
    assert facts["command"].endswith(f"/tiny.yaml alpha={chosen['alpha']:g} rule={chosen['rule']}")


def test_no_row_dominates_a_row_of_the_front(settings):
    facts = choose_alpha(settings, Goal("precision", 0.345))
    front = [(value(row, "keep_rate"), value(row, "precision")) for row in facts["front"]]
    assert len(front) > 5
    assert front == sorted(front, key=lambda point: (-point[0], point[1]))
    for row in facts["rows"]:
        keep_rate, precision = value(row, "keep_rate"), value(row, "precision")
        assert any(kept >= keep_rate and right >= precision for kept, right in front)


def test_prints_the_goal_the_choice_and_the_command(settings):
    facts = choose_alpha(settings, Goal("precision", 0.345), "paper")
    text = format_choice(facts)
    lines = text.splitlines()
    (marked,) = [line for line in lines if line.startswith("->")]
    variant, alpha, rule = marked.split()[1:4]
    chosen = facts["chosen"]
    assert (variant, float(alpha), rule) == (chosen["variant"], chosen["alpha"], chosen["rule"])
    assert f"verdict     {facts['verdict']}" in lines
    assert "6 labeled images in 6 folds, each judged by thresholds from the other folds" in lines[0]
    assert "goal        the largest keep rate with held-out precision at least 0.345" in lines
    assert f"command     {facts['command']}" in lines
    assert "current     variant pixel, alpha 0.4, rule paper:" in text
    whole = format_choice(facts, everything=True).splitlines()
    shown = [line for line in whole if "[" in line]
    assert len(shown) - len(facts["front"]) == (facts["chosen"] not in facts["front"])


def test_the_nearest_is_chosen_if_no_alpha_reaches_the_goal(settings):
    facts = choose_alpha(settings, Goal("precision", 0.9999))
    most = max(value(row, "precision") for row in facts["rows"])
    assert most < 0.9999
    assert not facts["is_reached"]
    assert value(facts["chosen"], "precision") == most
    assert "no combination reaches it; the nearest one is chosen" in format_choice(facts)


def test_a_rule_that_was_not_judged_is_named_with_those_that_were(settings):
    with pytest.raises(ConfigError, match="of rule no_background to choose by; set --rule to one of paper, argmax"):
        choose_alpha(settings, Goal("precision", 0.345), "no_background")


def test_an_unknown_rule_is_refused_with_the_nearest_known_one(settings):
    with pytest.raises(ConfigError, match=r"--rule: unknown rule 'argmx', expected one of .*; did you mean argmax\?"):
        choose_alpha(settings, Goal("precision", 0.345), "argmx")


def test_the_command_prints_the_choice_writes_the_plot_and_prints_json(run_file, tmp_path):
    plot = tmp_path / "plot.svg"
    words = ["alpha", str(run_file), "--keep-rate", "0.3", "--plot", str(plot)]
    printed = CliRunner().invoke(main, words)
    assert printed.exit_code == 0
    assert "goal        the highest held-out precision with a keep rate of at least 0.3" in printed.output
    assert printed.output.rstrip().endswith(f"plot        {plot}")
    facts = json.loads(CliRunner().invoke(main, [*words, "--json"]).stdout)
    drawn = ElementTree.parse(plot)
    circles = [node.get("class") for node in drawn.iter("{http://www.w3.org/2000/svg}circle")]
    judged = [row for row in facts["rows"] if row["precision"]]
    assert circles.count("line1") == len(facts["front"])
    assert circles.count("faint") == len(judged) - len(facts["front"])
    assert circles.count("chosen") == 1


def test_two_goals_at_once_are_refused(run_file):
    refused = CliRunner().invoke(main, ["alpha", str(run_file), "--keep-rate", "0.3", "--precision", "0.9"])
    assert refused.exit_code == 2
    assert "two goals; give one of them" in refused.output


def test_a_run_that_is_not_calibrated_ends_in_one_line(tmp_path):
    refused = CliRunner().invoke(main, ["alpha", str(write_run_file(tmp_path))])
    assert refused.exit_code == 1
    assert "error: no receipt" in refused.output
    assert "run snakemake --cores 8 calibrate" in refused.output
