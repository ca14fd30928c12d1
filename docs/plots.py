"""Small plots as SVG, for the pages with measured figures: `chart` draws what docs/make_*.py hold.

    chart(
        Line("TCFormer", [(1, 60.2), (2, 71.0)], band=[(59.0, 61.5), (70.1, 72.3)]),
        Points("PVTv2", [(1, 58.0), (2, 69.5)], spread=[(57.1, 58.8), (69.0, 70.2)]),
        across="epoch",
        up="top-1, %",
    )

Nothing is drawn from a clock or a random number: the same figures give the same file, so that a
test can compare the two. The ground is white and every colour is said, hence a page in dark mode
shows the same picture.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape
from itertools import pairwise

COLOURS = ("#0072b2", "#d55e00", "#009e73", "#b8589a", "#7a5c00", "#4a4a4a", "#1f9ed1")
"""Told apart by colour-blind readers (after Okabe and Ito; darker, for thin lines on white)."""

INK, GRID, FRAME = "#222", "#e2e2e2", "#444"
SIZE = 12
"""Of the letters, in pixels."""

PAD = 10
"""Between anything and the border of the picture, in pixels."""

Pairs = Sequence[tuple[float, float]]


@dataclass(frozen=True)
class Line:
    """A line through points, with a band from a lower to an upper value at each of them."""

    name: str
    points: Pairs
    """(x, y), in the order in which they are joined."""
    band: Pairs | None = None
    """(lowest, highest) of each point."""
    marks: bool = False
    """A sign at each point."""
    dashed: bool = False
    colour: str | None = None


@dataclass(frozen=True)
class Points:
    """Signs, with a vertical bar from a lower to an upper value at each of them."""

    name: str
    points: Pairs
    spread: Pairs | None = None
    """(lowest, highest) of each point."""
    labels: Sequence[str] | None = None
    """Words beside each point."""
    colour: str | None = None


@dataclass(frozen=True)
class Bars:
    """Bars from zero: a histogram, or a bar for each of several things."""

    name: str
    edges: Sequence[float]
    """Where the bars begin and end: one more than there are heights."""
    heights: Sequence[float]
    colour: str | None = None


@dataclass(frozen=True)
class Rule:
    """A dashed level across the whole plot, such as a figure of a paper."""

    name: str
    value: float
    colour: str | None = None


Series = Line | Points | Bars | Rule


def chart(
    *series: Series,
    across: str,
    up: str,
    x_range: tuple[float, float] | None = None,
    y_range: tuple[float, float] | None = None,
    x_log: bool = False,
    y_log: bool = False,
    x_ticks: Mapping[float, str] | None = None,
    y_ticks: Mapping[float, str] | None = None,
    width: int = 640,
    height: int = 400,
) -> str:
    """Draw series over one pair of axes.

    Args:
        series: what to draw, the first below the others. Those with a name stand in a legend above
            the plot; an empty name leaves one out. Each takes the next colour unless it has one.
        across: what the horizontal axis shows, with its unit.
        up: what the vertical axis shows, with its unit.
        x_range: ends of the horizontal axis; those of the data, widened to ticks, where left out.
        y_range: ends of the vertical axis. What lies outside of given ends is not drawn.
        x_log: logarithmic steps across.
        y_log: logarithmic steps upwards.
        x_ticks: place -> words, instead of round numbers.
        y_ticks: the same for the vertical axis.
        width: of the picture, in pixels.
        height: of the picture, in pixels; a legend of several lines takes its room from the plot.

    Returns:
        the SVG document.

    Raises:
        ValueError: nothing to draw, a value that is not finite, not positive on a logarithmic axis,
            or a band that has not as many values as there are points.
    """
    xs, ys = _values(series)
    horizontal = _Axis(xs, x_range, x_log, x_ticks, "x")
    vertical = _Axis(ys, y_range, y_log, y_ticks, "y")
    legend = _legend(series, width)
    left = PAD + 8 + max(text_width(words) for words in vertical.ticks.values())
    # The label above the axis, half of the highest tick's letters, the legend.
    top = PAD + 1.3 * SIZE * (len(legend.lines) + 1) + 1.2 * SIZE
    right = width - PAD - 8
    words = _wrapped(across, width - 2 * PAD)
    bottom = height - PAD - 1.3 * SIZE * len(words) - 1.9 * SIZE
    horizontal.span(left, right)
    tick, name = list(horizontal.ticks.items())[-1]
    right -= max(0, horizontal(tick) + text_width(name) / 2 - (width - PAD))
    horizontal.span(left, right)
    vertical.span(bottom, top)
    parts = [f'<rect width="{width}" height="{height}" rx="4" fill="white"/>', *legend.drawn]
    line = PAD + 1.3 * SIZE * len(legend.lines) + 1.2 * SIZE
    parts.append(_text(up, PAD, line, "start"))
    parts += _frame(horizontal, vertical, (left, top, right, bottom))
    for number, text in enumerate(words):
        y = height - PAD - 0.3 * SIZE - 1.3 * SIZE * (len(words) - 1 - number)
        parts.append(_text(text, width / 2, y, "middle"))
    parts.append(
        f'<clipPath id="inside"><path d="M{left - 7:.1f} {top - 7:.1f}H{right + 7:.1f}'
        f'V{bottom + 7:.1f}H{left - 7:.1f}Z"/></clipPath>'
    )
    for number, one in enumerate(series):
        body = "\n".join(_drawn(one, number, horizontal, vertical, (left, right)))
        parts.append(f'<g clip-path="url(#inside)">\n{body}\n</g>')
    for one in series:
        if isinstance(one, Points) and one.labels:
            parts += _labels(one, horizontal, vertical, right)
    start = f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" '
    start += f'width="{width}" height="{height}" font-size="{SIZE}" font-family="sans-serif">\n'
    return start + "\n".join(parts) + "\n</svg>\n"


def text_width(words: str) -> float:
    """Pixels that words take at most, about: browsers have other fonts than we."""
    return (
        sum(0.32 if c in "iljtf.,:;|'()[] " else 0.9 if c in "mwMW@%" else 0.62 for c in words)
        * SIZE
    )


def round_ticks(low: float, high: float, *, most: int = 7) -> list[float]:
    """Round numbers, 1, 2 or 5 times a power of ten apart, that hold `low` and `high`."""
    if high <= low:
        low, high = low - (abs(low) or 1) / 2, high + (abs(high) or 1) / 2
    power = 10.0 ** math.floor(math.log10((high - low) / most))
    for step in (power, 2 * power, 5 * power, 10 * power, 20 * power):
        first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
        if last - first < most:
            break
    # Whole multiples, not sums: 0.1 + 0.2 would be written 0.30000000000000004.
    return [float(f"{number * step:.12g}") for number in range(first, last + 1)]


def log_ticks(low: float, high: float, *, most: int = 9) -> list[float]:
    """1, 2, 5 times powers of ten from at most `low` to at least `high`; fewer if they are many."""
    first, last = math.floor(math.log10(low) - 1e-9), math.ceil(math.log10(high) + 1e-9)
    for factors in ((1, 2, 5), (1, 3), (1,)):
        every = [
            float(f"{factor * 10.0**power:.12g}")
            for power in range(first, last + 1)
            for factor in factors
        ]
        begin = max(i for i, tick in enumerate(every) if tick <= low * (1 + 1e-9))
        end = min(i for i, tick in enumerate(every) if tick >= high * (1 - 1e-9))
        ticks = every[begin : max(end, begin + 1) + 1]
        if len(ticks) <= most:
            return ticks
    return ticks[:: math.ceil(len(ticks) / most)]


class _Axis:
    """From values to pixels."""

    def __init__(
        self,
        values: Sequence[float],
        ends: tuple[float, float] | None,
        log: bool,
        named: Mapping[float, str] | None,
        name: str,
    ) -> None:
        if ends is not None and not ends[0] < ends[1]:
            raise ValueError(f"the {name} axis cannot go from {ends[0]:g} to {ends[1]:g}")
        low, high = ends or (min(values), max(values))
        if log and (low <= 0 or min(values) <= 0):
            raise ValueError(f"a logarithmic {name} axis has no place for {min(low, *values):g}")
        ticks = log_ticks(low, high) if log else round_ticks(low, high)
        if ends is None and named is None:
            low, high = ticks[0], ticks[-1]
        elif ends is None:
            low, high = min(low, *named), max(high, *named)
            if low == high:
                low, high = (low / 2, high * 2) if log else (low - 0.5, high + 0.5)
        shown = named if named is not None else {tick: f"{tick:.10g}" for tick in ticks}
        slack = 1e-9 * (high - low)
        self.low, self.high, self.log = low, high, log
        self.ticks = {tick: w for tick, w in shown.items() if low - slack <= tick <= high + slack}
        if not self.ticks:  # the ends lie between two round numbers
            self.ticks = {low: f"{low:.4g}", high: f"{high:.4g}"}

    def span(self, begin: float, end: float) -> None:
        """Where the two ends lie, in pixels."""
        self.begin, self.end = begin, end

    def __call__(self, value: float) -> float:
        if self.log:
            part = math.log(max(value, 1e-300) / self.low) / math.log(self.high / self.low)
        else:
            part = (value - self.low) / (self.high - self.low)
        # Far outside, browsers lose precision; the clip hides what is outside anyway.
        return self.begin + (self.end - self.begin) * min(max(part, -9), 10)


def _values(series: Sequence[Series]) -> tuple[list[float], list[float]]:
    """All x and y of the series, looked over."""
    xs: list[float] = []
    ys: list[float] = []
    for one in series:
        if isinstance(one, Rule):
            ys.append(one.value)
        elif isinstance(one, Bars):
            if len(one.edges) != len(one.heights) + 1:
                raise ValueError(f"{one.name!r}: n bars have n + 1 edges")
            xs += one.edges
            ys += [0, *one.heights]
        else:
            spread = one.band if isinstance(one, Line) else one.spread
            if spread is not None and len(spread) != len(one.points):
                raise ValueError(f"{one.name!r}: a lowest and highest value for each point")
            if isinstance(one, Points) and one.labels and len(one.labels) != len(one.points):
                raise ValueError(f"{one.name!r}: a label for each point")
            xs += [x for x, _ in one.points]
            ys += [y for _, y in one.points] + [y for ends in spread or () for y in ends]
    if not xs or not ys:
        raise ValueError("there is nothing to draw")
    if not all(map(math.isfinite, xs + ys)):
        raise ValueError("a value that is not finite cannot be drawn")
    return xs, ys


@dataclass
class _Legend:
    lines: list[list[int]]
    drawn: list[str]


def _legend(series: Sequence[Series], width: int) -> _Legend:
    """A sign and a name for each series that has one, in as many lines as they need."""
    lines: list[list[int]] = []
    drawn: list[str] = []
    x: float = width
    for number, one in enumerate(series):
        if not one.name:
            continue
        if x + 30 + text_width(one.name) > width - PAD:
            lines.append([])
            x = PAD
        lines[-1].append(number)
        y = PAD + 1.3 * SIZE * (len(lines) - 1) + 0.6 * SIZE
        colour = _colour(one, number)
        if isinstance(one, Bars):
            drawn.append(f'<path d="M{x:.1f} {y - 5:.1f}h20v10h-20z" fill="{colour}"/>')
        elif isinstance(one, Points):
            drawn.append(_sign(number, x + 10, y, colour))
        else:
            dash = ' stroke-dasharray="6 4"' if isinstance(one, Rule) or one.dashed else ""
            drawn.append(
                f'<path d="M{x:.1f} {y:.1f}h20" stroke="{colour}" stroke-width="2"{dash}/>'
            )
            if isinstance(one, Line) and one.marks:
                drawn.append(_sign(number, x + 10, y, colour))
        drawn.append(_text(one.name, x + 26, y + 0.36 * SIZE, "start"))
        x += 26 + text_width(one.name) + 18
    return _Legend(lines, drawn)


def _frame(horizontal: _Axis, vertical: _Axis, box: tuple[float, float, float, float]) -> list[str]:
    """Grid, axes and the words of the ticks."""
    left, top, right, bottom = box
    parts = []
    for tick, words in vertical.ticks.items():
        y = vertical(tick)
        parts.append(f'<path d="M{left:.1f} {y:.1f}H{right:.1f}" stroke="{GRID}"/>')
        parts.append(_text(words, left - 8, y + 0.36 * SIZE, "end"))
    beyond = -math.inf
    for tick, words in horizontal.ticks.items():
        x = horizontal(tick)
        parts.append(f'<path d="M{x:.1f} {top:.1f}V{bottom:.1f}" stroke="{GRID}"/>')
        wide = text_width(words)
        begin = max(x - wide / 2, PAD)
        if begin > beyond:  # words that would touch their neighbour's are left out
            parts.append(_text(words, begin + wide / 2, bottom + 1.5 * SIZE, "middle"))
            beyond = begin + wide + 4
    path = f"M{left:.1f} {top:.1f}V{bottom:.1f}H{right:.1f}"
    return [*parts, f'<path d="{path}" fill="none" stroke="{FRAME}"/>']


def _drawn(one: Series, number: int, x: _Axis, y: _Axis, ends: tuple[float, float]) -> list[str]:
    """The shapes of one series."""
    colour = _colour(one, number)
    left, right = ends
    if isinstance(one, Rule):
        path = f"M{left:.1f} {y(one.value):.1f}H{right:.1f}"
        return [f'<path d="{path}" stroke="{colour}" stroke-width="1.5" stroke-dasharray="6 4"/>']
    if isinstance(one, Bars):
        parts = []
        for (begin, end), tall in zip(pairwise(one.edges), one.heights, strict=True):
            path = f"M{x(begin) + 1:.1f} {y(0):.1f}V{y(tall):.1f}H{x(end) - 1:.1f}V{y(0):.1f}Z"
            parts.append(f'<path d="{path}" fill="{colour}" fill-opacity="0.75"/>')
        return parts
    places = [(x(a), y(b)) for a, b in one.points]
    parts = []
    if isinstance(one, Line):
        if one.band is not None:
            upper = [(a, y(high)) for (a, _), (_, high) in zip(places, one.band, strict=True)]
            lower = [(a, y(low)) for (a, _), (low, _) in zip(places, one.band, strict=True)]
            path = _path([*upper, *reversed(lower)])
            parts.append(f'<path d="{path}Z" fill="{colour}" fill-opacity="0.18"/>')
        dash = ' stroke-dasharray="6 4"' if one.dashed else ""
        shape = f'fill="none" stroke="{colour}" stroke-width="2" stroke-linejoin="round"{dash}'
        parts.append(f'<path d="{_path(places)}" {shape}/>')
        if not one.marks:
            return parts
    elif one.spread is not None:
        for (a, _), (low, high) in zip(places, one.spread, strict=True):
            path = f"M{a - 4:.1f} {y(high):.1f}h8m-4 0V{y(low):.1f}m-4 0h8"
            parts.append(f'<path d="{path}" fill="none" stroke="{colour}" stroke-width="1.5"/>')
    return parts + [_sign(number, a, b, colour) for a, b in places]


def _labels(one: Points, x: _Axis, y: _Axis, right: float) -> list[str]:
    """Words to the right of their points, to the left where there is no room."""
    parts = []
    for (a, b), words in zip(one.points, one.labels or (), strict=True):
        inside = x(a) + 8 + text_width(words) <= right
        place = (x(a) + 8, "start") if inside else (x(a) - 8, "end")
        parts.append(_text(words, place[0], y(b) - 0.4 * SIZE, place[1]))
    return parts


def _sign(number: int, x: float, y: float, colour: str) -> str:
    """A circle, square, diamond or triangle, so that series differ without colours too."""
    if number % 4 == 0:
        return f'<circle cx="{x:.1f}" cy="{y:.1f}" r="4" fill="{colour}"/>'
    shape = {1: "m-3.5 -3.5h7v7h-7z", 2: "m0 -5l5 5l-5 5l-5 -5z", 3: "m0 -5l4.6 8.4h-9.2z"}
    return f'<path d="M{x:.1f} {y:.1f}{shape[number % 4]}" fill="{colour}"/>'


def _path(places: Pairs) -> str:
    return "M" + "L".join(f"{a:.1f} {b:.1f}" for a, b in places)


def _colour(one: Series, number: int) -> str:
    return one.colour or COLOURS[number % len(COLOURS)]


def _text(words: str, x: float, y: float, anchor: str) -> str:
    place = f'x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}"'
    return f'<text {place} fill="{INK}">{escape(words)}</text>'


def _wrapped(words: str, wide: float) -> list[str]:
    """Lines that are not wider than `wide`, cut between words."""
    lines: list[str] = []
    for word in words.split():
        longer = f"{lines[-1]} {word}" if lines else word
        if lines and text_width(longer) <= wide:
            lines[-1] = longer
        else:
            lines.append(word)
    return lines or [""]
