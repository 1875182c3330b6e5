"""Bounds of the facts of a store, from which its arrays follow. A store may come from anybody, so they are checked.

The digest of the facts shows that they are undamaged, not who wrote them.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Mapping
from typing import Annotated, Any, Literal, NotRequired

from annotated_types import Ge, Gt, Le, Len, Lt
from pydantic import StringConstraints, TypeAdapter, ValidationError
from typing_extensions import TypedDict

MAX_BYTES = 64 << 20  # of a zarr.json; ours have a few kilobytes, and some for each name of a class
MAX_SAMPLES = 10_000_000
MAX_VALUES = 1 << 31  # of the maps or the grid of one image
Length = Annotated[int, Ge(1), Le(MAX_VALUES)]
Grid = Annotated[list[Length], Len(2, 2)]
Alphas = Annotated[list[Annotated[float, Gt(0), Lt(1)]], Len(1, 1000)]
Name = Annotated[str, StringConstraints(pattern=r"^[a-z0-9_]{1,40}$")]  # part of a file name
Background = Annotated[int, Ge(0), Le(255)] | None


class Facts(TypedDict):
    """Facts of every store; each stage adds more.

    layout: `arrays.LAYOUT` of the version that wrote it; stores of versions without one do not have it
    """

    layout: NotRequired[Annotated[int, Ge(1)]]
    fingerprint: Annotated[str, StringConstraints(pattern="^[0-9a-f]{0,16}$")]
    complete: bool
    num_samples: Annotated[int, Ge(0), Le(MAX_SAMPLES)]
    class_names: Annotated[list[str], Len(1, 255)]
    grid: Grid


class ProbabilityFacts(Facts):
    space: Literal["logits", "probability"]
    maps: Annotated[list[Length], Len(3, 3)]
    dtype: Literal["uint16", "float16", "float32"]


class CalibrationFacts(Facts):
    background: Background
    alphas: Alphas
    class_thresholds: Name
    variant: Name
    variants: Annotated[list[Name], Len(1, 100)]
    rules: Annotated[list[Name], Len(1, 100)]
    tested_rules: NotRequired[Annotated[list[Name], Len(1, 100)]]


class LabelFacts(Facts):
    background: Background
    alphas: Alphas
    rule: str
    keep_sets: NotRequired[bool]


KINDS: Mapping[str, type] = {
    "probabilities": ProbabilityFacts,
    "calibration": CalibrationFacts,
    "labels": LabelFacts,
}


def fact_problem(state: Mapping[str, Any]) -> str | None:
    """Why these cannot be the facts of a store; None if they can."""
    kind = state.get("kind")
    if not isinstance(kind, str) or kind not in KINDS:
        return f"its kind is {kind!r}, expected one of {', '.join(KINDS)}"
    try:
        facts: dict[str, Any] = _adapter(kind).validate_python(state, strict=True)
    except ValidationError as error:
        problem = error.errors()[0]
        return f"its fact {'.'.join(map(str, problem['loc']))}: {problem['msg']}"
    if max(math.prod(facts["grid"]), math.prod(facts.get("maps", [1]))) > MAX_VALUES:
        return f"its maps or its grid have more than {MAX_VALUES} values"
    return None


@functools.cache
def _adapter(kind: str) -> TypeAdapter[Any]:
    return TypeAdapter(KINDS[kind])
