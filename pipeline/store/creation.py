"""How a store is made: its arrays, their coordinates, and going on with one that is half done."""

from __future__ import annotations

import logging
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numcodecs
import numpy as np
import numpy.typing as npt
import zarr
from zarr.codecs import BloscCodec, Crc32cCodec

from pipeline.datasets import Sample
from pipeline.folder import STAGE_OF
from pipeline.store.group import ABSENT, DONE, FAILED, NAMESPACE, UNREADABLE, store_state

log = logging.getLogger(__name__)

COORDINATES = ("sample", "height", "width", "class")
STATUS_CHUNK = 4096
LEVEL = 3  # of zstd


class ArraySpec(NamedTuple):
    """What an array of a store holds."""

    dims: tuple[str, ...]
    shape: tuple[int, ...]
    dtype: str
    fill: Any
    chunks: tuple[int, ...]
    attributes: Mapping[str, Any] = {}


def per_image(shape: Sequence[int], dims: Sequence[str], dtype: str, fill: Any, **attributes: Any) -> ArraySpec:
    """An array whose first axis is `sample`, one chunk an image."""
    return ArraySpec(("sample", *dims), tuple(shape), dtype, fill, (1, *shape[1:]), attributes)


def create_store(
    path: Path, kind: str, facts: Mapping[str, Any], samples: Sequence[Sample], arrays: Mapping[str, ArraySpec]
) -> None:
    """Create an empty store in place of whatever was there; it appears under its name only when it is whole."""
    part = path.with_name(path.name + ".part")
    shutil.rmtree(part, ignore_errors=True)
    group = zarr.open_group(part, mode="w", attributes={NAMESPACE: {"kind": kind, "complete": False, **facts}})
    for name, spec in arrays.items():
        create_array(group, name, spec)
    for name, column in _coordinates(samples, facts["class_names"]).items():
        _write_column(group, name, *column)
    shutil.rmtree(path, ignore_errors=True)
    part.rename(path)


def resume_or_create(
    path: Path, kind: str, facts: Mapping[str, Any], samples: Sequence[Sample], arrays: Mapping[str, ArraySpec]
) -> None:
    """Keep a half-done store of the same fingerprint; otherwise start an empty one.

    A finished store is started again too: its stage runs only if its receipt was taken away, that is, on request.
    """
    state = store_state(path)
    if state.get("fingerprint") == facts["fingerprint"] and not state["complete"]:
        log.info("%s: going on with the half-done %s", STAGE_OF[kind], path)
        restore_coordinates(path, samples, facts["class_names"])
        return
    if state:
        log.info("%s: replacing %s (fingerprint %s)", STAGE_OF[kind], path, state["fingerprint"])
    create_store(path, kind, facts, samples, arrays)


def create_array(group: zarr.Group, name: str, spec: ArraySpec) -> None:
    group.create_array(
        name,
        shape=spec.shape,
        dtype=spec.dtype,
        chunks=tuple(max(1, size) for size in spec.chunks),
        fill_value=spec.fill,
        compressors=codecs(),
        dimension_names=spec.dims,
        attributes=dict(spec.attributes),
    )


def codecs() -> list[BloscCodec | Crc32cCodec]:
    """What every chunk goes through; the checksum comes last, so that it covers all before."""
    return [BloscCodec(cname="zstd", clevel=LEVEL, shuffle="shuffle"), Crc32cCodec()]


def compressed_bytes(values: npt.NDArray[Any]) -> int:
    """Bytes of an array as one chunk, without its checksum."""
    codec: Any = numcodecs.Blosc(cname="zstd", clevel=LEVEL, shuffle=numcodecs.Blosc.SHUFFLE)
    return len(codec.encode(np.ascontiguousarray(values)))


def restore_coordinates(path: Path, samples: Sequence[Sample], class_names: Sequence[str]) -> None:
    """Write again the coordinates of a half-done store that are lost or damaged.

    samples: those that its fingerprint stands for, so that the ids cannot be others'
    """
    group = zarr.open_group(path, mode="r+", use_consolidated=False)
    for name, (dim, values) in _coordinates(samples, class_names).items():
        if not _holds(group, name, values):
            shutil.rmtree(path / name, ignore_errors=True)
            _write_column(group, name, dim, values)


Column = tuple[str, npt.NDArray[Any]]


def _coordinates(samples: Sequence[Sample], class_names: Sequence[str]) -> dict[str, Column]:
    """Name -> dimension and values of what labels the axes."""
    return {
        "sample": ("sample", np.array([s.id for s in samples], dtype=object)),
        "height": ("sample", np.array([s.height for s in samples], dtype=np.int32)),
        "width": ("sample", np.array([s.width for s in samples], dtype=np.int32)),
        "class": ("class", np.array(list(class_names), dtype=object)),
    }


def _holds(group: zarr.Group, name: str, values: npt.NDArray[Any]) -> bool:
    try:
        array: Any = group[name]
        return array[:].tolist() == values.tolist()  # type: ignore[no-any-return]
    except UNREADABLE:
        return False


def _write_column(group: zarr.Group, name: str, dim: str, values: npt.NDArray[Any]) -> None:
    is_text = values.dtype == object
    dtype, fill = ("string", "") if is_text else (values.dtype.name, 0)
    create_array(group, name, ArraySpec((dim,), values.shape, dtype, fill, values.shape))
    array: Any = group[name]
    array[:] = values


def status_array(num_samples: int) -> ArraySpec:
    flags = {"flag_values": [ABSENT, DONE, FAILED], "flag_meanings": "absent done failed"}
    return ArraySpec(("sample",), (num_samples,), "uint8", ABSENT, (min(num_samples, STATUS_CHUNK),), flags)


def plane_arrays(shape: Sequence[int], has_background: bool) -> dict[str, ArraySpec]:
    """Planes of every image on the grid, [N, H, W]."""
    names = ["p_foreground", "p_second", *(["p_background"] if has_background else [])]
    return {
        "best_foreground": per_image(shape, ("y", "x"), "uint8", 0, long_name="most probable foreground class"),
        **{name: per_image(shape, ("y", "x"), "float32", float("nan")) for name in names},
    }
