"""Which rules are offered, and which runs are refused."""

import pytest

from pipeline.gallery.source import rules_of


@pytest.mark.parametrize(
    ("own", "background", "variant", "is_class_wise", "offered"),
    [
        ("paper", 0, "pixel", False, ("paper", "argmax", "singleton")),
        ("no_background", 0, "pixel", False, ("paper", "no_background", "singleton")),
        ("singleton", 0, "kmeans", False, ("paper", "argmax", "singleton")),
        ("paper", None, "pixel", False, ("paper", "singleton")),
        ("argmax", None, "pixel", False, ("argmax", "singleton")),
        ("singleton", None, "pixel", False, ("paper", "singleton")),
        ("no_background", None, "image", False, ("no_background", "singleton")),
        ("argmax", 0, "risk", False, ("argmax",)),
        ("singleton", 0, "image", True, ("singleton",)),
    ],
)
def test_rules_that_label_alike_are_offered_once_by_the_name_in_use(own, background, variant, is_class_wise, offered):
    assert rules_of(own, background, variant, is_class_wise) == offered
