"""Heat maps and back: the published decoding, round trips, targets."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tcformer.data.keypoints import layout
from tcformer.data.keypoints.codec import METHODS, HeatmapCodec
from tcformer.data.keypoints.crop import Crop

GOLDEN = Path(__file__).parents[2] / "golden" / "tasks" / "decode.npz"


@pytest.fixture(scope="module")
def golden():
    with np.load(GOLDEN) as file:
        return dict(file)


@pytest.fixture(scope="module")
def crops(golden):
    pairs = zip(golden["center"], golden["scale"], strict=True)
    return [Crop(c.astype(float), s.astype(float) * 200) for c, s in pairs]


CLASSIC = HeatmapCodec((192, 256), (48, 64))


def test_published_decoding(golden, crops):
    points, scores = CLASSIC.decode(torch.from_numpy(golden["heatmaps"]), crops)
    np.testing.assert_allclose(points, golden["preds_noflip"], atol=1e-5)
    np.testing.assert_array_equal(scores, golden["scores_noflip"][..., 0])


def test_published_flip_test(golden, crops):
    mirror = torch.from_numpy(layout("coco_wholebody").mirror[:17].copy())
    merged = CLASSIC.average_with_mirrored(
        torch.from_numpy(golden["heatmaps"]),
        torch.from_numpy(golden["heatmaps_flipped_input"]),
        mirror,
    )
    np.testing.assert_array_equal(merged.numpy(), golden["merged"])
    points, scores = CLASSIC.decode(merged, crops)
    np.testing.assert_allclose(points, golden["preds_flip"], atol=1e-5)
    np.testing.assert_array_equal(scores, golden["scores_flip"][..., 0])


@pytest.mark.parametrize("method", METHODS)
@settings(max_examples=15, deadline=None)
@given(data=st.data())
def test_round_trip(method, data):
    """What is encoded is found again: exactly but for rounding, or within the classic's cell."""
    codec = HeatmapCodec((192, 256), (48, 64), method=method)
    box = [data.draw(st.floats(1, 300)) for _ in range(4)]
    crop = codec.crop(np.array(box))
    # Anywhere in the input, up to its border.
    inside = np.array([[data.draw(st.floats(0, 191)), data.draw(st.floats(0, 255))]])
    target, weight = codec.encode(inside, np.ones(1))
    assert weight.tolist() == [1.0]
    points, scores = codec.decode(torch.from_numpy(target)[None], [crop])
    found = crop.to_input(points[0], 192, 256)
    if method == "classic":
        # A rounded cell (2 px), of which the last ones round to one beyond the map; a symmetric
        # peak has no higher neighbour, so no quarter is added.
        beyond = inside[0] + 2 >= [192, 256]
        assert (np.abs(found - inside)[0] <= np.where(beyond, 4, 2) + 1e-6).all()
        assert scores[0, 0] == 1 or beyond.any()
    else:
        np.testing.assert_allclose(found, inside, atol=0.02)
        assert 0.8 < scores[0, 0] <= 1


@pytest.mark.parametrize("method", ["dark", "udp"])
def test_exact_codecs_are_exact_up_to_the_border(method):
    """Of sharp and wide peaks, small maps and large ones."""
    for size, sigma in (((192, 256), 2.0), ((32, 48), 1.5), ((288, 384), 3.0)):
        codec = HeatmapCodec(size, (size[0] // 4, size[1] // 4), sigma=sigma, method=method)
        crop = codec.crop(np.array([0.0, 0, *size]))
        edge = [0.0, 1.3, 4.0, 9.7, 17.2]
        points = np.array([[x, y] for x in edge for y in edge])
        points = np.concatenate([points, np.array(size) - 1 - points])
        target, _ = codec.encode(points, np.ones(len(points)))
        found = crop.to_input(codec.decode(torch.from_numpy(target)[None], [crop])[0][0], *size)
        np.testing.assert_allclose(found, points, atol=0.05)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("size", [(2, 2), (5, 2), (3, 3)])
def test_tiny_heat_maps(method, size):
    """Too small for a step between cells: the highest cell is where the keypoint is."""
    codec = HeatmapCodec((4 * size[0], 4 * size[1]), size, method=method)
    heatmaps = torch.zeros(1, 1, size[1], size[0])
    heatmaps[0, 0, 1, 0] = 1
    cells, scores = codec.peaks(heatmaps)
    assert cells[0, 0].tolist() == [0, 1]
    assert scores.tolist() == [[1]]


def test_targets_of_the_published_recipe():
    points = np.array(
        [[100.0, 60.0], [1.9, 2.1], [-27.0, 40.0], [-33.0, 40.0], [-37.0, 40.0], [50.0, 50.0]]
    )
    visible = np.array([2, 0.04, 1, 1, 1, 0])
    target, weight = CLASSIC.encode(points, visible)
    assert target.dtype == np.float32
    # Peaks 6, 7 and 8 cells outside: a column is left, nothing is (but it counts, as published),
    # left out. The last keypoint is not labeled.
    assert weight.tolist() == [1, 1, 1, 1, 0, 0]
    assert np.unravel_index(target[0].argmax(), (64, 48)) == (15, 25)
    assert target[0].max() == 1
    assert np.count_nonzero(target[0]) == 13 * 13
    assert np.isclose(target[0, 15, 27], np.exp(-4 / 8))
    assert np.unravel_index(target[1].argmax(), (64, 48)) == (1, 0)
    assert np.flatnonzero(target[2].max(0)).tolist() == [0]  # one column of thirteen is inside
    assert not target[3:].any()


def test_nothing_found():
    crop = CLASSIC.crop(np.array([0, 0, 90.0, 120.0]))
    heatmaps = torch.full((1, 2, 64, 48), -1.0)
    heatmaps[0, 1] = 0
    points, scores = CLASSIC.decode(heatmaps, [crop])
    assert scores.tolist() == [[-1, 0]]
    expected = crop.to_photograph(np.array([-1.0, -1.0]), 48, 64)
    np.testing.assert_allclose(points[0], [expected, expected])
    assert CLASSIC.decode(torch.zeros((0, 3, 64, 48)), [])[0].shape == (0, 3, 2)


def test_mirroring_agrees_with_the_mirrored_picture():
    """A keypoint of the mirrored input comes back to where it is, within a quarter of a cell."""
    for method in ("classic", "udp"):
        codec = HeatmapCodec((192, 256), (48, 64), method=method)
        straight = np.array([[96.4, 120.0]])
        mirrored = np.array([[191 - 96.4, 120.0]])
        maps = [
            torch.from_numpy(codec.encode(p, np.ones(1))[0])[None] for p in (straight, mirrored)
        ]
        merged = codec.average_with_mirrored(*maps, torch.tensor([0]))
        crop = codec.crop(np.array([0.0, 0, 192 / 1.25, 256 / 1.25]))
        found = crop.to_input(codec.decode(merged, [crop])[0][0], 192, 256)
        assert np.abs(found - straight).max() <= (4 * 0.5 if method == "classic" else 2e-3)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"method": "dork"}, "did you mean dark"),
        ({"sigma": 0}, "sigma above zero"),
        ({"heatmap_size": (1, 64)}, "two or more"),
    ],
)
def test_refusals(arguments, words):
    with pytest.raises(ValueError, match=words):
        HeatmapCodec(**{"input_size": (192, 256), "heatmap_size": (48, 64), **arguments})


def test_wrong_size_of_heat_maps():
    with pytest.raises(ValueError, match="48 x 60"):
        CLASSIC.decode(torch.zeros(1, 1, 60, 48), [CLASSIC.crop(np.array([0, 0, 1.0, 1.0]))])
