"""How far the labels that rule auto chooses are from the runner-up: facts for a receipt, and a sentence."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

import calib
from pipeline.calibration.cross_fitting import LabelKey
from pipeline.calibration.label_choice import rank_candidates
from pipeline.calibration.verdict import interval_text, points
from pipeline.settings import RULE_OF_AUTO, Settings

Facts = Mapping[str, Any]


def runner_up_facts(
    settings: Settings, held_out: Facts | None, miou: Mapping[LabelKey, npt.NDArray[np.float64]]
) -> dict[str, Any] | None:
    """The difference of the two best candidates of rule auto in mIoU, paired by image, for the receipt of calibrate.

    held_out: of the receipt
    miou:     of every candidate, in each bootstrap sample
    returns:  `labels`, variant, alpha and rule of both; `miou`, that of the first minus that of the second with its
              interval; `miou_is_larger`, fraction of the bootstrap samples. None if there are no two candidates
    """
    pair = _two_best(settings, held_out)
    if pair is None:
        return None
    difference, is_larger = calib.compare_miou(*((one.miou, miou[one[:3]]) for one in pair))
    return {
        "labels": [list(one[:3]) for one in pair],
        "miou": {name: float(value) for name, value in difference._asdict().items()},
        "miou_is_larger": is_larger,
    }


def runner_up_sentence(settings: Settings, calibrated: Facts) -> str | None:
    """The runner-up of rule auto, without a full stop, and how much better the choice is; None without a runner-up.

    The difference is left out if calibrate compared other candidates, because `pseudolabel.target_precision` was not
    the same.

    calibrated: receipt of calibrate
    """
    pair = _two_best(settings, calibrated["held_out"])
    if pair is None:
        return None
    second = pair[1]
    sentence = (
        f"the runner-up, variant {second.variant}, alpha {second.alpha:g}, rule {second.rule}, has a mIoU of "
        f"{points(second.miou)} and a keep rate of {second.keep_rate:.3f}"
    )
    facts = calibrated.get("runner_up")
    if facts is None or facts["labels"] != [list(one[:3]) for one in pair]:
        return sentence
    difference = interval_text(facts["miou"], facts["miou_is_larger"], calibrated["held_out"])
    return f"{sentence}; the difference in mIoU is {difference}"


def _two_best(settings: Settings, held_out: Facts | None) -> list[calib.Candidate] | None:
    """The choice of rule auto, and the next candidate that is not the same labels."""
    chooses = settings.pseudolabel.rule == RULE_OF_AUTO and settings.pseudolabel.guarantee is None
    if not chooses or held_out is None or held_out["raw"]["precision"] is None:
        return None
    two_best = calib.without_equal_labels(rank_candidates(settings, held_out)[0])[:2]
    return two_best if len(two_best) == 2 else None
