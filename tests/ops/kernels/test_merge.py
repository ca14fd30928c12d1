import pytest
import torch

from tcformer.ops import merge_tokens
from tcformer.tokens import Tokens, grid_layout


def case(device, batch=2, grid=(3, 4), channels=3, clusters=5, dtype=torch.float64):
    g = torch.Generator().manual_seed(channels)
    tokens = grid[0] * grid[1]
    x = torch.randn(batch, tokens, channels, generator=g, dtype=dtype).to(device)
    label = torch.randint(clusters - 1, (batch, tokens), generator=g).to(device)  # the last: empty
    score = torch.randn(batch, tokens, generator=g, dtype=dtype).to(device)
    return Tokens(x, grid_layout(batch, grid, x.device)), label, clusters, score


@pytest.mark.parametrize(("grid", "channels", "weighted"), [((3, 4), 3, False), ((8, 8), 70, True)])
def test_equals_the_definition(device, grid, channels, weighted):
    tokens, label, clusters, score = case(device, grid=grid, channels=channels)
    score = score if weighted else None
    expected = merge_tokens(tokens, label, clusters, log_weight=score, impl="reference")
    actual = merge_tokens(tokens, label, clusters, log_weight=score, impl="triton")
    torch.testing.assert_close(actual.x, expected.x)
    torch.testing.assert_close(actual.layout.cell_weight, expected.layout.cell_weight)
    assert torch.equal(actual.layout.cell_to_token, expected.layout.cell_to_token)


def test_gradient_of_features_and_scores(device):
    tokens, label, clusters, score = case(device)
    inputs = (tokens.x.requires_grad_(), score.requires_grad_())
    factor = torch.linspace(-1, 1, 2 * clusters * 3, dtype=torch.float64, device=device)

    def gradients(impl):
        merged = merge_tokens(tokens, label, clusters, log_weight=score, impl=impl)
        return torch.autograd.grad((merged.x.flatten() * factor).sum(), inputs)

    for ours, theirs in zip(gradients("triton"), gradients("eager"), strict=True):
        torch.testing.assert_close(ours, theirs)


@pytest.mark.parametrize("level", [-200.0, 60.0, 3e4])
def test_scores_of_any_size(device, level):
    tokens, label, clusters, score = case(device, dtype=torch.float32)
    options = {"log_weight": score + level}
    merged = merge_tokens(tokens, label, clusters, **options, impl="triton")
    expected = merge_tokens(tokens, label, clusters, **options, impl="eager")
    assert merged.x.isfinite().all()
    torch.testing.assert_close(merged.x, expected.x)


def test_half_precision_is_merged_in_float32(device):
    tokens, label, clusters, score = case(device, dtype=torch.float32)
    half = tokens._replace(x=tokens.x.bfloat16())
    merged = merge_tokens(half, label, clusters, log_weight=score, impl="triton")
    wide = tokens._replace(x=half.x.float())
    expected = merge_tokens(wide, label, clusters, log_weight=score, impl="triton")
    assert torch.equal(merged.x, expected.x)
