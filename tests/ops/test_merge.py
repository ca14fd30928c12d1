import pytest
import torch

from tcformer.ops import merge_tokens
from tcformer.ops.regroup import export
from tcformer.tokens import Layout, Tokens, grid_layout


def case(seed=0, batch=2, grid=(3, 4), channels=3, clusters=5, dtype=torch.float64):
    g = torch.Generator().manual_seed(seed)
    tokens = grid[0] * grid[1]
    x = torch.randn(batch, tokens, channels, generator=g, dtype=dtype)
    label = torch.randint(clusters, (batch, tokens), generator=g)
    label[:, :clusters] = torch.arange(clusters)
    score = torch.randn(batch, tokens, generator=g, dtype=dtype)
    return Tokens(x, grid_layout(batch, grid, x.device)), label, clusters, score


@pytest.mark.parametrize(("impl", "limit"), [("auto", 1000), ("export", 0), ("export", 1000)])
def test_equals_the_definition(monkeypatch, impl, limit):
    monkeypatch.setattr(export, "DENSE_LIMIT", limit)
    tokens, label, clusters, score = case(3)
    expected = merge_tokens(tokens, label, clusters, log_weight=score, impl="reference")
    actual = merge_tokens(tokens, label, clusters, log_weight=score, impl=impl)
    torch.testing.assert_close(actual.x, expected.x, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(actual.layout.cell_weight, expected.layout.cell_weight)
    assert torch.equal(actual.layout.cell_to_token, label)
    assert actual.layout[1:4] == (clusters, (3, 4), (2, 2))


def test_gradient_of_features_and_scores():
    tokens, label, clusters, score = case()

    def merged(x, s):
        return merge_tokens(tokens._replace(x=x), label, clusters, log_weight=s).x

    assert torch.autograd.gradcheck(merged, (tokens.x.requires_grad_(), score.requires_grad_()))


def test_weights_of_a_token_sum_to_one_over_two_merges():
    tokens, label, clusters, score = case(grid=(6, 6), clusters=9, dtype=torch.float32)
    once = merge_tokens(tokens, label, clusters, log_weight=score)
    again = torch.randint(4, (2, 9), generator=torch.Generator().manual_seed(1))
    again[:, :4] = torch.arange(4)
    twice = merge_tokens(once, again, 4, log_weight=once.x[..., 0])
    for layout in (once.layout, twice.layout):
        total = torch.zeros(2, layout.num_tokens)
        total.scatter_add_(1, layout.cell_to_token, layout.cell_weight)
        torch.testing.assert_close(total, torch.ones_like(total), rtol=0, atol=1e-4)
    assert torch.equal(twice.layout.cell_to_token, again.gather(1, label))


def test_no_scores_mean_a_plain_mean():
    tokens, label, clusters, _ = case()
    merged = merge_tokens(tokens, label, clusters, eps=0.0)
    for m in range(clusters):
        torch.testing.assert_close(merged.x[0, m], tokens.x[0, label[0] == m].mean(0))


@pytest.mark.parametrize("level", [-60.0, 60.0, 200.0, 3e4])
def test_scores_of_any_size(level):
    tokens, label, clusters, score = case(dtype=torch.float32)
    merged = merge_tokens(tokens, label, clusters, log_weight=score + level)
    assert merged.x.isfinite().all()
    if level > 0:  # far above eps the level cancels
        plain = merge_tokens(tokens, label, clusters, log_weight=score.double(), eps=0.0)
        assert (merged.x - plain.x).abs().max() < 0.01
    else:  # far below eps, the published formula's denominator wins
        assert merged.x.abs().max() < 1e-15


def test_scores_far_apart_inside_a_cluster():
    tokens, _, _, _ = case(dtype=torch.float32)
    score = torch.zeros(2, 12)
    score[:, 5] = 500.0
    merged = merge_tokens(tokens, torch.zeros(2, 12, dtype=torch.long), 1, log_weight=score)
    torch.testing.assert_close(merged.x[:, 0], tokens.x[:, 5])


def test_half_precision_features_are_merged_in_float32():
    tokens, label, clusters, score = case(dtype=torch.bfloat16)
    merged = merge_tokens(tokens, label, clusters, log_weight=score)
    assert merged.x.dtype == torch.float32
    exact = merge_tokens(tokens._replace(x=tokens.x.double()), label, clusters, log_weight=score)
    assert (merged.x - exact.x).abs().max() < 1e-5


def test_refuses_what_does_not_fit():
    tokens, label, clusters, score = case()
    with pytest.raises(ValueError, match="assignment must have shape"):
        merge_tokens(tokens, label[:, :3], clusters)
    with pytest.raises(ValueError, match="log_weight must have shape"):
        merge_tokens(tokens, label, clusters, log_weight=score[:1])
    with pytest.raises(ValueError, match="no implementation"):
        merge_tokens(tokens, label, clusters, impl="x")


def test_nothing_is_written_in_place():
    tokens, label, clusters, score = case()
    before = (tokens.x.clone(), label.clone(), score.clone())
    assert isinstance(merge_tokens(tokens, label, clusters, log_weight=score).layout, Layout)
    assert all(map(torch.equal, before, (tokens.x, label, score)))
