import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tcformer.ops import regroup
from tcformer.ops.regroup import apply_plan, plan_both_ways, plan_regroup


def case(seed, batch=2, sources=5, destinations=4, entries=11, channels=3, dtype=torch.float64):
    g = torch.Generator().manual_seed(seed)
    x = torch.randn(batch, sources, channels, generator=g, dtype=dtype)
    src = torch.randint(sources, (batch, entries), generator=g)
    dst = torch.randint(destinations, (batch, entries), generator=g)
    weight = torch.rand(batch, entries, generator=g, dtype=dtype)
    return x, src, dst, destinations, weight


@settings(max_examples=25, deadline=None)
@given(
    st.integers(0, 10**6),
    st.integers(1, 3),
    st.integers(1, 6),
    st.integers(1, 6),
    st.integers(0, 9),
    st.booleans(),
)
def test_equals_the_definition(seed, batch, sources, destinations, entries, weighted):
    x, src, dst, num_dst, weight = case(seed, batch, sources, destinations, entries)
    weight = weight if weighted else None
    expected = regroup(x, src, dst, num_dst, weight=weight, impl="reference")
    actual = regroup(x, src, dst, num_dst, weight=weight, impl="eager")
    torch.testing.assert_close(actual, expected, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("weighted", [False, True])
def test_gradient(weighted):
    x, src, dst, num_dst, weight = case(1)
    weight = weight if weighted else None
    assert torch.autograd.gradcheck(
        lambda x: regroup(x, src, dst, num_dst, weight=weight), x.requires_grad_()
    )


def test_low_precision_loses_no_more_than_its_input():
    x, src, dst, num_dst, _ = case(2, entries=200, dtype=torch.float32)
    exact = regroup(x.double(), src, dst, num_dst)
    for dtype, eps in ((torch.float32, 1e-6), (torch.bfloat16, 2**-7), (torch.float16, 2**-10)):
        out = regroup(x.to(dtype), src, dst, num_dst)
        assert out.dtype == dtype
        assert (out.double() - exact).abs().max() <= eps * x.abs().max()


def test_constants_stay_and_empty_destinations_are_zero():
    x = torch.full((1, 3, 2), 7.0)
    src, dst = torch.tensor([[0, 1, 2, 2]]), torch.tensor([[0, 0, 2, 2]])
    out = regroup(x, src, dst, 3, eps=0.0)
    assert torch.equal(out[0, 0], out[0, 2])
    assert torch.equal(out[0, 0], torch.tensor([7.0, 7.0]))
    out = regroup(x, src, dst, 3)
    assert torch.equal(out[0, 1], torch.zeros(2))


def test_images_do_not_see_each_other():
    x, src, dst, num_dst, _ = case(3, batch=3, dtype=torch.float32)
    together = regroup(x, src, dst, num_dst)
    for b in range(3):
        assert torch.equal(together[b], regroup(x[[b]], src[[b]], dst[[b]], num_dst)[0])


def test_both_ways_are_the_two_single_plans():
    x, src, dst, num_dst, _ = case(4)
    y = torch.randn(2, num_dst, 3, dtype=torch.float64)
    ahead, back = plan_both_ways(src, dst, x.shape[1], num_dst, dtype=torch.float64)
    one = plan_regroup(src, dst, x.shape[1], num_dst, dtype=torch.float64)
    torch.testing.assert_close(apply_plan(x, ahead), apply_plan(x, one), rtol=0, atol=0)
    torch.testing.assert_close(apply_plan(y, back), regroup(y, dst, src, x.shape[1]))
    assert torch.autograd.gradcheck(lambda y: apply_plan(y, back), y.requires_grad_())


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"x": torch.zeros(2, 5)}, "x must have shape"),
        ({"src": torch.zeros(1, 11, dtype=torch.long)}, "src and dst"),
        ({"src": torch.zeros(2, 11), "dst": torch.zeros(2, 11)}, "integers"),
        ({"weight": torch.zeros(2, 3)}, "weight must have the shape"),
        ({"num_dst": 0}, "at least 1"),
        ({"num_dst": 1}, "dst must lie in 0..0"),
        ({"src": torch.full((2, 11), 5)}, "src must lie in 0..4, not 5..5"),
        ({"src": torch.full((2, 11), -1)}, "src must lie in"),
        ({"impl": "cuda"}, "choose one of auto, .*eager, reference"),
    ],
)
def test_refuses_what_does_not_fit(change, words):
    x, src, dst, num_dst, _ = case(5)
    arguments = {"x": x, "src": src, "dst": dst, "num_dst": num_dst, **change}
    with pytest.raises(ValueError, match=words):
        regroup(**arguments)


def test_a_plan_refuses_other_features():
    _, src, dst, num_dst, _ = case(6)
    with pytest.raises(ValueError, match="takes features of shape"):
        apply_plan(torch.zeros(2, 4, 3), plan_regroup(src, dst, 5, num_dst))
