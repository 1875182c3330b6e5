"""`labels.zarr`: pseudo-labels of the unlabeled images, and the planes from which other thresholds label them."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

import calib
from pipeline.errors import StoreError
from pipeline.files import remove_folder
from pipeline.store.arrays import LAYOUT, OUTCOMES, label_arrays
from pipeline.store.group import UNREADABLE, Handle, Store, as_number, read_planes
from pipeline.store.integrity import open_store
from pipeline.store.metadata import remake_command, store_state, write_metadata


class LabelStore(Store):
    """Pseudo-labels of the unlabeled images, NaN = abstain, and the planes that labels at other thresholds need."""

    @property
    def alphas(self) -> list[float]:
        """Alphas of the labels in the store, the chosen one first."""
        return list(self.state["alphas"])

    def label(self, index: int, alpha_index: int = 0) -> npt.NDArray[np.float32]:
        """float32 [H, W] on the grid: class index, NaN = abstain; StoreError if it is damaged or lost.

        alpha_index: index in `alphas`; 0 is the chosen one
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
        """uint8 [H, W] on the grid: most probable class, without calibration; raises StoreError."""
        best, *probabilities = (self.read_chunk(name, index) for name in self.raw_arrays)
        if not probabilities:
            return best
        first, behind = probabilities
        return calib.most_probable(calib.Planes(best, first, first, behind), self.state["background"])[0]

    @property
    def raw_arrays(self) -> tuple[str, ...]:
        """Planes that determine the most probable class."""
        without_background = self.state["background"] is None
        return ("best_foreground",) if without_background else ("best_foreground", "p_foreground", "p_background")

    def planes(self, index: int) -> calib.Planes:
        """Planes of one image, each [H, W]. With thresholds for all classes in common, no rule needs more."""
        return read_planes(self, index)

    def has_planes(self, index: int) -> bool:
        """Whether all planes of one image are on disk. They belong to this store only if `is_own` is true."""
        without = {"p_background"} if self.state["background"] is None else set()
        return all(self.has_chunk(name, index) for name in calib.Planes._fields if name not in without)

    @property
    def has_sets(self) -> bool:
        """Whether the store holds the prediction set of each pixel (`pseudolabel.keep_sets`)."""
        return self.has_array("set")

    def sets(self, index: int) -> npt.NDArray[np.uint8]:
        """uint8 [bytes, H, W] on the grid: prediction sets at the chosen alpha, as `calib.pack_sets` packs them.

        raises: StoreError if they are damaged or lost
        """
        return self.read_chunk("set", index)

    def write(
        self,
        index: int,
        labels: npt.NDArray[np.float32],
        planes: calib.Planes | None,
        sets: npt.NDArray[np.uint8] | None = None,
    ) -> None:
        """Write one image.

        labels: float32 [A, H, W], for each alpha of the store
        planes: None = already written
        sets:   uint8 [bytes, H, W], as `sets` returns them; None for a store without sets
        """
        self.array("label")[index] = labels[0].astype(np.float16)
        if self.has_array("label_by_alpha"):
            for alpha_index, label in enumerate(labels):
                self.array("label_by_alpha")[alpha_index, index] = label.astype(np.float16)
        if sets is not None:
            self.array("set")[index] = sets
        for name, plane in planes._asdict().items() if planes is not None else ():
            if plane is not None:
                self.array(name)[index] = plane

    def write_counts(
        self,
        index: int,
        outcomes: npt.NDArray[np.int32],
        class_pixels: npt.NDArray[np.int32],
        abstained: npt.NDArray[np.int32] | None = None,
    ) -> None:
        """Write the pixel counts of one image; to be called by one process only.

        outcomes:     int32 [len(OUTCOMES)]
        class_pixels: int32 [K], labeled pixels of each class
        abstained:    int32 [K + 1], pixels without a label by the size of their set; None for a store without sets
        """
        self.array("outcome_pixels")[index] = outcomes
        self.array("class_pixels")[index] = class_pixels
        if abstained is not None:
            self.array("abstained_pixels")[index] = abstained

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
        """int32 [N, len(OUTCOMES)]: pixels of each image by outcome."""
        return self.read("outcome_pixels")

    @property
    def class_pixels(self) -> npt.NDArray[np.int32]:
        """int32 [N, K]: labeled pixels of each image by class."""
        return self.read("class_pixels")

    @property
    def teaching_pixels(self) -> npt.NDArray[np.int64]:
        """int64 [N]: pixels of each image whose set can teach (`calib.teaching_sets`); of a store with sets."""
        pixels: npt.NDArray[np.int64] = self.read("abstained_pixels")[:, 2:-1].sum(axis=1, dtype=np.int64)
        return pixels


def has_planes(path: Path, made_by: str) -> bool:
    """Whether a label store has all planes of the same maps; it is finished, or is being labeled again.

    made_by: fact `planes` of the store: fingerprint of the maps and images that the planes are computed from
    """
    state = store_state(path)
    if state.get("planes") != made_by or not (state["complete"] or state["relabel"]):
        return False
    return not state["fingerprint"] or bool(Store(path, state).is_own.all())  # if not, another process wrote planes


def keep_planes(path: Path, facts: Mapping[str, Any]) -> None:
    """Remove the labels of a label store, but keep its planes. To be called if `has_planes` is true.

    If it is killed, it can be called again: until its last step the store has no fingerprint.
    """
    old = store_state(path)
    new = {"kind": "labels", "layout": LAYOUT, "complete": False, **facts}
    new |= {"num_samples": old["num_samples"], "relabel": True}
    removed = {"status", "made_by", *label_arrays(old), *label_arrays(new)}
    write_metadata(path, {**old, "complete": False, "relabel": True, "fingerprint": ""})
    for name in removed:
        remove_folder(path / name)
    write_metadata(path, {**new, "fingerprint": ""})
    store = Store(path, new, is_writable=True)
    alpha, outcome, made_by = (store.array(name) for name in ("alpha", "outcome", "made_by"))
    alpha[:] = facts["alphas"]
    outcome[:] = np.array(OUTCOMES, dtype=object)
    made_by[:] = as_number(facts["fingerprint"])  # the planes belong to this store now
    write_metadata(path, new)


def open_labels(where: Path | Handle, *, writable: bool = False, again: str | None = None) -> LabelStore:
    """Open labels.zarr; arguments and errors as `open_store`; StoreError also if its rule does not exist."""
    store = open_store(LabelStore, "labels", where, writable, again)
    _ = store.rule  # raises StoreError
    return store
