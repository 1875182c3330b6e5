"""Charts: where the marks stand, what is written beside them, and that names cannot break the markup."""

import re
from html.parser import HTMLParser

import pytest

from pipeline.drawing.charts import (
    LEFT,
    RIGHT,
    TOP,
    WIDTH,
    Estimate,
    Series,
    estimates,
    histogram,
    line_chart,
    quantiles,
    scatter,
    stacked_bar,
)

PLOT = WIDTH - LEFT - RIGHT


class Marks(HTMLParser):
    """Attributes of every element by tag, and all text."""

    def __init__(self, markup):
        super().__init__()
        self.tags, self.texts = {}, []
        self.feed(str(markup))

    def handle_starttag(self, tag, attrs):
        self.tags.setdefault(tag, []).append(dict(attrs))

    def handle_data(self, data):
        self.texts.append(data)

    def of(self, tag, kind):
        return [attrs for attrs in self.tags[tag] if attrs.get("class") == kind]


def test_bars_are_as_high_as_their_counts_and_stand_side_by_side():
    marks = Marks(histogram([1, 0, 4], (0.0, 3.0), "threshold", "locations", "how many"))
    bars = marks.of("rect", "bar")
    heights = [float(bar["height"]) for bar in bars]
    assert heights[0] == pytest.approx(heights[2] / 4, abs=0.1)
    assert heights[1] == 0
    assert float(bars[1]["x"]) - float(bars[0]["x"]) == pytest.approx(PLOT / 3, abs=0.2)
    assert {"threshold", "locations"} <= set(marks.texts)


def test_fractions_are_labeled_in_per_cent():
    marks = Marks(histogram([1, 2], (0.0, 1.0), "fraction", "images", "how many", is_fraction=True))
    assert {"0 %", "50 %", "100 %"} <= set(marks.texts)


def test_a_line_passes_through_its_points_and_bears_its_name():
    lines = [Series("Stage I", [10, 20], [2.0, 1.0]), Series("Stage II", [30], [0.5])]
    marks = Marks(line_chart(lines, "step", "loss", "training"))
    first, second = (marks.of("circle", f"line{i}") for i in (1, 2))
    assert [float(dot["cx"]) for dot in first + second] == pytest.approx(
        [LEFT + PLOT / 3, LEFT + 2 * PLOT / 3, LEFT + PLOT], abs=0.1
    )
    heights = [float(dot["cy"]) for dot in first + second]
    assert heights[1] - heights[0] == pytest.approx(2 * (heights[2] - heights[1]), abs=0.2)
    assert {"Stage I", "Stage II"} <= set(marks.texts)


def test_a_line_of_zeros_is_drawn_too():
    assert "polyline" in Marks(line_chart([Series("flat", [1], [0.0])], "step", "loss", "training")).tags


def test_an_estimate_stands_at_its_value_within_its_interval():
    rows = [Estimate("coverage", 0.5, 0.25, 0.75), Estimate("precision", 1.0)]
    marks = Marks(estimates(rows, 0.9, "target coverage 90 %", "trust"))
    assert [float(dot["cx"]) for dot in marks.of("circle", "dot")] == [LEFT + PLOT / 2, LEFT + PLOT]
    interval = marks.of("line", "interval")
    assert [float(interval[0][end]) for end in ("x1", "x2")] == [LEFT + PLOT / 4, LEFT + 3 * PLOT / 4]
    assert len(interval) == 1
    assert {"coverage: 50 %", "precision: 100 %", "target coverage 90 %"} <= set(marks.texts)
    assert float(marks.of("line", "target")[0]["y1"]) == TOP


def test_quantiles_are_spread_evenly_below_a_line_at_the_target():
    marks = Marks(quantiles([0.25, 0.5, 1.0], 0.5, "images", "coverage", "deciles"))
    dots = [(float(dot["cx"]), float(dot["cy"])) for dot in marks.of("circle", "line1")]
    assert [x for x, _ in dots] == pytest.approx([LEFT, LEFT + PLOT / 2, LEFT + PLOT])
    target = marks.of("line", "target")[0]
    assert float(target["y1"]) == float(target["y2"]) == dots[1][1]
    assert dots[2][1] == TOP
    assert {"target 50 %", "images", "coverage", "100 %"} <= set(marks.texts)
    assert "target" not in str(quantiles([0.5], None, "images", "coverage", "deciles"))


def test_a_stacked_bar_shows_fractions_and_leaves_out_empty_ones():
    marks = Marks(stacked_bar([("kept", 0.75), ("empty", 0.0), ("uncalibrated", 0.25)], "pixels"))
    assert [bar["class"] for bar in marks.tags["rect"]] == ["kept", "uncalibrated"]
    assert float(marks.tags["rect"][1]["x"]) == 0.75 * WIDTH


def test_names_are_escaped():
    markup = str(line_chart([Series("<b>&", [1], [1])], "x", "y", 'say "hi"'))
    assert "<b>" not in markup
    assert re.search(r"&lt;b&gt;&amp;", markup)
    assert Marks(markup).tags["svg"][0]["aria-label"] == 'say "hi"'


def test_a_scatter_marks_front_others_and_choice_where_they_stand():
    marks = Marks(
        scatter([(1.0, 0.9), (0.5, 1.0)], [(0.5, 0.9)], (0.5, 1.0), "kept <fraction>", "precision", "Front & choice")
    )
    front, others, chosen = (marks.of("circle", kind) for kind in ("line1", "faint", "chosen"))
    assert [float(dot["cx"]) for dot in front] == [WIDTH - RIGHT, LEFT + PLOT / 2]
    assert [float(dot["cx"]) for dot in others] == [LEFT + PLOT / 2]
    assert (others[0]["cy"], chosen[0]["cy"]) == (front[0]["cy"], front[1]["cy"])
    assert float(front[1]["cy"]) == TOP  # 100 %; the axis begins at the lowest precision, rounded down to 5 %
    assert {"kept <fraction>", "precision", "chosen", "90 %", "100 %"} <= set(marks.texts)
