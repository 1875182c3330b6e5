"""Confused classes and the worst images, counted by hand and by a loop over pixels."""

import numpy as np
import pytest

from pipeline.report.mistakes import ImageMistakes, frequent_pairs, summarise_mistakes

# rows = true class, columns = label
FIRST = ImageMistakes(0, "first", np.array([[6, 0, 2], [0, 0, 0], [0, 0, 2]]), 20)
SECOND = ImageMistakes(1, "second", np.array([[0, 0, 0], [3, 0, 0], [1, 0, 4]]), 10)
NONE = ImageMistakes(2, "none", np.zeros((3, 3), int), 5)


def test_rates_of_an_image_are_fractions_of_its_pixels_or_of_its_labels():
    assert (FIRST.wrong, FIRST.precision, FIRST.keep_rate) == (0.1, 0.8, 0.5)
    assert (NONE.wrong, NONE.precision, NONE.keep_rate) == (0, None, 0)


def test_the_table_has_a_row_for_each_class_that_is_a_label():
    table = summarise_mistakes([SECOND, FIRST, NONE], ["sky", "cat", "dog"]).table
    assert table == {"sky": [0.6, 0.3, 0.1], "dog": [0.25, 0.0, 0.75]}


def test_images_without_a_wrong_label_are_not_listed():
    mistakes = summarise_mistakes([SECOND, FIRST, NONE], ["sky", "cat", "dog"])
    assert (mistakes.num_images, mistakes.listed) == (3, [SECOND, FIRST])


def test_many_classes_are_listed_as_pairs_in_the_order_of_their_pixels():
    rng = np.random.default_rng(0)
    names = [f"c{k}" for k in range(31)]
    kept = rng.integers(0, 1000, (31, 31))
    mistakes = summarise_mistakes([ImageMistakes(0, "a", kept, 10**6)], names)
    assert (mistakes.table, len(mistakes.pairs)) == ({}, 20)
    cells = {(names[j], names[i]): kept[i, j] for i in range(31) for j in range(31) if i != j}
    assert [pair.pixels for pair in mistakes.pairs] == sorted(cells.values(), reverse=True)[:20]
    for pair in mistakes.pairs:
        assert cells[pair.label, pair.truth] == pair.pixels
        assert pair.fraction == pytest.approx(pair.pixels / kept[:, names.index(pair.label)].sum())


def test_labels_without_a_mistake_have_no_pairs():
    assert frequent_pairs(np.diag([3, 0, 5]), ["sky", "cat", "dog"]) == []
