"""Which rules are offered, and which runs are refused."""

import pytest

from pipeline.gallery.labeled_run import rules_of


@pytest.mark.parametrize(
    ("own", "background", "variant", "is_class_wise", "offered"),
    [
        ("paper", 0, "pixel", False, ("paper", "argmax", "singleton", "raw")),
        ("no_background", 0, "pixel", False, ("paper", "no_background", "singleton", "raw")),
        ("singleton", 0, "kmeans", False, ("paper", "argmax", "singleton", "raw")),
        ("paper", None, "pixel", False, ("paper", "singleton", "raw")),
        ("argmax", None, "pixel", False, ("argmax", "singleton", "raw")),
        ("singleton", None, "pixel", False, ("paper", "singleton", "raw")),
        ("no_background", None, "image", False, ("no_background", "singleton", "raw")),
        ("argmax", 0, "risk", False, ("argmax", "raw")),
        ("singleton", 0, "image", True, ("singleton",)),
    ],
)
def test_rules_that_label_alike_are_offered_once_by_the_name_in_use(own, background, variant, is_class_wise, offered):
    assert rules_of(own, background, variant, is_class_wise) == offered


def test_one_more_rule_is_offered(odd_rule):
    assert rules_of("paper", 0, "pixel", False) == ("paper", "argmax", "singleton", odd_rule, "raw")
