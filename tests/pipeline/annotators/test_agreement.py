"""Signs of a wrong class map, from confusions that one can count by hand, and over random draws."""

from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.annotators.agreement import MIN_IMAGES, confusion, doubts, num_needed, sign_test

NAMES = ["background", "cat", "dog"]


def images(count, cat, dog=(0, 0, 0), background=(100, 0, 0)):
    """int64 [n, 3, 3]: the same confusion in `count` images, a row by true class, and images that show nothing."""
    return padded(np.array([[background, cat, dog]] * count, np.int64))


def padded(confusions):
    """With images that show nothing, so that there are enough to refuse an annotator."""
    missing = max(MIN_IMAGES - len(confusions), 0)
    return np.concatenate([confusions, np.zeros((missing, *confusions.shape[1:]), np.int64)])


def found(confusions, left_out=(), names=NAMES):
    return [(doubt.level, doubt.text.partition(" (")[0]) for doubt in doubts(confusions, names, left_out)]


def test_a_confusion_counts_the_pixels_that_have_a_true_class():
    truth = np.array([[0, 1, 2, 255], [0, 1, 2, 255]], np.uint8)
    maps = np.array([[[3, 3, 0, 9]] * 2, [[0, 1, 0, 0]] * 2, [[0, 0, 1, 0]] * 2])
    assert confusion(truth, maps).tolist() == [[2, 0, 0], [2, 0, 0], [0, 0, 2]]
    small = np.array([[[1.0, 0.0]], [[0.0, 0.5]], [[0.0, 1.0]]])  # the pixel centres of [0] and [2] of the first row
    assert confusion(truth[:, :3], small).sum() == 2


@pytest.mark.parametrize(("count", "level"), [(2, None), (3, "warning"), (8, "warning"), (9, "error"), (20, "error")])
def test_nine_images_without_a_hit_are_enough_for_three_classes(count, level):
    """2^-9 = 0.2 % is at most 1 % / 3, 2^-8 = 0.4 % is not."""
    text = f"cat is found in none of the {count} labeled images that show it"
    seen = [one for one in found(images(count, cat=(10, 0, 40))) if one[1].startswith("cat is")]
    assert seen == ([] if level is None else [(level, text)])


def test_a_doubt_names_what_the_pixels_are_labeled_with():
    texts = [doubt.text for doubt in doubts(images(6, cat=(10, 0, 40)), NAMES)]
    assert "cat is found in none of the 6 labeled images that show it (its pixels are labeled dog 80 %, background 20 %)" in texts  # fmt: skip # noqa: E501


def test_fewer_than_16_images_refuse_nothing():
    confusions = images(16, cat=(0, 10, 40), dog=(0, 40, 10))
    certain = [text for level, text in found(confusions) if level == "error"]
    assert certain == ["cat and dog look swapped"]
    assert [level for level, text in found(confusions[:15]) if text in certain] == ["warning"]


def test_one_image_with_a_hit_clears_a_class():
    missed = images(6, cat=(50, 0, 0))
    for pixels, is_cleared in ((3, True), (2, False)):  # 6 % and 4 % of its 50 pixels
        hit = images(1, cat=(50 - pixels, pixels, 0))
        texts = [text for _, text in found(np.concatenate([missed, hit]))]
        assert any(text.startswith("cat is found in none") for text in texts) != is_cleared


def test_a_class_that_is_small_in_every_image_is_not_judged():
    """2 pixels of 102 are 1.96 %, 3 of 103 are 2.9 %."""
    assert found(images(40, cat=(2, 0, 0))) == []
    assert [level for level, text in found(images(40, cat=(3, 0, 0))) if "none of the 40" in text] == ["error"]


def test_a_class_without_a_prompt_is_not_judged():
    confusions = images(40, cat=(50, 0, 0), dog=(0, 0, 50))
    assert [level for level, text in found(confusions) if "cat" in text] == ["error"]
    assert found(confusions, left_out=["cat"]) == []


def test_swapped_classes_are_told_from_a_class_that_takes_all():
    swapped = images(9, cat=(0, 10, 40), dog=(0, 40, 10))
    assert ("error", "cat and dog look swapped") in found(swapped)
    assert not any("swapped" in text for _, text in found(images(2, cat=(0, 10, 40), dog=(0, 40, 10))))
    assert ("warning", "cat and dog look swapped") in found(images(4, cat=(0, 10, 40), dog=(0, 40, 10)))
    takes_all = images(40, cat=(0, 10, 40), dog=(0, 10, 40))
    assert not any("swapped" in text for _, text in found(takes_all))
    nearly = images(40, cat=(0, 20, 30), dog=(0, 30, 20))  # more, but less than twice as many
    assert not any("swapped" in text for _, text in found(nearly))


def test_an_argmax_that_is_worse_than_one_class_is_refused_and_a_rare_class_is_none():
    """Recall 0.9 and 0.05 have the mean 0.475; one class has 0.5."""
    worse = images(7, background=(90, 10, 0), cat=(38, 2, 0))
    assert ("error", "the argmax is worse than one class for all pixels in 7 of 7 labeled images") in found(worse)
    fewer = images(6, background=(90, 10, 0), cat=(38, 2, 0))  # 2^-6 is more than 1 %
    assert not any("worse" in text for _, text in found(fewer))
    rare = images(40, background=(900, 100, 0), cat=(15, 15, 0))  # 88.8 % of the pixels are right, 97.1 % background
    assert found(rare) == []
    one_class = images(40, background=(100, 0, 0), cat=(40, 0, 0))
    assert not any("worse" in text for _, text in found(one_class))


@pytest.mark.parametrize(
    ("wrong", "num", "expected"), [(0, 0, 1), (0, 3, 1), (3, 3, 1 / 8), (2, 3, 1 / 2), (5, 6, 7 / 64)]
)
def test_the_sign_test_counts_fair_coins(wrong, num, expected):
    assert sign_test(wrong, num) == expected


def test_the_images_that_are_needed_suffice_for_every_rule():
    for num_classes in (2, 3, 7, 21, 150):
        pairs = num_classes * (num_classes - 1) // 2
        assert 2.0 ** -num_needed(num_classes) <= 0.01 / max(num_classes, pairs) < 2.0 ** (1 - num_needed(num_classes))


def draws(rng, num_images, num_classes, hit):
    """Each class has 100 pixels in each image: hit(rng) of them are right, the others have the next class."""
    confusions = np.zeros((num_images, num_classes, num_classes), np.int64)
    for k in range(num_classes):
        right = hit(rng, num_images)
        confusions[:, k, k] += right
        confusions[:, k, (k + 1) % num_classes] += 100 - right
    return confusions


@pytest.mark.parametrize(("rule", "num_classes"), [("none of the", 6), ("swapped", 2), ("swapped", 5), ("worse", 2)])
def test_a_sound_annotator_is_refused_by_a_rule_in_at_most_1_percent_of_the_draws(rule, num_classes):
    """The worst sound annotator: a coin decides in each image whether a class is found or lost as a whole."""
    rng, names = np.random.default_rng(0), [f"class {k}" for k in range(num_classes)]
    refused = 0
    for _ in range(250):
        confusions = draws(rng, MIN_IMAGES, num_classes, lambda rng, n: 100 * rng.integers(0, 2, n))
        refused += any(doubt.level == "error" and rule in doubt.text for doubt in doubts(confusions, names))
    assert refused <= 250 * 0.01 + 3 * np.sqrt(250 * 0.01 * 0.99)


@settings(max_examples=20, deadline=None)
@given(st.permutations(range(5)), st.integers(0, 2**32 - 1))
def test_a_good_annotator_passes_and_a_permuted_one_is_refused(order, seed):
    rng, names = np.random.default_rng(seed), list("abcde")
    good = draws(rng, MIN_IMAGES, 5, lambda rng, n: rng.integers(70, 101, n))
    assert doubts(good, names) == []
    permuted = doubts(good[:, :, order], names)
    if list(order) == sorted(order):
        assert permuted == []
    else:
        assert permuted[0].level == "error"


@settings(max_examples=50, deadline=None)
@given(st.data())
def test_a_class_is_never_found_exactly_if_a_loop_over_images_says_so(data):
    num_images, num_classes = data.draw(st.integers(1, 9)), data.draw(st.integers(2, 4))
    pixels = st.sampled_from([0, 0, 1, 2, 19, 20, 50, 1000])
    confusions = np.array(
        [[[data.draw(pixels) for _ in range(num_classes)] for _ in range(num_classes)] for _ in range(num_images)]
    )
    expected = {}
    for k in range(num_classes):
        shows = [one for one in confusions.tolist() if sum(one[k]) and 50 * sum(one[k]) >= sum(map(sum, one))]
        hits = [one for one in shows if Fraction(one[k][k], sum(one[k])) >= Fraction(1, 20)]
        if not hits and len(shows) >= 3:
            expected[k] = "error" if 100 * num_classes <= 2 ** len(shows) else "warning"
    actual = {
        int(doubt.text.split()[0]): doubt.level
        for doubt in doubts(padded(confusions), [str(k) for k in range(num_classes)])
        if "none of the" in doubt.text
    }
    assert actual == expected
