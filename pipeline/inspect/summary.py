"""The facts of a store, finished or not, as a dictionary."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from pipeline.files import bytes_in
from pipeline.inspect.held_out import held_out_facts
from pipeline.store import (
    ABSENT,
    COORDINATES,
    DONE,
    FAILED,
    OUTCOMES,
    AnyStore,
    CalibrationStore,
    LabelStore,
    open_for_inspection,
    refuse_lost,
)

MADE_BY = ("annotator", "space", "alpha", "variant", "class_thresholds", "quantile", "rule", "fingerprint")
NUM_BARS = 10  # of the distribution of the keep rates


def inspect_store(path: Path, num_worst: int = 5) -> dict[str, Any]:
    """Facts of a probability, calibration or label store, finished or not.

    Counts of labels include the images that are done. Numbers that do not exist yet are None, so the facts can be
    written as JSON.

    num_worst: number of images with the lowest keep rates to list, for a label store
    raises:    StoreError if there is no such store, or if it is damaged, or finished and incomplete
    """
    store = open_for_inspection(path)
    refuse_lost(store)
    ids, status = np.array(store.sample_ids), store.status
    facts = {
        "path": str(path),
        "kind": store.state["kind"],
        "complete": store.state["complete"],
        "made_by": {name: store.state[name] for name in MADE_BY if name in store.state},
        "images": {
            "total": len(status),
            "done": int((status == DONE).sum()),
            "failed": ids[status == FAILED].tolist(),
            "absent": int((status == ABSENT).sum()),
        },
        "missing_chunks": store.missing_chunks(),
        "megabytes": round(bytes_in(path) / 1e6, 2),
        "classes": store.class_names,
        "arrays": arrays(store),
    }
    if isinstance(store, LabelStore):
        facts["labels"] = label_facts(store, num_worst)
    if isinstance(store, CalibrationStore):
        facts["thresholds"] = threshold_facts(store) if store.state["complete"] else None
    if isinstance(store, LabelStore | CalibrationStore):
        facts["held_out"] = held_out_facts(store)
    return facts


def arrays(store: AnyStore) -> dict[str, Any]:
    """Dimensions, shape and dtype of every array but the coordinates."""
    hidden = (*COORDINATES, "status", "made_by")
    return {
        name: {"dims": list(spec.dims), "shape": list(spec.shape), "dtype": spec.dtype}
        for name, spec in store.specs.items()
        if name not in hidden
    }


def label_facts(store: LabelStore, num_worst: int) -> dict[str, Any]:
    """Alphas, rule and variant of the labels; keep rates, outcomes and classes, in pixels of the images that are done.

    `label` and all counts are of the first alpha.
    """
    done = np.flatnonzero(store.status == DONE)
    outcomes = store.outcome_pixels[done].astype(np.int64)
    totals = dict(zip(OUTCOMES, outcomes.sum(axis=0).tolist(), strict=True))
    keep_rates = outcomes[:, OUTCOMES.index("kept")] / outcomes[:, OUTCOMES.index("pixels")]
    class_pixels = store.class_pixels[done].sum(axis=0, dtype=np.int64)
    ids = store.sample_ids
    worst = np.argsort(keep_rates, kind="stable")[:num_worst]
    return {
        "alphas": store.alphas,
        "rule": store.state.get("rule"),
        "variant": store.state.get("variant"),
        "outcomes": totals,
        "keep_rate": totals["kept"] / totals["pixels"] if totals["pixels"] else None,
        "keep_rate_deciles": np.quantile(keep_rates, np.linspace(0, 1, 11)).tolist() if done.size else [],
        "keep_rate_histogram": np.histogram(keep_rates, NUM_BARS, (0, 1))[0].tolist(),
        "worst": [
            {"id": ids[done[i]], "keep_rate": keep_rates[i], **dict(zip(OUTCOMES, outcomes[i].tolist(), strict=True))}
            for i in worst
        ],
        "pixels_per_class": dict(zip(store.class_names, class_pixels.tolist(), strict=True)),
        "teaching_pixels": int(store.teaching_pixels[done].sum()) if store.has_sets else None,
    }


def threshold_facts(store: CalibrationStore) -> dict[str, Any]:
    """For every alpha the smallest, median and largest threshold and the fraction without one; images behind them."""
    n_valid = store.n_valid
    return {
        "alphas": store.alphas,
        "variant": store.state["variant"],
        "beside": store.variants[1:],
        "is_class_wise": store.is_class_wise,
        "by_alpha": [_alpha_facts(alpha, store.q_hat(alpha)) for alpha in store.alphas],
        "n_valid": _spread(n_valid),
        "never_labeled_fraction": float((n_valid == 0).mean()),
    }


def _alpha_facts(alpha: float, q_hat: npt.NDArray[np.float32]) -> dict[str, Any]:
    """q_hat: float32 [H, W], or [K, H, W] class-wise."""
    finite = q_hat[np.isfinite(q_hat)]
    return {
        "alpha": alpha,
        "q_hat": _spread(finite) if finite.size else None,
        "uncalibrated_fraction": float(np.isposinf(q_hat).mean()),
    }


def _spread(values: npt.NDArray[Any]) -> dict[str, float]:
    return {name: float(f(values)) for name, f in (("min", np.min), ("median", np.median), ("max", np.max))}
