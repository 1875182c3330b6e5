"""`calibrate`: thresholds."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import AfterValidator, Field, model_validator

import calib
from pipeline.settings.section import Section

VARIANT_OF_TILES = "image"
Alpha = Annotated[float, Field(gt=0, lt=1)]
AUTO_ALPHAS = [0.02, 0.05, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5]  # that rule auto chooses from by default


def _named_variants() -> list[calib.Kind]:
    """Variants that can be named in settings; those of precision follow from `pseudolabel.guarantee`."""
    return [kind for kind in calib.VARIANTS.values() if kind.bounds != "precision"]


def _known_variant(name: str) -> str:
    calib.refuse_unknown("variant", name, [kind.name for kind in _named_variants()])
    return name


def _variant_words() -> str:
    words = (f"{kind.name}: {kind.shared_by}{kind.note and f', {kind.note}'}." for kind in _named_variants())
    of_tiles = f"Default with `data.tile`: {VARIANT_OF_TILES}, because a location in a tile means nothing."
    return " ".join(["Which pixels share a threshold.", *words, of_tiles])


VariantName = Annotated[str, AfterValidator(_known_variant)]


class CalibrateSettings(Section):
    """Conformal thresholds, from the maps and masks of the labeled images."""

    alpha: Alpha = 0.05
    """Miscoverage rate: the prediction set of a pixel misses its true class with at most this probability. Under
    variant risk: the fraction of pixels that may be labeled wrong. `conformalsam alpha` compares several on held-out
    images."""
    alphas: list[Alpha] | None = None
    """Further alphas for which thresholds and labels are computed together with `alpha`, in one pass over the maps.
    Rule auto chooses among all of them (its default: 0.02 to 0.5)."""
    variant: VariantName = Field("pixel", description=_variant_words())
    variants: list[VariantName] | None = None
    """Further variants that are evaluated together with `variant`, with one threshold for all classes. Rule auto
    chooses among all of them (its default: kernel, image and, from 100 labeled
    images on, pixel)."""
    fixed_threshold: float = Field(0.5, gt=0, le=1)
    """Variant fixed: smallest probability of a class in the prediction set, at any alpha."""
    class_thresholds: Literal["pooled", "each", "partial", "clustered"] = "pooled"
    """Which classes share a threshold. pooled: all (the paper). each: none, so that rare classes are covered as well;
    needs about 1/alpha images of each class. partial: between pooled and each, nearer to each the more images a class
    has. clustered: classes with similar scores. All but pooled need variant image, kmeans or genann."""
    quantile: Literal["exact", "paper"] = "exact"
    """Quantile of the scores. exact: the score of rank ceil((n + 1)(1 - alpha)), with a finite-sample guarantee. paper:
    linear interpolation without finite-sample correction (numpy's nanquantile)."""
    pooling: Literal["hierarchical", "naive"] = "hierarchical"
    """Variants image, kmeans and genann: unit of observation. hierarchical: an image. naive: a pixel (the paper)."""
    regions: int = Field(4, ge=1)
    """Variants kmeans and genann: number of regions."""
    class_clusters: int = Field(4, ge=1)
    """class_thresholds clustered: maximum number of clusters."""
    class_shrinkage: float = Field(20.0, gt=0)
    """class_thresholds partial: number of labeled images of a class with which its threshold is halfway between its own
    and the pooled one."""
    bandwidth: float = Field(0.25, gt=0, le=4)
    """Variant kernel: standard deviation of the weights around a location, as a fraction of the map's height. Smaller:
    closer to variant pixel, and slower. Larger: closer to variant image."""
    n_min: int = Field(0, ge=0)
    """Variant pixel: smallest number of valid scores from which a location gets a threshold of its own. A location with
    fewer takes that of its `fallback`."""
    fallback: Literal["neighbourhood", "image"] = "neighbourhood"
    """Region whose threshold replaces that of a location below `n_min`. neighbourhood: a square cell with a 16th of the
    map's height. image: the whole map."""
    uncalibrated: Literal["abstain", "accept", "max", "raise"] = "abstain"
    """What to do at a location with fewer than 1/alpha - 1 valid scores, which has no finite threshold. abstain: give
    no label. accept: put every class into the set. max: use the largest score, without a guarantee. raise: end the
    stage with an error."""
    folds: int | None = Field(None, ge=2)
    """Number of cross-fitting folds. With more folds, each held-out estimate uses thresholds closer to the final ones.
    Default up to 100 labeled images: one fold per image (variant pixel) or 20 folds; above: 10."""

    @property
    def kind(self) -> calib.Kind:
        """Entry of `variant` in `calib.VARIANTS`."""
        return calib.find_variant(self.variant)

    @model_validator(mode="after")
    def _settings_fit_the_variant(self) -> CalibrateSettings:
        kind = self.kind
        if self.class_thresholds != "pooled" and not kind.of_classes:
            names = [name for name, known in calib.VARIANTS.items() if known.of_classes]
            raise ValueError(
                f"class_thresholds {self.class_thresholds} needs one of the variants {', '.join(names)}, got "
                f"{kind.name}; set variant: {names[0]}, or class_thresholds: pooled"
            )
        if self.n_min and not kind.by_location:
            raise ValueError(
                f"n_min is {self.n_min}, but variant is {self.variant}; remove n_min, or set variant: pixel"
            )
        if self.class_thresholds != "pooled" and self.variants:
            raise ValueError(
                f"variants has {', '.join(self.variants)}, which need class_thresholds pooled, but class_thresholds "
                f"is {self.class_thresholds}; remove variants, or set class_thresholds: pooled"
            )
        return self
