"""Defaults that follow from other settings."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pipeline.settings.calibrate import VARIANT_OF_TILES
from pipeline.settings.section import Section
from pipeline.settings.stage1 import Stage1Settings
from pipeline.settings.stage2 import Stage2Settings
from pipeline.settings.train import MAX_EPOCHS, TrainSettings

STAGES: dict[str, type[Section]] = {"stage1": Stage1Settings, "stage2": Stage2Settings}


def with_epochs(tree: Mapping[str, Any]) -> dict[str, Any]:
    """The settings of `tree`, in which each stage without `epochs` gets `fraction` of `train.total_epochs`.

    tree: section -> name -> value, as read from a run file, not yet checked
    """
    total = _given(tree, "train", TrainSettings, "total_epochs")
    result = dict(tree)
    for name, section in STAGES.items():
        own, fraction = tree.get(name, {}), _given(tree, name, section, "fraction")
        is_given = not isinstance(own, Mapping) or own.get("epochs") is not None
        if not is_given and isinstance(total, int) and isinstance(fraction, int | float) and 0 <= fraction <= 1:
            result[name] = {**own, "epochs": max(round(fraction * min(total, MAX_EPOCHS)), 1 if fraction > 0 else 0)}
    return result


def with_variant(tree: Mapping[str, Any]) -> dict[str, Any]:
    """The settings of `tree`, in which `calibrate.variant` of a run with tiles is not the default.

    tree: as in `with_epochs`
    """
    data, own = tree.get("data"), tree.get("calibrate", {})
    tile = data.get("tile") if isinstance(data, Mapping) else getattr(data, "tile", None)
    is_default = isinstance(own, Mapping) and own.get("variant") is None
    return {**tree, "calibrate": {**own, "variant": VARIANT_OF_TILES}} if tile is not None and is_default else {**tree}


def _given(tree: Mapping[str, Any], name: str, section: type[Section], key: str) -> Any:
    """Value of `key` in a section of the tree, or its default."""
    own, default = tree.get(name), section.model_fields[key].default
    return own.get(key, default) if isinstance(own, Mapping) else default
