import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tcformer.ops import csrc, regroup
from tcformer.ops.regroup import GatherSum, apply_plan, export, plan_both_ways, plan_regroup

FAST = ["eager", *(["cpp"] if csrc.library() else [])]
needs_cpp = pytest.mark.skipif(
    csrc.library() is None, reason=f"no C++ kernels: {csrc.unsupported_reason()}"
)


def case(seed, batch=2, sources=5, destinations=4, entries=11, channels=3, dtype=torch.float64):
    g = torch.Generator().manual_seed(seed)
    x = torch.randn(batch, sources, channels, generator=g, dtype=dtype)
    src = torch.randint(sources, (batch, entries), generator=g)
    dst = torch.randint(destinations, (batch, entries), generator=g)
    weight = torch.rand(batch, entries, generator=g, dtype=dtype)
    return x, src, dst, destinations, weight


on_all = pytest.mark.parametrize("impl", FAST)


@on_all
@settings(max_examples=25, deadline=None)
@given(
    st.integers(0, 10**6),
    st.integers(1, 3),
    st.integers(1, 6),
    st.integers(0, 20),
    st.integers(0, 40),
    st.booleans(),
)
def test_equals_the_definition(impl, seed, batch, sources, entries, channels, weighted):
    x, src, dst, num_dst, weight = case(seed, batch, sources, 4, entries, channels)
    weight = weight if weighted else None
    expected = regroup(x, src, dst, num_dst, weight=weight, impl="reference")
    dtype = torch.float32 if impl == "cpp" else torch.float64
    x = x.to(dtype).requires_grad_()
    actual = regroup(x, src, dst, num_dst, weight=weight, impl=impl)
    limit = 1e-6 if impl == "cpp" else 1e-12
    torch.testing.assert_close(actual.double(), expected, rtol=limit, atol=limit)
    grad = torch.randn(actual.shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)
    found = [
        torch.autograd.grad(regroup(x, src, dst, num_dst, weight=weight, impl=which), x, grad)[0]
        for which in (impl, "eager")
    ]
    torch.testing.assert_close(*found, rtol=limit, atol=limit)


@pytest.mark.parametrize("dense", [True, False])
@pytest.mark.parametrize("weighted", [True, False])
def test_the_form_for_exports_equals_the_definition(monkeypatch, dense, weighted):
    monkeypatch.setattr(export, "DENSE_LIMIT", 1000 if dense else 0)
    x, src, dst, num_dst, weight = case(7, batch=3, sources=6, destinations=5, entries=9)
    weight = weight if weighted else None
    expected = regroup(x, src, dst, num_dst, weight=weight, impl="reference")
    actual = regroup(x, src, dst, num_dst, weight=weight, impl="export")
    torch.testing.assert_close(actual, expected, rtol=1e-12, atol=1e-12)
    ahead, back = plan_both_ways(src, dst, 6, num_dst, dtype=torch.float64, impl="export")
    assert (ahead.matrix is not None) == dense
    if not weighted:
        torch.testing.assert_close(apply_plan(x, ahead), expected, rtol=1e-12, atol=1e-12)
    there_and_back = regroup(expected, dst, src, 6, impl="reference")
    torch.testing.assert_close(apply_plan(expected, back), there_and_back)


@pytest.mark.parametrize("weighted", [False, True])
def test_gradient(weighted):
    x, src, dst, num_dst, weight = case(1)
    weight = weight if weighted else None
    assert torch.autograd.gradcheck(
        lambda x: regroup(x, src, dst, num_dst, weight=weight), x.requires_grad_()
    )
    seconds = []
    for impl in (FAST[-1], "eager"):
        narrow = x.detach().float().requires_grad_()
        out = regroup(narrow, src, dst, num_dst, weight=weight, impl=impl)
        (first,) = torch.autograd.grad(out.pow(3).sum(), narrow, create_graph=True)
        seconds += torch.autograd.grad(first.square().sum(), narrow)
    torch.testing.assert_close(*seconds)


@on_all
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_low_precision_loses_no_more_than_its_input(impl, dtype):
    x, src, dst, num_dst, _ = case(8, entries=60, channels=133, dtype=torch.float32)
    x = x.to(dtype)
    out = regroup(x, src, dst, num_dst, impl=impl)
    assert out.dtype == dtype
    exact = regroup(x.double(), src, dst, num_dst, impl="eager")
    limit = (torch.finfo(dtype).eps + 2**-22) * exact.abs().max()
    assert (out.double() - exact).abs().max() <= limit


@on_all
def test_results_do_not_depend_on_threads_or_the_batch(impl):
    x, src, dst, _, weight = case(9, 4, 300, 200, 900, 50, torch.float32)
    before = torch.get_num_threads()
    try:
        outs = []
        for threads in (1, 2):
            torch.set_num_threads(threads)
            outs.append(regroup(x, src, dst, 200, weight=weight, impl=impl))
    finally:
        torch.set_num_threads(before)
    assert torch.equal(*outs)
    one = regroup(x[2:3], src[2:3], dst[2:3], 200, weight=weight[2:3], impl=impl)
    assert torch.equal(one[0], outs[0][2])


def test_constants_stay_and_empty_destinations_are_zero():
    x = torch.full((1, 3, 2), 7.0)
    src, dst = torch.tensor([[0, 1, 2, 2]]), torch.tensor([[0, 0, 2, 2]])
    out = regroup(x, src, dst, 3, eps=0.0)
    assert torch.equal(out[0, 0], out[0, 2])
    assert torch.equal(out[0, 0], torch.tensor([7.0, 7.0]))
    out = regroup(x, src, dst, 3)
    assert torch.equal(out[0, 1], torch.zeros(2))


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"x": torch.zeros(2, 5)}, "x must have shape"),
        ({"src": torch.zeros(1, 11, dtype=torch.long)}, "src and dst"),
        ({"src": torch.zeros(2, 11), "dst": torch.zeros(2, 11)}, "integers"),
        ({"weight": torch.zeros(2, 3)}, "weight must have the shape"),
        ({"num_dst": 0}, "num_dst must be an integer from 1"),
        ({"num_dst": 1}, "dst must lie in 0..0"),
        ({"src": torch.full((2, 11), 5)}, "src must lie in 0..4, not 5..5"),
        ({"src": torch.full((2, 11), -1)}, "src must lie in"),
        ({"impl": "cuda"}, "choose one of auto, .*eager, export, reference"),
    ],
)
def test_refuses_what_does_not_fit(change, words):
    x, src, dst, num_dst, _ = case(5)
    arguments = {"x": x, "src": src, "dst": dst, "num_dst": num_dst, **change}
    with pytest.raises(ValueError, match=words):
        regroup(**arguments)


@pytest.mark.parametrize("impl", [*FAST, "export"])
def test_a_plan_refuses_features_that_are_not_its_own(impl):
    x, src, dst, num_dst, _ = case(3, batch=2, dtype=torch.float32)
    made = plan_regroup(src, dst, 5, num_dst, impl=impl)
    with pytest.raises(ValueError, match="takes features of shape"):
        apply_plan(x[:, :4], made)
    for batch in (1, 3):
        with pytest.raises(ValueError, match="batch of 2"):
            apply_plan(x[:1].expand(batch, -1, -1), made)


@pytest.mark.parametrize("weighted", [True, False])
def test_unused_entries_of_a_padded_plan_are_nobody_s(weighted):
    """Plans of Triton, and of C++ in compiled graphs, are longer than their rows."""
    x, src, dst, num_dst, weight = case(4, dtype=torch.float32)
    weight = weight if weighted else None
    expected = regroup(x, src, dst, num_dst, weight=weight, impl="reference")
    made = plan_regroup(src, dst, 5, num_dst, weight=weight, impl="eager")

    def padded(rows):
        column = torch.cat((rows.column, torch.tensor([2**30, -7], dtype=torch.int32)))
        return GatherSum(rows.row_start, column, torch.cat((rows.weight, torch.ones(2) / 0)))

    made = made._replace(forward=padded(made.forward), backward=padded(made.backward))
    x.requires_grad_()
    out = apply_plan(x, made, impl="eager")
    torch.testing.assert_close(out, expected)
    (grad,) = torch.autograd.grad(out.sum(), x)
    assert grad.isfinite().all()


@needs_cpp
def test_cpp_plans_are_the_eager_ones():
    _, src, dst, num_dst, _ = case(7, batch=3, sources=40, destinations=30, entries=200)
    for made, expected in zip(
        plan_both_ways(src, dst, 40, num_dst, impl="cpp"),
        plan_both_ways(src, dst, 40, num_dst, impl="eager"),
        strict=True,
    ):
        assert made[:2] == expected[:2]
        assert (made.backend, expected.backend) == ("cpp", "eager")
        for sparse, wanted in zip(made[2:4], expected[2:4], strict=True):
            for values, others in zip(sparse, wanted, strict=True):
                assert values.dtype == others.dtype
                assert torch.equal(values, others)


@needs_cpp
def test_cpp_refuses_what_it_cannot_do():
    x, src, dst, num_dst, _ = case(10)
    with pytest.raises(ValueError, match="its weights are float32"):
        regroup(x, src, dst, num_dst, impl="cpp")
    with pytest.raises(ValueError, match="out of range"):
        plan_regroup(src, dst + 1, 5, num_dst, impl="cpp")
    with pytest.raises(ValueError, match="out of range"):
        plan_regroup(src - 1, dst, 5, num_dst, impl="cpp")


@needs_cpp
def test_cpp_ops_are_registered_as_they_should_be():
    x, src, dst, num_dst, weight = case(11, dtype=torch.float32)
    made = plan_regroup(src, dst, 5, num_dst, impl="cpp")
    tests = ("test_schema", "test_faketensor")
    torch.library.opcheck(
        torch.ops.tcformer.gather_sum.default, (x.flatten(0, 1), *made.forward), test_utils=tests
    )
    torch.library.opcheck(
        torch.ops.tcformer.regroup_plan.default,
        (src, dst, weight, 5, num_dst, 1e-6),
        test_utils=tests,
    )


@needs_cpp
def test_cpp_is_one_graph_when_compiled():
    x, src, dst, num_dst, weight = case(12, dtype=torch.float32)
    x.requires_grad_()

    def both(x):
        ahead, back = plan_both_ways(src, dst, 5, num_dst, impl="cpp")
        weighted = regroup(x, src, dst, num_dst, weight=weight, impl="cpp")
        return apply_plan(apply_plan(x, ahead), back).sum() + weighted.square().sum()

    torch._dynamo.reset()
    compiled = torch.compile(both, fullgraph=True, backend="aot_eager")
    (expected,) = torch.autograd.grad(both(x), x)
    (actual,) = torch.autograd.grad(compiled(x), x)
    torch.testing.assert_close(actual, expected)
