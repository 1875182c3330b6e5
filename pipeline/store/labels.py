"""`labels.zarr`: pseudo-labels of the unlabeled images, and the planes from which any other threshold labels them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import zarr

import calib
from pipeline.errors import StoreError
from pipeline.store.creation import ArraySpec, create_array, per_image, plane_arrays, status_array
from pipeline.store.group import NAMESPACE, UNREADABLE, Store, open_store, read_planes, remake_command, store_state

COUNTS_CHUNK = 256
OUTCOMES = ("pixels", "kept", "empty", "background_only", "background_overruled", "uncalibrated")


class LabelStore(Store):
    """Pseudo-labels of the unlabeled images, NaN = abstain, and the planes that any other threshold needs."""

    @property
    def alphas(self) -> list[float]:
        """Alphas that there are labels of, the chosen one first."""
        return [float(alpha) for alpha in self.read_present("alpha")]

    def label(self, index: int, alpha_index: int = 0) -> npt.NDArray[np.float32]:
        """float32 [H, W] on the grid: class index, NaN = abstain; StoreError if it is damaged or lost.

        alpha_index: which of the `alphas`; 0: the chosen one
        """
        if alpha_index == 0:
            return self.read_chunk("label", index).astype(np.float32)
        what = f"label_by_alpha (alpha {self.alphas[alpha_index]:g}) of {self.sample_ids[index]}"
        if not (self.path / f"label_by_alpha/c/{alpha_index}/{index}/0/0").is_file():
            raise self.damaged(what, FileNotFoundError("not on disk"))
        try:
            label: npt.NDArray[np.float16] = self.array("label_by_alpha")[alpha_index, index]
        except UNREADABLE as error:
            raise self.damaged(what, error) from None
        return label.astype(np.float32)

    def raw_argmax(self, index: int) -> npt.NDArray[np.uint8]:
        """uint8 [H, W] on the grid: the most probable class, as without calibration."""
        best, *probabilities = (self.read_chunk(name, index) for name in self.raw_arrays)
        if not probabilities:
            return best
        first, behind = probabilities
        return calib.most_probable(calib.Planes(best, first, first, behind), self.state["background"])[0]

    @property
    def raw_arrays(self) -> tuple[str, ...]:
        """Planes that the most probable class is made of."""
        without_background = self.state["background"] is None
        return ("best_foreground",) if without_background else ("best_foreground", "p_foreground", "p_background")

    def planes(self, index: int) -> calib.Planes:
        """Planes of one image: all that any threshold for all classes and any rule need."""
        return read_planes(self, index)

    def has_planes(self, index: int) -> bool:
        """Are all planes of one image on disk?"""
        without = {"p_background"} if self.state["background"] is None else set()
        return all(self.has_chunk(name, index) for name in calib.Planes._fields if name not in without)

    def write(self, index: int, labels: npt.NDArray[np.float32], planes: calib.Planes | None) -> None:
        """One image. labels: float32 [A, H, W], one an alpha of the store, the chosen one first; planes: if new."""
        self.array("label")[index] = labels[0].astype(np.float16)
        if self.has_array("label_by_alpha"):
            for position, label in enumerate(labels):
                self.array("label_by_alpha")[position, index] = label.astype(np.float16)
        for name, plane in planes._asdict().items() if planes is not None else ():
            if plane is not None:
                self.array(name)[index] = plane

    def write_counts(self, index: int, outcomes: npt.NDArray[np.int32], class_pixels: npt.NDArray[np.int32]) -> None:
        """Pixels of one image by outcome and by class; to be called by one process only."""
        self.array("outcome_pixels")[index] = outcomes
        self.array("class_pixels")[index] = class_pixels

    def write_alphas(self, alphas: Sequence[float]) -> None:
        array = self.array("alpha")
        array[:] = alphas

    @property
    def rule(self) -> str:
        """Name of the rule that made the labels; StoreError if there is no such rule."""
        rule: str = self.state["rule"]
        try:
            return calib.find_rule(rule).name
        except calib.UnknownNameError as error:
            raise StoreError(f"{self.path} has {error}; run {remake_command(self.path)}") from None

    @property
    def outcome_pixels(self) -> npt.NDArray[np.int32]:
        """int32 [N, len(OUTCOMES)]."""
        return self.read("outcome_pixels")

    @property
    def class_pixels(self) -> npt.NDArray[np.int32]:
        """int32 [N, K] labeled pixels of each class."""
        return self.read("class_pixels")


def has_planes(path: Path, made_by: str) -> bool:
    """Whether there is a label store with all planes of the same maps (`planes`), finished or being labeled again."""
    state = store_state(path)
    return state.get("planes") == made_by and bool(state["complete"] or state["relabel"])


def keep_planes(path: Path, facts: Mapping[str, Any], num_classes: int, num_alphas: int) -> None:
    """Empty a finished label store of its labels, but keep its planes if they were made of the same maps (`planes`).

    A kill in the middle is harmless: until its last step the store has no fingerprint, and this function repeats it.
    To be called if `has_planes` is true.
    """
    group = zarr.open_group(path, mode="r+", use_consolidated=False)
    again = {"kind": "labels", "complete": False, **facts, "relabel": True}
    group.attrs[NAMESPACE] = {**again, "fingerprint": ""}
    shape = group["best_foreground"].shape  # type: ignore[union-attr]
    for name in {"label_by_alpha", *_answer_arrays(shape, num_classes, num_alphas)} & set(group.array_keys()):
        del group[name]
    for name, spec in _answer_arrays(shape, num_classes, num_alphas).items():
        create_array(group, name, spec)
    group.attrs[NAMESPACE] = again


def label_arrays(
    num_samples: int, grid: Sequence[int], num_classes: int, has_background: bool, num_alphas: int
) -> dict[str, ArraySpec]:
    """Arrays of a label store; `label_by_alpha` only if there are several alphas."""
    shape = (num_samples, *grid)
    return _answer_arrays(shape, num_classes, num_alphas) | plane_arrays(shape, has_background)


def _answer_arrays(shape: Sequence[int], num_classes: int, num_alphas: int) -> dict[str, ArraySpec]:
    """What changes with alpha, variant and rule."""
    num_samples, nan, name = shape[0], float("nan"), "class index, NaN = abstain"
    by_alpha = ArraySpec(
        ("alpha", "sample", "y", "x"), (num_alphas, *shape), "float16", nan, (1, 1, *shape[1:]), {"long_name": name}
    )
    return {
        "label": per_image(shape, ("y", "x"), "float16", nan, long_name=name),
        **({"label_by_alpha": by_alpha} if num_alphas > 1 else {}),
        "outcome_pixels": _counts("outcome", num_samples, len(OUTCOMES), meaning=" ".join(OUTCOMES)),
        "class_pixels": _counts("class", num_samples, num_classes, long_name="labeled pixels"),
        "status": status_array(num_samples),
        "alpha": ArraySpec(("alpha",), (num_alphas,), "float64", nan, (num_alphas,)),
    }


def _counts(dim: str, num_samples: int, length: int, **attributes: Any) -> ArraySpec:
    chunks = (min(num_samples, COUNTS_CHUNK), length)
    return ArraySpec(("sample", dim), (num_samples, length), "int32", 0, chunks, attributes)


def open_labels(path: Path, *, writable: bool = False, again: str | None = None) -> LabelStore:
    """Open the labels; StoreError as `open_store` raises it, or if no rule has the name of its rule."""
    store = LabelStore(path, *open_store(path, "labels", writable, again))
    _ = store.rule  # raises StoreError
    return store
