"""Maps in Zarr that other code has written, read image by image: one array of all images, or one array per image.

These are inputs in a format of others, with any metadata; the stores of runs are opened by `pipeline.store`, also here.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt
import zarr

from pipeline.errors import AnnotatorError, first_line
from pipeline.files import normal
from pipeline.settings import DataSettings
from pipeline.store import DONE, ProbabilityReader, ProbabilityStore, open_probabilities, store_state
from pipeline.store.metadata import NAMESPACE
from pipeline.text import read_text

SUFFIX = ".zarr"
VERSION_3 = "zarr.json"
FILES = (VERSION_3, ".zarray", ".zgroup")  # with the metadata of an array or a group
OF_ALL, OF_ONE = 4, 3  # axes of the maps of all images, and of one image
IDS = "ids"  # attribute
UNSAFE = "pickle"  # filter of numcodecs
MOST_LISTED = 5
WRITE = "docs/annotators.md has the code that writes it"

Arrays = Mapping[str, Any]  # zarr.Array by name


@dataclass(frozen=True)
class ZarrMaps:
    """The maps of one image: an array, or what it has at an index of its first axis."""

    path: Path
    array: Any  # zarr.Array
    index: int | None = None

    suffix: ClassVar[str] = SUFFIX

    def __str__(self) -> str:
        return str(self.path) if self.index is None else f"{self.path}[{self.index}]"

    def values(self) -> npt.NDArray[Any]:
        """The values as they are stored; AnnotatorError if they cannot be read, or are all the array's fill value."""
        values, fill = _read(self.array, self.index, str(self)), self.array.fill_value
        is_fill = np.isnan(values) if fill != fill else values == fill
        if values.size and is_fill.all():
            raise AnnotatorError(
                f"{self} has the array's fill value {fill} everywhere, as where chunks are missing; write its maps, "
                "or, if they are right, create the array with fill_value nan"
            )
        return values


@dataclass(frozen=True)
class StoredMaps:
    """The maps of one image in `probs.zarr` of a run. Logits become probabilities on that run's grid, as there."""

    store: ProbabilityStore
    index: int

    suffix: ClassVar[str] = SUFFIX

    def __str__(self) -> str:
        return f"{self.store.path}[{self.index}]"

    def values(self) -> npt.NDArray[Any]:
        """float32 [K, h, w] in [0, 1]; StoreError if they are damaged."""
        reader = self.store.probabilities(self.index)
        size = reader.grid if reader.is_logits else (reader.maps.shape[1], reader.maps.shape[2])
        return ProbabilityReader(reader.maps, reader.is_logits, size).rows(slice(None))


def is_zarr(path: Path) -> bool:
    """Whether a folder is a Zarr array or group; OSError if it cannot be read."""
    return not set(FILES).isdisjoint(os.listdir(path))


def maps_of_image(path: Path) -> ZarrMaps:
    """The maps in ID.zarr: an array, or the only array with three axes of a group; AnnotatorError for anything else."""
    arrays = _arrays_in(path)
    found = [name for name, array in arrays.items() if array.ndim == OF_ONE]
    if "" in arrays:  # its shape is checked when it is read
        return ZarrMaps(path, arrays[""])
    if len(found) != 1:
        raise AnnotatorError(f"{path} has {_listed(arrays)}, expected one array [K, h, w]; {WRITE}")
    return ZarrMaps(path / found[0], arrays[found[0]])


def maps_of_images(path: Path, ids: Sequence[str] | None, data: DataSettings) -> dict[str, list[ZarrMaps | StoredMaps]]:
    """The maps in one Zarr, by image id: an array [N, K, h, w], a group with one, a group with an array [K, h, w] named
    after each image, or `probs.zarr` of a run.

    ids:    of the N images, as a list of the user has them; None: they are in the Zarr
    raises: AnnotatorError for anything else, and if the ids are missing or not N; StoreError for a damaged store
    """
    if NAMESPACE in _attributes(path):
        return _maps_of_run(path, data)
    arrays = _arrays_in(path)
    of_all = [name for name, array in arrays.items() if array.ndim == OF_ALL]
    of_one = [name for name, array in arrays.items() if array.ndim == OF_ONE and name]
    if len(of_all) == 1:
        (name,) = of_all
        names = _ids(path, name, arrays) if ids is None else list(ids)
        num_images = arrays[name].shape[0]
        if len(names) != num_images:
            raise AnnotatorError(
                f"{path / name} has the maps of {num_images} images, but {len(names)} ids "
                f"{'in the list annotate.maps.ids' if ids is not None else 'beside it'}; write one id for each"
            )
        found: dict[str, list[ZarrMaps | StoredMaps]] = {}
        for index, image in enumerate(names):
            found.setdefault(normal(image), []).append(ZarrMaps(path / name, arrays[name], index))
        return found
    if of_all or not of_one:
        raise AnnotatorError(
            f"{path} has {_listed(arrays)}, expected one array [N, K, h, w] for N images and K classes, or an array "
            f"[K, h, w] for each image, named after it; {WRITE}"
        )
    return {normal(name): [ZarrMaps(path / name, arrays[name])] for name in of_one}


def _maps_of_run(path: Path, data: DataSettings) -> dict[str, list[ZarrMaps | StoredMaps]]:
    """The finished maps in `probs.zarr` of a run with the same classes, by image id."""
    kind = store_state(path)["kind"]
    if kind != "probabilities":
        raise AnnotatorError(f"{path} is the store of {kind} of a run, expected that of maps; name its probs.zarr")
    store = open_probabilities(path)
    if store.class_names != data.class_names:
        raise AnnotatorError(
            f"{path} has the classes {', '.join(store.class_names)}, expected {', '.join(data.class_names)}; name the "
            "maps of a run with the same data.classes"
        )
    done = np.flatnonzero(store.status == DONE)
    ids = store.sample_ids
    return {normal(ids[i]): [StoredMaps(store, int(i))] for i in done}


def _ids(path: Path, name: str, arrays: Arrays) -> list[str]:
    """Ids of the images of an array: the attribute `ids` of it or its group, or the coordinate of its first axis."""
    array, attributes = arrays[name], _attributes(path / name)
    listed = attributes.get(IDS, _attributes(path).get(IDS))
    if isinstance(listed, list):
        return [str(one) for one in listed]
    axes = getattr(array.metadata, "dimension_names", None) or attributes.get("_ARRAY_DIMENSIONS") or [""]
    coordinate = arrays.get(str(axes[0])) if name else None
    if coordinate is None or coordinate.ndim != 1:
        raise AnnotatorError(
            f"{path / name} has the maps of {array.shape[0]} images, but no ids of them; give it the attribute {IDS}, "
            "a list of the ids in the same order, or a coordinate, as xarray writes it, or set annotate.maps.ids to a "
            "list file"
        )
    values = _read(coordinate, None, str(path / str(axes[0]))).tolist()
    return [one.decode(errors="replace") if isinstance(one, bytes) else str(one) for one in values]


def _read(array: Any, index: int | None, where: str) -> npt.NDArray[Any]:
    """An array, or what it has at an index of its first axis; AnnotatorError if it cannot be read."""
    try:
        return np.asarray(array[... if index is None else index])
    except Exception as error:  # zarr, numcodecs and their codecs raise many types of errors at damaged chunks
        raise AnnotatorError(f"{where} cannot be read by zarr ({first_line(error)}); write it again") from None


def _arrays_in(path: Path) -> Arrays:
    """The array at a path, named "", or the arrays in the group there, by name; AnnotatorError for damaged metadata."""
    if _is_array(path):
        return {"": _opened(path)}
    children = sorted(child for child in path.iterdir() if child.is_dir() and is_zarr(child))
    return {child.name: _opened(child) for child in children if _is_array(child)}


def _is_array(path: Path) -> bool:
    name, content = _metadata(path)
    return name == ".zarray" or content.get("node_type") == "array"


def _opened(path: Path) -> Any:
    """The zarr.Array at a path. Its metadata alone are read: not those that a group may have consolidated."""
    name, _ = _metadata(path)
    try:
        return zarr.open_array(path, mode="r", zarr_format=3 if name == VERSION_3 else 2)
    except Exception as error:  # zarr and numcodecs raise many types of errors at metadata that they do not know
        raise AnnotatorError(f"{path} cannot be opened by zarr ({first_line(error)}); write it again") from None


def _metadata(path: Path) -> tuple[str, dict[str, Any]]:
    """Name and content of the file with the metadata of an array or a group.

    raises: AnnotatorError if it cannot be read, or names a codec that runs code of the file
    """
    name = next((name for name in FILES if (path / name).is_file()), None)
    if name is None:
        raise AnnotatorError(f"{path} is no Zarr: it has no {', '.join(FILES[:-1])} or {FILES[-1]}; write it again")
    text, content = read_text(path / name), None
    with suppress(ValueError, RecursionError):
        content = json.loads(text)
    if not isinstance(content, dict):
        raise AnnotatorError(f"{path / name} is damaged: it is no JSON object; write {path} again")
    if UNSAFE in text:
        raise AnnotatorError(f"{path} is stored with {UNSAFE}, which can run code; write it without this filter")
    return name, content


def _attributes(path: Path) -> dict[str, Any]:
    """Attributes of an array or a group."""
    name, content = _metadata(path)
    if name == VERSION_3:
        attributes = content.get("attributes")
    else:
        file = path / ".zattrs"
        try:
            attributes = json.loads(read_text(file)) if file.is_file() else {}
        except (ValueError, RecursionError):
            raise AnnotatorError(f"{file} is damaged: it is no JSON; write {path} again") from None
    return attributes if isinstance(attributes, dict) else {}


def _listed(arrays: Arrays) -> str:
    """The arrays for a message, with their shapes."""
    shapes = [f"{name or 'an array'} {list(array.shape)}" for name, array in arrays.items()]
    more = f" and {len(shapes) - MOST_LISTED} more" if len(shapes) > MOST_LISTED else ""
    return f"{', '.join(shapes[:MOST_LISTED])}{more}" if shapes else "no arrays"
