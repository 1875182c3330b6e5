"""The one interface of all variants: what goes in (maps of labeled images), what is asked, what comes out.

Who holds the labeled images (`LabeledMaps`) decides how they are gone through: in one piece in memory, or block by
block on many workers. The results are the same to the bit.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple, Protocol, TypeVar

import numpy as np
import numpy.typing as npt

from calib.histogram import Pooling
from calib.quantile import Method, Policy, resolve_uncalibrated

Classes = Literal["pooled", "each", "clustered"]
Fallback = Literal["neighbourhood", "image"]
T = TypeVar("T")


class Block(NamedTuple):
    """Some labeled images, or a band of rows of them.

    images: int64 [l], which ones, 0..L - 1
    maps:   name -> array [l, h, W]: "score" float32 (NaN = void), "truth" uint8, and the planes of `calib.labels`
    """

    images: npt.NDArray[np.int64]
    maps: Mapping[str, npt.NDArray[Any]]


class LabeledMaps(Protocol):
    """The maps of all labeled images, wherever they are."""

    @property
    def num_images(self) -> int: ...

    @property
    def shape(self) -> tuple[int, int]:
        """Height and width of the maps."""

    def bands(self, bytes_per_row: int) -> Iterable[slice]:
        """Bands of rows to be worked on one after the other, as high as memory allows."""

    def reduce(
        self,
        names: Sequence[str],
        function: Callable[[Block], T],
        merge: Callable[[T, T], T],
        rows: slice,
    ) -> T:
        """Apply `function` to blocks of images that hold these maps, and merge the results in any order."""


@dataclass(frozen=True)
class ArrayMaps:
    """Labeled images in memory: `maps` as in a Block, for all images; `block` images at a time."""

    maps: Mapping[str, npt.NDArray[Any]]
    block: int = 64

    @property
    def num_images(self) -> int:
        return len(self.maps["score"])

    @property
    def shape(self) -> tuple[int, int]:
        height, width = self.maps["score"].shape[1:]
        return height, width

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
    """A threshold map for every alpha: location (a, b) and class c have q[alpha, c, region[a, b]].

    region:      int32 [H, W], 0..R - 1
    q:           float32 [A, C, R]; C = 1: one threshold for all classes, else C = K; +inf = too few images for this
                 alpha, NaN = none at all
    num_images:  int64 [C, R], labeled images behind each
    largest:     float32 [C, R], the largest score, NaN = none
    fallen_back: locations that took a pooled threshold because fewer than n_min images have a score there
    """

    region: npt.NDArray[np.int32]
    q: npt.NDArray[np.float32]
    num_images: npt.NDArray[np.int64]
    largest: npt.NDArray[np.float32]
    fallen_back: int = 0

    @property
    def is_class_wise(self) -> bool:
        return bool(self.q.shape[1] > 1)

    def map(self, alpha_index: int, rows: slice = slice(None)) -> npt.NDArray[np.float32]:
        """float32 [h, W], or [K, h, W] if the thresholds are class-wise."""
        q: npt.NDArray[np.float32] = self.q[alpha_index][:, self.region[rows]]
        return q if self.is_class_wise else q[0]

    def images_behind(self) -> npt.NDArray[np.int64]:
        """Labeled images behind the threshold of each location: int64 [H, W], or [K, H, W]."""
        counts: npt.NDArray[np.int64] = self.num_images[:, self.region]
        return counts if self.is_class_wise else counts[0]

    def resolve(self, policy: Policy) -> "Thresholds":
        """Apply `resolve_uncalibrated`; CalibrationError under "raise"."""
        return self._replace(q=resolve_uncalibrated(self.q, self.largest, self.num_images, policy))


@dataclass(frozen=True)
class Variant:
    """Which scores share a threshold, and what it promises at which alphas.

    name:      of one of `calib.variants.VARIANTS`
    alphas:    tolerated miscoverage (risk: tolerated share of wrong labels), each between 0 and 1
    quantile:  finite-sample rank, or the paper's plain quantile
    pooling:   of image, kmeans, genann: is an image the unit, or a pixel? Guarantee in `histogram.group_quantile`
    classes:   of image, kmeans, genann: "pooled": one threshold for all classes, as in the paper;
               "each": one a class, so that coverage holds for pixels of every class (Mondrian: Vovk, Gammerman and
               Shafer 2005, section 4.5); "clustered": classes with similar scores share one, classes with too few
               images take the pooled one (Ding, Angelopoulos, Bates, Jordan and Tibshirani 2023, arXiv 2306.09335)
    n_min:     of pixel: a location with fewer valid images takes the pooled threshold of its `fallback`: the square
               cell of a 16th of the map's height, or the whole map. It then keeps the promise on average over the
               pixels of that cell or map, no longer at each location
    background: class that Eq. 4 treats as background; of risk only, to know a pixel's most probable class
    """

    name: str
    alphas: tuple[float, ...]
    quantile: Method = "exact"
    pooling: Pooling = "hierarchical"
    classes: Classes = "pooled"
    num_classes: int = 1
    num_regions: int = 4
    class_clusters: int = 4
    n_min: int = 0
    fallback: Fallback = "neighbourhood"
    background: int | None = None
    fixed_threshold: float = 0.5
    seed: int = 0


Fit = Callable[[Variant, LabeledMaps, npt.NDArray[np.integer]], list[Thresholds]]


@dataclass(frozen=True)
class Kind:
    """An entry of `calib.variants.VARIANTS`: all that depends on which scores share a threshold.

    name:           in settings, receipts and stores
    shared_by:      which pixels share a threshold, in words
    fit:            what `calib.fit` does
    note:           what the manual of the settings adds
    bounds:         what alpha bounds: the miscoverage, the share of pixels labeled wrong, or nothing
    covered:        of what coverage is promised, in words; `{of_class}` stands for " of each class" or the like
    rule:           the only rule that the promise is about; None: all
    by_location:    each location has a threshold of its own, unless fewer than `n_min` images have a score there
    is_whole:       one threshold for the whole map
    learns_regions: the labeled images make the regions, too
    of_classes:     classes can have thresholds of their own
    is_tried:       rule auto tries it unless the run names others
    """

    name: str
    shared_by: str
    fit: Fit
    note: str = ""
    bounds: Literal["coverage", "wrong labels", "nothing"] = "coverage"
    covered: str = ""
    rule: str | None = None
    by_location: bool = False
    is_whole: bool = False
    learns_regions: bool = False
    of_classes: bool = False
    is_tried: bool = False
