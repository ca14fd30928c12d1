"""Cells and pixels at any resolution, regions and their SVG outlines."""

import re

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tcformer.errors import UserError
from tcformer.viz import (
    mean_colors,
    paint_tokens,
    pixel_tokens,
    region_mask,
    token_at,
    token_paths,
)

sides = st.integers(1, 60)


def partition(seen, most=7, seed=0):
    cells = -(-seen[0] // 4) * -(-seen[1] // 4)
    return np.random.default_rng(seed).integers(0, most, cells)


@settings(max_examples=30, deadline=None)
@given(sides, sides, sides, sides)
def test_a_pixel_belongs_to_the_cell_that_its_centre_lies_in(height, width, seen_h, seen_w):
    tokens = pixel_tokens(partition((seen_h, seen_w), 99), (height, width), seen=(seen_h, seen_w))
    grid = partition((seen_h, seen_w), 99).reshape(-(-seen_h // 4), -1)
    for y in range(height):
        row = (2 * y + 1) * seen_h // (2 * height) // 4
        for x in range(width):
            column = (2 * x + 1) * seen_w // (2 * width) // 4
            assert tokens[y, x] == grid[row, column]


@settings(max_examples=20, deadline=None)
@given(st.tuples(sides, sides), st.tuples(sides, sides))
def test_means_are_over_the_pixels_of_the_picture_not_of_what_the_network_saw(size, seen):
    image = np.random.default_rng(0).integers(0, 256, (*size, 3), dtype=np.uint8)
    cells = partition(seen)
    colors = mean_colors(image, cells, seen=seen)
    tokens = pixel_tokens(cells, size, seen=seen)
    for token in np.unique(tokens):
        expected = np.floor(image[tokens == token].mean(axis=0) + 0.5 + 1e-9)
        assert (colors[token] == expected).all()


def test_the_mask_of_a_token_and_the_token_at_a_point_agree():
    size, seen = (37, 53), (24, 32)
    cells = partition(seen)
    tokens = pixel_tokens(cells, size, seen=seen)
    for y in range(0, 37, 5):
        for x in range(0, 53, 5):
            token = token_at(cells, (x, y), size, seen=seen)
            assert token == token_at(cells, (x + 0.99, y + 0.5), size, seen=seen)
            mask = region_mask(cells, token, size, seen=seen)
            assert mask[y, x]
            np.testing.assert_array_equal(mask, tokens == token)
    both = region_mask(cells, [1, 2], size, seen=seen)
    np.testing.assert_array_equal(both, (tokens == 1) | (tokens == 2))


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: token_at(partition((8, 8)), (8, 0), (8, 8)), "8,0 lies outside .* x from 0 to 7"),
        (lambda: token_at(partition((8, 8)), (0, -1), (8, 8)), "lies outside"),
        (lambda: token_at(partition((8, 8)), (float("nan"), 1), (8, 8)), "lies outside"),
        (lambda: region_mask([0, 0, 1, 1], 2, (8, 8)), "there is no token 2: the map holds 0 to 1"),
        (lambda: region_mask([0, 0, 1, 1], -1, (8, 8)), "there is no token -1"),
        (lambda: pixel_tokens([0, -1, 1, 1], (8, 8)), "numbers from 0, not -1"),
        (lambda: pixel_tokens(partition((8, 8)), (80, 80), seen=(12, 8)), "3 x 2 = 6 cells"),
    ],
)
def test_what_is_not_there_is_refused(call, words):
    with pytest.raises(UserError, match=words):
        call()


def corners(path):
    """The polygons of path data, M H V Z alone."""
    polygons = []
    for command, x, y in re.findall(r"([MHVZ])([\d.]*) ?([\d.]*)", path):
        if command == "M":
            polygons.append([(float(x), float(y))])
        elif command == "H":
            polygons[-1].append((float(x), polygons[-1][-1][1]))
        elif command == "V":
            polygons[-1].append((polygons[-1][-1][0], float(x)))
    return polygons


@pytest.mark.parametrize(("size", "seen"), [((30, 45), (30, 45)), ((90, 30), (30, 45))])
def test_the_svg_outline_of_a_token_encloses_its_pixels(size, seen):
    cells = partition(seen, 4)
    tokens = pixel_tokens(cells, size, seen=seen)
    paths = token_paths(cells, size, seen=seen)
    assert list(paths) == np.unique(cells).tolist()
    for token, path in paths.items():
        # A centre is inside when the upright sides on its left wind around it.
        y, x = np.mgrid[: size[0], : size[1]] + 0.5
        winding = np.zeros(size, int)
        for polygon in corners(path):
            for (x1, y1), (_, y2) in zip(polygon, polygon[1:] + polygon[:1], strict=True):
                between = (min(y1, y2) < y) & (y < max(y1, y2)) & (x1 < x)
                winding[between] += 1 if y2 < y1 else -1
        np.testing.assert_array_equal(winding, tokens == token)


def test_a_picture_of_full_resolution_is_painted_at_its_own():
    rng = np.random.default_rng(0)
    image = rng.integers(0, 256, (61, 83, 3), dtype=np.uint8)
    cells = partition((24, 32))
    painted = paint_tokens(image, cells, seen=(24, 32), scale=1, outline=False)
    tokens = pixel_tokens(cells, (61, 83), seen=(24, 32))
    assert painted.shape == image.shape
    colors = mean_colors(image, cells, seen=(24, 32))
    np.testing.assert_array_equal(painted, colors[tokens])
    half = paint_tokens(image, cells, seen=(24, 32), scale=1, outline=False, opacity=50)
    np.testing.assert_array_equal(half, (image.astype(int) + painted + 1) // 2)
    for nothing in ({"opacity": 0}, {"fill": "none"}):
        none = paint_tokens(image, cells, seen=(24, 32), scale=1, outline=False, **nothing)
        np.testing.assert_array_equal(none, image)
