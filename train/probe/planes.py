"""Planes of the unlabeled images, which any threshold and rule can label: of labels.zarr, or made from the maps."""

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
class PlaneSource:
    """Planes by the id of an image.

    store:   what they are read or made from
    places:  of the images that the annotator did not fail on
    made_by: fingerprint of the annotator's maps
    """

    store: LabelStore | ProbabilityStore
    places: Mapping[str, int]
    background: int | None
    made_by: str

    def known(self, samples: Sequence[Sample]) -> list[Sample]:
        """Those that there are planes of."""
        return [sample for sample in samples if sample.id in self.places]

    def planes(self, sample: Sample) -> calib.Planes:
        place = self.places[sample.id]
        if isinstance(self.store, LabelStore):
            return self.store.planes(place)
        return calib.class_planes(self.store.probabilities(place).rows(slice(None)), self.background)


def open_planes(settings: Settings) -> PlaneSource:
    """From the labels if they were made of the run's maps, else from the maps; StoreError if neither is there."""
    run = Run(settings)
    made_by = run.receipt("annotate")["fingerprint"]
    path, background = run.folder.labels, settings.data.background_index
    state = store_state(path)
    wanted = {"complete": True, "probabilities": made_by, "background": background}
    store: LabelStore | ProbabilityStore
    store = open_labels(path) if state and wanted.items() <= state.items() else run.open_probabilities()
    ids = store.sample_ids
    return PlaneSource(store, {ids[i]: i for i in np.flatnonzero(store.status == DONE).tolist()}, background, made_by)
