"""Run files: `load_settings` reads a YAML file of `config/`, applies overrides and checks the settings."""

from __future__ import annotations

import difflib
import types
import typing
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import cache, reduce
from pathlib import Path
from typing import Any, NamedTuple

import yaml
from pydantic import ValidationError

from pipeline.errors import ConfigError, DatasetError
from pipeline.recipes import refuse_another_recipe
from pipeline.settings import WORDS_OF_PATTERNS, Origin, Section, Settings, did_you_mean
from pipeline.text import read_text
from pipeline.workflow import RUN_FILES
from pipeline.yaml_text import read_yaml
from pipeline.yaml_words import KEY, unquoted_word

CONFIG_FOLDER = Path("config")
PRESET_FOLDER = Path(__file__).parent / "presets"
DEFAULT_RUN = "demo"
MAX_SHOWN = 200  # characters of a value in a message
TOOL_SECTIONS = ("probe", "gallery")  # a short name means the setting of another section, if there is one


def load_settings(run: str | Path, overrides: Mapping[str, Any] | None = None) -> Settings:
    """Read a run file, apply overrides and check all settings.

    run:       path of a YAML file, or the name of one in `config/` without its ending
    overrides: full or short name -> value, e.g. {"calibrate.alpha": 0.1}, see `full_names`
    raises:    ConfigError with one line per problem, each with the setting's full name
    """
    path, given = find_run_file(run), full_names(overrides or {})
    files = _read_files(path, seen=())
    tree = _merged(file.tree for file in files)
    for name, value in given.items():
        put_setting(tree, name, value)
    tree.setdefault("name", path.stem)
    if tree.get("preset") is not None:
        preset = preset_tree(str(tree["preset"]))
        refuse_another_recipe(path, _before_preset(files, given), given, preset, str(tree["preset"]))
        tree = _merge(preset, tree)
    try:
        settings = Settings.model_validate(tree)
    except ValidationError as error:
        texts = [file.text for file in files]
        problems = "\n".join(dict.fromkeys(_describe(problem, texts) for problem in error.errors()))
        raise ConfigError(f"{path}: {problems}") from None
    settings._origin = Origin(str(run), given)
    return settings


def preset_names() -> list[str]:
    """Names of the presets that come with the package."""
    return sorted(path.stem for path in PRESET_FOLDER.glob("*.yaml"))


def preset_tree(name: str) -> dict[str, Any]:
    """Settings of a preset, section -> name -> value; ConfigError for an unknown name, with the known ones."""
    known = preset_names()
    if name not in known:
        raise ConfigError(f"preset is {name!r}, expected one of {', '.join(known)}{did_you_mean(name, known)}")
    return _merged(file.tree for file in _read_files(PRESET_FOLDER / f"{name}.yaml", seen=()))


def _before_preset(files: Sequence[File], given: Mapping[str, Any]) -> dict[str, Any]:
    """Settings written for another recipe: those of the files below the one that names the preset, or else of all."""
    naming = [i for i, file in enumerate(files) if "preset" in file.tree]
    return _merged(file.tree for file in (files if "preset" in given or not naming else files[: naming[-1]]))


def find_run_file(run: str | Path) -> Path:
    """Path of a run file, given by path or by name; ConfigError if there is none, with the known names.

    A name is looked for in `config/`, then among the run files that come with the package.
    """
    for path in (Path(run), CONFIG_FOLDER / f"{run}.yaml", RUN_FILES / f"{run}.yaml"):
        if path.is_file():
            return path
    known = sorted({path.stem for folder in (CONFIG_FOLDER, RUN_FILES) for path in folder.glob("*.yaml")})
    expected = CONFIG_FOLDER / f"{run}.yaml"
    raise ConfigError(f"no run file {run} and no {expected}{did_you_mean(str(run), known)}; known: {', '.join(known)}")


def beside(run_file: Path, name: str) -> Path:
    """Path of another run file, NAME.yaml, beside one; in `config/` for one that comes with the package."""
    return (CONFIG_FOLDER if run_file.parent == RUN_FILES else run_file.parent) / f"{name}.yaml"


def full_names(overrides: Mapping[str, Any]) -> dict[str, Any]:
    """Overrides by full dotted name.

    A key is a full name (`calibrate.alpha`), a short name (`alpha`), or a section whose value is a mapping
    (`calibrate: {alpha: 0.1}`), as Snakemake's command line passes it. A short name means the setting that is nested
    least deeply, and one of a stage before one of TOOL_SECTIONS. With a mapping as its value it means a section before
    a single value, otherwise a single value before a section (`student`: train.student before annotate.student).

    raises: ConfigError for an unknown or an ambiguous name
    """
    known = dict(_leaves(Settings))
    result: dict[str, Any] = {}
    for name, value in overrides.items():
        if isinstance(value, Mapping) and name in Settings.model_fields:
            result |= full_names({f"{name}.{key}": entry for key, entry in value.items()})
            continue
        matches = [full for full in known if full == name or full.endswith(f".{name}")]
        depth = min((full.count(".") for full in matches), default=0)
        shallowest = [full for full in matches if full.count(".") == depth]
        of_stages = [full for full in shallowest if full.partition(".")[0] not in TOOL_SECTIONS]
        shallowest = of_stages or shallowest
        takes_mapping = isinstance(value, Mapping)
        of_kind = [full for full in shallowest if _is_section(known[full]) == takes_mapping]
        shallowest = of_kind or shallowest
        if len(shallowest) != 1:
            raise ConfigError(_unknown_or_ambiguous(name, shallowest, list(known)))
        result[shallowest[0]] = value
    return result


def takes_text(name: str) -> bool:
    """Whether a setting, by its full or short name, holds nothing but text."""
    try:
        (full,) = full_names({name: None})
    except ConfigError:
        return False
    return dict(_leaves(Settings))[full].annotation in (str, str | None)


def _unknown_or_ambiguous(name: str, matches: list[str], known: list[str]) -> str:
    if matches:
        return f"the setting {name!r} is ambiguous; write one of {', '.join(matches)}"
    shorts = {full.rpartition(".")[2]: full for full in reversed(known)}
    close = difflib.get_close_matches(name, [*known, *shorts], n=1)
    hint = f"; did you mean {shorts.get(close[0], close[0])}?" if close else ""
    return f"{name} is not a setting{hint}"


@cache
def _leaves(section: type[Section], prefix: str = "") -> tuple[tuple[str, Any], ...]:
    """Full name and field of every setting, sections included, because a section can be set to null."""

    def walk() -> Iterator[tuple[str, Any]]:
        for name, field in section.model_fields.items():
            yield f"{prefix}{name}", field
            nested = _nested_section(field.annotation)
            if nested is not None:
                yield from _leaves(nested, f"{prefix}{name}.")

    return tuple(walk())


def _is_section(field: Any) -> bool:
    return _nested_section(field.annotation) is not None


def _nested_section(annotation: Any) -> type[Section] | None:
    options = typing.get_args(annotation) if isinstance(annotation, types.UnionType) else (annotation,)
    sections = [o for o in options if isinstance(o, type) and issubclass(o, Section)]
    return sections[0] if sections else None


class File(NamedTuple):
    """A YAML file: its text, and its settings without `extends`."""

    text: str
    tree: dict[str, Any]


def _read_files(path: Path, seen: tuple[Path, ...]) -> list[File]:
    """A run file and the files that it extends, the extended ones first."""
    if path.resolve() in seen:
        raise ConfigError(f"{path} extends itself; remove its line `extends:`")
    try:
        text = read_text(path)
        tree = read_yaml(text) or {}
    except DatasetError as error:
        raise ConfigError(str(error)) from None
    except yaml.YAMLError as error:
        raise ConfigError(f"{path} is not valid YAML; fix this: {' '.join(str(error).split())}") from None
    if not isinstance(tree, dict):
        raise ConfigError(
            f"{path} must contain a mapping, got {type(tree).__name__}; write settings as in {CONFIG_FOLDER}/demo.yaml"
        )
    parent = tree.pop("extends", None)
    if parent is None:
        return [File(text, tree)]
    if not isinstance(parent, str):
        raise ConfigError(f"{path} extends {_shown(parent)}, expected the path of a run file; fix its line `extends:`")
    parent_path = path.parent / parent
    if not parent_path.is_file() and (RUN_FILES / parent).is_file():
        parent_path = RUN_FILES / parent
    if not parent_path.is_file():
        raise ConfigError(f"{path} extends {parent!r}, but {parent_path} does not exist; fix its line `extends:`")
    return [*_read_files(parent_path, (*seen, path.resolve())), File(text, tree)]


def _merged(trees: Iterable[dict[str, Any]]) -> dict[str, Any]:
    """One tree; later ones take precedence."""
    return reduce(_merge, trees, {})


def _merge(base: dict[str, Any], over: dict[str, Any]) -> dict[str, Any]:
    merged = dict(base)
    for key, value in over.items():
        both = isinstance(value, dict) and isinstance(merged.get(key), dict)
        merged[key] = _merge(merged[key], value) if both else value
    return merged


def put_setting(tree: dict[str, Any], name: str, value: Any) -> None:
    """Set the value of a full name (`calibrate.alpha`) in a tree of settings; missing sections are created."""
    *sections, last = name.split(".")
    for key in sections:
        if not isinstance(tree.get(key), dict):
            tree[key] = {}
        tree = tree[key]
    tree[last] = value


def _describe(problem: Any, texts: Sequence[str]) -> str:
    """One line for one pydantic problem: full name, expected value, found value.

    texts: the YAML files of the settings
    """
    name = _dotted(problem["loc"])
    kind, value = problem["type"], problem["input"]
    if kind == "extra_forbidden":
        return _unknown_key(name)
    if kind == "missing":
        return f"{name} is required, but missing; add it"
    if kind == "value_error":
        return f"{name}: {problem['ctx']['error']}" if name else str(problem["ctx"]["error"])
    if kind in ("too_short", "too_long"):
        return f"{name} has the wrong length: {problem['msg'].lower()}"
    unquoted = unquoted_word(texts, problem["loc"], value) if kind == "string_type" else None
    if unquoted is not None:
        return f"{name.removesuffix(KEY)} {unquoted}"
    if kind == "string_pattern_mismatch":
        return f"{name} must be {WORDS_OF_PATTERNS[problem['ctx']['pattern']]}, got {_shown(value)}"
    expected = problem["msg"].removeprefix("Input should be ").replace("a valid ", "")
    hint = (
        "; write 1.0e-4, not 1e-4, which YAML reads as text" if kind == "float_type" and isinstance(value, str) else ""
    )
    return f"{name} must be {expected}, got {_shown(value)} ({type(value).__name__}){hint}"


def _shown(value: Any) -> str:
    """A value in a message, at most MAX_SHOWN characters."""
    text = repr(value)
    return text if len(text) <= MAX_SHOWN else f"{text[:MAX_SHOWN]}…"


def _dotted(location: Sequence[int | str]) -> str:
    return "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in location).lstrip(".")


def _unknown_key(name: str) -> str:
    parent, _, key = name.rpartition(".")
    known = [full for full, _ in _leaves(Settings)]
    siblings = [full.rpartition(".")[2] for full in known if full.rpartition(".")[0] == parent]
    close = difflib.get_close_matches(key, siblings, n=1)
    if close:
        return f"{name} is not a setting; did you mean {f'{parent}.' if parent else ''}{close[0]}?"
    elsewhere = [full for full in known if full.rpartition(".")[2] == key]
    hint = (
        f"; did you mean {elsewhere[0]}?" if elsewhere else f"; known here: {', '.join(siblings)}" if siblings else ""
    )
    return f"{name} is not a setting{hint}"
