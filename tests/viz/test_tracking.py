"""Tokens followed through stages; their sizes and the detail below them."""

from itertools import pairwise

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tcformer.errors import UserError
from tcformer.viz import (
    contributions,
    families,
    family_colors,
    gradient_magnitude,
    layout_maps,
    parents,
    relatives,
    size_against_detail,
    sizes_by_detail,
    token_areas,
)
from tcformer.zoo import create_model


def nested(seed, cells=40, counts=(40, 17, 6, 2)):
    """Maps as merges make them: every token of a stage lies in one of the next."""
    rng = np.random.default_rng(seed)
    maps = [rng.permutation(cells)]
    for before, count in pairwise(counts):
        merge = np.concatenate([np.arange(count), rng.integers(0, count, before - count)])
        maps.append(rng.permutation(merge)[maps[-1]])
    return maps


maps_of_an_image = st.integers(0, 2**32 - 1).map(nested)


@settings(max_examples=20, deadline=None)
@given(maps_of_an_image, st.integers(1, 4))
def test_parents_and_relatives_are_who_shares_cells(maps, stage):
    here = maps[stage - 1]
    for later in maps[stage - 1 :]:
        np.testing.assert_array_equal(parents(here, later)[here], later)
    for token in np.unique(here):
        found = relatives(maps, stage, token)
        for cell_map, names in zip(maps, found, strict=True):
            assert names.tolist() == sorted(set(cell_map[here == token]))


@settings(max_examples=20, deadline=None)
@given(maps_of_an_image, st.integers(1, 4))
def test_a_family_is_one_token_of_its_stage(maps, stage):
    here = maps[stage - 1]
    found = families(maps, stage)
    for s, (cell_map, family) in enumerate(zip(maps, found, strict=True), start=1):
        if s <= stage:
            np.testing.assert_array_equal(family[cell_map], here)
            continue
        for token in np.unique(cell_map):
            counts = np.bincount(here[cell_map == token])
            assert family[token] == counts.argmax()  # the lowest of equals


def test_a_family_shares_its_color_in_all_stages():
    """By default those of the last stage."""
    maps = nested(1, cells=5 * 8)
    painted = [
        colors[cells] for colors, cells in zip(family_colors(maps, (20, 30)), maps, strict=True)
    ]
    for picture in painted[:-1]:
        np.testing.assert_array_equal(picture, painted[-1])


@pytest.fixture(scope="module", params=["tcformer_nano", "tcformerv2_nano"])
def stages(request):
    torch.manual_seed(0)
    model = create_model(request.param, keep_ratio=0.4).eval()
    with torch.inference_mode():
        return model.forward_tokens(torch.randn(2, 3, 50, 70))


def test_a_networks_tokens_can_be_followed(stages):
    for image in (0, 1):
        maps = layout_maps(stages, image)
        for tokens, cells in zip(stages, maps, strict=True):
            assert np.unique(cells).tolist() == list(range(tokens.layout.num_tokens))
        found = relatives(maps, 4, 0)
        assert [len(names) for names in found][-1] == 1
        assert len(found[0]) == (maps[3] == 0).sum()


def test_contributions_are_the_shares_in_the_weighted_mean(stages):
    for image in (0, 1):
        maps = layout_maps(stages, image)
        for s in range(4):
            for t in range(s, 4):
                weight = stages[t].layout.cell_weight[image]
                share = contributions(maps[s], maps[t], weight)
                assert (share > 0).all()
                total = np.bincount(parents(maps[s], maps[t]), weights=share)
                np.testing.assert_allclose(total, 1, rtol=1e-5)
    # By the definition of merging: a token's share of the next is its weight there.
    first = contributions(maps[1], maps[2], stages[2].layout.cell_weight[1])
    again = stages[2].layout.cell_weight[1] / stages[1].layout.cell_weight[1]
    np.testing.assert_allclose(first[maps[1]], again, rtol=1e-4)


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: parents([0, 1], [0, 0, 0]), "2 and 3 cells"),
        (lambda: parents([0, 0, 1], [0, 1, 1]), "token 0 of the earlier map lies in two"),
        (lambda: parents([0.5], [0]), "integers"),
        (lambda: relatives([[0, 1], [0, 0]], 3, 0), "there is no stage 3: stages are 1 to 2"),
        (lambda: relatives([[0, 1], [0, 0]], 1, 2), "there is no token 2"),
        (lambda: families([[0, 1]], 0), "there is no stage 0"),
        (lambda: contributions([0, 1], [0, 0], [1.0]), "1 weights for 2 cells"),
    ],
)
def test_what_does_not_belong_together_is_refused(call, words):
    with pytest.raises(UserError, match=words):
        call()


def test_an_image_that_is_not_in_the_batch_is_refused(stages):
    with pytest.raises(UserError, match="no image 2 in this batch of 2"):
        layout_maps(stages, 2)


HALVES = np.array([[0, 0, 1, 2], [0, 0, 3, 4], [0, 0, 5, 6], [0, 0, 7, 8]])
"""16 x 16 pixels: the left half is one token, each cell of the right half is one."""


def test_the_gradient_of_ramps_and_edges():
    down, right = np.mgrid[:8, :12]
    gray = (3 * right + 4 * down).astype(np.uint8)
    assert gradient_magnitude(gray) == pytest.approx(np.full((8, 12), 5.0))
    edge = np.where(right < 6, 0, 100).astype(np.uint8)
    assert gradient_magnitude(edge)[0] == pytest.approx([0] * 5 + [50, 50] + [0] * 5)
    assert gradient_magnitude(np.full((4, 4, 3), 7, np.uint8)) == pytest.approx(np.zeros((4, 4)))


def test_colors_count_by_their_brightness():
    right = np.mgrid[:2, :6][1]
    for channel, weight in enumerate((0.299, 0.587, 0.114)):
        image = np.zeros((2, 6, 3), np.uint8)
        image[..., channel] = 10 * right
        assert gradient_magnitude(image) == pytest.approx(np.full((2, 6), 10 * weight))


def test_the_rim_cuts_cells_off():
    assert token_areas(HALVES, (16, 16)).tolist() == [128] + [16] * 8
    # 10 x 7 pixels are 3 x 2 cells; the last row has 2 pixels, the last column 3.
    cells = np.array([[0, 1], [0, 1], [2, 4]])
    assert token_areas(cells, (10, 7)).tolist() == [32, 24, 8, 0, 6]


def test_detail_with_the_small_tokens_and_with_the_large_one():
    gradient = np.zeros((16, 16))
    gradient[:, 8:] = 10
    for weigh in ("tokens", "insides", "cells"):
        assert size_against_detail(HALVES, gradient, weigh=weigh) == pytest.approx(-1)
        assert size_against_detail(HALVES, gradient[:, ::-1], weigh=weigh) == pytest.approx(1)


def test_an_edge_at_the_borders_counts_only_with_them():
    # Nothing but the outlines of the small tokens: their insides are as flat as the large token.
    gradient = np.zeros((16, 16))
    for edge in (8, 11, 12):  # at the rim of the picture, 15, is no border
        gradient[:, edge] = 10
    for edge in (3, 4, 7, 8, 11, 12):
        gradient[edge, 8:] = 10
    assert size_against_detail(HALVES, gradient, weigh="tokens") < -0.5
    assert np.isnan(size_against_detail(HALVES, gradient, weigh="insides"))
    gradient[1:3, 9:11] = 5  # the inside of one small token
    # Both lists have one rank 9 and eight 4.5, but not at the same token.
    found = size_against_detail(HALVES, gradient, weigh="insides")
    assert found == pytest.approx((-0.5 * 4 * 2 + 0.25 * 7) / 18)


def test_a_drawing_half_flat_half_textured():
    image = np.full((16, 16), 128, np.uint8)
    image[:, 8:] = np.random.default_rng(0).integers(0, 256, (16, 8))
    # Areas rank 9, 4.5 (eight times); gradients 1 for the flat half and 2 to 9 in some order:
    # covariance 4 * -4 + -0.5 * 4 = -18, variances 18 and 60.
    found = size_against_detail(HALVES, gradient_magnitude(image))
    assert found == pytest.approx(-18 / np.sqrt(18 * 60))


def test_nothing_can_be_said_of_equal_tokens_or_a_flat_picture():
    gradient = np.random.default_rng(0).random((16, 16))
    grid = np.arange(16).reshape(4, 4)
    for weigh in ("tokens", "insides", "cells"):
        assert np.isnan(size_against_detail(grid, gradient, weigh=weigh))
        assert np.isnan(size_against_detail(HALVES, np.full((16, 16), 0.1), weigh=weigh))


def test_sizes_by_detail():
    gradient = np.zeros((16, 16))
    gradient[:, 8:] = 10
    assert sizes_by_detail(HALVES, gradient, groups=2) == pytest.approx([128, 16])
    # Equal cells stay together: places 4.5 and 12.5 of 16 are the third tenth and the eighth.
    tenths = sizes_by_detail(HALVES, gradient)
    assert np.flatnonzero(~np.isnan(tenths)).tolist() == [2, 7]
    # Four cells in a row of rising gradient, the first two of them one token: 32 px, 16, 16.
    rising = np.repeat(np.arange(4.0), 4)[None].repeat(4, axis=0)
    assert sizes_by_detail([0, 0, 1, 2], rising, groups=4) == pytest.approx([32, 32, 16, 16])
    assert sizes_by_detail([0, 1, 1, 2], rising, groups=2) == pytest.approx([512**0.5] * 2)


@settings(max_examples=25, deadline=None)
@given(st.data(), st.integers(2, 13), st.integers(2, 13))
def test_laws(data, height, width):
    cells = -(-height // 4) * -(-width // 4)
    number = st.lists(st.integers(0, 5), min_size=cells, max_size=cells)
    tokens = np.array(data.draw(number))
    gradient = np.random.default_rng(data.draw(st.integers(0, 99))).random((height, width))
    assert token_areas(tokens, (height, width)).sum() == height * width
    for weigh in ("tokens", "insides", "cells"):
        found = size_against_detail(tokens, gradient, weigh=weigh)
        # The numbers of tokens mean nothing, nor does the unit of the gradient.
        assert size_against_detail(5 - tokens, 3 * gradient, weigh=weigh) == pytest.approx(
            found, nan_ok=True
        )
        assert size_against_detail(tokens, -gradient, weigh=weigh) == pytest.approx(
            -found, nan_ok=True
        )


def test_what_does_not_fit_is_refused():
    with pytest.raises(UserError, match="no gradient"):
        gradient_magnitude(np.zeros((1, 5), np.uint8))
    with pytest.raises(UserError, match="one number a pixel"):
        size_against_detail([0], np.zeros((4, 4, 3)))
    with pytest.raises(UserError, match="has shape"):
        size_against_detail(HALVES, np.zeros((20, 16)))
    with pytest.raises(UserError, match="'tokens', 'insides' or 'cells'"):
        size_against_detail(HALVES, np.zeros((16, 16)), weigh="pixels")
