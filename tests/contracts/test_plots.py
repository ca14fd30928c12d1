"""The plots of the docs: figures land where they belong, words stay inside the picture."""

import re
import sys
import xml.etree.ElementTree as ET

import pytest
from pages import ROOT
from PIL import ImageFont

NAME = "{http://www.w3.org/2000/svg}"


@pytest.fixture
def plots(monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT / "docs"))
    import plots

    yield plots
    sys.modules.pop("plots")


def circles(svg):
    return [
        (float(c.get("cx")), float(c.get("cy"))) for c in ET.fromstring(svg).iter(NAME + "circle")
    ]


def words(svg):
    return [node.text for node in ET.fromstring(svg).iter(NAME + "text")]


def test_points_lie_where_the_ticks_say(plots):
    svg = plots.chart(plots.Points("a", [(0, 20), (5, 25), (10, 40)]), across="x", up="y")
    _, (x0, y0), (x1, y1), (x2, y2) = circles(svg)  # the first is the legend's
    assert x1 - x0 == pytest.approx(x2 - x1, abs=0.2)
    assert (y0 - y1) * 3 == pytest.approx(y1 - y2, abs=0.3)
    ticks = {t.text: t for t in ET.fromstring(svg).iter(NAME + "text")}
    assert float(ticks["20"].get("y")) == pytest.approx(y0 + 0.36 * plots.SIZE, abs=0.1)


def test_a_logarithmic_axis_has_equal_steps(plots):
    points = [(1, 1e-6), (2, 1e-4), (3, 1e-2)]
    svg = plots.chart(plots.Points("", points), across="x", up="y", y_log=True)
    (_, y0), (_, y1), (_, y2) = circles(svg)
    assert y0 - y1 == pytest.approx(y1 - y2, abs=0.2)
    assert "0.01" in words(svg)


def test_bars_stand_on_zero_and_bands_and_spreads_span_their_values(plots):
    svg = plots.chart(
        plots.Bars("", [0, 1, 2], [2, 4]),
        plots.Points("", [(1, 2)], spread=[(0, 4)]),
        plots.Line("", [(0, 2), (2, 2)], band=[(0, 4), (2, 2)]),
        across="x",
        up="y",
    )
    groups = list(ET.fromstring(svg).iter(NAME + "g"))
    bars, spread, band = ([p.get("d") for p in g.iter(NAME + "path")] for g in groups)
    low, half = map(float, re.match(r"M\S+ ([\d.]+)V([\d.]+)H", bars[0]).groups())
    full = float(re.match(r"M\S+ \S+V([\d.]+)H", bars[1]).group(1))
    assert low - half == pytest.approx(half - full, abs=0.2)
    assert f" {full:.1f}h8m-4 0V{low:.1f}m-4" in spread[0]
    assert f" {full:.1f}L" in band[0]
    assert band[0].endswith(f" {low:.1f}Z")


@pytest.mark.parametrize(
    ("low", "high", "ticks"),
    [
        (0, 1, [0, 0.2, 0.4, 0.6, 0.8, 1]),
        (93.2, 99.7, [92, 94, 96, 98, 100]),
        (-3, 40, [-10, 0, 10, 20, 30, 40]),
        (5, 5, [2, 3, 4, 5, 6, 7, 8]),
    ],
)
def test_ticks_are_round(plots, low, high, ticks):
    assert plots.round_ticks(low, high) == ticks


def test_ticks_of_a_logarithm(plots):
    assert plots.log_ticks(1, 90) == [1, 2, 5, 10, 20, 50, 100]
    assert plots.log_ticks(1e-6, 0.5)[0] == 1e-6
    assert plots.log_ticks(3, 3) == [2, 5]


def test_words_stay_inside_the_picture_and_off_each_other(plots):
    svg = plots.chart(
        plots.Points("a", [(1, 0.98), (2, 0.9731)], labels=["first", "the last & longest <label>"]),
        plots.Rule("a figure that somebody else has published", 0.99),
        plots.Line("of a third kind, with words enough for another line", [(1, 0.9), (2, 0.91)]),
        across="an explanation that is much too long for one line of a picture so narrow " * 2,
        up="accuracy",
        x_ticks={1: "TCFormer nano", 1.05: "crowded out", 2: "TCFormerV2 nano"},
        width=420,
    )
    font = ImageFont.load_default(plots.SIZE)
    boxes = []
    for text in ET.fromstring(svg).iter(NAME + "text"):
        wide = font.getlength(text.text)
        x, y = float(text.get("x")), float(text.get("y"))
        x -= {"start": 0, "middle": wide / 2, "end": wide}[text.get("text-anchor")]
        assert x >= 0, text.text
        assert x + wide <= 420, text.text
        assert plots.SIZE <= y <= 400 - 2, text.text
        boxes.append((x, x + wide, y, text.text))
    assert "crowded out" not in [box[3] for box in boxes]
    for number, (left, right, line, _) in enumerate(boxes):
        for other in boxes[:number]:
            apart = right <= other[0] or left >= other[1] or abs(line - other[2]) > plots.SIZE
            assert apart, (boxes[number], other)


@pytest.mark.parametrize(
    ("series", "options", "message"),
    [
        (lambda p: [], {}, "nothing to draw"),
        (lambda p: [p.Line("a", [(0, float("nan"))])], {}, "not finite"),
        (lambda p: [p.Line("a", [(0, 0)])], {"y_log": True}, "no place for 0"),
        (lambda p: [p.Points("a", [(0, 0)], spread=[])], {}, "for each point"),
        (lambda p: [p.Bars("a", [0, 1], [1, 2])], {}, "n \\+ 1 edges"),
        (lambda p: [p.Line("a", [(0, 0)])], {"x_range": (1, 1)}, "cannot go from 1 to 1"),
    ],
)
def test_what_cannot_be_drawn_is_refused(plots, series, options, message):
    with pytest.raises(ValueError, match=message):
        plots.chart(*series(plots), across="x", up="y", **options)
