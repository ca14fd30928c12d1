import pytest
import torch
from compiled import Graphs, fake
from torch._subclasses import FakeTensorMode
from torch.nn.attention import SDPBackend, sdpa_kernel

from tcformer.ops import attend
from tcformer.ops.attend import eager


def case(dtype=torch.float64):
    g = torch.Generator().manual_seed(0)
    q = torch.randn(2, 3, 7, 4, generator=g, dtype=dtype)
    k, v = torch.randn(2, 2, 3, 5, 4, generator=g, dtype=dtype).unbind()
    return q, k, v, torch.randn(2, 5, generator=g, dtype=dtype)


def test_gradient_of_everything_including_the_bias():
    inputs = [t.requires_grad_() for t in case()]
    for impl in ("eager", "reference"):
        assert torch.autograd.gradcheck(
            lambda q, k, v, b, impl=impl: attend(q, k, v, bias=b, impl=impl), inputs
        )


def test_a_bias_of_zero_is_no_bias_and_a_large_one_chooses_a_key():
    q, k, v, bias = case()
    torch.testing.assert_close(attend(q, k, v, bias=bias * 0), attend(q, k, v))
    bias = torch.zeros_like(bias)
    bias[:, 2] = 1e4
    torch.testing.assert_close(attend(q, k, v, bias=bias), v[:, :, 2:3].expand(2, 3, 7, 4))


def test_refuses_what_does_not_fit():
    q, k, v, bias = case()
    with pytest.raises(ValueError, match="bias must have shape"):
        attend(q, k, v, bias=bias[:, :3])
    with pytest.raises(ValueError, match="must agree"):
        attend(q[..., :2], k, v)
    with pytest.raises(ValueError, match="must be"):
        attend(q, k, v[:, :, :2])
    with pytest.raises(ValueError, match="no implementation"):
        attend(q, k, v, impl="flash")


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("level", [1e4, 1e6])
def test_any_bias_is_finite_in_half_precision(dtype, level):
    g = torch.Generator().manual_seed(2)
    q, k, v = (torch.randn(2, 3, 7, 8, generator=g) for _ in range(3))
    bias = (level + 10 * torch.randn(2, 7, generator=g) ** 3).requires_grad_()
    out = attend(q.to(dtype), k.to(dtype), v.to(dtype), bias=bias)
    expected = attend(q, k, v, bias=bias)
    torch.testing.assert_close(out.float(), expected, rtol=0, atol=0.05)
    out.float().square().sum().backward()
    assert bias.grad.isfinite().all()


@pytest.mark.parametrize("keys", [49, 56, 1])
def test_the_mask_of_a_gpu_is_aligned_and_never_written_out(keys):
    g = torch.Generator().manual_seed(3)
    q, k, v = torch.randn(2, 3, 7, 8, generator=g), *torch.randn(2, 2, 3, keys, 8, generator=g)
    bias = torch.randn(2, keys, generator=g).requires_grad_()
    mask = eager._aligned(bias, q)
    assert mask.shape == (2, 3, 7, keys)
    assert mask.stride() == ((keys + 7) // 8 * 8, 0, 0, 1)
    out = torch.nn.functional.scaled_dot_product_attention(q, k, v, attn_mask=mask)
    expected = attend(q, k, v, bias=bias, impl="reference")
    torch.testing.assert_close(out, expected)
    (grad,) = torch.autograd.grad(out.square().sum(), bias)
    torch.testing.assert_close(grad, torch.autograd.grad(expected.square().sum(), bias)[0])


def mask_kernels(monkeypatch, bias, gradient=False):
    """Which of SDPA's kernels `attend` allows for tensors on a pretended GPU."""
    allowed = []

    def stand_in(q, k, v, attn_mask=None, dropout_p=0.0):
        cuda = torch.backends.cuda
        names = ("cudnn", "flash", "mem_efficient", "math")
        allowed.append({name for name in names if getattr(cuda, f"{name}_sdp_enabled")()})
        return q

    monkeypatch.setattr(eager, "scaled_dot_product_attention", stand_in)
    with FakeTensorMode():
        q, k, v = (fake(2, 3, 8, 16) for _ in range(3))
        bias = fake(2, 8, requires_grad=gradient) if bias else None
        attend(q, k, v, bias=bias)
    return allowed[0]


def test_a_bias_never_meets_cudnn(monkeypatch):
    everything = mask_kernels(monkeypatch, bias=False)
    assert "cudnn" in everything
    for gradient in (False, True):  # the same kernels for inference and for training
        assert mask_kernels(monkeypatch, True, gradient) == everything - {"cudnn"}
    assert mask_kernels(monkeypatch, bias=False) == everything


def test_kernels_that_somebody_switched_off_stay_off(monkeypatch):
    with sdpa_kernel([SDPBackend.MATH]):
        assert mask_kernels(monkeypatch, bias=True) == {"math"}
    with sdpa_kernel([SDPBackend.CUDNN_ATTENTION]):
        assert mask_kernels(monkeypatch, bias=True) == {"cudnn"}


def test_a_bias_on_a_gpu_is_one_graph():
    torch._dynamo.reset()
    graphs = Graphs()
    with FakeTensorMode():
        q, k, v = (fake(2, 3, 8, 16) for _ in range(3))
        bias = fake(2, 8)
        out = torch.compile(attend, backend=graphs, fullgraph=True)(q, k, v, bias=bias)
    assert out.shape == q.shape
    assert torch.backends.cuda.cudnn_sdp_enabled()
