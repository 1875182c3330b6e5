"""The interface of all variants: maps of labeled images in, thresholds out.

An implementation of `LabeledMaps` decides how the images are processed: all at once in memory, or block by block on
many workers. The results are bit-identical.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple, Protocol, TypeVar

import numpy as np
import numpy.typing as npt

from calib.histogram import Pooling
from calib.quantile import Method, Policy, resolve_uncalibrated
from calib.units import each_alone

Classes = Literal["pooled", "each", "partial", "clustered"]
Fallback = Literal["neighbourhood", "image"]
T = TypeVar("T")


class Block(NamedTuple):
    """Maps of some of the labeled images, or of a band of their rows.

    images: int64 [l], indices of the images, 0..L - 1
    maps:   name -> array [l, h, W]: "score" float32 in [0, 1] (NaN = void), "truth" uint8, and the planes of
            `calib.planes.Planes` by their names
    """

    images: npt.NDArray[np.int64]
    maps: Mapping[str, npt.NDArray[Any]]


class LabeledMaps(Protocol):
    """The maps of all L labeled images, in memory or in a store."""

    @property
    def num_images(self) -> int:
        """L."""

    @property
    def shape(self) -> tuple[int, int]:
        """Height and width of the maps."""

    @property
    def unit_of_image(self) -> npt.NDArray[np.int64]:
        """int64 [L], the unit of each image (`calib.units`)."""

    def label_curves(self, rule: str) -> npt.NDArray[np.float64] | None:
        """float64 [L, 2, T], `calib.curves.image_curves` of every image by a rule; None if they were not stored."""

    def bands(self, bytes_per_row: int) -> Iterable[slice]:
        """Bands of rows that together cover the map, each as high as memory allows.

        bytes_per_row: memory that a computation needs per row
        """

    def reduce(
        self,
        names: Sequence[str],
        function: Callable[[Block], T],
        merge: Callable[[T, T], T],
        rows: slice,
    ) -> T:
        """Apply a function to blocks of images, and merge its results in any order.

        names:    maps that each block contains
        function: block -> partial result
        merge:    two partial results -> one
        rows:     rows of the maps that the blocks contain
        """


@dataclass(frozen=True)
class ArrayMaps:
    """LabeledMaps in memory.

    maps:  as in Block, for all images
    block: number of images per block
    units: int64 [L], the unit of each image; default: each image is its own
    """

    maps: Mapping[str, npt.NDArray[Any]]
    block: int = 64
    units: npt.NDArray[np.int64] | None = None

    @property
    def num_images(self) -> int:
        return len(self.maps["score"])

    @property
    def shape(self) -> tuple[int, int]:
        height, width = self.maps["score"].shape[1:]
        return height, width

    @property
    def unit_of_image(self) -> npt.NDArray[np.int64]:
        return each_alone(self.num_images) if self.units is None else self.units

    def label_curves(self, rule: str) -> npt.NDArray[np.float64] | None:
        return None

    def bands(self, bytes_per_row: int) -> Iterable[slice]:
        return [slice(0, self.shape[0])]

    def reduce(
        self, names: Sequence[str], function: Callable[[Block], T], merge: Callable[[T, T], T], rows: slice
    ) -> T:
        starts = range(0, self.num_images, self.block)
        blocks = (np.arange(start, min(start + self.block, self.num_images)) for start in starts)
        results = (function(Block(i, {name: self.maps[name][i][:, rows] for name in names})) for i in blocks)
        merged = next(results)
        for result in results:
            merged = merge(merged, result)
        return merged


class Thresholds(NamedTuple):
    """Threshold maps for A alphas: location (a, b) and class c have the threshold q[alpha, c, region[a, b]].

    region:      int32 [H, W], 0..R - 1
    q:           float32 [A, C, R]; C = 1 for one threshold for all classes, otherwise C = K. +inf: too few images for
                 this alpha; NaN: no images at all
    num_images:  int64 [C, R], number of labeled images that each threshold is computed from
    largest:     float32 [C, R], the largest score; NaN: no score
    fallen_back: number of locations with a pooled threshold, because fewer than n_min images have a score there
    """

    region: npt.NDArray[np.int32]
    q: npt.NDArray[np.float32]
    num_images: npt.NDArray[np.int64]
    largest: npt.NDArray[np.float32]
    fallen_back: int = 0

    @property
    def is_class_wise(self) -> bool:
        """Whether the classes have different thresholds."""
        return bool(self.q.shape[1] > 1)

    def map(self, alpha_index: int, rows: slice = slice(None)) -> npt.NDArray[np.float32]:
        """The threshold map of an alpha, in some rows: float32 [h, W], or [K, h, W] if class-wise."""
        q: npt.NDArray[np.float32] = self.q[alpha_index][:, self.region[rows]]
        return q if self.is_class_wise else q[0]

    def at(self, alphas: Sequence[int]) -> "Thresholds":
        """The thresholds of some of the alphas. alphas: their indices"""
        return self._replace(q=self.q[list(alphas)])

    def images_behind(self) -> npt.NDArray[np.int64]:
        """Number of labeled images that the threshold of each location is computed from: int64 [H, W] or [K, H, W]."""
        counts: npt.NDArray[np.int64] = self.num_images[:, self.region]
        return counts if self.is_class_wise else counts[0]

    def resolve(self, policy: Policy) -> "Thresholds":
        """The thresholds after `resolve_uncalibrated`; raises CalibrationError with policy "raise"."""
        return self._replace(q=resolve_uncalibrated(self.q, self.largest, self.num_images, policy))


@dataclass(frozen=True)
class Variant:
    """A variant with its parameters.

    name:            name of an entry of `calib.variants.VARIANTS`
    alphas:          tolerated miscoverage (variant risk: tolerated fraction of pixels that are labeled wrong;
                     precision_*: of labels that are wrong), each in (0, 1)
    quantile:        "exact": conformal rank; "paper": the plain quantile of the paper
    pooling:         of image, kmeans, genann: whether the unit is an image ("hierarchical") or a pixel ("naive"); the
                     guarantee is in `histogram.group_quantiles`
    classes:         of image, kmeans, genann. "pooled": one threshold for all classes, as in the paper. "each": one
                     per class, so that coverage holds for the pixels of every class (Mondrian: Vovk, Gammerman and
                     Shafer 2005, section 4.5). "partial": between both, nearer to its own the more images a class has
                     (`calib.groups.pool_partially`). "clustered": classes with similar scores share a threshold, and
                     classes with too few images take the pooled one (Ding, Angelopoulos, Bates, Jordan and Tibshirani
                     2023, arXiv 2306.09335)
    num_classes:     K; used unless classes is "pooled"
    num_regions:     of kmeans, genann: number of regions
    class_clusters:  of classes "clustered": largest number of clusters
    class_shrinkage: of classes "partial": number of images, above 0, with which a class's threshold is halfway between
                     its own and the pooled one
    bandwidth:       of kernel: standard deviation of the weights around a location, above 0, as a fraction of the map's
                     height
    n_min:           of pixel: a location with fewer valid images takes the pooled threshold of its `fallback`. Its
                     coverage is then guaranteed on average over that cell or map, and no longer at each location
    fallback:        of n_min: a square cell with a 16th of the map's height, or the whole map
    background:      of risk: index of the background class, which affects a pixel's most probable class
    fixed_threshold: of fixed: probability in (0, 1] from which a class is in the prediction set
    error:           of precision_*: probability in (0, 1) with which the labels may be less precise than 1 - alpha
    seed:            of kmeans and of classes "clustered"
    """

    name: str
    alphas: tuple[float, ...]
    quantile: Method = "exact"
    pooling: Pooling = "hierarchical"
    classes: Classes = "pooled"
    num_classes: int = 1
    num_regions: int = 4
    class_clusters: int = 4
    class_shrinkage: float = 20.0
    bandwidth: float = 0.25
    n_min: int = 0
    fallback: Fallback = "neighbourhood"
    background: int | None = None
    fixed_threshold: float = 0.5
    error: float = 0.05
    seed: int = 0


Fit = Callable[[Variant, LabeledMaps, npt.NDArray[np.integer]], list[Thresholds]]
"""The implementation of a variant; arguments and result as `calib.fit`."""


@dataclass(frozen=True)
class Kind:
    """An entry of `calib.variants.VARIANTS`: everything that depends on which scores share a threshold.

    name:           in settings, receipts and stores
    shared_by:      which pixels share a threshold, in words
    fit:            implementation of `calib.fit`
    note:           what the manual of the settings adds to `shared_by`
    bounds:         what alpha bounds: the miscoverage, the fraction of pixels labeled wrong, the fraction of the labels
                    that are wrong (precision), or nothing
    covered:        what the coverage guarantee is about, in words; `{of_class}` stands for " of each class" or similar
    rule:           the only labeling rule that the guarantee holds for; None: all rules
    by_location:    each location has its own threshold, unless fewer than `n_min` images have a score there
    is_whole:       the whole map has one threshold
    learns_regions: the regions are computed from the labeled images
    of_classes:     the classes can have separate thresholds, and `pooling` can be naive
    is_tried:       rule auto tries the variant, unless the run names others
    least_images:   rule auto chooses the variant from this number of labeled images on
    """

    name: str
    shared_by: str
    fit: Fit
    note: str = ""
    bounds: Literal["coverage", "wrong labels", "precision", "nothing"] = "coverage"
    covered: str = ""
    rule: str | None = None
    by_location: bool = False
    is_whole: bool = False
    learns_regions: bool = False
    of_classes: bool = False
    is_tried: bool = False
    least_images: int = 0
