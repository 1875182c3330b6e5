"""The sentence about a shift: what differs, by how much, and which images differ most."""

from pipeline.calibration.shift import shift_sentence

TESTS = {
    "keep rate": {"labeled": 0.9, "unlabeled": 0.7512, "p_value": 0.001, "adjusted": 0.003},
    "mean confidence": {"labeled": 0.8, "unlabeled": 0.79, "p_value": 0.4, "adjusted": 0.4},
    "class fractions": {
        "labeled": {"cat": 0.7, "dog": 0.3},
        "unlabeled": {"cat": 0.5, "dog": 0.5},
        "p_value": 0.01,
        "adjusted": 0.02,
    },
}


def test_a_shift_names_what_differs_and_the_images():
    facts = {"tests": TESTS, "is_shift": True, "classes": ["cat"], "images": ["a/1", "b"]}
    assert shift_sentence(facts) == (
        "SHIFT: the unlabeled images differ from the labeled ones: keep rate 75.1 % against 90.0 % (p = 0.003), mean "
        "confidence 79.0 % against 80.0 % (p = 0.4), class fractions (p = 0.02; cat 50.0 % against 70.0 %); "
        "most of all a/1, b. "
        "Coverage and precision are estimates for images like the labeled ones: label some of these images, too"
    )


def test_without_a_shift_the_numbers_are_shown_all_the_same():
    facts = {"tests": TESTS, "is_shift": False, "classes": [], "images": []}
    sentence = shift_sentence(facts)
    assert sentence.startswith("no difference beyond chance between labeled and unlabeled images: keep rate 75.1 %")
    assert sentence.endswith("class fractions (p = 0.02)")
    assert shift_sentence(None) is None


def test_a_receipt_of_an_earlier_version_reads_the_same():
    earlier = {{"class fractions": "class shares"}.get(name, name): test for name, test in TESTS.items()}
    facts = {"is_shift": True, "classes": ["cat"], "images": ["b"]}
    assert shift_sentence(facts | {"tests": earlier}) == shift_sentence(facts | {"tests": TESTS})


def test_with_groups_their_numbers_are_shown_and_whether_they_are_enough():
    facts = {"tests": TESTS, "is_shift": False, "classes": [], "images": []}
    few = facts | {"num_images": {"labeled": 9, "unlabeled": 20}, "num_groups": {"labeled": 3, "unlabeled": 3}}
    assert shift_sentence(few).startswith(
        "no difference beyond chance between labeled and unlabeled images (9 labeled images in 3 groups, 20 unlabeled "
        "images in 3 groups, too few groups to show any difference): keep rate"
    )
    enough = few | {"num_groups": {"labeled": 6, "unlabeled": 6}, "is_shift": True, "images": ["b"]}
    assert shift_sentence(enough).startswith(
        "SHIFT: the unlabeled images differ from the labeled ones (9 labeled images in 6 groups, 20 unlabeled images "
        "in 6 groups): keep rate"
    )
