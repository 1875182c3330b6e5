"""The `ensemble` annotator: the weighted mean of the maps that its members have stored, each in a store of its own."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from pipeline.annotators.contract import Images, Maps, Space
from pipeline.annotators.mixture import Floats, completed, fitted_weights, log_loss, mean_maps
from pipeline.datasets import IGNORE_INDEX, Sample, evenly_spaced, resize_nearest
from pipeline.errors import AnnotatorError, DatasetError
from pipeline.receipt import fingerprint
from pipeline.settings import DataSettings
from pipeline.store import DONE, ProbabilityReader, ProbabilityStore, repair_command

log = logging.getLogger(__name__)

VERSION = 1  # raise it when the same maps and weights would give another mean
MOST_PIXELS = 500_000  # that weights are fitted on; enough for a few numbers
DECIMALS = 3  # of fitted weights


class Member(NamedTuple):
    """A member whose maps are stored.

    without_prompt, runs_on: as in the contract of annotators
    """

    store: ProbabilityStore
    without_prompt: Sequence[str]
    runs_on: Sequence[str]


class Weights(NamedTuple):
    """Weights of the members, and mean log-losses on labeled images by what is weighted; {} if they were not fitted."""

    of_members: dict[str, float]
    log_losses: dict[str, float]


class StoredMembers:
    """The maps of all members, as probabilities of the same size.

    A member without a prompt or channel for a class takes the mean of the others for it (`mixture.completed`).
    """

    def __init__(self, members: Mapping[str, Member], resolution: str, data: DataSettings):
        self.members, self.class_names = members, data.class_names
        sizes = [one.store.maps.shape[-2:] for one in members.values()]
        largest = max(h for h, _ in sizes), max(w for _, w in sizes)
        height, width = data.grid if resolution == "grid" else largest
        self.size: tuple[int, int] = (height, width)
        self.has_class = np.array(
            [[name not in one.without_prompt for name in data.class_names] for one in members.values()]
        )
        self.indices = {name: {i: n for n, i in enumerate(one.store.sample_ids)} for name, one in members.items()}
        self.digests_of = {name: one.store.image_digests for name, one in members.items()}
        self.is_done = {name: one.store.status == DONE for name, one in members.items()}

    def digests(self, sample_id: str) -> list[str]:
        """What every member's maps of an image were made from."""
        return [self.digests_of[name][self.indices[name][sample_id]] for name in self.members]

    def has_all(self, sample_id: str) -> bool:
        """Whether every member has maps of an image."""
        return all(self.is_done[name][self.indices[name][sample_id]] for name in self.members)

    def maps(self, sample_id: str) -> npt.NDArray[np.float32]:
        """float32 [M, K, h, w] in [0, 1], of one image; AnnotatorError if a member failed on it."""
        stacked = np.stack([self._maps_of(name, one, sample_id) for name, one in self.members.items()])
        return completed(stacked, self.has_class)

    def _maps_of(self, name: str, member: Member, sample_id: str) -> Maps:
        store, index = member.store, self.indices[name][sample_id]
        if not self.is_done[name][index]:
            reason = store.state.get("failed", {}).get(sample_id, "it failed")
            again = repair_command(store.path, "probabilities")
            raise AnnotatorError(f"member {name} has no maps of {sample_id} ({reason}); run {again}")
        reader = store.probabilities(index)
        return ProbabilityReader(reader.maps, reader.is_logits, self.size).rows(slice(None))


class EnsembleAnnotator:
    """Implements the Annotator contract from stored maps; the images themselves are not used."""

    space: Space = "probability"

    def __init__(self, stored: StoredMembers, weights: Weights):
        members, of_members = stored.members, weights.of_members
        self.stored, self.weights = stored, weights
        shown = (f"{name} {weight:.3g}" for name, weight in of_members.items())
        self.name = f"ensemble of {', '.join(shown)}"
        self.without_prompt = [
            name for name, has_one in zip(stored.class_names, stored.has_class.any(axis=0), strict=True) if not has_one
        ]
        self.runs_on = sorted({device for one in members.values() for device in one.runs_on})
        self.fingerprint = fingerprint(
            {"version": VERSION, "members": {n: [m.store.state["method"], of_members[n]] for n, m in members.items()}}
        )

    def prepare(self, class_prompts: Sequence[Sequence[str]]) -> None:
        """Do nothing: the members are prepared when they annotate."""

    def prepare_images(self, ids: Sequence[str]) -> None:
        """Do nothing: the stores of the members have all images."""

    def image_fingerprint(self, sample_id: str) -> str:
        """Text that changes whenever a member made its maps of an image again from other files."""
        return ", ".join(self.stored.digests(sample_id))

    def __call__(self, images: Images, ids: Sequence[str] = ()) -> Maps:
        """Mean maps of the images with these ids, float32 [B, K, h, w]; AnnotatorError if a member failed on one."""
        weights = [self.weights.of_members[name] for name in self.stored.members]
        return np.stack([mean_maps(self.stored.maps(sample_id), weights) for sample_id in ids])


def choose_weights(
    chosen: str | Mapping[str, float],
    stored: StoredMembers,
    labeled: Sequence[Sample],
    mask_of: Callable[[Sample], npt.NDArray[np.uint8]],
) -> Weights:
    """The weights of the members of an ensemble, with the sum 1 but for rounding.

    chosen:  `annotate.ensemble.weights`
    mask_of: mask of a sample, uint8 [h, w], IGNORE_INDEX = void
    raises:  AnnotatorError if no labeled image can be used
    """
    names = list(stored.members)
    if chosen == "fitted":
        return _fitted(names, *_true_class_probabilities(stored, labeled, mask_of))
    given = dict.fromkeys(names, 1.0) if isinstance(chosen, str) else chosen
    total = sum(given.values())
    return Weights({name: round(given[name] / total, DECIMALS + 3) for name in names}, {})


def _fitted(names: Sequence[str], probabilities: Floats, importance: Floats) -> Weights:
    """Fitted weights, rounded; their log-loss, that of equal weights, and that of each member alone."""
    num = len(names)
    rounded = [round(float(weight), DECIMALS) for weight in fitted_weights(probabilities, importance)]
    total = sum(rounded)
    candidates = {
        "fitted": [weight / total for weight in rounded],
        "equal": [1 / num] * num,
        **{f"{name} alone": [float(name == other) for other in names] for name in names},
    }
    losses = {name: round(log_loss(probabilities, importance, one), 4) for name, one in candidates.items()}
    weights = dict(zip(names, rounded, strict=True))
    log.info(
        "annotate: fitted weights %s; mean log-loss on labeled images %s",
        ", ".join(f"{name} {weight:g}" for name, weight in weights.items()),
        ", ".join(f"{loss:.4f} {name}" for name, loss in losses.items()),
    )
    unused = [name for name, weight in weights.items() if weight == 0]
    if unused:
        log.info("annotate: the mean is best without %s; remove it to save its time", ", ".join(unused))
    return Weights(weights, losses)


def _true_class_probabilities(
    stored: StoredMembers, labeled: Sequence[Sample], mask_of: Callable[[Sample], npt.NDArray[np.uint8]]
) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.float64]]:
    """Probabilities of the true class, float32 [M, N], and the importance of each pixel, float64 [N], with the sum 1.

    Each image has the same importance. Images that a member failed on, or whose mask cannot be read, are left out.
    """
    usable = [sample for sample in labeled if stored.has_all(sample.id)]
    columns: list[npt.NDArray[np.float32]] = []
    for sample in usable:
        try:
            truth = resize_nearest(mask_of(sample), stored.size)
        except DatasetError:  # `calibrate` refuses a mask that has changed
            continue
        pixels = np.flatnonzero(truth != IGNORE_INDEX)
        if pixels.size:
            chosen = pixels[evenly_spaced(range(pixels.size), max(1, MOST_PIXELS // len(usable)))]
            maps = stored.maps(sample.id)
            columns.append(maps.reshape(*maps.shape[:2], -1)[:, truth.ravel()[chosen], chosen])
    if not columns:
        raise AnnotatorError(
            "annotate.ensemble.weights is fitted, but no labeled image has maps of every member and a mask with a "
            "class; set annotate.ensemble.weights: equal, or label images"
        )
    importance = np.concatenate([np.full(one.shape[1], 1 / one.shape[1]) for one in columns]) / len(columns)
    return np.concatenate(columns, axis=1), importance
