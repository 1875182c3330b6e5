"""The arrays of each kind of store: a function of the store's facts alone, used to create and to check them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import calib
from calib.curves import CURVES_SHAPE
from pipeline.datasets import IGNORE_INDEX

COORDINATES = ("sample", "height", "width", "class", "alpha", "outcome", "image_digest")
ABSENT, DONE, FAILED = 0, 1, 2
STATUS_CHUNK = 4096
COUNTS_CHUNK = 256
OUTCOMES = ("pixels", "kept", "empty", "background_only", "background_overruled", "uncalibrated")
UINT16_MAX = 65535
MAPS = {
    "logits": "logits; resize them to the grid, then a softmax over class gives probabilities",
    "probability": "probability of the class; resize it to the grid",
}
"""Name of the array of maps, by the fact `space` -> what it holds."""
NAN = float("nan")
LAYOUT = 2
"""Number of the layout of all stores. Raise it when the same facts would give other arrays. Stores that were written
before layouts had numbers have none, and are recognised by their metadata."""


class Compression(NamedTuple):
    """How chunks are compressed. name: of a compressor of Blosc; level: 1 (fast) to 9 (small)"""

    name: str
    level: int


SMALL, FAST = Compression("zstd", 3), Compression("lz4", 5)
"""Maps take hours of an annotator, are kept and sent: SMALL. What is computed from them in minutes: FAST, because its
probabilities have little to compress."""


class ArraySpec(NamedTuple):
    """Specification of an array. dtype: of numpy, or "string"; chunks: length of a chunk along each axis."""

    dims: tuple[str, ...]
    shape: tuple[int, ...]
    dtype: str
    fill: Any
    chunks: tuple[int, ...]
    attributes: Mapping[str, Any] = {}
    compression: Compression = FAST

    @property
    def has_pixels(self) -> bool:
        """Whether it is an array of images, with chunks of each image."""
        return "sample" in self.dims and "y" in self.dims


def arrays_of(facts: Mapping[str, Any]) -> dict[str, ArraySpec]:
    """Name -> specification of every array of the store that has these facts."""
    kinds = {"probabilities": _probability_arrays, "calibration": _calibration_arrays, "labels": _label_arrays}
    return kinds[facts["kind"]](facts) | _common_arrays(facts)


def _common_arrays(facts: Mapping[str, Any]) -> dict[str, ArraySpec]:
    """Coordinates; and for each image its status, and the fingerprint of the store that it was made for."""
    num_samples, num_classes = facts["num_samples"], len(facts["class_names"])
    flags = {"flag_values": [ABSENT, DONE, FAILED], "flag_meanings": "absent done failed"}
    per_image = ("sample",), (num_samples,)
    chunks = (min(num_samples, STATUS_CHUNK),)
    return {
        "sample": _whole(*per_image, "string", ""),
        "height": _whole(*per_image, "int32", 0),
        "width": _whole(*per_image, "int32", 0),
        "class": _whole(("class",), (num_classes,), "string", ""),
        "status": ArraySpec(*per_image, "uint8", ABSENT, chunks, flags),
        "made_by": ArraySpec(*per_image, "uint64", 0, chunks, {"long_name": "fingerprint of the store it is made for"}),
    }


def _probability_arrays(facts: Mapping[str, Any]) -> dict[str, ArraySpec]:
    """The maps, by what they are. xarray decodes fixed point; logits are decoded by a softmax after up-sampling."""
    scale = {"scale_factor": 1 / UINT16_MAX} if facts["dtype"] == "uint16" else {}
    shape, fill = (facts["num_samples"], *facts["maps"]), 0 if facts["dtype"] == "uint16" else 0.0
    space, dims = facts["space"], ("class", "y", "x")
    maps = _per_image(shape, dims, facts["dtype"], fill, long_name=MAPS[space], **scale)
    return {
        space: maps._replace(compression=SMALL),
        "image_digest": _whole(("sample",), (facts["num_samples"],), "uint64", 0),
    }


def _calibration_arrays(facts: Mapping[str, Any]) -> dict[str, ArraySpec]:
    """Arrays of the labeled images, and the thresholds of the store's own variant and of the others."""
    num_samples, num_alphas, grid = facts["num_samples"], len(facts["alphas"]), tuple(facts["grid"])
    classes = len(facts["class_names"]) if facts["class_thresholds"] != "pooled" else 1
    shape = (num_samples, *grid)
    arrays = {
        "score": _per_image(shape, ("y", "x"), "float32", NAN, long_name="1 - P of the true class, NaN = void"),
        "truth": _per_image(shape, ("y", "x"), "uint8", IGNORE_INDEX, long_name="true class, 255 = void"),
        **_plane_arrays(facts),
        **_curve_arrays(facts),
        "alpha": _whole(("alpha",), (num_alphas,), "float64", NAN),
        "fold": _whole(("sample",), (num_samples,), "int32", -1),
        **_observed_arrays(facts),
    }
    for variant in facts["variants"]:
        is_own = variant == facts["variant"]
        of_class, suffix = (classes,) if is_own and classes > 1 else (), "" if is_own else f"_{variant}"
        dims = (*(("class",) if of_class else ()), "y", "x")
        single = (1,) * len(of_class)
        q_hat = ("alpha", *dims), (num_alphas, *of_class, *grid), "float32", NAN, (1, *single, *grid)
        arrays[f"q_hat{suffix}"] = ArraySpec(*q_hat)
        arrays[f"n_valid{suffix}"] = ArraySpec(dims, (*of_class, *grid), "int32", 0, (*single, *grid))
        keep = ("alpha", "rule", "held_out"), (num_alphas, len(facts["rules"]), num_samples), "float32", NAN
        arrays[f"held_out_keep_rate{suffix}"] = _whole(*keep)
    return arrays


def _label_arrays(facts: Mapping[str, Any]) -> dict[str, ArraySpec]:
    return _plane_arrays(facts) | label_arrays(facts)


def label_arrays(facts: Mapping[str, Any]) -> dict[str, ArraySpec]:
    """Arrays of a label store that depend on alpha, variant and rule.

    `label_by_alpha` exists only with several alphas, `set` and `abstained_pixels` only with `pseudolabel.keep_sets`.
    """
    num_samples, num_alphas, num_classes = facts["num_samples"], len(facts["alphas"]), len(facts["class_names"])
    shape, attributes = (num_samples, *facts["grid"]), _label_attributes(facts["class_names"])
    by_alpha = ("alpha", "sample", "y", "x"), (num_alphas, *shape), "float16", NAN, (1, 1, *shape[1:])
    return {
        "label": _per_image(shape, ("y", "x"), "float16", NAN, **attributes),
        **({"label_by_alpha": ArraySpec(*by_alpha, attributes)} if num_alphas > 1 else {}),
        "outcome": _whole(("outcome",), (len(OUTCOMES),), "string", ""),
        "outcome_pixels": _counts("outcome", num_samples, len(OUTCOMES), long_name="pixels by what they became"),
        "class_pixels": _counts("class", num_samples, num_classes, long_name="labeled pixels"),
        "alpha": _whole(("alpha",), (num_alphas,), "float64", NAN),
        **(_set_arrays(facts) if facts.get("keep_sets", False) else {}),
        **_observed_arrays(facts),
    }


def _label_attributes(class_names: Sequence[str]) -> dict[str, Any]:
    """Attributes of labels by the CF conventions, which have no spaces in the meaning of a flag."""
    return {
        "long_name": "class index on the grid, NaN = abstain; the image has height x width pixels",
        "flag_values": [float(index) for index in range(len(class_names))],
        "flag_meanings": " ".join("_".join(name.split()) for name in class_names),
        "coordinates": "height width",
    }


def _set_arrays(facts: Mapping[str, Any]) -> dict[str, ArraySpec]:
    """Prediction sets of the first alpha as bits (`calib.pack_sets`), and pixels without a label by size of the set."""
    num_samples, num_classes = facts["num_samples"], len(facts["class_names"])
    shape, name = (num_samples, calib.num_bytes(num_classes), *facts["grid"]), "class c is bit c % 8 of byte c // 8"
    sizes = _counts("set_size", num_samples, num_classes + 1, long_name="pixels without a label by the size of the set")
    return {
        "set": _per_image(shape, ("byte", "y", "x"), "uint8", 0, long_name=f"prediction set, {name}"),
        "abstained_pixels": sizes,
    }


def _observed_arrays(facts: Mapping[str, Any]) -> dict[str, ArraySpec]:
    """What is observed of every image without a mask, `calib.Observed`."""
    size = facts["num_samples"], len(facts["class_names"])
    return {
        "argmax_pixels": _counts("class", *size, long_name="pixels by their most probable class"),
        "argmax_probability": _counts("class", *size, "float64", long_name="their probabilities of that class, summed"),
    }


def _plane_arrays(facts: Mapping[str, Any]) -> dict[str, ArraySpec]:
    """Planes of every image on the grid, [N, H, W]."""
    shape = (facts["num_samples"], *facts["grid"])
    names = ["p_foreground", "p_second", *(["p_background"] if facts["background"] is not None else [])]
    return {
        "best_foreground": _per_image(shape, ("y", "x"), "uint8", 0, long_name="most probable foreground class"),
        **{name: _per_image(shape, ("y", "x"), "float32", NAN) for name in names},
    }


def _curve_arrays(facts: Mapping[str, Any]) -> dict[str, ArraySpec]:
    """The curves of every labeled image by the rules that are tested for a guarantee, `calib.curves.image_curves`."""
    rules = facts.get("tested_rules", [])
    shape, dims = (facts["num_samples"], len(rules), *CURVES_SHAPE), ("tested_rule", "fraction", "threshold")
    name = "labeled and labeled wrong, of the pixels with a true class"
    return {"label_curves": _per_image(shape, dims, "float64", NAN, long_name=name)} if rules else {}


def _per_image(shape: Sequence[int], dims: Sequence[str], dtype: str, fill: Any, **attributes: Any) -> ArraySpec:
    """An array whose first axis is `sample`, with one chunk per image."""
    return ArraySpec(("sample", *dims), tuple(shape), dtype, fill, (1, *shape[1:]), attributes)


def _whole(dims: tuple[str, ...], shape: tuple[int, ...], dtype: str, fill: Any) -> ArraySpec:
    """A small array of a single chunk."""
    return ArraySpec(dims, shape, dtype, fill, shape)


def _counts(dim: str, num_samples: int, length: int, dtype: str = "int32", **attributes: Any) -> ArraySpec:
    chunks = (min(num_samples, COUNTS_CHUNK), length)
    return ArraySpec(("sample", dim), (num_samples, length), dtype, 0 if dtype == "int32" else 0.0, chunks, attributes)
