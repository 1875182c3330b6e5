"""All settings of a run."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

from pydantic import AfterValidator, PrivateAttr, model_validator

import calib
from pipeline.names import checked_name, checked_results
from pipeline.settings.agreement import refuse_disagreement
from pipeline.settings.annotate import AnnotateSettings
from pipeline.settings.calibrate import AUTO_ALPHAS, CalibrateSettings
from pipeline.settings.compute import ComputeSettings
from pipeline.settings.data import DataSettings
from pipeline.settings.defaults import with_epochs, with_variant
from pipeline.settings.evaluate import EvaluateSettings
from pipeline.settings.gallery import GallerySettings
from pipeline.settings.probe import ProbeSettings
from pipeline.settings.pseudolabel import RULE_OF_AUTO, GuaranteeSettings, PseudolabelSettings, complement
from pipeline.settings.section import Section, runtime
from pipeline.settings.stage1 import Stage1Settings
from pipeline.settings.stage2 import Stage2Settings
from pipeline.settings.train import TrainSettings


def _checked_labels(url: str | None) -> str | None:
    if url is not None and "://" not in url:
        raise ValueError(
            f"{url!r} is not the URL of an object store, such as s3://bucket/labels; the labels that Stage I trains on "
            f"are the setting stage1.labels"
        )
    return url


@dataclass(frozen=True)
class Origin:
    """Where settings were loaded from. Equal settings may have different origins, so it does not take part in `==`.

    run:       path of the run file, or its name in `config/`; None for settings that were not loaded from a file
    overrides: full name -> value
    """

    run: str | None = field(compare=False)
    overrides: Mapping[str, Any] = field(default_factory=dict, compare=False)


class Settings(Section):
    """All settings of one run."""

    name: Annotated[str, AfterValidator(checked_name)]
    """Name of the run; its results are in RESULTS/NAME. It has at most 100 bytes, a letter, digit or _ first, and none
    of / \\ { } : * ? " < > | ` $. Default: the name of the run file."""
    results: Annotated[str, AfterValidator(checked_results)] = "results"
    """Folder of the results of all runs, relative to the working folder. Its path has no braces."""
    cache: str | None = runtime(None)
    """Folder of the maps that all runs share, by annotator and image: an image is annotated once, whatever runs, seeds
    and splits use it. Runs that use the same folder share it, at the same time too. A URL such as s3://bucket/maps, or
    of gs, az or file, is an object store behind the folder RESULTS/maps, for machines without a common disk;
    credentials are read from the environment. `conformalsam cache list` shows what it holds. Default: RESULTS/maps."""
    labels: Annotated[str | None, AfterValidator(_checked_labels)] = runtime(None)
    """URL of an object store such as s3://bucket/labels, or of gs, az or file, that `pseudolabel` shares its labels
    with: it copies those that are there into labels.zarr, and sends the others, so that machines without a common disk
    label each image once, and continue where another one was killed. Credentials are read from the environment.
    Default: labels are in RESULTS/NAME/labels.zarr alone."""
    preset: str | None = None
    """Training recipe whose settings this run starts from; `conformalsam presets` lists them. Default: the settings of
    `paper`, but with exact quantiles and a small student."""
    seed: int = 0
    """Seed of the student's weights, of the order of the samples and of their augmentation."""
    baseline: bool = False
    """Whether the run also trains the same student on the labeled images alone, for as many steps, so that the report
    and `inspect` say what the pseudo-labels are worth. It takes about as long as both stages."""
    data: DataSettings
    annotate: AnnotateSettings = AnnotateSettings(annotator="none")
    calibrate: CalibrateSettings = CalibrateSettings()
    pseudolabel: PseudolabelSettings = PseudolabelSettings()
    compute: ComputeSettings = ComputeSettings()
    train: TrainSettings = TrainSettings()
    stage1: Stage1Settings = Stage1Settings()
    stage2: Stage2Settings = Stage2Settings()
    evaluate: EvaluateSettings = EvaluateSettings()
    probe: ProbeSettings = ProbeSettings()
    gallery: GallerySettings = GallerySettings()
    _origin: Origin = PrivateAttr(Origin(None))

    @model_validator(mode="before")
    @classmethod
    def _defaults_follow_from_other_settings(cls, tree: Any) -> Any:
        return with_variant(with_epochs(tree)) if isinstance(tree, Mapping) else tree

    @model_validator(mode="after")
    def _sections_agree(self) -> Settings:
        refuse_disagreement(self)
        return self

    @property
    def needs_annotator(self) -> bool:
        """Whether a stage trains on pseudo-labels of the annotator."""
        return self.stage1.labels != "none"

    @property
    def needs_unlabeled(self) -> bool:
        """Whether a stage trains on unlabeled images."""
        return self.needs_annotator or self.stage2.epochs > 0

    @property
    def members(self) -> dict[str, Settings]:
        """Name of each member of an ensemble -> settings in which it is the annotator; {} without an ensemble."""
        chosen = self.annotate
        if chosen.ensemble is None or chosen.annotator != "ensemble":
            return {}
        return {
            name: self.model_copy(update={"annotate": chosen.of_member(member)})
            for name, member in chosen.ensemble.members.items()
        }

    @property
    def each_annotator(self) -> list[Settings]:
        """Settings of each annotator that computes maps: those of the members, or else these."""
        return list(self.members.values()) or [self]

    @property
    def folder(self) -> Path:
        """Folder of the run's results."""
        return Path(self.results) / self.name

    @property
    def cache_folder(self) -> Path:
        """Folder of the maps that all runs share."""
        is_folder = self.cache is not None and self.cache_url is None
        return Path(self.cache) if self.cache and is_folder else Path(self.results) / "maps"

    @property
    def cache_url(self) -> str | None:
        """URL of the object store with the maps that all runs share; None if they are in a folder alone."""
        return self.cache if self.cache is not None and "://" in self.cache else None

    @property
    def origin(self) -> Origin:
        """The run file and the overrides from which the settings were loaded."""
        return self._origin

    @property
    def alphas(self) -> list[float]:
        """Alphas for which calibrate computes thresholds, `calibrate.alpha` first."""
        guarantee = self.pseudolabel.guarantee
        return list(dict.fromkeys([*self._alphas_to_choose_from, *([] if guarantee is None else [guarantee.alpha])]))

    @property
    def _alphas_to_choose_from(self) -> list[float]:
        further = self.calibrate.alphas
        if further is None:
            chooses = self.pseudolabel.is_automatic and self.calibrate.kind.bounds != "nothing"
            further = AUTO_ALPHAS if chooses else []
        return list(dict.fromkeys([self.calibrate.alpha, *further]))

    def judged_alphas(self, variant: str) -> list[float]:
        """Those of `alphas` at which the labels of a variant are judged on held-out images.

        The alpha of a guarantee is that of other thresholds under other variants, so it is not judged there.
        """
        guarantee = self.pseudolabel.guarantee
        if guarantee is not None and variant in self.guaranteed_variants:
            return [guarantee.alpha]
        return self._alphas_to_choose_from

    @property
    def variants(self) -> list[str]:
        """Variants that calibrate evaluates, `calibrate.variant` first."""
        chosen = self.calibrate
        further: Sequence[str] | None = chosen.variants
        if further is None:
            chooses = self.pseudolabel.is_automatic and chosen.class_thresholds == "pooled"
            is_cut = self.data.tile is not None
            candidates = [kind.name for kind in calib.VARIANTS.values() if kind.is_tried and kind.is_whole >= is_cut]
            further = candidates if chooses and chosen.kind.bounds != "nothing" else []
        return list(dict.fromkeys([chosen.variant, *further, *self.guaranteed_variants]))

    @property
    def guaranteed_variants(self) -> list[str]:
        """Variants whose labels are tested for `pseudolabel.guarantee`, one for each rule; [] without a guarantee."""
        if self.pseudolabel.guarantee is None:
            return []
        rule = self.pseudolabel.rule
        rules = [rule] if rule != RULE_OF_AUTO else ["argmax", *(["paper"] if self.data.background else [])]
        return [kind.name for kind in calib.VARIANTS.values() if kind.bounds == "precision" and kind.rule in rules]

    @property
    def error_of_each_test(self) -> float:
        """Probability with which each of `guaranteed_variants` may miss the precision, so that none does in all."""
        guarantee = self.pseudolabel.guarantee or GuaranteeSettings(precision=0.5)
        return complement(guarantee.confidence) / max(1, len(self.guaranteed_variants))

    def of_variant(self, variant: str) -> Settings:
        """The same settings with `calibrate.variant` set to `variant`, one of `variants`."""
        if variant == self.calibrate.variant:
            return self
        changes: dict[str, Any] = {"variant": variant, "class_thresholds": "pooled"}
        if not calib.find_variant(variant).by_location:
            changes["n_min"] = 0
        return self.model_copy(update={"calibrate": self.calibrate.model_copy(update=changes)})
