"""The three Zarr stores of a run; the only module that opens Zarr.

Every store is a Zarr v3 group whose arrays name their dimensions (so `xarray.open_zarr` reads it) and end in a crc32c
checksum. One chunk is one image, written by one writer; what is finished is told by `status`, never by chunks, because
a lost chunk and a chunk full of NaN look alike.
"""

from __future__ import annotations

import logging
import shutil
import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import zarr
from zarr.codecs import BloscCodec, Crc32cCodec

from pipeline.datasets import Sample
from pipeline.errors import StoreError
from pipeline.resample import resize_bilinear, softmax

log = logging.getLogger(__name__)

# An all-NaN chunk that is skipped on disk could not be told from a lost one. This setting is not stored with an array.
zarr.config.set({"array.write_empty_chunks": True})

ABSENT, DONE, FAILED = 0, 1, 2
STATUS_CHUNK = 4096
UINT16_MAX = 65535
COUNTS_CHUNK = 256
NAMESPACE = "conformalsam"
OUTCOMES = ("pixels", "kept", "empty", "background_only", "background_overruled", "uncalibrated")
STAGE_OF = {"probabilities": "annotate", "calibration": "calibrate", "labels": "pseudolabel"}


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


def store_exists(path: Path) -> bool:
    return (path / "zarr.json").is_file()


def store_state(path: Path) -> dict[str, Any]:
    """Facts of an existing store: kind, fingerprint, complete, and what its stage recorded; {} if there is none."""
    if not store_exists(path):
        return {}
    state = dict(zarr.open_group(path, mode="r").attrs).get(NAMESPACE)
    if not isinstance(state, dict):
        raise StoreError(f"{path} is a Zarr group, but not one of ours; move it away")
    return state


def create_store(
    path: Path, kind: str, facts: Mapping[str, Any], samples: Sequence[Sample], arrays: Mapping[str, ArraySpec]
) -> None:
    """Create an empty store in place of whatever was there; it appears under its name only when it is whole."""
    part = path.with_name(path.name + ".part")
    shutil.rmtree(part, ignore_errors=True)
    group = zarr.open_group(part, mode="w", attributes={NAMESPACE: {"kind": kind, "complete": False, **facts}})
    for name, spec in arrays.items():
        _create_array(group, name, spec)
    _write_coordinates(group, samples, facts["class_names"])
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
        return
    if state:
        log.info("%s: replacing %s (fingerprint %s)", STAGE_OF[kind], path, state["fingerprint"])
    create_store(path, kind, facts, samples, arrays)


def _create_array(group: zarr.Group, name: str, spec: ArraySpec) -> None:
    group.create_array(
        name,
        shape=spec.shape,
        dtype=spec.dtype,
        chunks=tuple(max(1, size) for size in spec.chunks),
        fill_value=spec.fill,
        compressors=[BloscCodec(cname="zstd", clevel=3, shuffle="shuffle"), Crc32cCodec()],
        dimension_names=spec.dims,
        attributes=dict(spec.attributes),
    )


def _write_coordinates(group: zarr.Group, samples: Sequence[Sample], class_names: Sequence[str]) -> None:
    columns = {
        "sample": ("sample", np.array([s.id for s in samples], dtype=object), "string"),
        "height": ("sample", np.array([s.height for s in samples], dtype=np.int32), "int32"),
        "width": ("sample", np.array([s.width for s in samples], dtype=np.int32), "int32"),
        "class": ("class", np.array(list(class_names), dtype=object), "string"),
    }
    for name, (dim, values, dtype) in columns.items():
        fill = "" if dtype == "string" else 0
        _create_array(group, name, ArraySpec((dim,), values.shape, dtype, fill, values.shape))
        array: Any = group[name]
        array[:] = values


def _open(path: Path, kind: str, fingerprint: str | None, writable: bool) -> tuple[zarr.Group, dict[str, Any]]:
    """Open a store of a kind; for reading it must be complete and, if a fingerprint is given, made by that."""
    stage = STAGE_OF[kind]
    state = store_state(path)
    if not state:
        raise StoreError(f"no {kind} store at {path}; run snakemake --cores 8 {stage}")
    if state["kind"] != kind:
        raise StoreError(f"{path} holds {state['kind']}, expected {kind}; name another store")
    if not writable and not state["complete"]:
        raise StoreError(f"{path} is incomplete; run snakemake --cores 8 {stage} to finish it")
    if fingerprint is not None and state["fingerprint"] != fingerprint:
        raise StoreError(
            f"{path} was made by other settings or data (fingerprint {state['fingerprint']}, expected {fingerprint}); "
            f"run snakemake --cores 8 {stage} to rebuild it"
        )
    return zarr.open_group(path, mode="r+" if writable else "r"), state


@dataclass(frozen=True)
class Store:
    """What all three have in common."""

    path: Path
    group: zarr.Group
    state: dict[str, Any]

    def array(self, name: str) -> Any:
        """A zarr.Array of the store (typed Any: zarr's own stubs cannot tell arrays from groups)."""
        return self.group[name]

    @property
    def fingerprint(self) -> str:
        return str(self.state["fingerprint"])

    @property
    def sample_ids(self) -> list[str]:
        return [str(i) for i in self.array("sample")[:]]

    @property
    def class_names(self) -> list[str]:
        return [str(name) for name in self.array("class")[:]]

    @property
    def status(self) -> npt.NDArray[np.uint8]:
        """uint8 [N]: ABSENT, DONE or FAILED."""
        status: npt.NDArray[np.uint8] = self.array("status")[:]
        return status

    def mark(self, index: int, status: int) -> None:
        """Record that an image is finished; to be called by one process only, after its chunks are written."""
        self.array("status")[index] = status

    def finish(self, **facts: Any) -> None:
        """Declare the store complete; nothing is written to it afterwards, so its metadata is consolidated."""
        for leftover in self.path.rglob("*.partial"):  # of a chunk that a killed run was writing
            leftover.unlink()
        self.group.attrs[NAMESPACE] = {**self.state, **facts, "complete": True}
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="Consolidated metadata is currently not part")
            zarr.consolidate_metadata(str(self.path))

    def missing_chunks(self) -> dict[str, list[str]]:
        """For every array the ids of finished images whose chunk is not on disk."""
        done = np.flatnonzero(self.status == DONE)
        ids = self.sample_ids
        missing: dict[str, list[str]] = {}
        for name in self.group.array_keys():
            array = self.array(name)
            if array.ndim in (3, 4) and array.metadata.dimension_names[0] == "sample":
                lost = [ids[i] for i in done if not self.has_chunk(name, int(i))]
                missing |= {name: lost} if lost else {}
        return missing

    def has_chunk(self, name: str, index: int) -> bool:
        """Is one image's part of an array on disk?"""
        trail = "/0" * (self.array(name).ndim - 1)
        return (self.path / name / f"c/{index}{trail}").is_file()

    def read_chunk(self, name: str, index: int) -> npt.NDArray[Any]:
        """One image's part of an array; StoreError if it is damaged or lost (zarr would give the fill value)."""
        again = f"run rm -r {self.path} && snakemake --cores 8 {STAGE_OF[self.state['kind']]}"
        if not self.has_chunk(name, index):
            raise StoreError(f"{self.path}: {name} of {self.sample_ids[index]} is not on disk; {again}")
        try:
            values: npt.NDArray[Any] = self.array(name)[index]
        except (ValueError, RuntimeError) as error:
            raise StoreError(f"{self.path}: {name} of {self.sample_ids[index]} is damaged ({error}); {again}") from None
        return values


def encode_maps(maps: npt.NDArray[np.float32], dtype: npt.DTypeLike) -> npt.NDArray[Any]:
    """Maps as they are stored; uint16 is fixed point, 65535 = 1."""
    return (np.rint(maps * UINT16_MAX) if np.dtype(dtype) == np.uint16 else maps).astype(dtype)


class ProbabilityStore(Store):
    """K class maps of every image, as the annotator gave them: `prob (sample, class, y, x)`, `status (sample)`."""

    @property
    def grid(self) -> tuple[int, int]:
        height, width = self.state["grid"]
        return height, width

    def write(self, index: int, maps: npt.NDArray[np.float32]) -> None:
        """float32 [K, h, w] in the store's space."""
        array = self.array("prob")
        array[index] = encode_maps(maps, array.dtype)

    def probabilities(self, index: int) -> ProbabilityReader:
        """One image's probabilities on the grid, to be read in row strips."""
        values = self.read_chunk("prob", index)
        maps = values.astype(np.float32)
        if values.dtype == np.uint16:
            maps /= np.float32(UINT16_MAX)
        return ProbabilityReader(maps, self.state["space"] == "logits", self.grid)


@dataclass(frozen=True)
class ProbabilityReader:
    """Class maps [K, h, w] of one image, up-sampled to the grid on demand.

    Logits are up-sampled as logits and then go through a softmax; up-sampled probabilities would be off by up to 0.09.
    """

    maps: npt.NDArray[np.float32]
    is_logits: bool
    grid: tuple[int, int]

    def rows(self, rows: slice) -> npt.NDArray[np.float32]:
        """float32 [K, rows, W] probabilities."""
        resized = resize_bilinear(self.maps, self.grid, rows)
        return softmax(resized) if self.is_logits else resized

    def strips(self, megabytes: int) -> Iterator[tuple[slice, npt.NDArray[np.float32]]]:
        """Row strips of at most `megabytes` (at least one row), top to bottom."""
        height, width = self.grid
        step = max(1, megabytes * 1_000_000 // (len(self.maps) * width * 4))
        for start in range(0, height, step):
            rows = slice(start, min(start + step, height))
            yield rows, self.rows(rows)


def probability_arrays(num_samples: int, maps: Sequence[int], dtype: str) -> dict[str, ArraySpec]:
    """Arrays of a probability store for maps of shape [K, h, w]."""
    scale = {"scale_factor": 1 / UINT16_MAX} if dtype == "uint16" else {}
    shape = (num_samples, *maps)
    return {
        "prob": per_image(shape, ("class", "y", "x"), dtype, 0, **scale),
        "status": _status(num_samples),
    }


def _status(num_samples: int) -> ArraySpec:
    flags = {"flag_values": [ABSENT, DONE, FAILED], "flag_meanings": "absent done failed"}
    return ArraySpec(("sample",), (num_samples,), "uint8", ABSENT, (min(num_samples, STATUS_CHUNK),), flags)


def open_probabilities(path: Path, fingerprint: str | None = None, writable: bool = False) -> ProbabilityStore:
    return ProbabilityStore(path, *_open(path, "probabilities", fingerprint, writable))


class CalibrationStore(Store):
    """Scores of the labelled images and the thresholds: `score`, `q_hat (alpha, y, x)`, `n_valid (y, x)`."""

    def write_score(self, index: int, score: npt.NDArray[np.float32]) -> None:
        """float32 [H, W] of one labelled image, NaN = void."""
        self.array("score")[index] = score

    def scores(self, images: Sequence[int], start: int, stop: int) -> npt.NDArray[np.float32]:
        """float32 [images, rows, W]: a band of rows of the chosen images, read one image at a time."""
        array = self.array("score")
        scores = np.empty((len(images), stop - start, array.shape[2]), np.float32)
        for position, image in enumerate(images):
            scores[position] = array[image, start:stop]
        return scores

    @property
    def q_hat(self) -> npt.NDArray[np.float32]:
        """float32 [H, W] threshold; NaN where nothing was learnt, inf where scores are too few."""
        q_hat: npt.NDArray[np.float32] = self.array("q_hat")[0]
        return q_hat

    @property
    def n_valid(self) -> npt.NDArray[np.int32]:
        """int32 [H, W] labelled images with a class at each location."""
        n_valid: npt.NDArray[np.int32] = self.array("n_valid")[:]
        return n_valid

    def write_thresholds(self, alpha: float, q_hat: npt.NDArray[np.float32], n_valid: npt.NDArray[np.int32]) -> None:
        self.array("alpha")[0] = alpha
        self.array("q_hat")[0] = q_hat
        self.array("n_valid")[:] = n_valid


def calibration_arrays(num_samples: int, grid: Sequence[int]) -> dict[str, ArraySpec]:
    """Arrays of a calibration store; `alpha` is a dimension, so that several can stand beside each other."""
    height, width = grid
    nan = float("nan")
    return {
        "score": per_image((num_samples, height, width), ("y", "x"), "float32", nan),
        "q_hat": ArraySpec(("alpha", "y", "x"), (1, height, width), "float32", nan, (1, height, width)),
        "n_valid": ArraySpec(("y", "x"), (height, width), "int32", 0, (height, width)),
        "alpha": ArraySpec(("alpha",), (1,), "float64", nan, (1,)),
        "status": _status(num_samples),
    }


def open_calibration(path: Path, fingerprint: str | None = None, writable: bool = False) -> CalibrationStore:
    return CalibrationStore(path, *_open(path, "calibration", fingerprint, writable))


class LabelStore(Store):
    """Pseudo-labels of the unlabelled images, NaN = abstain, and the planes that any other threshold needs."""

    def label(self, index: int) -> npt.NDArray[np.float32]:
        """float32 [H, W] on the grid: class index, NaN = abstain."""
        return self.read_chunk("label", index).astype(np.float32)

    def raw_argmax(self, index: int) -> npt.NDArray[np.uint8]:
        """uint8 [H, W] on the grid: the most probable class, as without calibration."""
        best: npt.NDArray[np.uint8] = self.read_chunk("best_foreground", index)
        background = self.state["background"]
        if background is None:
            return best
        margin = self.read_chunk("p_background", index) - self.read_chunk("p_foreground", index)
        wins = (margin > 0) | ((margin == 0) & (background < best))  # ties go to the lowest index
        return np.where(wins, np.uint8(background), best)

    def write(self, index: int, values: Mapping[str, npt.NDArray[Any]]) -> None:
        """All arrays of one image, each [H, W]."""
        for name, value in values.items():
            array = self.array(name)
            array[index] = value.astype(array.dtype)

    def write_counts(self, index: int, outcomes: npt.NDArray[np.int32], class_pixels: npt.NDArray[np.int32]) -> None:
        """Pixels of one image by outcome and by class; to be called by one process only."""
        self.array("outcome_pixels")[index] = outcomes
        self.array("class_pixels")[index] = class_pixels

    @property
    def outcome_pixels(self) -> npt.NDArray[np.int32]:
        """int32 [N, len(OUTCOMES)]."""
        pixels: npt.NDArray[np.int32] = self.array("outcome_pixels")[:]
        return pixels

    @property
    def class_pixels(self) -> npt.NDArray[np.int32]:
        """int32 [N, K] labelled pixels of each class."""
        pixels: npt.NDArray[np.int32] = self.array("class_pixels")[:]
        return pixels


def label_arrays(num_samples: int, grid: Sequence[int], num_classes: int, has_background: bool) -> dict[str, ArraySpec]:
    """Arrays of a label store."""
    shape, nan = (num_samples, *grid), float("nan")
    planes = ["p_foreground", "p_second", *(["p_background"] if has_background else [])]
    return {
        "label": per_image(shape, ("y", "x"), "float16", nan, long_name="class index, NaN = abstain"),
        "best_foreground": per_image(shape, ("y", "x"), "uint8", 0, long_name="most probable foreground class"),
        **{name: per_image(shape, ("y", "x"), "float32", nan) for name in planes},
        "outcome_pixels": _counts("outcome", num_samples, len(OUTCOMES), meaning=" ".join(OUTCOMES)),
        "class_pixels": _counts("class", num_samples, num_classes, long_name="labelled pixels"),
        "status": _status(num_samples),
    }


def _counts(dim: str, num_samples: int, length: int, **attributes: Any) -> ArraySpec:
    chunks = (min(num_samples, COUNTS_CHUNK), length)
    return ArraySpec(("sample", dim), (num_samples, length), "int32", 0, chunks, attributes)


def open_labels(path: Path, fingerprint: str | None = None, writable: bool = False) -> LabelStore:
    return LabelStore(path, *_open(path, "labels", fingerprint, writable))


AnyStore = ProbabilityStore | CalibrationStore | LabelStore
STORES: dict[str, type[AnyStore]] = {
    "probabilities": ProbabilityStore,
    "calibration": CalibrationStore,
    "labels": LabelStore,
}


def open_for_inspection(path: Path) -> AnyStore:
    """Open a store of whatever kind to look at it, finished or not; StoreError if there is none."""
    expected = "name a probs.zarr, calibration.zarr or labels.zarr of results/RUN"
    try:
        state = store_state(path)
    except zarr.errors.ContainsArrayError:
        raise StoreError(f"{path} is one array of a store; {expected}") from None
    if not state:
        raise StoreError(f"no store at {path}; {expected}")
    return STORES[state["kind"]](path, zarr.open_group(path, mode="r"), state)
