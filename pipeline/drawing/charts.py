"""Charts as inline SVG: numbers in, markup out. Colours come from the page's style sheet, so they follow its theme."""

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
    """A share in [0, 1] with its interval, if it has one."""

    name: str
    value: float
    low: float | None = None
    high: float | None = None


class Series(NamedTuple):
    """One line: its name, and y over x, at least one point, numbers >= 0."""

    name: str
    x: Sequence[float]
    y: Sequence[float]


class Frame(NamedTuple):
    """The plotting area of a chart, and the range of its axes."""

    height: int
    x: tuple[float, float]
    y: tuple[float, float]

    def at(self, x: float, y: float) -> tuple[float, float]:
        """Pixel position of a point."""
        across = (x - self.x[0]) / (self.x[1] - self.x[0])
        up = (y - self.y[0]) / (self.y[1] - self.y[0])
        plot_height = self.height - TOP - BOTTOM
        return round(LEFT + across * (WIDTH - LEFT - RIGHT), 1), round(TOP + (1 - up) * plot_height, 1)


def histogram(
    counts: Sequence[int], x: tuple[float, float], x_label: str, y_label: str, title: str, shares: bool = False
) -> Markup:
    """Bars of equal width over the range `x`, whose ticks are per cent if its values are `shares`."""
    frame = Frame(200, x, (0, max([*counts, 1])))
    low, width = x[0], (x[1] - x[0]) / len(counts)
    bars = []
    for i, count in enumerate(counts):
        left, top = frame.at(low + i * width, count)
        right, bottom = frame.at(low + (i + 1) * width, 0)
        size = f'width="{max(right - left - 2, 1):.1f}" height="{bottom - top:.1f}"'
        bars.append(f'<rect class="bar" x="{left + 1:.1f}" y="{top}" {size}/>')
    return _svg(frame.height, title, [*_axes(frame, x_label, y_label, shares), *bars])


def line_chart(series: Sequence[Series], x_label: str, y_label: str, title: str) -> Markup:
    """Lines over the origin with a dot at every point, each named at its end; told apart by dashes as by colour."""
    x_high, y_high = (max([value for line in series for value in getattr(line, axis)]) for axis in "xy")
    frame = Frame(220, (0.0, x_high or 1.0), (0.0, 1.15 * y_high or 1.0))
    lines = [part for number, line in enumerate(series) for part in _line(frame, line, number)]
    return _svg(frame.height, title, [*_axes(frame, x_label, y_label), *lines])


def estimates(
    rows: Sequence[Estimate], target: float | None, target_name: str, title: str, x_label: str = "share of pixels"
) -> Markup:
    """Shares side by side on one axis from 0 to 100 %, with their intervals, and a line at the target, if any."""
    height = TOP + ROW * len(rows) + BOTTOM
    frame = Frame(height, (0.0, 1.0), (0.0, 1.0))
    parts = _x_axis(frame, x_label, shares=True)
    if target is not None:
        x, top = frame.at(target, 1)
        parts.append(f'<line class="target" x1="{x}" y1="{top}" x2="{x}" y2="{frame.at(0, 0)[1]}"/>')
        parts.append(_text(x, top - 6, target_name, "end" if target > 0.5 else "start"))
    for number, row in enumerate(rows):
        parts += _estimate(frame, row, TOP + ROW * number + 30)
    return _svg(height, title, parts)


def quantiles(shares: Sequence[float], target: float | None, x_label: str, y_label: str, title: str) -> Markup:
    """Ascending shares in [0, 1], evenly spaced over 0 to 100 % of what they are shares of; a line at the target."""
    frame = Frame(220, (0.0, 1.0), (0.0, 1.0))
    parts = _axes(frame, x_label, y_label, shares=True, y_shares=True)
    if target is not None:
        (left, y), (right, _) = frame.at(0, target), frame.at(1, target)
        parts.append(f'<line class="target" x1="{left}" y1="{y}" x2="{right}" y2="{y}"/>')
        parts.append(_text(right, y + 15, f"target {_percent(target)}", "end"))
    places = [frame.at(i / max(len(shares) - 1, 1), share) for i, share in enumerate(shares)]
    parts.append(f'<polyline class="line1" points="{" ".join(f"{x},{y}" for x, y in places)}"/>')
    parts += [f'<circle class="line1" cx="{x}" cy="{y}" r="3"/>' for x, y in places]
    return _svg(frame.height, title, parts)


def scatter(
    front: Sequence[tuple[float, float]],
    others: Sequence[tuple[float, float]],
    chosen: tuple[float, float],
    x_label: str,
    y_label: str,
    title: str,
) -> Markup:
    """Shares (x, y): those on the front as a line with dots, all others as faint dots, the chosen one ringed."""
    lowest = min(y for _, y in (*front, *others, chosen))
    frame = Frame(300, (0.0, 1.0), (math.floor(20 * lowest) / 20 if lowest < 1 else 0.95, 1.0))
    places = [frame.at(x, y) for x, y in front]
    parts = _axes(frame, x_label, y_label, shares=True, y_shares=True)
    parts += [f'<circle class="faint" cx="{x}" cy="{y}" r="2"/>' for x, y in (frame.at(*point) for point in others)]
    parts.append(f'<polyline class="line1" points="{" ".join(f"{x},{y}" for x, y in places)}"/>')
    parts += [f'<circle class="line1" cx="{x}" cy="{y}" r="3"/>' for x, y in places]
    x, y = frame.at(*chosen)
    parts.append(f'<circle class="chosen" cx="{x}" cy="{y}" r="7"/>')
    # a front falls to the right: the place above it is free
    is_at_the_end = x > WIDTH - 80
    parts.append(_text(x if is_at_the_end else x + 9, y - 10, "chosen", "end" if is_at_the_end else "start", "name"))
    return _svg(frame.height, title, parts)


def standalone(chart: Markup) -> str:
    """A chart as the text of an SVG file, with the page's style sheet in it."""
    style = (STYLE_FOLDER / "style.css").read_text(encoding="utf-8")
    head, rest = str(chart).split(">", 1)
    return f'{head} xmlns="http://www.w3.org/2000/svg"><style>{style}</style>{rest}\n'


def stacked_bar(parts: Sequence[tuple[str, float]], title: str) -> Markup:
    """One bar of shares that add up to 1; the table beside it says what each part means."""
    x, segments = 0.0, []
    for kind, share in parts:
        width = share * WIDTH
        if share > 0:
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
    places = [frame.at(x, y) for x, y in zip(line.x, line.y, strict=True)]
    kind = f"line{number + 1}"
    path = " ".join(f"{x},{y}" for x, y in places)
    dots = [f'<circle class="{kind}" cx="{x}" cy="{y}" r="2.5"/>' for x, y in places]
    x, y = places[-1]
    above = y - 8 if y > TOP + 14 else y + 16
    return [f'<polyline class="{kind}" points="{path}"/>', *dots, _text(x, above, line.name, "end", "name")]


def _axes(frame: Frame, x_label: str, y_label: str, shares: bool = False, y_shares: bool = False) -> list[str]:
    parts = _x_axis(frame, x_label, shares)
    for value in _ticks(*frame.y):
        x, y = frame.at(frame.x[0], value)
        parts.append(f'<line class="grid" x1="{x}" y1="{y}" x2="{WIDTH - RIGHT}" y2="{y}"/>')
        parts.append(_text(x - 6, y + 4, _percent(value) if y_shares else _number(value), "end"))
    return [*parts, _text(LEFT, TOP - 12, y_label, "start")]


def _x_axis(frame: Frame, label: str, shares: bool) -> list[str]:
    parts = []
    bottom = frame.at(0, frame.y[0])[1]
    for value in _ticks(*frame.x):
        x = frame.at(value, 0)[0]
        parts.append(_text(x, bottom + 17, _percent(value) if shares else _number(value), "middle"))
    parts.append(f'<line class="axis" x1="{LEFT}" y1="{bottom}" x2="{WIDTH - RIGHT}" y2="{bottom}"/>')
    return [*parts, _text((LEFT + WIDTH - RIGHT) / 2, frame.height - 6, label, "middle")]


def _svg(height: int, title: str, parts: Sequence[str], stretch: bool = False) -> Markup:
    """Only `escape`d text goes in here, so the result is safe markup."""
    aspect = ' preserveAspectRatio="none"' if stretch else ""
    head = f'<svg viewBox="0 0 {WIDTH} {height}"{aspect} role="img" aria-label="{escape(title)}">'
    return Markup("".join([head, *parts, "</svg>"]))


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


def _percent(share: float) -> str:
    text = f"{100 * share:.1f}".removesuffix(".0")
    return f"{text} %"
