import pytest
import torch
import torch.nn.functional as F
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.autograd import forward_ad

from tcformer.ops.dispatch import plain_pytorch
from tcformer.ops.linear import linear, unsupported_reason

needs_onednn = pytest.mark.skipif(
    unsupported_reason() is not None, reason=f"oneDNN: {unsupported_reason()}"
)


def normal(seed, *shape, dtype=torch.float32):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


@pytest.mark.parametrize("impl", ["eager", pytest.param("onednn", marks=needs_onednn)])
@pytest.mark.parametrize("shape", [(2, 3), (1, 7, 16), (2, 50, 33), (2, 3, 4, 8)])
@pytest.mark.parametrize("with_bias", [True, False])
def test_equals_the_definition(impl, shape, with_bias):
    x, weight = normal(0, *shape), normal(1, 11, shape[-1])
    bias = normal(2, 11) if with_bias else None
    expected = F.linear(x, weight, bias)
    for taken in (x, x.transpose(0, 1).contiguous().transpose(0, 1)):
        found = linear(taken, weight, bias, impl=impl)
        torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)


@needs_onednn
def test_gradients():
    x, weight, bias = (
        t.requires_grad_() for t in (normal(0, 3, 20, 16), normal(1, 24, 16), normal(2, 24))
    )
    grad = normal(3, 3, 20, 24)
    ours = torch.autograd.grad(linear(x, weight, bias, impl="onednn"), (x, weight, bias), grad)
    wide = [t.detach().double().requires_grad_() for t in (x, weight, bias)]
    theirs = torch.autograd.grad(F.linear(*wide), wide, grad.double())
    for a, b in zip(ours, theirs, strict=True):
        torch.testing.assert_close(a.double(), b, rtol=1e-5, atol=1e-5)
    fixed = x.detach()
    (only,) = torch.autograd.grad(linear(fixed, weight, bias, impl="onednn"), weight, grad)
    assert torch.equal(only, ours[1])  # and of the input none was asked for


@needs_onednn
def test_second_derivatives():
    x, weight = normal(0, 4, 6).requires_grad_(), normal(1, 5, 6).requires_grad_()

    def penalty(impl):
        out = linear(x, weight, impl=impl)
        (slope,) = torch.autograd.grad(out.square().sum(), x, create_graph=True)
        return torch.autograd.grad(slope.square().sum(), weight)[0]

    torch.testing.assert_close(penalty("onednn"), penalty("eager"), rtol=1e-4, atol=1e-3)


@needs_onednn
@pytest.mark.parametrize(
    ("rows", "inputs", "outputs"), [(2, 512, 64), (49, 64, 96), (196, 320, 160), (784, 128, 64)]
)
def test_a_row_does_not_depend_on_the_others(rows, inputs, outputs):
    x, weight, bias = normal(0, 5, rows, inputs), normal(1, outputs, inputs), normal(2, outputs)
    whole = linear(x, weight, bias, impl="onednn")
    for count in (1, 2, 3):
        assert torch.equal(linear(x[:count], weight, bias, impl="onednn"), whole[:count])


def test_auto_never_depends_on_the_batch_and_respects_dtypes():
    weight = normal(1, 3, 8)
    for x in (normal(0, 1, 8), normal(0, 7, 1, 8), normal(0, 0, 4, 8), normal(0, 8)):
        torch.testing.assert_close(linear(x, weight), F.linear(x, weight))
    wide = normal(0, 4, 8, dtype=torch.float64)
    assert torch.equal(linear(wide, weight.double()), F.linear(wide, weight.double()))
    with torch.autocast("cpu", torch.bfloat16):
        assert linear(normal(0, 4, 8), weight).dtype == torch.bfloat16


@pytest.mark.parametrize("rows", [1, 4])
def test_says_why_an_implementation_cannot_run(rows):
    with pytest.raises(ValueError, match="linear: there is no implementation 'blas'"):
        linear(normal(0, rows, 8), normal(1, 3, 8), impl="blas")
    with pytest.raises(ValueError, match="linear: the implementation 'onednn' cannot run here: "):
        linear(normal(0, rows, 8).double(), normal(1, 3, 8).double(), impl="onednn")


@pytest.mark.slow
@needs_onednn
def test_compiles_into_one_graph():
    x, weight, bias = normal(0, 2, 6, 8), normal(1, 4, 8).requires_grad_(), normal(2, 4)
    step = torch.compile(linear, fullgraph=True, backend="aot_eager")
    found, expected = (
        torch.autograd.grad(function(x, weight, bias).sum(), weight) for function in (step, linear)
    )
    torch.testing.assert_close(found, expected)
    torch.library.opcheck(torch.ops.tcformer.onednn_linear.default, (x, weight.detach(), bias))


@pytest.mark.parametrize("grad", [True, False])
def test_transforms_of_pytorch_get_what_they_know(grad):
    x, weight = normal(0, 3, 5, 8), normal(1, 6, 8)
    expected = F.linear(x, weight)
    rows = torch.func.vmap(lambda part: linear(part, weight))
    slopes = torch.func.vmap(torch.func.grad(lambda w, part: linear(part, w).sum()), (None, 0))
    with torch.set_grad_enabled(grad):
        torch.testing.assert_close(rows(x), expected)
        with forward_ad.dual_level():
            out = linear(forward_ad.make_dual(x, x), weight)
            torch.testing.assert_close(forward_ad.unpack_dual(out).tangent, expected)
        torch.testing.assert_close(slopes(weight, x)[2], x[2].sum(0).expand(6, -1))


@pytest.mark.parametrize("shapes", [((0, 5, 8), (6, 8)), ((2, 5, 0), (6, 0)), ((2, 5, 8), (0, 8))])
def test_nothing_is_a_number_of_things_too(shapes):
    x, weight = (torch.ones(*shape, requires_grad=True) for shape in shapes)
    out = linear(x, weight)
    out.sum().backward()
    assert out.shape == (*shapes[0][:-1], shapes[1][0])
    assert (x.grad.shape, weight.grad.shape) == shapes


def test_what_does_not_fit_is_explained_by_its_sizes():
    with pytest.raises(RuntimeError, match="15x8 and 7x6"):
        linear(normal(0, 3, 5, 8), normal(1, 6, 7))
    with pytest.raises(RuntimeError, match="must match"):
        linear(normal(0, 3, 5, 8), normal(1, 6, 8), normal(2, 4))


def test_is_probed_with_real_tensors_even_among_stand_ins():
    expected = unsupported_reason()
    unsupported_reason.cache_clear()
    with FakeTensorMode():
        assert unsupported_reason() == expected


@needs_onednn
@torch.no_grad()
def test_what_was_decided_for_a_layer_gives_way_where_a_call_is_another():
    x, weight, bias = normal(0, 3, 7, 8), normal(1, 6, 8), normal(2, 6)
    decided = linear(x, weight, bias)
    assert torch.equal(linear(x, weight, bias), decided)
    assert torch.equal(linear(x, weight, bias, impl="onednn"), decided)
    with torch.autocast("cpu", torch.bfloat16):
        assert linear(x, weight, bias).dtype == torch.bfloat16
    assert linear(x.double(), weight.double(), bias.double()).dtype == torch.float64
    assert torch.equal(linear(x, weight, bias), decided)
    with plain_pytorch():
        assert torch.equal(linear(x, weight, bias), F.linear(x, weight, bias))
