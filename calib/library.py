"""The method for arrays in memory, in two calls: calibrate on labeled images, then label others."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import numpy as np
import numpy.typing as npt

from calib.evaluation import HeldOut, summarise
from calib.interface import ArrayMaps, Classes, Thresholds, Variant
from calib.judgement import Judgement, judge_image
from calib.labels import class_wise_sets, label_class_wise, label_pixels
from calib.planes import Planes, class_planes
from calib.quantile import Method
from calib.rules import find_rule
from calib.scores import IGNORE_INDEX, true_class_scores
from calib.units import assign_folds, each_alone, num_units, number_units
from calib.variants import find_variant, fit

MAX_CLASSES = 255  # labels are stored in uint8, with IGNORE_INDEX for void
ROUNDING = 1e-4  # a softmax in half precision exceeds 1 by this much
MAX_FOLDS = 20

Maps = Any
"""L maps of K classes, float [L, K, H, W]: numpy, torch, zarr, xarray, Dask, or a list of arrays [K, H, W]."""


class Summary(NamedTuple):
    """What held-out labeled images show of the labels, in [0, 1]: (value, low, high), a 95 % bootstrap interval each.

    coverage:  fraction of the pixels whose prediction set contains the true class
    precision: fraction of the labels that are correct
    keep_rate: fraction of the pixels that are labeled
    miou:      mean IoU of the labels; a pixel without a label counts as missed
    raw_precision, raw_miou: the same for the most probable class at every pixel, which needs no calibration
    """

    coverage: tuple[float, float, float]
    precision: tuple[float, float, float]
    keep_rate: tuple[float, float, float]
    miou: tuple[float, float, float]
    raw_precision: tuple[float, float, float]
    raw_miou: tuple[float, float, float]

    def __str__(self) -> str:
        return (
            f"on held-out labeled images {self.precision[0]:.1%} of the labels are correct (the most probable class: "
            f"{self.raw_precision[0]:.1%}), {self.keep_rate[0]:.1%} of the pixels are labeled, coverage is "
            f"{self.coverage[0]:.1%}"
        )


@dataclass(frozen=True)
class Calibration:
    """Thresholds from labeled images, ready to label others.

    thresholds: of the labeled images, for one alpha
    rule:       name of an entry of `calib.rules.RULES`
    background: index of the background class, None if there is none
    num_classes: K
    held_out:   estimates by cross-fitting; None with a single labeled image or unit
    """

    thresholds: Thresholds
    rule: str
    background: int | None
    num_classes: int
    held_out: Summary | None

    def label(self, probabilities: Maps) -> npt.NDArray[np.float32]:
        """Pseudo-labels of images (paper Eq. 4 with rule paper): float32 [N, H, W], class index, NaN = abstain.

        probabilities: float [N, K, H, W] in [0, 1], of any of the types of `Maps`; or [K, H, W] of one image, whose
                       result is [H, W]
        raises:        ValueError for maps of another shape, or with values that are no probabilities
        """
        if not isinstance(probabilities, list | tuple) and len(probabilities.shape) == 3:
            return self._label(_map_of(probabilities, "probabilities"))
        maps = (_map_of(probabilities[i], f"probabilities[{i}]") for i in range(_length(probabilities)))
        return np.stack([self._label(one) for one in maps])

    def _label(self, probabilities: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
        expected = self.num_classes, *self.thresholds.region.shape
        if probabilities.shape != expected:
            raise ValueError(
                f"a map has the shape {probabilities.shape}, but the calibration is for {expected}; resize the maps of "
                "labeled and unlabeled images to the same height and width"
            )
        q_hat, planes = self.thresholds.map(0), class_planes(probabilities, self.background)
        if not self.thresholds.is_class_wise:
            return label_pixels(planes, q_hat, self.rule, self.background, "abstain")
        sets = class_wise_sets(probabilities, q_hat, self.background, "abstain")
        return label_class_wise(sets, planes, self.rule, self.background, "abstain")


def calibrate(
    probabilities: Maps,
    masks: Any,
    alpha: float = 0.1,
    *,
    background: int | None = None,
    rule: str = "paper",
    variant: Literal["pixel", "image", "kmeans", "genann"] = "pixel",
    classes: Classes = "pooled",
    quantile: Method = "exact",
    ignore_index: int = IGNORE_INDEX,
    units: Sequence[Any] | None = None,
    seed: int = 0,
) -> Calibration:
    """Compute conformal thresholds from labeled images, and judge their labels on held-out ones (paper section 3.3).

    The prediction set of a pixel of a new image contains its true class with probability at least 1 - alpha, if labeled
    and new images are exchangeable. What else is correct is estimated: see `Calibration.held_out`.

    probabilities: float [L, K, H, W] in [0, 1], probabilities and not logits; of any of the types of `Maps`. Images are
                   read one by one, so an array on a disk need not fit into memory
    masks:         integer [L, H, W], class index 0..K - 1 or ignore_index
    alpha:         tolerated miscoverage, in (0, 1). L images cannot guarantee an alpha below 1 / (L + 1): all pixels
                   abstain then
    background:    index of the background class; a foreground class in the set comes before it (Eq. 4). None if the
                   data have no such class
    rule:          name of an entry of `calib.rules.RULES`
    variant:       which pixels share a threshold: name of an entry of `calib.variants.VARIANTS`
    classes:       whether the classes share a threshold, as in `Variant`; not with variant pixel
    quantile:      "exact": conformal rank; "paper": the plain quantile of the paper
    ignore_index:  value of the mask's pixels without a class
    units:         [L], for images that are not independent, such as frames of videos: the name of the video of each.
                   Held-out estimates and their intervals then are about new videos. Default: each image on its own
    seed:          of the bootstrap samples and of variant kmeans
    raises:        ValueError for arrays of another shape or type, for values that are no probabilities (logits), and
                   for a mask with an unknown class; UnknownNameError for an unknown rule or variant
    """
    if not 0 < alpha < 1:
        raise ValueError(f"alpha is {alpha}, expected a number between 0 and 1, such as 0.1")
    find_rule(rule)
    kind = find_variant(variant)
    if kind.bounds != "coverage":
        raise ValueError(f"alpha of variant {variant} does not bound coverage; use pixel, image, kmeans or genann")
    if classes != "pooled" and not kind.of_classes:
        raise ValueError(f"variant {variant} has no thresholds of classes; use variant='image', or classes='pooled'")
    labeled = _labeled_maps(probabilities, masks, background, ignore_index)
    num_images, num_classes = labeled.num_images, int(probabilities[0].shape[0])
    chosen = Variant(
        variant, (alpha,), quantile, classes=classes, num_classes=num_classes, background=background, seed=seed
    )
    unit_of_image = each_alone(num_images) if units is None else number_units(units)
    if len(unit_of_image) != num_images:
        raise ValueError(f"units has {len(unit_of_image)} names for {num_images} images; give one for each image")
    folds = min(num_units(unit_of_image), MAX_FOLDS)
    fold_of_image = assign_folds(unit_of_image, folds) if folds > 1 else np.zeros(num_images, np.int64)
    of_all, *of_folds = (one.resolve("abstain") for one in fit(chosen, labeled, fold_of_image))
    held_out = None
    if of_folds:
        judged = [
            _judge(labeled, i, of_folds[fold], rule, num_classes, background, probabilities)
            for i, fold in enumerate(fold_of_image.tolist())
        ]
        held_out = _summary(summarise(judged, np.random.default_rng(seed), unit_of_image))
    return Calibration(of_all, rule, background, num_classes, held_out)


def _labeled_maps(probabilities: Maps, masks: Any, background: int | None, ignore_index: int) -> ArrayMaps:
    """Scores, true classes and planes of all labeled images."""
    num_images, num_masks = _length(probabilities), _length(masks)
    if num_images != num_masks or num_images == 0:
        raise ValueError(f"{num_images} maps and {num_masks} masks; give one or more, and one mask for each map")
    images: list[dict[str, npt.NDArray[Any]]] = []
    for i in range(num_images):
        one = _map_of(probabilities[i], f"probabilities[{i}]")
        truth = _mask_of(masks[i], f"masks[{i}]", one.shape, ignore_index)
        if background is not None and not 0 <= background < len(one):
            raise ValueError(f"background is {background}, expected a class index from 0 to {len(one) - 1}, or None")
        planes = class_planes(one, background)
        score = true_class_scores(one, truth)
        images.append(_named(planes) | {"score": score, "truth": truth})
        if images[i]["score"].shape != images[0]["score"].shape or len(one) != probabilities[0].shape[0]:
            raise ValueError(
                f"probabilities[{i}] has the shape {one.shape}, probabilities[0] {tuple(probabilities[0].shape)}; all "
                "images need the same classes, height and width: resize maps and masks (masks by nearest neighbour)"
            )
    return ArrayMaps({name: np.stack([image[name] for image in images]) for name in images[0]})


def _named(planes: Planes) -> dict[str, npt.NDArray[Any]]:
    return {name: plane for name, plane in planes._asdict().items() if plane is not None}


def _map_of(array: Any, name: str) -> npt.NDArray[np.float32]:
    """One map as float32 [K, H, W]; raises ValueError unless it has that shape and holds probabilities."""
    values = _numpy(array)
    if values.ndim != 3 or not 2 <= len(values) <= MAX_CLASSES or not np.issubdtype(values.dtype, np.floating):
        raise ValueError(
            f"{name} is {values.dtype} {values.shape}, expected float [K, H, W] with K from 2 to {MAX_CLASSES} classes"
        )
    low, high = float(values.min()), float(values.max())
    if not (low >= -ROUNDING and high <= 1 + ROUNDING):  # also false for NaN
        raise ValueError(
            f"{name} holds values from {low:.4g} to {high:.4g}, expected probabilities from 0 to 1; for logits, give "
            "the softmax over the classes"
        )
    return values.astype(np.float32).clip(0, 1)


def _mask_of(array: Any, name: str, shape: Sequence[int], ignore_index: int) -> npt.NDArray[np.uint8]:
    """A mask as uint8 [H, W] with IGNORE_INDEX for void; raises ValueError unless it fits a map [K, H, W]."""
    values = _numpy(array)
    if values.dtype.kind not in "iub":
        raise ValueError(f"{name} is {values.dtype}, expected integers: class indices and {ignore_index} for void")
    if values.shape != tuple(shape[1:]):
        hint = (
            "the classes seem to be the last axis: move them to the front with numpy.moveaxis(maps, -1, -3)"
            if values.shape == tuple(shape[:2])
            else "resize one of them (masks by nearest neighbour)"
        )
        raise ValueError(f"{name} has the shape {values.shape}, its map [K, H, W] is {tuple(shape)}; {hint}")
    is_void = values == ignore_index
    unknown = np.unique(values[~is_void & ((values < 0) | (values >= shape[0]))])
    if unknown.size:
        raise ValueError(
            f"{name} holds {unknown[:8].tolist()}, expected class indices from 0 to {shape[0] - 1}, or {ignore_index} "
            "for void; give ignore_index, or map the values to class indices"
        )
    return np.where(is_void, IGNORE_INDEX, values).astype(np.uint8)


def _length(arrays: Any) -> int:
    """Of an array, along its first axis, or of a list; zarr's have no `len`."""
    return int(arrays.shape[0]) if hasattr(arrays, "shape") else len(arrays)


def _numpy(array: Any) -> npt.NDArray[Any]:
    """Any array as numpy; torch's may be on a GPU or need a gradient."""
    return np.asarray(array.detach().cpu() if hasattr(array, "detach") else array)


def _judge(
    labeled: ArrayMaps,
    index: int,
    thresholds: Thresholds,
    rule: str,
    num_classes: int,
    background: int | None,
    probabilities: Maps,
) -> Judgement:
    maps = {name: values[index] for name, values in labeled.maps.items()}
    planes = Planes(*(maps.get(name) for name in Planes._fields))  # type: ignore[arg-type]
    of_classes = _map_of(probabilities[index], f"probabilities[{index}]") if thresholds.is_class_wise else None
    q_hat = [thresholds.map(0)]
    return judge_image(
        planes, maps["score"], maps["truth"], q_hat, [rule], num_classes, background, "abstain", of_classes
    )


def _summary(held_out: HeldOut) -> Summary:
    def of_first(name: str) -> tuple[float, float, float]:
        value, low, high = (float(values.ravel()[0]) for values in getattr(held_out, name))
        return value, low, high

    raw = held_out.raw
    return Summary(
        *(of_first(name) for name in ("coverage", "precision", "keep_rate", "miou")),
        *(tuple(float(value) for value in estimate) for estimate in (raw.precision, raw.miou)),
    )
