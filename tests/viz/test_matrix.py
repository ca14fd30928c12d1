"""The picture of a confusion matrix, as SVG and as pixels; cards."""

import xml.etree.ElementTree as ET

import numpy as np
import pytest

from tcformer.errors import UserError
from tcformer.viz import Panel, Row, card_sheet, matrix_picture, matrix_svg
from tcformer.viz.canvas import fitted, text_width, written
from tcformer.viz.matrix import EMPTY, RIGHT, WRONG

SVG = "{http://www.w3.org/2000/svg}"


def words(svg):
    return [text.text for text in ET.fromstring(svg).iter(f"{SVG}text")]


def test_counts_names_and_shares_are_in_the_picture():
    svg = matrix_svg([[7, 1, 0], [0, 4, 4], [0, 0, 0]], ["cat", "dog", "emu"])
    found = words(svg)
    assert [found.count(name) for name in ("cat", "dog", "emu")] == [2, 2, 2]
    assert [found.count(number) for number in ("7", "1", "4", "0")] == [1, 1, 2, 0]
    assert "88 %" in found
    assert "50 %" in found
    assert "-" in found  # of emu there is no picture
    told = [title.text for title in ET.fromstring(svg).iter(f"{SVG}title")]
    assert told == ["cat -> cat: 7 of 8", "cat -> dog: 1 of 8", "dog -> dog: 4 of 8",
                    "dog -> emu: 4 of 8"]  # fmt: skip


def test_names_of_any_letters_are_escaped_and_short_enough():
    names = ["<b>&amp;</b>", 'a "b" \x07', "犬", "  ", "W" * 300]
    svg = matrix_svg(np.eye(5, dtype=int), names)
    root = ET.fromstring(svg)  # well-formed
    found = words(svg)
    assert found.count("<b>&amp;</b>") == 2
    assert found.count("犬") == 2
    assert not any("W" * 100 in text for text in found)
    assert float(root.get("width")) < 600
    # A name of bytes that are no text.
    assert matrix_picture(np.eye(2, dtype=int), ["a\udcff", "b\nc"]).shape[2] == 3


def test_the_colors():
    picture = matrix_picture([[3, 0], [0, 0]], ["a", "b"])
    for color in (RIGHT, WRONG, EMPTY):  # the legend has a full WRONG
        assert (picture == color).all(axis=2).any()
    worse = matrix_picture([[0, 3], [0, 0]], ["a", "b"])
    assert (worse == RIGHT).all(axis=2).sum() < (picture == RIGHT).all(axis=2).sum()


def test_letters_that_the_font_lacks_become_numbers_in_pixels():
    assert written("grün, Ñandú, Straße", "?") == "grun, Nandu, Strasse"
    assert written("犬", "class 3") == "class 3"
    assert text_width("犬", 20) == 20
    assert fitted("abcdefghij", text_width("abc...ij", 14), 14).startswith("ab")
    counts = np.eye(2, dtype=int)
    unknown = matrix_picture(counts, ["a", "犬犬犬犬"], numbers=[3, 7])
    # As wide as four wide letters need in the SVG: only there the name can be written.
    assert unknown.shape[1] > matrix_picture(counts, ["a", "b"]).shape[1]
    other = matrix_picture(counts, ["a", "犬犬犬犬"], numbers=[3, 8])
    assert (unknown != other).any()


@pytest.mark.parametrize(("classes", "named"), [(40, True), (41, True), (101, False)])
def test_many_classes(classes, named):
    svg = matrix_svg(np.eye(classes, dtype=int), [f"name {i}" for i in range(classes)])
    found = words(svg)
    assert ("name 7" in found) is named
    assert found.count("1") == (classes if classes <= 40 else 0)
    assert ("data:image/png" in svg) is not named


def test_a_thousand_classes_are_drawn_in_pixels():
    counts = np.zeros((1000, 1000), int)
    counts[5, 5], counts[700, 20] = 3, 1
    picture = matrix_picture(counts, [str(i) for i in range(1000)])
    assert 1000 < max(picture.shape) < 1200
    svg = matrix_svg(counts, [str(i) for i in range(1000)])
    assert len(svg) < 100_000
    assert "answer (1000 classes in their order)" in words(svg)


def test_what_cannot_be_drawn_is_refused():
    with pytest.raises(UserError, match="too large for a picture"):
        matrix_svg(np.zeros((2001, 2001), int), ["x"] * 2001)
    with pytest.raises(UserError, match="do not fit"):
        matrix_svg([[1, 0], [0, 1]], ["only one"])
    with pytest.raises(UserError, match="do not fit"):
        matrix_picture(np.zeros((0, 0), int), [])


def card(level, height=20):
    return Row((Panel(np.full((height, 30, 3), level, np.uint8), "a"),), "heading")


def test_cards_stand_side_by_side():
    one = card_sheet([card(0)])
    four = card_sheet([card(level) for level in (0, 50, 100, 150)], across=2)
    assert four.shape == (2 * one.shape[0] + 1, 2 * one.shape[1] + 1, 3)
    np.testing.assert_array_equal(four[: one.shape[0], : one.shape[1]], one)
    three = card_sheet([card(0), card(0, height=50), card(100)], across=2)
    assert three.shape[1] == four.shape[1]
    assert (three == 255).all(axis=2).any()
    with pytest.raises(UserError, match="at least one card"):
        card_sheet([])
