"""The list of annotators: complete, and the same in the command, the documentation and the rest of the code."""

import re
from pathlib import Path
from typing import get_args

from click.testing import CliRunner

from pipeline.annotators.catalogue import ADAPTERS, LITETEXT_LICENCE, MODELS, NVIDIA_LICENCE, SAM_LICENCE, SEEM_LICENCE
from pipeline.annotators.download import CHECKPOINTS, LICENCE
from pipeline.commands.annotators import annotators
from pipeline.run_file import load_settings
from pipeline.settings import AnnotateSettings, licence_note

DOCS = Path(__file__).parents[3] / "docs/annotators.md"


def rows_of_docs(header):
    """Cells of the rows of the table with this header, without links and code marks."""
    table = DOCS.read_text().partition(f"{header}\n")[2].partition("\n\n")[0].splitlines()[1:]
    plain = [re.sub(r"\[(.*?)\]\(.*?\)", r"\1", line).replace("`", "") for line in table]
    return [tuple(cell.strip() for cell in line.strip("|").split("|")) for line in plain]


def test_every_adapter_of_the_settings_is_listed_once():
    settings = get_args(AnnotateSettings.model_fields["annotator"].annotation)
    assert [adapter.setting for adapter in ADAPTERS] == [name for name in settings if name != "none"]
    assert {model.setting for model in MODELS} <= {adapter.setting for adapter in ADAPTERS}


def test_the_setting_that_names_the_model_exists():
    for adapter in ADAPTERS:
        section = AnnotateSettings.model_fields[adapter.setting].annotation
        fields = get_args(section)[0].model_fields
        assert fields[adapter.takes.partition(":")[0]].is_required(), adapter.setting


def test_the_tables_of_the_documentation_are_the_lists():
    assert rows_of_docs("| `annotate.annotator` | takes | classes | extra packages |") == list(ADAPTERS)
    assert rows_of_docs("| | model | parameters | vocabulary | licence | tried |") == list(MODELS)


def test_the_models_agree_with_what_is_downloaded_and_with_the_notes_on_licences():
    seem = [model for model in MODELS if model.setting == "seem"]
    assert sorted(name for model in seem for name in model.name.split(", ")) == sorted(CHECKPOINTS)
    for model in seem:  # the files are float32, and have 0.8 M parameters more than are used
        size = CHECKPOINTS[model.name.split(", ")[0]].size
        assert model.parameters == f"{round((size / 4 - 820_224) / 1e6)} M"
    assert re.findall(r"[A-Z]\w+-\d.\d", SEEM_LICENCE) == re.findall(r"[A-Z]\w+-\d.\d", LICENCE)
    for model in MODELS:
        is_noted = model.licence in (NVIDIA_LICENCE, SAM_LICENCE, LITETEXT_LICENCE)
        assert (licence_note(model.name, "") is not None) == is_noted, model.name


def test_run_files_that_are_named_use_that_annotator():
    named = [(model.setting, path) for model in MODELS for path in re.findall(r"config/\w+\.yaml", model.name)]
    assert len(named) == 6
    for setting, path in named:
        assert load_settings(DOCS.parents[1] / path).annotate.annotator == setting, path


def test_the_command_prints_every_adapter_with_its_models():
    result = CliRunner().invoke(annotators)
    assert result.exit_code == 0
    blocks = dict(block.split("\n", 1) for block in result.output.rstrip().split("\n\n"))
    assert list(blocks) == [adapter.setting for adapter in ADAPTERS]
    for adapter in ADAPTERS:
        for value in (adapter.takes, adapter.classes, adapter.packages):
            assert value in blocks[adapter.setting]
    for model in MODELS:
        facts = blocks[model.setting].partition(f"  {model.name}\n")[2].splitlines()[0]
        for value in (model.parameters, f"{model.vocabulary} vocabulary", model.licence, f"tried: {model.tried}"):
            assert value in facts, model.name
    assert max(map(len, result.output.splitlines())) <= 120
