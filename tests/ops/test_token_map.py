import pytest
import torch

from tcformer.ops import map_to_tokens, plan_token_map, tokens_to_map, tokens_to_tokens
from tcformer.ops.regroup import export
from tcformer.tokens import Layout, Tokens, grid_layout, pixel_of_cell

CPU = torch.device("cpu")


def layout(num_tokens=6, grid=(5, 7), map_size=(3, 4), batch=2, seed=0):
    g = torch.Generator().manual_seed(seed)
    cells = torch.randint(num_tokens, (batch, grid[0] * grid[1]), generator=g)
    cells[:, :num_tokens] = torch.arange(num_tokens)
    weight = torch.rand(batch, grid[0] * grid[1], generator=g)
    return Layout(cells, num_tokens, grid, map_size, weight)


def features(shape, dtype=torch.float64):
    return torch.randn(shape, generator=torch.Generator().manual_seed(1), dtype=dtype)


def test_a_pixel_is_the_mean_of_its_cells():
    lay = layout()
    x = features((2, 6, 3))
    feature_map = tokens_to_map(Tokens(x, lay))
    pixels = pixel_of_cell(lay.grid_size, lay.map_size, CPU)
    for pixel in range(12):
        cells = lay.cell_to_token[0][pixels == pixel]
        expected = x[0, cells].sum(0) / (len(cells) + 1e-6)
        torch.testing.assert_close(feature_map[0, :, pixel // 4, pixel % 4], expected)


def test_a_token_is_the_mean_of_its_cells_whatever_their_weights():
    lay = layout()
    feature_map = features((2, 3, 3, 4))
    x = map_to_tokens(feature_map, lay)
    flat = feature_map.flatten(2)[:, :, pixel_of_cell(lay.grid_size, lay.map_size, CPU)]
    for token in range(6):
        cells = lay.cell_to_token[1] == token
        expected = flat[1][:, cells].sum(1) / (cells.sum() + 1e-6)
        torch.testing.assert_close(x[1, token], expected)


@pytest.mark.parametrize("limit", [0, 20])
@pytest.mark.parametrize(
    ("grid", "map_size", "tokens"),
    [((5, 7), (3, 4), 6), ((8, 8), (4, 4), 64), ((5, 6), (3, 3), 30), ((9, 4), (2, 1), 5)],
)
def test_plans_for_exports_convert_the_same(monkeypatch, limit, grid, map_size, tokens):
    monkeypatch.setattr(export, "GATHER_LIMIT", limit)
    whole = tokens == grid[0] * grid[1]
    lay = grid_layout(2, grid, CPU) if whole else layout(tokens, grid, map_size)
    x, feature_map = features((2, tokens, 3)), features((2, 3, *map_size))
    plan = plan_token_map(lay, map_size, dtype=x.dtype, impl="export")
    actual = tokens_to_map(Tokens(x, lay), plan=plan)
    torch.testing.assert_close(actual, tokens_to_map(Tokens(x, lay), map_size))
    torch.testing.assert_close(
        map_to_tokens(feature_map, lay, plan=plan), map_to_tokens(feature_map, lay)
    )


def test_tokens_to_tokens_weighs_cells_as_the_target_does():
    source, target = layout(seed=2), layout(num_tokens=4, seed=3)
    x = features((2, 6, 3))
    out = tokens_to_tokens(Tokens(x, source), target)
    cells = target.cell_to_token[0] == 2
    weight = target.cell_weight[0][cells].double()
    picked = x[0, source.cell_to_token[0][cells]]
    expected = (weight[:, None] * picked).sum(0) / (weight.sum() + 1e-6)
    torch.testing.assert_close(out[0, 2], expected)


def test_at_grid_resolution_the_way_there_and_back_is_exact():
    lay = grid_layout(2, (4, 5), CPU)
    x = features((2, 20, 3), torch.float32)
    feature_map = tokens_to_map(Tokens(x, lay))
    assert feature_map.shape == (2, 3, 4, 5)
    assert torch.equal(map_to_tokens(feature_map, lay), x)


@pytest.mark.parametrize("size", [(1, 1), (2, 3), (9, 11)])
def test_any_map_size(size):
    lay = layout()
    constant = torch.ones(2, 6, 1)
    feature_map = tokens_to_map(Tokens(constant, lay), size)
    assert feature_map.shape == (2, 1, *size)
    if size <= lay.grid_size:
        torch.testing.assert_close(feature_map, torch.ones_like(feature_map), rtol=0, atol=2e-6)


def test_permuting_tokens_permutes_the_answer():
    lay = layout()
    x = features((2, 6, 3))
    order = torch.tensor([3, 1, 5, 0, 2, 4])
    renumbered = lay._replace(cell_to_token=order.argsort()[lay.cell_to_token])
    torch.testing.assert_close(
        tokens_to_map(Tokens(x[:, order], renumbered)), tokens_to_map(Tokens(x, lay))
    )
    feature_map = features((2, 3, 3, 4))
    torch.testing.assert_close(
        map_to_tokens(feature_map, renumbered), map_to_tokens(feature_map, lay)[:, order]
    )


def test_gradients():
    lay = layout()
    x = features((2, 6, 2)).requires_grad_()
    feature_map = features((2, 2, 3, 4)).requires_grad_()
    assert torch.autograd.gradcheck(lambda x: tokens_to_map(Tokens(x, lay)), x)
    assert torch.autograd.gradcheck(lambda p: map_to_tokens(p, lay), feature_map)
    target = layout(num_tokens=4, seed=3)
    assert torch.autograd.gradcheck(lambda x: tokens_to_tokens(Tokens(x, lay), target), x)


def test_refuses_what_does_not_fit():
    lay = layout()
    with pytest.raises(ValueError, match="the plan is for a map"):
        map_to_tokens(torch.zeros(2, 3, 5, 5), lay, plan=plan_token_map(lay))
    with pytest.raises(ValueError, match="the grids differ"):
        tokens_to_tokens(Tokens(torch.zeros(2, 6, 1), lay), layout(grid=(7, 5)))
