"""Planes of the unlabeled images, from which any threshold and rule can label: read from labels.zarr or computed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

import calib
from pipeline.datasets import Sample
from pipeline.run import Run
from pipeline.settings import Settings
from pipeline.store import DONE, LabelStore, ProbabilityStore, open_labels, store_state


@dataclass(frozen=True)
class StoredPlanes:
    """Planes of the images of a store.

    store:      holds the planes, or the probability maps that they are computed from
    index_of:   index in the store of each image on which the annotator did not fail, by sample id
    background: index of the background class, if there is one
    made_by:    fingerprint of the annotator's maps
    """

    store: LabelStore | ProbabilityStore
    index_of: Mapping[str, int]
    background: int | None
    made_by: str

    def available(self, samples: Sequence[Sample]) -> list[Sample]:
        """The samples that have planes."""
        return [sample for sample in samples if sample.id in self.index_of]

    def planes(self, sample: Sample) -> calib.Planes:
        """Planes of an image, [H, W] on the grid."""
        index = self.index_of[sample.id]
        if isinstance(self.store, LabelStore):
            return self.store.planes(index)
        return calib.class_planes(self.store.probabilities(index).rows(slice(None)), self.background)


def open_planes(settings: Settings) -> StoredPlanes:
    """Open the planes in the labels if these belong to the run's maps, otherwise compute them from the maps.

    raises: StoreError if neither labels nor maps exist
    """
    run = Run(settings)
    made_by = run.receipt("annotate")["fingerprint"]
    path, background = run.folder.labels, settings.data.background_index
    state = store_state(path)
    wanted = {"complete": True, "probabilities": made_by, "background": background}
    store: LabelStore | ProbabilityStore
    store = open_labels(path) if state and wanted.items() <= state.items() else run.open_probabilities()
    ids = store.sample_ids
    return StoredPlanes(store, {ids[i]: i for i in np.flatnonzero(store.status == DONE).tolist()}, background, made_by)
