"""Skeletons on pictures."""

from __future__ import annotations

import numpy as np
import pytest

from tcformer.data.keypoints import layout
from tcformer.errors import UserError
from tcformer.viz.skeleton import PART_COLOURS, draw_skeleton

STICKS = layout("sticks")
GREY = np.full((60, 80, 3), 50, np.uint8)


def drawn(points, scores, **options):
    return draw_skeleton(GREY, points, scores, STICKS.links, parts=STICKS.parts, **options)


def figure():
    random = np.random.RandomState(0)
    return random.uniform(10, 50, (1, 11, 2)), np.ones((1, 11))


def test_the_lines_are_where_the_keypoints_are():
    points, scores = figure()
    picture = drawn(points, scores)
    assert picture.shape == GREY.shape
    assert (GREY == 50).all()  # the picture itself is not drawn on
    for x, y in points[0].round().astype(int):
        np.testing.assert_allclose(picture[y, x], PART_COLOURS["body"], atol=60)
    middle = ((points[0, 0] + points[0, 1]) / 2).round().astype(int)
    assert picture[middle[1], middle[0], 1] > 150
    assert (drawn(points, scores) == picture).all()


def test_what_is_left_out():
    points, scores = figure()
    assert (drawn(points, scores * 0.2, threshold=0.2) == GREY).all()
    assert (drawn(points + 500, scores) == GREY).all()
    points[0, 3] = np.nan
    assert (drawn(points, scores) != GREY).any()
    assert (drawn(points[:0], scores[:0]) == GREY).all()


def test_keypoints_partly_outside():
    points, scores = figure()
    points[0, 0] = [-30, -30]
    assert (drawn(points, scores) != GREY).any()


def test_keypoints_far_beyond_the_picture():
    """Lines to them are drawn, and none of them covers the picture."""
    points, scores = figure()
    points[0, 3:] *= 1e12
    picture = drawn(points, scores)
    assert 0 < (picture != GREY).any(axis=2).mean() < 0.5


def test_shapes_are_checked():
    points, scores = figure()
    with pytest.raises(UserError, match="skeletons need points"):
        drawn(points[0], scores)
    with pytest.raises(UserError, match="skeletons need points"):
        drawn(points, scores[:, :5])
