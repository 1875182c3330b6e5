"""The presets (training recipes) as text: a list of all, and all settings of one."""

from __future__ import annotations

from typing import Any

import yaml

from pipeline.run_file import PRESET_FOLDER, preset_names, preset_tree
from pipeline.settings import (
    CalibrateSettings,
    PseudolabelSettings,
    Section,
    Stage1Settings,
    Stage2Settings,
    TrainSettings,
    is_runtime,
)

SECTIONS: dict[str, type[Section]] = {
    "calibrate": CalibrateSettings,
    "pseudolabel": PseudolabelSettings,
    "train": TrainSettings,
    "stage1": Stage1Settings,
    "stage2": Stage2Settings,
}


def preset_list() -> str:
    """A list with one line per preset: its name and its summary."""
    names = preset_names()
    width = max(map(len, names))
    return "".join(f"{name:{width}}  {_summary(name)}\n" for name in names)


def _summary(name: str) -> str:
    """First sentence of the comment in the preset's file."""
    lines = (PRESET_FOLDER / f"{name}.yaml").read_text(encoding="utf-8").splitlines()
    comment = " ".join(line.removeprefix("#").strip() for line in lines if line.startswith("#"))
    return comment.partition(". ")[0].removesuffix(".")


def preset_settings(name: str) -> str:
    """The settings of a preset as YAML, with defaults filled in; ConfigError for an unknown name."""
    tree = preset_tree(name)
    resolved = {section: _resolved(of, tree.get(section, {})) for section, of in SECTIONS.items()}
    return yaml.safe_dump(resolved, sort_keys=False, default_flow_style=None)


def _resolved(section: type[Section], given: dict[str, Any]) -> dict[str, Any]:
    """All settings of a section that change results. A preset has fractions and no epochs."""
    shown = {name for name, field in section.model_fields.items() if name != "epochs" and not is_runtime(field)}
    return section.model_validate(given).model_dump(include=shown)
