"""The labeling rules, one entry with a truth table each; labels, held-out counts and the gallery use the table."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import numpy.typing as npt

ABSTAIN, FOREGROUND, BACKGROUND = 0, 1, 2  # the decisions of a rule about a pixel
NUM_CODES = 8  # bits: 0: the best foreground class is in the set, 1: another foreground class is, 2: the background is

Decision = Callable[[bool, bool, bool, bool], int]


@dataclass(frozen=True)
class Rule:
    """A labeling rule: the label of a pixel, given its prediction set.

    name:      in settings, receipts and stores
    words:     the class that it labels a pixel with, in words
    decide:    (best foreground class in the set, another foreground class in the set, background in the set, background
               most probable) -> ABSTAIN, FOREGROUND (the best foreground class) or BACKGROUND
    of_all:    whether "best" and "most probable" are over all classes, instead of over the classes in the set; the two
               are the same if all classes share one threshold
    unlabeled: name and meaning of the pixels that get no label although their set contains a class; None if there are
               no such pixels
    words_without_background: `words` for a data set without a background class, if they differ
    """

    name: str
    words: str
    decide: Decision
    of_all: bool = False
    unlabeled: tuple[str, str] | None = None
    words_without_background: str = ""

    @cached_property
    def table(self) -> npt.NDArray[np.uint8]:
        """`decide` as a table: uint8 [2, NUM_CODES], by whether the background is most probable, and by the set."""
        table = np.empty((2, NUM_CODES), np.uint8)
        for background_wins, code in np.ndindex(table.shape):
            table[background_wins, code] = self.decide(*_bits(code), bool(background_wins))
        return table

    def can_leave_classes(self, is_class_wise: bool) -> bool:
        """Whether a pixel can get no label although its set contains a class."""
        cases = np.ones_like(POSSIBLE) if is_class_wise and self.of_all else POSSIBLE
        return bool((self.table[:, 1:] == ABSTAIN)[cases[:, 1:]].any())


def _bits(code: int) -> tuple[bool, bool, bool]:
    return bool(code & 1), bool(code & 2), bool(code & 4)


def _possible_cases() -> npt.NDArray[np.bool_]:
    """The cases that occur if all classes share one threshold, bool [2, NUM_CODES].

    Then every set that is not empty contains the most probable class, and another foreground class only with the best.
    """
    possible = np.empty((2, NUM_CODES), np.bool_)
    for background_wins, code in np.ndindex(possible.shape):
        foreground, other, background = _bits(code)
        best_is_in = background if background_wins else foreground
        possible[background_wins, code] = (foreground or not other) and (best_is_in or code == 0)
    return possible


POSSIBLE = _possible_cases()
WITHOUT_BACKGROUND = POSSIBLE & np.array([[code < 4 for code in range(NUM_CODES)], [False] * NUM_CODES])


def _paper(foreground: bool, other: bool, background: bool, background_wins: bool) -> int:
    return FOREGROUND if foreground else BACKGROUND if background else ABSTAIN


def _no_background(foreground: bool, other: bool, background: bool, background_wins: bool) -> int:
    if foreground and not background_wins:
        return FOREGROUND
    return BACKGROUND if background else ABSTAIN


def _argmax(foreground: bool, other: bool, background: bool, background_wins: bool) -> int:
    if background_wins:
        return BACKGROUND if background else ABSTAIN
    return FOREGROUND if foreground else ABSTAIN


def _singleton(foreground: bool, other: bool, background: bool, background_wins: bool) -> int:
    if foreground + other + background != 1:
        return ABSTAIN
    return BACKGROUND if background else FOREGROUND


def _raw(foreground: bool, other: bool, background: bool, background_wins: bool) -> int:
    return BACKGROUND if background_wins else FOREGROUND


RAW = "raw"  # the annotator's argmax, which all calibrated labels are compared with

RULES: dict[str, Rule] = {
    rule.name: rule
    for rule in (
        Rule(
            "paper",
            "the most probable foreground class of the set, even if the background is more probable",
            _paper,
            words_without_background="the most probable class of the set",
        ),
        Rule("no_background", "the most probable class of the set", _no_background),
        Rule(
            "argmax",
            "the most probable class of all, if it is in the set",
            _argmax,
            of_all=True,
            unlabeled=("outvoted", "the most probable class is not in the set, others are"),
        ),
        Rule(
            "singleton",
            "the class of a set that holds just one",
            _singleton,
            unlabeled=("ambiguous", "several classes are probable enough"),
        ),
        Rule(RAW, "the most probable class of all, whatever is in the set", _raw, of_all=True),
    )
}


def calibrated_rules() -> tuple[str, ...]:
    """The names of all rules but raw."""
    return tuple(name for name in RULES if name != RAW)


class UnknownNameError(ValueError):
    """The name of a rule or variant that does not exist; the message lists the known names."""


def refuse_unknown(what: str, name: str, known: Iterable[str]) -> None:
    """Raise UnknownNameError unless `name` is one of the known names. what: "rule" or "variant", for the message"""
    names = list(known)
    if name not in names:
        close = difflib.get_close_matches(name, names, n=1)
        hint = f"; did you mean {close[0]}?" if close else ""
        raise UnknownNameError(f"unknown {what} {name!r}, expected one of {', '.join(names)}{hint}")


def find_rule(name: str) -> Rule:
    """The entry of a rule; raises UnknownNameError for an unknown name."""
    refuse_unknown("rule", name, RULES)
    return RULES[name]


def rules_alike(name: str, has_background: bool = True) -> tuple[str, ...]:
    """The rules that give every pixel the same label as this rule if all classes share one threshold, itself included.

    has_background: whether the data set has a background class
    raises:         UnknownNameError
    """
    cases = POSSIBLE if has_background else WITHOUT_BACKGROUND
    own = find_rule(name).table[cases]
    return tuple(rule.name for rule in RULES.values() if np.array_equal(rule.table[cases], own))


def distinct_rules(has_background: bool = True) -> tuple[str, ...]:
    """The rules that differ from each other, without rule raw: the last rule of each group of `rules_alike`."""
    return tuple(name for name in calibrated_rules() if rules_alike(name, has_background)[-1] == name)
