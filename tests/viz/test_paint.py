"""Painting by tokens: properties that hold for every partition and every size."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tcformer.errors import UserError
from tcformer.viz import (
    enlarge,
    paint_tokens,
    pixel_tokens,
    token_borders,
)


def grid(height, width):
    return -(-height // 4), -(-width // 4)


def scene(height, width, num_tokens, seed=0):
    """A random image and a random partition of its cells into at most num_tokens tokens."""
    rng = np.random.default_rng(seed)
    image = rng.integers(0, 256, (height, width, 3), dtype=np.uint8)
    cells = rng.integers(0, num_tokens, np.prod(grid(height, width)))
    return image, cells


scenes = st.builds(
    scene,
    st.integers(1, 40),
    st.integers(1, 40),
    st.integers(1, 12),
    st.integers(0, 2**32 - 1),
)


@settings(max_examples=30, deadline=None)
@given(scenes)
def test_painting_keeps_the_mean_of_the_image(drawn):
    image, cells = drawn
    painted = paint_tokens(image, cells, outline=False, scale=1).astype(float)
    np.testing.assert_allclose(painted.mean((0, 1)), image.mean((0, 1)), atol=0.5 + 1e-9)


@settings(max_examples=30, deadline=None)
@given(scenes, st.integers(0, 100))
def test_numbers_of_tokens_have_no_meaning(drawn, shift):
    image, cells = drawn
    renumbered = (np.random.default_rng(shift).permutation(12) * 3 + shift)[cells]
    for fill in ("mean", "none", "palette"):
        np.testing.assert_array_equal(
            paint_tokens(image, cells, fill=fill), paint_tokens(image, renumbered, fill=fill)
        )


@settings(max_examples=30, deadline=None)
@given(scenes, st.integers(1, 3))
def test_outlines_lie_only_and_always_on_borders_of_tokens(drawn, scale):
    image, cells = drawn
    tokens = enlarge(pixel_tokens(cells, image.shape[:2]), scale)
    height, width = tokens.shape
    expected = np.zeros((height, width), bool)
    for dy, dx in ((0, 1), (0, -1), (1, 0), (-1, 0)):
        y = np.clip(np.arange(height) + dy, 0, height - 1)
        x = np.clip(np.arange(width) + dx, 0, width - 1)
        expected |= tokens[y][:, x] != tokens
    plain = paint_tokens(image, cells, outline=False, scale=scale)
    drawn_on = paint_tokens(image, cells, edge_color=(255, 0, 255), scale=scale)
    assert (drawn_on[expected] == (255, 0, 255)).all()
    np.testing.assert_array_equal(drawn_on[~expected], plain[~expected])


def test_each_unit_of_width_adds_one_pixel_on_each_side():
    tokens = np.zeros((12, 20), int)
    tokens[:, 10:] = 1
    for width in (1, 2, 3):
        columns = np.flatnonzero(token_borders(tokens, width=width).any(axis=0))
        assert columns.tolist() == list(range(10 - width, 10 + width))


def test_one_token_has_no_outline_and_the_rim_is_none():
    image = np.full((20, 12, 3), 9, np.uint8)
    picture = paint_tokens(image, np.zeros(15, int), edge_color=(255, 0, 0), scale=3)
    assert picture.shape == (60, 36, 3)
    assert (picture == 9).all()


def test_palette_tells_all_tokens_of_an_image_apart():
    painted = paint_tokens(
        np.zeros((64, 64, 3), np.uint8), np.arange(256), fill="palette", outline=False, scale=1
    )
    assert len(np.unique(painted[::4, ::4].reshape(-1, 3), axis=0)) == 256


@pytest.mark.parametrize("dtype", [torch.int64, torch.int32])
def test_tensors_and_arrays_give_the_same_picture_and_are_not_written_to(dtype):
    image, cells = scene(18, 22, 5)
    image_before, cells_before = image.copy(), cells.copy()
    from_arrays = paint_tokens(image, cells)
    from_tensors = paint_tokens(torch.from_numpy(image), torch.from_numpy(cells).to(dtype))
    np.testing.assert_array_equal(from_arrays, from_tensors)
    np.testing.assert_array_equal(image, image_before)
    np.testing.assert_array_equal(cells, cells_before)
    for shape in ((1, -1), grid(18, 22)):
        np.testing.assert_array_equal(paint_tokens(image, cells.reshape(shape)), from_arrays)


def test_grey_images_are_painted_grey():
    image, cells = scene(9, 14, 4)
    gray = image[..., 0]
    expected = paint_tokens(np.stack([gray] * 3, axis=-1), cells)
    np.testing.assert_array_equal(paint_tokens(gray, cells), expected)
    np.testing.assert_array_equal(paint_tokens(gray[..., None], cells), expected)


IMAGE = np.zeros((20, 28, 3), np.uint8)


@pytest.mark.parametrize(
    ("image", "cells", "options", "words"),
    [
        (IMAGE, np.zeros(36, int), {}, "5 x 7 = 35 cells"),
        (IMAGE, np.zeros((7, 5), int), {}, "5 x 7 = 35 cells"),
        (IMAGE, np.zeros((2, 35), int), {}, "one image"),
        (IMAGE, np.zeros(35), {}, "integers"),
        (IMAGE[None], np.zeros(35, int), {}, "viz.unnormalize"),
        (IMAGE.astype(float), np.zeros(35, int), {}, "viz.unnormalize"),
        (IMAGE[:0], np.zeros(0, int), {}, "shape"),
        (IMAGE, np.zeros(35, int), {"fill": "average"}, "mean, none, palette"),
        (IMAGE, np.zeros(35, int), {"width": 0}, "at least 0.5"),
        (IMAGE, np.zeros(35, int), {"scale": 0}, "at least 1"),
        (IMAGE, np.zeros(36, int), {"outline": False, "fill": "none"}, "35 cells"),
    ],
)
def test_what_cannot_be_painted_is_refused_with_a_reason(image, cells, options, words):
    with pytest.raises(UserError, match=words):
        paint_tokens(image, cells, **options)
