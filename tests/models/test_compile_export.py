import pytest
import torch

import tcformer


@pytest.fixture(params=["tcformer_nano", pytest.param("tcformerv2_nano", marks=pytest.mark.slow)])
def model(request):
    torch.manual_seed(0)
    torch._dynamo.reset()
    return tcformer.create_model(request.param, num_classes=10).eval()


X = torch.randn(3, 3, 64, 64, generator=torch.Generator().manual_seed(0))


@torch.no_grad()
def test_export_with_a_dynamic_batch(model):
    batch = torch.export.Dim("batch", min=1, max=4096)
    program = torch.export.export(model, (X,), dynamic_shapes=({0: batch},))
    for size in (1, 2, 5):
        x = torch.randn(size, 3, 64, 64)
        torch.testing.assert_close(program.module()(x), model(x), rtol=0, atol=1e-5)


@torch.no_grad()
def test_compile_makes_one_graph_forward(model):
    compiled = torch.compile(model, fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(compiled(X), model(X), rtol=0, atol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("model", ["tcformer_nano"], indirect=True)
def test_compile_makes_one_graph_backward(model):
    model.train()
    model(X).square().sum().backward()
    expected = [p.grad.clone() for p in model.parameters()]
    model.zero_grad()
    torch.compile(model, fullgraph=True, backend="aot_eager")(X).square().sum().backward()
    for parameter, gradient in zip(model.parameters(), expected, strict=True):
        torch.testing.assert_close(parameter.grad, gradient, rtol=1e-3, atol=1e-5)


@pytest.mark.slow(seconds=120)
def test_inductor_forward_and_backward(model):
    compiled = torch.compile(model, fullgraph=True)
    with torch.no_grad():
        torch.testing.assert_close(compiled(X), model(X), rtol=0, atol=1e-5)
    compiled(X).square().sum().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters())
