"""The manual of the settings: complete, and what it states is what the schema accepts."""

import pytest
from click.testing import CliRunner

from pipeline.commands.settings import settings as command
from pipeline.errors import ConfigError
from pipeline.manual import manual
from pipeline.run_file import full_names
from pipeline.settings import Settings, Stage2Settings


def names(text):
    return [line.partition(":")[0] for line in text.splitlines() if line and not line.startswith(" ")]


def test_every_setting_is_there_once():
    listed = names(manual())
    assert len(listed) == len(set(listed))
    for name in listed:
        if "[]" not in name:
            assert full_names({name: 1}) == {name: 1}
    fields = {f"stage2.{name}" for name in Stage2Settings.model_fields}
    assert fields | set(Settings.model_fields) <= set(listed)


def test_a_setting_has_its_values_default_and_meaning():
    assert 'calibrate.fallback: neighbourhood | image, default "neighbourhood"' in manual("calibrate")
    assert "train.crop: integer >= 32, default 513\n    Side of the square training crop, in pixels." in manual("crop")
    assert manual("data.classes").startswith("data.classes: list, each {name, prompts, values}, required")
    assert "data.classes[].name: string, required\n    Name of the class in tables" in manual("data.classes")
    assert "data.workers: integer >= 1 or null, default null, changes no result" in manual("data")
    assert manual("annotate.onnx.class_map").startswith("annotate.onnx.class_map: mapping to list, each integer >= 0")


def test_a_section_ends_where_the_next_one_begins():
    assert {name.partition(".")[0] for name in names(manual("stage1"))} == {"stage1"}
    assert names(manual("data.splits"))[0] == "data.splits"
    assert "data.grid" not in names(manual("data.splits"))


def test_a_name_that_several_sections_have_shows_all():
    assert names(manual("epochs")) == ["stage1.epochs", "stage2.epochs"]


def test_an_unknown_name_gets_the_nearest():
    with pytest.raises(ConfigError, match=r"trian is neither a section nor a setting; did you mean train\?"):
        manual("trian")


def test_the_command_prints_it():
    printed = CliRunner().invoke(command, ["train.lr"])
    assert printed.output == f"{manual('train.lr')}\n"
    assert printed.exit_code == 0
