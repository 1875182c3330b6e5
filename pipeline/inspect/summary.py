"""The facts of a store, as a dictionary for programs and as lines for people."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from pipeline.inspect.held_out import held_out_facts, held_out_lines
from pipeline.store import (
    ABSENT,
    DONE,
    FAILED,
    OUTCOMES,
    STAGE_OF,
    AnyStore,
    CalibrationStore,
    LabelStore,
    open_for_inspection,
)

SPARKS = "▁▂▃▄▅▆▇█"
MADE_BY = ("annotator", "space", "alpha", "variant", "class_thresholds", "quantile", "rule", "fingerprint")
COORDINATES = ("sample", "class", "height", "width", "alpha", "status")
MAX_NAMED = 3


def inspect_store(path: Path) -> dict[str, Any]:
    """Facts of a probability, calibration or label store, finished or not.

    The counts of labels and the thresholds are those of the images that are done. Numbers that do not exist yet are
    None, so the facts can be written as JSON.
    raises: StoreError if there is no such store
    """
    store = open_for_inspection(path)
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
        "megabytes": round(sum(f.stat().st_size for f in path.rglob("*") if f.is_file()) / 1e6, 2),
        "classes": store.class_names,
        "arrays": arrays(store),
    }
    if isinstance(store, LabelStore):
        facts["labels"] = label_facts(store)
    if isinstance(store, CalibrationStore):
        facts["thresholds"] = threshold_facts(store) if store.state["complete"] else None
    if isinstance(store, LabelStore | CalibrationStore):
        facts["held_out"] = held_out_facts(store)
    return facts


def arrays(store: AnyStore) -> dict[str, Any]:
    """Dimensions, shape and dtype of every array but the coordinates."""
    shown = {name: store.array(name) for name in sorted(store.group.array_keys()) if name not in COORDINATES}
    return {
        name: {"dims": list(array.metadata.dimension_names), "shape": list(array.shape), "dtype": str(array.dtype)}
        for name, array in shown.items()
    }


def label_facts(store: LabelStore) -> dict[str, Any]:
    """What the labels are made with; keep rate, outcomes and classes, in pixels of the images that are done.

    The first of the alphas is the one that `label`, and all counts, are of.
    """
    done = store.status == DONE
    outcomes = store.outcome_pixels[done].astype(np.int64)
    totals = dict(zip(OUTCOMES, outcomes.sum(axis=0).tolist(), strict=True))
    keep_rates = outcomes[:, OUTCOMES.index("kept")] / outcomes[:, OUTCOMES.index("pixels")]
    class_pixels = store.class_pixels[done].sum(axis=0, dtype=np.int64)
    alphas = store.array("alpha")[:]
    return {
        "alphas": alphas[~np.isnan(alphas)].tolist(),
        "rule": store.state.get("rule"),
        "variant": store.state.get("variant"),
        "outcomes": totals,
        "keep_rate": totals["kept"] / totals["pixels"] if totals["pixels"] else None,
        "keep_rate_deciles": np.quantile(keep_rates, np.linspace(0, 1, 11)).tolist() if done.any() else [],
        "pixels_per_class": dict(zip(store.class_names, class_pixels.tolist(), strict=True)),
    }


def threshold_facts(store: CalibrationStore) -> dict[str, Any]:
    """Of every alpha, smallest, median and largest threshold and the share without; the images behind them."""
    n_valid = store.n_valid
    return {
        "alphas": store.alphas,
        "variant": store.state["variant"],
        "is_class_wise": store.is_class_wise,
        "by_alpha": [_alpha_facts(alpha, store.q_hat(alpha)) for alpha in store.alphas],
        "n_valid": _spread(n_valid),
        "never_labeled_share": float((n_valid == 0).mean()),
    }


def _alpha_facts(alpha: float, q_hat: npt.NDArray[np.float32]) -> dict[str, Any]:
    """q_hat: float32 [H, W], or [K, H, W] class-wise."""
    finite = q_hat[np.isfinite(q_hat)]
    return {
        "alpha": alpha,
        "q_hat": _spread(finite) if finite.size else None,
        "uncalibrated_share": float(np.isposinf(q_hat).mean()),
    }


def _spread(values: npt.NDArray[Any]) -> dict[str, float]:
    return {name: float(f(values)) for name, f in (("min", np.min), ("median", np.median), ("max", np.max))}


def format_summary(facts: Mapping[str, Any]) -> str:
    """The facts as lines: a word, what is to be said about it."""
    lines = [
        ("store", f"{facts['path']}: {facts['kind']}, {_state(facts)}"),
        ("made by", ", ".join(f"{name} {value}" for name, value in facts["made_by"].items())),
        ("images", _images(facts["images"])),
        ("chunks", _chunks(facts)),
        ("size", f"{facts['megabytes']:.1f} MB"),
        *(("array", _array(name, array)) for name, array in facts["arrays"].items()),
    ]
    if "labels" in facts:
        lines += _label_lines(facts["labels"])
    elif "thresholds" in facts:
        lines += _threshold_lines(facts["thresholds"])
    else:
        lines.append(("classes", ", ".join(facts["classes"])))
    if "held_out" in facts:
        lines += held_out_lines(facts["held_out"])
    return "\n".join(f"{word:<12}{text}" for word, text in lines)


def _state(facts: Mapping[str, Any]) -> str:
    stage = STAGE_OF[facts["kind"]]
    return "complete" if facts["complete"] else f"incomplete (snakemake --cores 8 {stage} goes on with it)"


def _images(images: Mapping[str, Any]) -> str:
    failed = _named(images["failed"])
    return f"{images['done']} of {images['total']} done, {failed} failed, {images['absent']} to come"


def _chunks(facts: Mapping[str, Any]) -> str:
    missing = facts["missing_chunks"]
    if not missing:
        return "all there"
    lost = "; ".join(f"{name}: {_named(ids)}" for name, ids in missing.items())
    again = f"rm -r {facts['path']} && snakemake --cores 8 {STAGE_OF[facts['kind']]}"
    return f"missing of images that are done: {lost}. Make them anew: {again}"


def _named(ids: Sequence[str]) -> str:
    """`5 (a, b, c, ...)`, or `0`."""
    more = ", ..." if len(ids) > MAX_NAMED else ""
    return f"{len(ids)} ({', '.join(ids[:MAX_NAMED])}{more})" if ids else "0"


def _array(name: str, array: Mapping[str, Any]) -> str:
    dims = ", ".join(f"{dim} {length}" for dim, length in zip(array["dims"], array["shape"], strict=True))
    return f"{name} ({dims}) {array['dtype']}"


def _label_lines(labels: Mapping[str, Any]) -> list[tuple[str, str]]:
    alphas = ", ".join(f"{alpha:g}" for alpha in labels["alphas"]) or "none yet"
    made = ("labels", f"alpha {alphas}; rule {labels['rule']}, variant {labels['variant']}")
    if labels["keep_rate"] is None:
        return [made, ("keep rate", "no image is done yet")]
    deciles, kept = labels["keep_rate_deciles"], max(labels["outcomes"]["kept"], 1)
    spread = f"{deciles[0]:.2f} {sparks(deciles)} {deciles[-1]:.2f}"
    width = max(map(len, labels["pixels_per_class"]))
    return [
        made,
        ("keep rate", f"{labels['keep_rate']:.3f}; deciles over the images: {spread}"),
        ("pixels", ", ".join(f"{name} {count}" for name, count in labels["outcomes"].items() if name != "pixels")),
        *(
            ("class", f"{name:<{width}} {count:>12} pixels {100 * count / kept:6.2f} %")
            for name, count in labels["pixels_per_class"].items()
        ),
    ]


def _threshold_lines(thresholds: Mapping[str, Any] | None) -> list[tuple[str, str]]:
    if thresholds is None:
        return [("thresholds", "not computed yet")]
    where = "class and location" if thresholds["is_class_wise"] else "location"
    each = ", each class has its own" if thresholds["is_class_wise"] else ""
    spread = "{min:.0f} to {max:.0f} labelled images, median {median:.0f}".format(**thresholds["n_valid"])
    never = f"{100 * thresholds['never_labeled_share']:.1f} % have none"
    alphas = ", ".join(f"{alpha:g}" for alpha in thresholds["alphas"])
    return [
        ("thresholds", f"variant {thresholds['variant']}{each}, alpha {alphas}"),
        *(("q_hat", _q_hat(facts)) for facts in thresholds["by_alpha"]),
        ("n_valid", f"{spread}, behind each {where}; {never}"),
    ]


def _q_hat(facts: Mapping[str, Any]) -> str:
    q_hat = facts["q_hat"]
    spread = "{min:.3f} to {max:.3f}, median {median:.3f}".format(**q_hat) if q_hat else "none is finite"
    return f"alpha {facts['alpha']:<5g} {spread}; {100 * facts['uncalibrated_share']:.1f} % uncalibrated"


def sparks(shares: Sequence[float]) -> str:
    """A bar for every share in [0, 1]."""
    return "".join(SPARKS[min(int(share * len(SPARKS)), len(SPARKS) - 1)] for share in shares)
