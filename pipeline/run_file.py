"""Run files: `load_settings` reads one YAML file of `config/`, applies overrides and checks the settings."""

from __future__ import annotations

import difflib
import json
import re
import types
import typing
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import reduce
from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError

from pipeline.errors import ConfigError
from pipeline.recipes import refuse_another_recipe
from pipeline.settings import Origin, Section, Settings, did_you_mean

CONFIG_FOLDER = Path("config")
PRESET_FOLDER = Path(__file__).parent / "presets"
DEFAULT_RUN = "demo"
BESIDE_THE_STAGES = ("probe", "gallery")  # sections whose settings give way to others of the same short name


def load_settings(run: str | Path, overrides: Mapping[str, Any] | None = None) -> Settings:
    """Read a run file, apply overrides, check everything.

    run:       path of a YAML file, or the name of one in `config/` without its ending
    overrides: full or short setting names to values, e.g. {"calibrate.alpha": 0.1}, see `full_names`
    raises:    ConfigError, one line a problem, each with the setting's full name
    """
    path, given = find_run_file(run), full_names(overrides or {})
    files = _read_files(path, seen=())
    tree = _merged(files)
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
        problems = "\n".join(dict.fromkeys(_describe(problem) for problem in error.errors()))
        raise ConfigError(f"{path}: {problems}") from None
    settings._origin = Origin(str(run), given)
    return settings


def preset_names() -> list[str]:
    """Names of the presets that come with the package."""
    return sorted(path.stem for path in PRESET_FOLDER.glob("*.yaml"))


def preset_tree(name: str) -> dict[str, Any]:
    """Settings that a preset gives, section -> name -> value; ConfigError lists the known ones."""
    known = preset_names()
    if name not in known:
        raise ConfigError(f"preset is {name!r}, expected one of {', '.join(known)}{did_you_mean(name, known)}")
    return _merged(_read_files(PRESET_FOLDER / f"{name}.yaml", seen=()))


def _before_preset(files: Sequence[dict[str, Any]], given: Mapping[str, Any]) -> dict[str, Any]:
    """What was written without regard to the preset: files that the one which names it extends; all, if none does."""
    places = [place for place, tree in enumerate(files) if "preset" in tree]
    return _merged(files if "preset" in given or not places else files[: places[-1]])


def find_run_file(run: str | Path) -> Path:
    """Path of a run given by path or by name; ConfigError lists the known names."""
    for path in (Path(run), CONFIG_FOLDER / f"{run}.yaml"):
        if path.is_file():
            return path
    known = sorted(path.stem for path in CONFIG_FOLDER.glob("*.yaml"))
    expected = CONFIG_FOLDER / f"{run}.yaml"
    raise ConfigError(f"no run file {run} and no {expected}{did_you_mean(str(run), known)}; known: {', '.join(known)}")


def parse_overrides(arguments: Sequence[str]) -> dict[str, Any]:
    """`["alpha=0.1"]` -> `{"alpha": 0.1}`; values are YAML."""
    overrides = {}
    for argument in arguments:
        name, equals, text = argument.partition("=")
        if not equals:
            raise ConfigError(f"--set {argument} has no '='; write --set calibrate.alpha=0.1")
        overrides[name] = yaml.safe_load(text)
    return overrides


def full_names(overrides: Mapping[str, Any]) -> dict[str, Any]:
    """Overrides by full dotted name.

    Accepted: the full name (`calibrate.alpha`), a short name that only one section has (`alpha`; an adapter's own
    settings, one level deeper, and those of tools beside the stages do not count then), or a section with a mapping
    (`calibrate: {alpha: 0.1}`), as the command line of Snakemake can give them.
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
        of_stages = [full for full in shallowest if full.partition(".")[0] not in BESIDE_THE_STAGES]
        shallowest = of_stages or shallowest
        if len(shallowest) != 1:
            raise ConfigError(_unknown_or_ambiguous(name, shallowest, list(known)))
        result[shallowest[0]] = value
    return result


def split_workflow_config(config: Mapping[str, Any]) -> tuple[str, dict[str, Any]]:
    """Run and overrides from Snakemake's `--config run=camvid alpha=0.1 stage1={epochs: 3}`.

    Snakemake types plain values but leaves the entries of mappings and lists as text, so those are read as YAML here.
    """
    overrides = {name: _typed_entries(value) for name, value in config.items() if name != "run"}
    return str(config.get("run", DEFAULT_RUN)), full_names(overrides)


def _typed_entries(value: Any, nested: bool = False) -> Any:
    if isinstance(value, Mapping):
        return {key: _typed_entries(entry, nested=True) for key, entry in value.items()}
    if isinstance(value, list):
        return [_typed_entries(entry, nested=True) for entry in value]
    return yaml.safe_load(value) if nested and isinstance(value, str) else value


def as_arguments(overrides: Mapping[str, Any]) -> list[str]:
    """Command line words that `parse_overrides` turns back into `overrides`."""
    return [word for name, value in full_names(overrides).items() for word in ("--set", f"{name}={json.dumps(value)}")]


def as_workflow_config(settings: Settings, changes: Mapping[str, Any]) -> list[str]:
    """Words of Snakemake's `--config` that `split_workflow_config` turns back into what settings were loaded from.

    A name that is unique without its section stands alone; other names are grouped by section, `stage1={epochs: 3}`.
    changes: further overrides
    """
    origin = settings.origin
    words = [f"run={origin.run or settings.name}"]
    sections: dict[str, list[str]] = {}
    for name, value in (dict(origin.overrides) | full_names(changes)).items():
        section, _, key = name.partition(".")
        short = name.rpartition(".")[2]
        if not key or _is_unique(short, name):
            words.append(f"{short}={_flow_text(value)}")
        else:
            sections.setdefault(section, []).append(f"{key}: {_flow_text(value)}")
    return words + [f"{section}={{{', '.join(entries)}}}" for section, entries in sections.items()]


def _is_unique(short: str, name: str) -> bool:
    try:
        return list(full_names({short: None})) == [name]
    except ConfigError:
        return False


def _flow_text(value: Any) -> str:
    """A value as YAML on one line; plain text without quotes."""
    is_plain = isinstance(value, str) and re.fullmatch(r"[A-Za-z/][\w./-]*", value) and yaml.safe_load(value) == value
    return str(value) if is_plain else json.dumps(value)


def _unknown_or_ambiguous(name: str, matches: list[str], known: list[str]) -> str:
    if matches:
        return f"the setting {name!r} is ambiguous: {', '.join(matches)}; write one of them in full"
    shorts = {full.rpartition(".")[2]: full for full in reversed(known)}
    close = difflib.get_close_matches(name, [*known, *shorts], n=1)
    hint = f"; did you mean {shorts.get(close[0], close[0])}?" if close else ""
    return f"{name} is not a setting{hint}"


def _leaves(section: type[Section], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Full names of all settings, including the sections themselves (they can be set to null)."""
    for name, field in section.model_fields.items():
        yield f"{prefix}{name}", field
        nested = _nested_section(field.annotation)
        if nested is not None:
            yield from _leaves(nested, f"{prefix}{name}.")


def _nested_section(annotation: Any) -> type[Section] | None:
    options = typing.get_args(annotation) if isinstance(annotation, types.UnionType) else (annotation,)
    sections = [o for o in options if isinstance(o, type) and issubclass(o, Section)]
    return sections[0] if sections else None


def _read_files(path: Path, seen: tuple[Path, ...]) -> list[dict[str, Any]]:
    """The mappings of a run file and of those that it extends, which come first."""
    if path.resolve() in seen:
        raise ConfigError(f"{path} extends itself; remove one `extends:`")
    try:
        tree = yaml.safe_load(path.read_text(encoding="utf-8")) or {}
    except yaml.YAMLError as error:
        raise ConfigError(f"{path} is not valid YAML: {' '.join(str(error).split())}") from None
    if not isinstance(tree, dict):
        raise ConfigError(f"{path} must hold a mapping of settings, got {type(tree).__name__}")
    parent = tree.pop("extends", None)
    if parent is None:
        return [tree]
    parent_path = path.parent / parent
    if not parent_path.is_file():
        raise ConfigError(f"{path}: extends {parent!r}, but {parent_path} does not exist")
    return [*_read_files(parent_path, (*seen, path.resolve())), tree]


def _merged(trees: Iterable[dict[str, Any]]) -> dict[str, Any]:
    """Later ones win."""
    return reduce(_merge, trees, {})


def _merge(base: dict[str, Any], over: dict[str, Any]) -> dict[str, Any]:
    merged = dict(base)
    for key, value in over.items():
        both = isinstance(value, dict) and isinstance(merged.get(key), dict)
        merged[key] = _merge(merged[key], value) if both else value
    return merged


def put_setting(tree: dict[str, Any], name: str, value: Any) -> None:
    """Set what a full name (`calibrate.alpha`) stands for in a tree of settings; sections that are not there appear."""
    *sections, last = name.split(".")
    for key in sections:
        if not isinstance(tree.get(key), dict):
            tree[key] = {}
        tree = tree[key]
    tree[last] = value


def _describe(problem: Any) -> str:
    """One line for one pydantic problem: full name, what is wanted, what was found."""
    name = _dotted(problem["loc"])
    kind, found = problem["type"], problem["input"]
    if kind == "extra_forbidden":
        return _unknown_key(name)
    if kind == "missing":
        return f"{name} is required, but missing"
    if kind == "value_error":
        return f"{name}: {problem['ctx']['error']}" if name else str(problem["ctx"]["error"])
    if kind in ("too_short", "too_long"):
        return f"{name} has the wrong length: {problem['msg'].lower()}"
    wanted = problem["msg"].removeprefix("Input should be ").replace("a valid ", "")
    hint = (
        "; write 1.0e-4, not 1e-4, which YAML reads as text" if kind == "float_type" and isinstance(found, str) else ""
    )
    return f"{name} must be {wanted}, got {found!r} ({type(found).__name__}){hint}"


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
