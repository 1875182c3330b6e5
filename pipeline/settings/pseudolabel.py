"""`pseudolabel`: labels, and their guaranteed precision."""

from __future__ import annotations

from decimal import Decimal
from typing import Annotated, Literal

from pydantic import AfterValidator, Field, model_validator

import calib
from pipeline.settings.section import Section

RULE_OF_AUTO = "auto"
RULES_TO_BE_CHOSEN = {
    RULE_OF_AUTO: "the variant, alpha and rule (raw included) whose labels have the largest mIoU on held-out labeled "
    "images; a pixel without a label counts as missed",
    "probe": "the labels that are best for a student in `conformalsam probe`",
}


def _known_rule(name: str) -> str:
    calib.refuse_unknown("rule", name, (*calib.RULES, *RULES_TO_BE_CHOSEN))
    return name


def _rule_words() -> str:
    words = {rule.name: rule.words for rule in calib.RULES.values()} | RULES_TO_BE_CHOSEN
    return " ".join(["Rule that labels a pixel.", *(f"{name}: {meaning}." for name, meaning in words.items())])


class GuaranteeSettings(Section):
    """Guaranteed precision of the labels: the largest threshold for which the labeled images show it."""

    precision: float = Field(gt=0, lt=1)
    """Fraction of the labels of new images that is right, at least. 0.95 needs at least 59 labeled images, usually
    about 150."""
    confidence: float = Field(0.95, gt=0, lt=1)
    """Probability, at least, with which the precision is reached. It is over the labeled images."""

    @property
    def alpha(self) -> float:
        """Fraction of the labels that may be wrong, as alpha of the variants precision_*."""
        return complement(self.precision)


def complement(fraction: float) -> float:
    """1 - fraction in decimal arithmetic: 0.05 of 0.95."""
    return float(1 - Decimal(str(fraction)))


class PseudolabelSettings(Section):
    """Pseudo-labels, from the maps of the unlabeled images and the thresholds."""

    rule: Annotated[str, AfterValidator(_known_rule)] = Field("auto", description=_rule_words())
    target_precision: float | None = Field(None, gt=0, lt=1)
    """Rule auto: precision on held-out images that a choice must reach. Default: no limit."""
    precision_of: Literal["pixels", "macro", "every_class"] = "macro"
    """What must reach `target_precision`. pixels: the fraction of all labels that are right; most of them may be
    background. macro: the mean of the classes' precisions. every_class: the precision of each class."""

    guarantee: GuaranteeSettings | None = None
    """Precision that the labels are guaranteed to have, with one threshold for the whole image. Under rule auto, the
    rules argmax and (with a background class) paper are tested, and the labels with the larger held-out mIoU are
    taken. Details: docs/calibration.md. Default: no guarantee of precision."""
    keep_sets: bool = False
    """Whether the prediction set of every pixel at the chosen alpha is stored in labels.zarr, for `stage1.set_loss`. It
    takes one bit per pixel and class before compression, and needs the annotator's maps. Only pixels without a label
    teach by their set, so it is meant for rule singleton: the other rules label nearly all pixels whose set has several
    classes."""

    @model_validator(mode="after")
    def _guarantee_is_of_the_rule(self) -> PseudolabelSettings:
        known = [RULE_OF_AUTO, *(kind.rule for kind in calib.VARIANTS.values() if kind.bounds == "precision")]
        if self.guarantee is not None and self.rule not in known:
            raise ValueError(
                f"guarantee needs a rule whose precision can be tested, {', '.join(map(str, known))}, got rule "
                f"{self.rule}; set rule: {RULE_OF_AUTO}, or remove guarantee"
            )
        return self

    @property
    def is_automatic(self) -> bool:
        """Whether the rule is chosen from held-out estimates (auto) or by a probe."""
        return self.rule in RULES_TO_BE_CHOSEN
