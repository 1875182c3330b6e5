"""annotate: the annotator's maps of every labeled and unlabeled image, into the probability cache.

The maps are made in one process, in several on this machine, or in jobs of their own (`annotate_shard`). `annotate`
then takes them from the shared cache, and makes those that are still missing.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from pipeline.annotators.build import build_annotator
from pipeline.annotators.contract import classes_without_prompt, other_labels
from pipeline.annotators.ensemble import EnsembleAnnotator, Member, StoredMembers, choose_weights
from pipeline.annotators.filling import Filled, fill_shard, fill_store
from pipeline.annotators.workers import num_processes, run_workers
from pipeline.datasets import SampleIndex, require_unlabeled
from pipeline.errors import AnnotatorError, ConfigError, NetworkError
from pipeline.files import bytes_in, remove_folder
from pipeline.memory import refuse_large_grid
from pipeline.receipt import write_receipt
from pipeline.run import Run
from pipeline.settings import Settings, of_member
from pipeline.shards import SHARD, Shard
from pipeline.store import DONE, open_probabilities, store_state

log = logging.getLogger(__name__)


def annotate(settings: Settings) -> dict[str, Any]:
    """Fill `probs.zarr`, resuming where an earlier call stopped; returns the facts of the receipt.

    The members of an ensemble fill their stores before.

    raises: AnnotatorError if the annotator cannot be loaded, its classes are not those of the masks, or too many images
            fail; ConfigError for a grid that does not fit into memory; DatasetError if an image has changed since
            prepare; StoreError if the disk is too small. Finished maps are kept in every case.
    """
    run, start = Run(settings), time.monotonic()
    index = _checked_samples(run)
    num_workers = num_processes(settings.annotate)
    if num_workers > 1 and not run.is_current("annotate"):
        run_workers(run, num_workers)
    members = {name: _fill_member(name, one, index) for name, one in settings.members.items()}
    ensemble = _ensemble(settings, index, members) if members else None
    annotator = ensemble or build_annotator(settings, _ids(index))
    filled = fill_store(settings, index, annotator, run.folder.probabilities)
    of_members = [f"member {name}: {text}" for name, one in members.items() for text in _warnings(one)]
    remove_folder(run.folder.shards)  # they are gathered
    return {
        **_store_facts(filled),
        "warnings": [*_warnings(filled), *of_members],
        **(_member_facts(ensemble, members) if ensemble else {}),
        "megabytes": round(bytes_in(filled.store.path) / 1e6, 2),
        "seconds": round(time.monotonic() - start, 1),
    }


def annotate_shard(settings: Settings, shard: Shard) -> None:
    """Add the maps of a part of the images to the shared cache, those of all members of an ensemble, and its receipt.

    raises: as `annotate`
    """
    run, start = Run(settings), time.monotonic()
    index = _checked_samples(run)
    num_made = 0
    for name, one in (settings.members or {"": settings}).items():
        with _member_named(name):
            path = run.folder.member(name) if name else run.folder.probabilities
            num_made += fill_shard(one, index, build_annotator(one, _ids(index)), shard, path)
    facts = {"num_made": num_made, "seconds": round(time.monotonic() - start, 1)}
    write_receipt(run.folder.shard(shard.name), SHARD, facts | run.made_from("annotate"), run.tracked("annotate"))
    log.info("annotate %s: %d maps made", shard.name, num_made)


def _checked_samples(run: Run) -> SampleIndex:
    """The samples of a run, some of which are unlabeled, when nothing refuses that they are annotated."""
    run.check_inputs("annotate")
    refuse_large_grid(run.settings)
    index = run.samples("annotate")
    require_unlabeled(index, run.command("all", rerun="prepare"))
    return index


def _store_facts(filled: Filled) -> dict[str, Any]:
    """Facts of a store for the receipt."""
    store, annotator = filled.store, filled.annotator
    return {
        "fingerprint": store.fingerprint,
        "annotator": annotator.name,
        "space": annotator.space,
        "maps": list(store.maps.shape),
        "dtype": str(store.maps.dtype),
        "num_done": int((store.status == DONE).sum()),
        "failed": filled.failed,
        "without_prompt": classes_without_prompt(annotator),
        "runs_on": list(getattr(annotator, "runs_on", ())),
        "cache": {"folder": str(filled.cache.folder), "num_made": filled.cache.num_added},
        "store": store_state(store.path),
    }


def _warnings(filled: Filled) -> list[str]:
    without = classes_without_prompt(filled.annotator)
    return [*([other_labels(without)] if without else []), *(doubt.text for doubt in filled.doubts)]


def _fill_member(name: str, settings: Settings, index: SampleIndex) -> Filled:
    """Fill the store of a member of an ensemble. settings: those in which it is the annotator"""
    log.info("annotate: member %s", name)
    with _member_named(name):
        return fill_store(settings, index, build_annotator(settings, _ids(index)), Run(settings).folder.member(name))


@contextmanager
def _member_named(name: str) -> Iterator[None]:
    """Context in which the error of an annotator names the member of the ensemble; name: empty without an ensemble"""
    try:
        yield
    except (AnnotatorError, ConfigError, NetworkError) as error:
        if not name:
            raise
        raise type(error)(f"member {name}: {of_member(str(error), name)}") from error


def _ensemble(settings: Settings, index: SampleIndex, filled: Mapping[str, Filled]) -> EnsembleAnnotator:
    """The mean of the maps in the stores of the members."""
    chosen, data = settings.annotate, settings.data
    assert chosen.ensemble is not None, "only an ensemble has members"
    members = {
        name: Member(
            open_probabilities(one.store.path),
            classes_without_prompt(one.annotator),
            list(getattr(one.annotator, "runs_on", ())),
        )
        for name, one in filled.items()
    }
    stored = StoredMembers(members, chosen.resolution, data)
    weights = choose_weights(chosen.ensemble.weights, stored, index.of("labeled"), lambda one: index.mask(one, data))
    return EnsembleAnnotator(stored, weights)


def _member_facts(ensemble: EnsembleAnnotator, members: Mapping[str, Filled]) -> dict[str, Any]:
    """Facts of the members of an ensemble, and of their weights, for the receipt."""
    weights = ensemble.weights
    return {
        "members": {name: {"weight": weights.of_members[name], **_store_facts(one)} for name, one in members.items()},
        "log_losses": weights.log_losses,
    }


def _ids(index: SampleIndex) -> list[str]:
    """Ids of all images to annotate."""
    return [sample.id for sample in index.of("labeled", "unlabeled")]
