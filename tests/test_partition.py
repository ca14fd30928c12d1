"""Regions of a grid: outlines that cover exactly them, and colours that tell neighbours apart."""

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from tcformer.partition import APART, _distances, borders, candidates, distinct_colors, outlines

grids = st.builds(
    lambda height, width, most, seed: np.random.default_rng(seed).integers(
        0, most, (height, width)
    ),
    st.integers(1, 9),
    st.integers(1, 9),
    st.integers(1, 9),
    st.integers(0, 2**32 - 1),
)


def covered(loops, shape):
    """How often polygons wind around each cell, counted from the definition."""
    winding = np.zeros(shape, int)
    for loop in loops:
        for (x, y), (x2, y2) in zip(loop, np.roll(loop, -1, axis=0), strict=True):
            assert (x == x2) != (y == y2)
            if x == x2:  # a vertical side counts for all cells on its right
                winding[min(y, y2) : max(y, y2), x:] += 1 if y2 < y else -1
    return winding


@settings(max_examples=80, deadline=None)
@given(grids)
def test_the_outlines_of_a_region_wind_once_around_its_cells_and_no_others(regions):
    found = outlines(regions)
    assert list(found) == np.unique(regions).tolist()
    for number, loops in found.items():
        np.testing.assert_array_equal(covered(loops, regions.shape), regions == number)


@settings(max_examples=40, deadline=None)
@given(grids)
def test_every_corner_of_an_outline_is_one(regions):
    for loops in outlines(regions).values():
        for loop in loops:
            steps = np.roll(loop, -1, axis=0) - loop
            upright = steps[:, 0] == 0
            assert (upright != np.roll(upright, 1)).all()


def test_a_hole_and_a_touching_corner_are_outlines_of_their_own():
    ring = np.zeros((3, 3), int)
    ring[1, 1] = 1
    assert [loop.tolist() for loop in outlines(ring)[0]] == [
        [[0, 0], [3, 0], [3, 3], [0, 3]],
        [[1, 2], [2, 2], [2, 1], [1, 1]],
    ]
    assert [loop.tolist() for loop in outlines(np.eye(2, dtype=int))[1]] == [
        [[0, 0], [1, 0], [1, 1], [0, 1]],
        [[1, 1], [2, 1], [2, 2], [1, 2]],
    ]


@settings(max_examples=40, deadline=None)
@given(grids)
def test_borders_lie_between_different_regions_and_are_drawn_once(regions):
    upright, level = np.zeros((2, 10, 10), int)
    for x1, y1, x2, y2 in borders(regions):
        if x1 == x2:
            upright[y1:y2, x1] += 1
        else:
            level[y1, x1:x2] += 1
    height, width = regions.shape
    np.testing.assert_array_equal(
        upright[:height, 1:width], (regions[:, 1:] != regions[:, :-1]).astype(int)
    )
    np.testing.assert_array_equal(level[1:height, :width], regions[1:] != regions[:-1])
    assert upright[:, 0].sum() == upright[:, width].sum() == 0
    assert level[0].sum() == level[height].sum() == 0


def test_straight_borders_are_one_line():
    assert borders(np.array([[0, 1], [0, 1], [0, 1]])) == [(1, 0, 1, 3)]


@settings(max_examples=60, deadline=None)
@given(grids, st.integers(0, 100))
def test_neighbors_have_clearly_different_colors_whatever_the_numbers(regions, seed):
    colors = distinct_colors(regions)[regions].astype(int)
    known = {tuple(color): number for number, color in enumerate(candidates().tolist())}
    place = np.vectorize(lambda *color: known[color])(*np.moveaxis(colors, -1, 0))
    distance = _distances()
    for one, other in (
        ((slice(None), slice(1, None)), (slice(None), slice(None, -1))),
        ((slice(1, None),), (slice(None, -1),)),
    ):
        differ = regions[one] != regions[other]
        # At most 9 regions in 100 colours: never a poor choice.
        assert (distance[place[one], place[other]][differ] >= APART // 2).all()
    renumbered = np.random.default_rng(seed).permutation(40)[regions]
    np.testing.assert_array_equal(distinct_colors(renumbered)[renumbered], colors)


def test_many_regions_share_colors_but_never_with_a_neighbour():
    regions = np.arange(40 * 40).reshape(40, 40)
    colors = distinct_colors(regions)[regions]
    assert (colors[:, 1:] != colors[:, :-1]).any(-1).all()
    assert (colors[1:] != colors[:-1]).any(-1).all()


def test_as_many_colors_are_used_as_there_are():
    row = np.arange(60)[None]
    assert len(np.unique(distinct_colors(row), axis=0)) == 60
