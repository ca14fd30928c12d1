"""Going through a batch in chunks changes memory and time, nothing else."""

import pytest
import torch
from compiled import Graphs

from tcformer.models import layers
from tcformer.models.tcformer import GridMlp, TokenMlp
from tcformer.ops import csrc, linear, plan_token_map
from tcformer.ops.token_conv import chunked
from tcformer.tokens import Layout, grid_layout

needs_cpp = pytest.mark.skipif(
    csrc.library() is None, reason="only the C++ kernels do it in chunks"
)


def grid_plan(batch=3):
    return plan_token_map(grid_layout(batch, (5, 6), torch.device("cpu")))


def calls(monkeypatch, which):
    """The MLP, a function that runs it on three images, and how many each call of fc1 saw."""
    monkeypatch.setattr(chunked, "CHUNK", 1)
    monkeypatch.setattr(torch, "get_num_threads", lambda: 0)
    g = torch.Generator().manual_seed(0)
    torch.manual_seed(0)
    if which == "grid":
        net, x, plan = GridMlp(8, 40, drop=0.5), torch.randn(3, 30, 8, generator=g), grid_plan()
    else:
        cells = torch.randint(7, (3, 30), generator=g)
        cells[:, :7] = torch.arange(7)
        plan = plan_token_map(Layout(cells, 7, (5, 6), (3, 3), torch.ones(3, 30)))
        net, x = TokenMlp(8, 40, drop=0.5), torch.randn(3, 7, 8, generator=g)
    seen = []

    def watched(part, weight, bias):
        if weight is net.fc1.weight:
            seen.append(part.shape[0])
        return linear(part, weight, bias)

    for module in (layers, chunked):
        monkeypatch.setattr(module, "linear", watched)
    return net.eval(), lambda: net(x, plan), seen


@needs_cpp
@pytest.mark.parametrize("which", ["grid", "tokens"])
def test_chunks_give_what_the_whole_gives(monkeypatch, which):
    _, run, seen = calls(monkeypatch, which)
    with torch.no_grad():
        chunks = run()
    assert seen == [1, 1, 1]
    whole = run()
    assert seen[3:] == [3]
    assert whole.requires_grad
    torch.testing.assert_close(chunks, whole.detach(), rtol=0, atol=1e-6)


@needs_cpp
@torch.no_grad()
def test_hooks_and_dropout_see_whole_batches(monkeypatch):
    net, run, seen = calls(monkeypatch, "tokens")
    handle = net.fc2.register_forward_hook(lambda *args: None)
    run()
    handle.remove()
    net.train()
    run()
    assert seen == [3, 3]
    net.drop.p = 0.0
    run()
    monkeypatch.setattr(chunked, "CHUNK", 2 * 7 * 40 * 4)  # what fits goes at once
    run()
    assert seen[2:] == [1, 1, 1, 2, 1]


@needs_cpp
@torch.no_grad()
@pytest.mark.parametrize("which", ["grid", "tokens"])
def test_compiled_it_is_one_operator_that_does_the_same(monkeypatch, which):
    _, run, _ = calls(monkeypatch, which)
    expected = run()
    graphs = Graphs()
    torch._dynamo.reset()
    actual = torch.compile(run, fullgraph=True, backend=graphs)()
    assert torch.equal(actual, expected)
    assert graphs.count("token_mlp")
    assert not graphs.count("token_conv")


class Around(torch.nn.Module):
    """What adapters do to a layer: another module, that returns what it gets from it."""

    def __init__(self, layer):
        super().__init__()
        self.layer = layer

    def forward(self, x):
        return self.layer(x)


@torch.no_grad()
@pytest.mark.parametrize("where", ["inside", "everywhere"])
def test_what_others_keep_is_not_written_over(where):
    torch.manual_seed(0)
    net, x, kept = GridMlp(8, 8).eval(), torch.randn(3, 30, 8), []
    fc1 = net.fc1
    expected = fc1(x)
    if where == "inside":
        net.fc1 = Around(fc1)
        handle = fc1.register_forward_hook(lambda *call: kept.append(call[-1]))
    else:
        handle = torch.nn.modules.module.register_module_forward_hook(
            lambda layer, _, out: kept.append(out) if layer is fc1 else None
        )
    try:
        net(x, grid_plan())
    finally:
        handle.remove()
    assert torch.equal(torch.cat(kept), expected)


@torch.no_grad()
def test_a_layer_that_returns_its_input_keeps_it():
    net, x = GridMlp(8, 8).eval(), torch.randn(3, 30, 8)
    net.fc1 = torch.nn.Identity()
    before = x.clone()
    net(x, grid_plan())
    assert torch.equal(x, before)
