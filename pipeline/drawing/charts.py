"""Charts as inline SVG. Their colours come from the page's style sheet, so that they follow its theme."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

from markupsafe import Markup, escape

from pipeline.drawing import STYLE_FOLDER

WIDTH = 460
ROW = 42
LEFT, RIGHT, TOP, BOTTOM = 52, 22, 26, 44
AXIS_TICKS = 4


class Estimate(NamedTuple):
    """A fraction in [0, 1], with the ends of its interval if it has one."""

    name: str
    value: float
    low: float | None = None
    high: float | None = None


class Series(NamedTuple):
    """One line: its name, and y over x; at least one point, numbers >= 0."""

    name: str
    x: Sequence[float]
    y: Sequence[float]


class Frame(NamedTuple):
    """Height of a chart in pixels, and the ranges (low, high) of its axes."""

    height: int
    x: tuple[float, float]
    y: tuple[float, float]

    def at(self, x: float, y: float) -> tuple[float, float]:
        """Pixel coordinates of a point (x, y)."""
        across = (x - self.x[0]) / (self.x[1] - self.x[0])
        up = (y - self.y[0]) / (self.y[1] - self.y[0])
        plot_height = self.height - TOP - BOTTOM
        return round(LEFT + across * (WIDTH - LEFT - RIGHT), 1), round(TOP + (1 - up) * plot_height, 1)


def histogram(
    counts: Sequence[int], x: tuple[float, float], x_label: str, y_label: str, title: str, is_fraction: bool = False
) -> Markup:
    """Bars of equal width over a range.

    counts:      height of each bar
    x:           range (low, high) of all bars
    is_fraction: x is a fraction, whose ticks are per cent
    """
    frame = Frame(200, x, (0, max([*counts, 1])))
    low, width = x[0], (x[1] - x[0]) / len(counts)
    bars = []
    for i, count in enumerate(counts):
        left, top = frame.at(low + i * width, count)
        right, bottom = frame.at(low + (i + 1) * width, 0)
        size = f'width="{max(right - left - 2, 1):.1f}" height="{bottom - top:.1f}"'
        bars.append(f'<rect class="bar" x="{left + 1:.1f}" y="{top}" {size}/>')
    return _svg(frame.height, title, [*_axes(frame, x_label, y_label, is_fraction), *bars])


def line_chart(series: Sequence[Series], x_label: str, y_label: str, title: str) -> Markup:
    """Lines with a dot at every point and the name at the end; they differ in dashes and colour. Axes begin at 0."""
    x_high, y_high = (max([value for line in series for value in getattr(line, axis)]) for axis in "xy")
    frame = Frame(220, (0.0, x_high or 1.0), (0.0, 1.15 * y_high or 1.0))
    lines = [element for number, line in enumerate(series) for element in _line(frame, line, number)]
    return _svg(frame.height, title, [*_axes(frame, x_label, y_label), *lines])


def estimates(
    rows: Sequence[Estimate], target: float | None, target_name: str, title: str, x_label: str = "fraction of pixels"
) -> Markup:
    """One row per estimate, on an axis from 0 to 100 %, and a line at the target, a fraction, if there is one."""
    height = TOP + ROW * len(rows) + BOTTOM
    frame = Frame(height, (0.0, 1.0), (0.0, 1.0))
    parts = _x_axis(frame, x_label, is_fraction=True)
    if target is not None:
        x, top = frame.at(target, 1)
        parts.append(f'<line class="target" x1="{x}" y1="{top}" x2="{x}" y2="{frame.at(0, 0)[1]}"/>')
        parts.append(_text(x, top - 6, target_name, "end" if target > 0.5 else "start"))
    for number, row in enumerate(rows):
        parts += _estimate(frame, row, TOP + ROW * number + 30)
    return _svg(height, title, parts)


def quantiles(values: Sequence[float], target: float | None, x_label: str, y_label: str, title: str) -> Markup:
    """Quantiles in [0, 1], ascending and evenly spaced over 0 to 100 %, and a line at the target, if there is one."""
    frame = Frame(220, (0.0, 1.0), (0.0, 1.0))
    parts = _axes(frame, x_label, y_label, x_is_fraction=True, y_is_fraction=True)
    if target is not None:
        (left, y), (right, _) = frame.at(0, target), frame.at(1, target)
        parts.append(f'<line class="target" x1="{left}" y1="{y}" x2="{right}" y2="{y}"/>')
        parts.append(_text(right, y + 15, f"target {_percent(target)}", "end"))
    points = [frame.at(i / max(len(values) - 1, 1), value) for i, value in enumerate(values)]
    parts.append(f'<polyline class="line1" points="{" ".join(f"{x},{y}" for x, y in points)}"/>')
    parts += [f'<circle class="line1" cx="{x}" cy="{y}" r="3"/>' for x, y in points]
    return _svg(frame.height, title, parts)


def scatter(
    front: Sequence[tuple[float, float]],
    others: Sequence[tuple[float, float]],
    chosen: tuple[float, float],
    x_label: str,
    y_label: str,
    title: str,
) -> Markup:
    """Points (x, y), fractions: a front as a line with dots, others as faint dots, a ring around the chosen one."""
    lowest = min(y for _, y in (*front, *others, chosen))
    frame = Frame(300, (0.0, 1.0), (math.floor(20 * lowest) / 20 if lowest < 1 else 0.95, 1.0))
    points = [frame.at(x, y) for x, y in front]
    parts = _axes(frame, x_label, y_label, x_is_fraction=True, y_is_fraction=True)
    parts += [f'<circle class="faint" cx="{x}" cy="{y}" r="2"/>' for x, y in (frame.at(*point) for point in others)]
    parts.append(f'<polyline class="line1" points="{" ".join(f"{x},{y}" for x, y in points)}"/>')
    parts += [f'<circle class="line1" cx="{x}" cy="{y}" r="3"/>' for x, y in points]
    x, y = frame.at(*chosen)
    parts.append(f'<circle class="chosen" cx="{x}" cy="{y}" r="7"/>')
    # the front falls to the right, so the space above it is free
    is_at_the_end = x > WIDTH - 80
    parts.append(_text(x if is_at_the_end else x + 9, y - 10, "chosen", "end" if is_at_the_end else "start", "name"))
    return _svg(frame.height, title, parts)


def standalone(chart: Markup) -> str:
    """A chart as the text of an SVG file that contains the style sheet."""
    style = (STYLE_FOLDER / "style.css").read_text(encoding="utf-8")
    head, rest = str(chart).split(">", 1)
    return f'{head} xmlns="http://www.w3.org/2000/svg"><style>{style}</style>{rest}\n'


def stacked_bar(fractions: Sequence[tuple[str, float]], title: str) -> Markup:
    """One bar. fractions: style class and length of each segment; lengths in [0, 1] that add up to 1."""
    x, segments = 0.0, []
    for kind, fraction in fractions:
        width = fraction * WIDTH
        if fraction > 0:
            segments.append(f'<rect class="{kind}" x="{x:.2f}" y="0" width="{max(width - 1, 0.5):.2f}" height="26"/>')
        x += width
    return _svg(26, title, segments, stretch=True)


def _estimate(frame: Frame, row: Estimate, y: float) -> list[str]:
    x = frame.at(row.value, 0)[0]
    parts = [_text(LEFT, y - 12, f"{row.name}: {_percent(row.value)}", "start", "name")]
    parts.append(f'<line class="grid" x1="{LEFT}" y1="{y}" x2="{WIDTH - RIGHT}" y2="{y}"/>')
    if row.low is not None and row.high is not None:
        low, high = (frame.at(value, 0)[0] for value in (row.low, row.high))
        parts.append(f'<line class="interval" x1="{low}" y1="{y}" x2="{high}" y2="{y}"/>')
    return [*parts, f'<circle class="dot" cx="{x}" cy="{y}" r="5"/>']


def _line(frame: Frame, line: Series, number: int) -> list[str]:
    points = [frame.at(x, y) for x, y in zip(line.x, line.y, strict=True)]
    kind = f"line{number + 1}"
    path = " ".join(f"{x},{y}" for x, y in points)
    dots = [f'<circle class="{kind}" cx="{x}" cy="{y}" r="2.5"/>' for x, y in points]
    x, y = points[-1]
    above = y - 8 if y > TOP + 14 else y + 16
    return [f'<polyline class="{kind}" points="{path}"/>', *dots, _text(x, above, line.name, "end", "name")]


def _axes(
    frame: Frame, x_label: str, y_label: str, x_is_fraction: bool = False, y_is_fraction: bool = False
) -> list[str]:
    parts = _x_axis(frame, x_label, x_is_fraction)
    for value in _ticks(*frame.y):
        x, y = frame.at(frame.x[0], value)
        parts.append(f'<line class="grid" x1="{x}" y1="{y}" x2="{WIDTH - RIGHT}" y2="{y}"/>')
        parts.append(_text(x - 6, y + 4, _percent(value) if y_is_fraction else _number(value), "end"))
    return [*parts, _text(LEFT, TOP - 12, y_label, "start")]


def _x_axis(frame: Frame, label: str, is_fraction: bool) -> list[str]:
    parts = []
    bottom = frame.at(0, frame.y[0])[1]
    for value in _ticks(*frame.x):
        x = frame.at(value, 0)[0]
        parts.append(_text(x, bottom + 17, _percent(value) if is_fraction else _number(value), "middle"))
    parts.append(f'<line class="axis" x1="{LEFT}" y1="{bottom}" x2="{WIDTH - RIGHT}" y2="{bottom}"/>')
    return [*parts, _text((LEFT + WIDTH - RIGHT) / 2, frame.height - 6, label, "middle")]


def _svg(height: int, title: str, parts: Sequence[str], stretch: bool = False) -> Markup:
    """Markup of a chart; the text in `parts` must be escaped (`_text`)."""
    aspect = ' preserveAspectRatio="none"' if stretch else ""
    head = f'<svg viewBox="0 0 {WIDTH} {height}"{aspect} role="img" aria-label="{escape(title)}">'
    return Markup("".join([head, *parts, "</svg>"]))  # nosec B704: every text went through `escape`


def _text(x: float, y: float, text: str, anchor: str, kind: str = "tick") -> str:
    return f'<text class="{kind}" x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}">{escape(text)}</text>'


def _ticks(low: float, high: float) -> list[float]:
    """Round numbers inside [low, high], about AXIS_TICKS of them."""
    rough = (high - low) / AXIS_TICKS
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(power * factor for factor in (1, 2, 2.5, 5, 10) if power * factor >= rough)
    first = math.ceil(low / step - 1e-9)
    return [i * step for i in range(first, math.floor(high / step + 1e-9) + 1)]


def _number(value: float) -> str:
    return f"{value:.3g}" if abs(value) < 1000 else f"{value:,.0f}".replace(",", "\u202f")


def _percent(fraction: float) -> str:
    text = f"{100 * fraction:.1f}".removesuffix(".0")
    return f"{text} %"
