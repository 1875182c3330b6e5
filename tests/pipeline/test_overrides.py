"""Overrides as words of a command line: whatever the values, they are restored, from Snakemake's words as well."""

import shlex

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st
from snakemake.cli import parse_config

from pipeline.errors import ConfigError
from pipeline.overrides import as_arguments, parse_overrides, split_workflow_config
from pipeline.run_file import full_names
from pipeline.yaml_text import yaml_text

TEXTS = st.text(st.characters(codec="utf-8"), max_size=12) | st.sampled_from(["007", "on", "null", "1e-5", "{x}", "'"])
PLAIN = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | TEXTS
VALUES = st.recursive(PLAIN, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXTS, inner, max_size=3))


@settings(max_examples=60, deadline=None)
@given(VALUES)
def test_every_value_is_read_back_from_its_text_alone_and_inside_a_mapping(value):
    assert yaml.safe_load(yaml_text(value)) == value
    assert yaml.safe_load(f"{{key: {yaml_text(value)}, other: [{yaml_text(value)}]}}") == {
        "key": value,
        "other": [value],
    }


@settings(max_examples=60, deadline=None)
@given(
    st.fixed_dictionaries({}, optional={"arguments": VALUES, "name": TEXTS, "mask_ending": TEXTS, "lr": st.floats()})
)
def test_overrides_survive_the_way_through_both_command_lines(overrides):
    expected = repr(full_names(overrides))  # NaN is not equal to itself
    assert repr(parse_overrides(as_arguments(overrides)[1::2])) == expected
    words = [f"{name}={yaml_text(value)}" for name, value in overrides.items()]
    command = shlex.split(shlex.join(["snakemake", "all", "--config", "run=x", *words, "--cores", "1"]))
    run, restored = split_workflow_config(parse_config(["run=x", *words]), command)
    assert run == "x"
    assert repr(full_names(restored)) == expected


@pytest.mark.parametrize("name", ["007", "1e3", "1_16", "on", "True", "2024-01-01", "12:30:45", "0x10", ".5", "2.0"])
def test_what_yaml_takes_for_a_number_a_boolean_or_a_date_is_a_name_where_text_belongs(name):
    words = [f"run={name}", f"name={name}", f"train={name}"]
    config = parse_config(words)
    for command in (["snakemake", "-C", *words], ["snakemake", f"--config={words[0]}", *words[1:], "--cores", "1"]):
        assert split_workflow_config(config | {"train": "x"}, command[:-1])[0] == name
    assert parse_overrides([f"name={name}", f"data.splits.train={name}"]) == {"name": name, "data.splits.train": name}
    assert parse_overrides(["mask_ending=null", "alpha=.5"]) == {"mask_ending": None, "alpha": 0.5}


def test_words_of_other_options_are_no_settings():
    command = ["snakemake", "--config", "run=007", "--resources", "run=9", "alpha=3"]
    assert split_workflow_config({"run": 7}, command) == ("007", {})


def test_entries_that_are_not_on_the_command_line_are_typed():
    run, overrides = split_workflow_config({"run": "x", "stage1": {"epochs": "3"}, "grid": ["8", "16"]})
    assert run == "x"
    assert overrides == {"stage1.epochs": 3, "data.grid": [8, 16]}


@pytest.mark.parametrize("text", ["[", "{a: b", "'x", "a: b: c", "%", "\t- x", "!!python/object:os.system x"])
def test_a_value_that_is_not_yaml_is_refused_with_one_that_is(text):
    with pytest.raises(ConfigError, match=r"is not valid YAML .*; put text with special characters in quotes") as error:
        parse_overrides([f"name={text}"])
    fixed = str(error.value).rpartition("in quotes: ")[2]
    assert parse_overrides([fixed]) == {"name": text}
