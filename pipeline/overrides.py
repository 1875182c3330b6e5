"""Overrides of settings as words of a command line, `NAME=VALUE` with a value in YAML, and back."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import yaml

from pipeline.errors import ConfigError
from pipeline.run_file import DEFAULT_RUN, full_names, takes_text
from pipeline.settings import Settings
from pipeline.workflow import CONFIG_OPTIONS, run_word
from pipeline.yaml_text import read_yaml, yaml_text


def parse_overrides(arguments: Sequence[str]) -> dict[str, Any]:
    """`["alpha=0.1"]` -> `{"alpha": 0.1}`; values are YAML.

    raises: ConfigError for a word without `=`, or with a value that is not valid YAML
    """
    overrides = {}
    for argument in arguments:
        name, equals, text = argument.partition("=")
        if not equals:
            raise ConfigError(f"--set {argument} has no '='; write --set calibrate.alpha=0.1")
        overrides[name] = _value_of(name, text)
    return overrides


def split_workflow_config(config: Mapping[str, Any], command_line: Sequence[str] = ()) -> tuple[str, dict[str, Any]]:
    """Run and overrides from Snakemake's `--config run=camvid alpha=0.1 stage1={epochs: 3}`.

    Snakemake reads 007 as a number even in quotes, leaves true and null as text, and does not type the entries of
    mappings and lists. So entries that are on the command line are read from there, and the entries of other mappings
    and lists are read as YAML.

    config:       as Snakemake has read it
    command_line: words of Snakemake's own command line
    raises:       ConfigError for an unknown name, and for a value that is not valid YAML
    """
    given = dict(_config_words(command_line))
    entries = {
        name: _value_of(name, given[name]) if name in given else _typed_entries(value) for name, value in config.items()
    }
    return str(entries.pop("run", DEFAULT_RUN)), full_names(entries)


def parse_workflow_config(words: Sequence[str]) -> tuple[str, dict[str, Any]]:
    """Run and overrides from the words of `as_workflow_config`; raises as `split_workflow_config`."""
    names = (word.partition("=")[0] for word in words)
    return split_workflow_config(dict.fromkeys(names), [CONFIG_OPTIONS[0], *words])


def as_arguments(overrides: Mapping[str, Any]) -> list[str]:
    """Command-line words `--set NAME=VALUE` from which `parse_overrides` restores the overrides, by full name."""
    return [word for name, value in full_names(overrides).items() for word in ("--set", f"{name}={yaml_text(value)}")]


def as_workflow_config(settings: Settings, changes: Mapping[str, Any]) -> list[str]:
    """Words of Snakemake's `--config` from which `split_workflow_config` restores the origin of the settings.

    A name that is unique without its section is one word; other names are grouped by section, `stage1={epochs: 3}`.

    changes: further overrides, which take precedence
    """
    origin = settings.origin
    words = [run_word(origin.run or settings.name)]
    sections: dict[str, list[str]] = {}
    for name, value in (dict(origin.overrides) | full_names(changes)).items():
        section, _, key = name.partition(".")
        short = name.rpartition(".")[2]
        if not key or _is_unique(short, name):
            words.append(f"{short}={yaml_text(value)}")
        else:
            sections.setdefault(section, []).append(f"{key}: {yaml_text(value)}")
    return words + [f"{section}={{{', '.join(entries)}}}" for section, entries in sections.items()]


def _value_of(name: str, text: str) -> Any:
    """The value of a word `NAME=TEXT`: YAML, or the text itself if YAML reads a number, boolean or date in its place.

    name: full or short name of a setting, or `run`
    """
    try:
        value = read_yaml(text)
    except yaml.YAMLError as error:
        raise ConfigError(
            f"{name}={text} is not valid YAML ({' '.join(str(error).split())}); put text with special characters in "
            f"quotes: {name}={yaml_text(text)}"
        ) from None
    is_text = value is None or isinstance(value, str | Mapping | list)
    return text if not is_text and (name == "run" or takes_text(name)) else value


def _config_words(command_line: Sequence[str]) -> Iterator[tuple[str, str]]:
    """Name and text of the words that follow Snakemake's option `--config`."""
    is_config = False
    for word in command_line:
        option, equals, rest = word.partition("=")
        if option in CONFIG_OPTIONS:
            is_config = True
            if not equals:
                continue
            word = rest
        elif word.startswith("-"):
            is_config = False
        name, equals, text = word.partition("=")
        if is_config and equals:
            yield name, text


def _typed_entries(value: Any, nested: bool = False) -> Any:
    if isinstance(value, Mapping):
        return {key: _typed_entries(entry, nested=True) for key, entry in value.items()}
    if isinstance(value, list):
        return [_typed_entries(entry, nested=True) for entry in value]
    return yaml.safe_load(value) if nested and isinstance(value, str) else value


def _is_unique(short: str, name: str) -> bool:
    try:
        return list(full_names({short: None})) == [name]
    except ConfigError:
        return False
