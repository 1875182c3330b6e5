"""One more labeling rule, which only tests register, and its labels from the prediction sets themselves."""

import numpy as np
from literal import literal_sets

from calib.rules import ABSTAIN, BACKGROUND, FOREGROUND, Rule


def decide(foreground, other, background, background_wins):
    if (foreground + other + background) % 2 == 0:
        return ABSTAIN
    return FOREGROUND if foreground else BACKGROUND


ODD = Rule(
    "odd",
    "the best foreground class of a set with an odd number of: foreground, more of it, background",
    decide,
    unlabeled=("even", "an even number is in the set"),
)


def odd_labels(probabilities, q_hat, background, uncalibrated):
    """float32 [H, W]. As alpha grows, a pixel can be labeled, then not, then labeled again."""
    labels = np.full(probabilities.shape[1:], np.nan, np.float32)
    for location, members in literal_sets(probabilities, q_hat, uncalibrated).items():
        foreground = [j for j in members if j != background]
        kinds = min(len(foreground), 2) + (background in members)
        if kinds in (1, 3):
            best = max(foreground, key=lambda j: (probabilities[(j, *location)], -j), default=background)
            labels[location] = best
    return labels
