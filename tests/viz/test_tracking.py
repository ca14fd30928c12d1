"""Tokens followed through stages, against a slow definition and a real network."""

from itertools import pairwise

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tcformer.errors import UserError
from tcformer.viz import (
    children,
    contributions,
    families,
    family_colors,
    layout_maps,
    parents,
    relatives,
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


@settings(max_examples=30, deadline=None)
@given(maps_of_an_image)
def test_parents_and_children_are_who_shares_cells(maps):
    for s, earlier in enumerate(maps):
        for later in maps[s:]:
            parent = parents(earlier, later)
            for token in np.unique(earlier):
                assert set(later[earlier == token]) == {parent[token]}
            for token in np.unique(later):
                expected = sorted(set(earlier[later == token]))
                assert children(earlier, later, token).tolist() == expected


@settings(max_examples=30, deadline=None)
@given(maps_of_an_image, st.integers(1, 4))
def test_relatives_are_those_who_share_cells(maps, stage):
    here = maps[stage - 1]
    for token in np.unique(here):
        found = relatives(maps, stage, token)
        for cell_map, names in zip(maps, found, strict=True):
            assert names.tolist() == sorted(set(cell_map[here == token]))


@settings(max_examples=30, deadline=None)
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


def test_families_are_those_of_the_last_stage_by_default():
    maps = nested(0)
    for one, other in zip(families(maps), families(maps, 4), strict=True):
        np.testing.assert_array_equal(one, other)


def test_a_family_shares_its_color_in_all_stages():
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
        (lambda: children([0, 1], [0, 0], 1), "there is no token 1"),
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
