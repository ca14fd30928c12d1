"""The affine map between a photograph and the network's input."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tcformer.data.keypoints.crop import (
    Crop,
    after_mirroring,
    crop_of_box,
    warp,
)


def test_published_convention():
    """x_img = x_hm 200 s / W_hm + c - 100 s, no half-pixel term."""
    crop = crop_of_box(np.array([10.0, 20.0, 60.0, 40.0]), 192, 256)
    np.testing.assert_allclose(crop.center, [40, 40])
    np.testing.assert_allclose(crop.size, [75, 100])  # 60 wide needs 80 high, times 1.25
    found = crop.to_photograph(np.array([[0.0, 0.0], [24.0, 32.0], [47.0, 63.0]]), 48, 64)
    expected = np.array([[0, 0], [24, 32], [47, 63]]) * [75 / 48, 100 / 64] + [2.5, -10]
    np.testing.assert_allclose(found, expected)


def test_unbiased_convention_maps_ends_to_ends():
    crop = crop_of_box(np.array([10.0, 20.0, 60.0, 80.0]), 192, 256, padding=1.0, unbiased=True)
    corners = np.array([[10.0, 20.0], [70.0, 100.0]])
    np.testing.assert_allclose(crop.to_input(corners, 192, 256), [[0, 0], [191, 255]], atol=1e-9)


@settings(max_examples=30, deadline=None)
@given(st.floats(1, 500), st.floats(1, 500), st.floats(-90, 90), st.booleans(), st.floats(-50, 700))
def test_there_and_back(w, h, degrees, unbiased, x):
    crop = crop_of_box(np.array([5.0, 7.0, w, h]), 192, 256, unbiased=unbiased)
    crop = replace(crop, degrees=degrees)
    points = np.array([[x, 3.0], [0.0, x]])
    back = crop.to_photograph(crop.to_input(points, 192, 256), 192, 256)
    np.testing.assert_allclose(back, points, atol=1e-6)


def test_rotation_is_counter_clockwise_as_seen():
    crop = Crop(np.array([50.0, 50.0]), np.array([100.0, 100.0]), degrees=90)
    right_of_center = crop.to_input(np.array([70.0, 50.0]), 100, 100)
    np.testing.assert_allclose(right_of_center, [50, 30], atol=1e-9)  # now above it


def test_warp_reads_what_the_matrix_says():
    random = np.random.RandomState(0)
    image = torch.from_numpy(random.randint(0, 256, (40, 50, 3)).astype(np.uint8))
    whole = np.array([[1.0, 0, 0], [0, 1.0, 0]])
    same = warp(image, whole, 50, 40)
    torch.testing.assert_close(same, image.permute(2, 0, 1).float(), atol=1e-2, rtol=0)
    moved = warp(image, np.array([[1.0, 0, -3], [0, 1.0, -2.5]]), 20, 10)
    want = (image[2:12, 3:23].float() + image[3:13, 3:23].float()) / 2
    torch.testing.assert_close(moved, want.permute(2, 0, 1), atol=1e-2, rtol=0)


def test_warp_is_black_outside():
    image = torch.full((8, 8, 3), 200, dtype=torch.uint8)
    away = warp(image, np.array([[1.0, 0, 100], [0, 1.0, 0]]), 16, 8)
    assert not away.any()
    half = warp(image, np.array([[1.0, 0, 0.5], [0, 1.0, 0]]), 4, 8)
    torch.testing.assert_close(half[0, 0], torch.tensor([100.0, 200, 200, 200]), atol=0.05, rtol=0)


def test_mirrored_matrix_reads_the_mirrored_picture():
    image = torch.from_numpy(np.random.RandomState(1).randint(0, 256, (30, 20, 3)).astype(np.uint8))
    matrix = replace(crop_of_box(np.array([2.0, 3.0, 10.0, 20.0]), 24, 32), degrees=20.0).matrix(
        24, 32
    )
    direct = warp(image.flip(1), matrix, 24, 32)
    torch.testing.assert_close(
        warp(image, after_mirroring(matrix, 20), 24, 32), direct, atol=0.02, rtol=0
    )


@pytest.mark.parametrize("box", [[0, 0, 0, 5], [0, 0, 5, -1], [0, np.nan, 5, 5], [0, 0, np.inf, 1]])
def test_no_area(box):
    with pytest.raises(ValueError, match="above zero"):
        crop_of_box(np.array(box, float), 192, 256)
