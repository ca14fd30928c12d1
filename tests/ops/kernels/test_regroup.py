import pytest
import torch

from tcformer.ops import regroup
from tcformer.ops.regroup import apply_plan, eager
from tcformer.ops.regroup import plan_both_ways as build_both_ways
from tcformer.ops.regroup import triton as kernels
from tcformer.ops.regroup.plan import EPS


def plan_both_ways(a, b, num_a, num_b, dtype=torch.float32, padded=True):
    options = {"weight": None, "eps": EPS, "dtype": dtype}
    return eager.plan_both_ways(a, b, num_a, num_b, **options, padded=padded, backend="triton")


def plan_regroup(src, dst, num_src, num_dst, **options):
    return plan_both_ways(dst, src, num_dst, num_src, **options)[1]


def case(device, batch=2, sources=5, destinations=4, entries=11, channels=3, dtype=torch.float64):
    g = torch.Generator().manual_seed(batch + sources + destinations + entries + channels)
    x = torch.randn(batch, sources, channels, generator=g, dtype=dtype)
    src = torch.randint(sources, (batch, entries), generator=g)
    dst = torch.randint(destinations, (batch, entries), generator=g)
    weight = torch.rand(batch, entries, generator=g, dtype=dtype)
    return x.to(device), src.to(device), dst.to(device), destinations, weight.to(device)


@pytest.mark.parametrize(
    ("sources", "destinations", "entries", "channels", "weighted"),
    [
        (5, 4, 11, 3, False),  # rows left over in the only block of rows
        (5, 4, 11, 3, True),
        (1, 1, 1, 1, True),
        (3, 200, 40, 17, False),  # most destinations empty, more than one block of rows
        (9, 2, 300, 70, True),  # long rows, in several chunks
        (2, 3, 0, 5, False),  # no entry at all
        (6, 7, 60, 320, True),  # several blocks of channels
    ],
)
def test_equals_the_definition(device, sources, destinations, entries, channels, weighted):
    x, src, dst, num_dst, weight = case(device, 2, sources, destinations, entries, channels)
    weight = weight if weighted else None
    wide = torch.stack((x, x + 1), dim=-1)[..., 0]  # with gaps
    actual = regroup(wide, src, dst, num_dst, weight=weight, impl="triton")
    other = "reference" if entries < 20 else "eager"
    expected = regroup(x, src, dst, num_dst, weight=weight, impl=other)
    torch.testing.assert_close(actual, expected, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("padded", [False, True])
def test_gradient(device, padded):
    x, src, dst, num_dst, _ = case(device, entries=6)
    plan = plan_regroup(src, dst, 5, num_dst, dtype=torch.float64, padded=padded)
    x.requires_grad_()
    assert torch.autograd.gradcheck(lambda x: apply_plan(x, plan, impl="triton"), x, fast_mode=True)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_sums_in_float32_and_rounds_once(device, dtype):
    x, src, dst, num_dst, _ = case(device, entries=120, channels=20, dtype=torch.float32)
    x = x.to(dtype)
    exact = regroup(x.double(), src, dst, num_dst, impl="eager")
    out = regroup(x, src, dst, num_dst, impl="triton")
    assert out.dtype == dtype
    # One unit, not a half: the interpreter truncates to bfloat16.
    assert (out - exact).abs().max() <= (torch.finfo(dtype).eps + 2**-22) * exact.abs().max()


def test_a_padded_plan_holds_the_entries_of_a_short_one(device):
    _, src, dst, num_dst, _ = case(device, batch=3, entries=60)
    short = plan_both_ways(src.cpu(), dst.cpu(), 5, num_dst, padded=False)
    for ours, theirs in zip(plan_both_ways(src, dst, 5, num_dst, padded=True), short, strict=True):
        for padded, exact in zip(ours[2:4], theirs[2:4], strict=True):
            used = exact.column.shape[0]
            assert padded.column.shape == (3 * 60,)
            assert used < 3 * 60
            assert torch.equal(padded.row_start.cpu(), exact.row_start)
            assert torch.equal(padded.column[:used].cpu(), exact.column)
            assert torch.equal(padded.weight[:used].cpu(), exact.weight)


@pytest.mark.parametrize(
    ("batch", "num_a", "num_b", "entries"),
    [(3, 5, 4, 60), (1, 1, 1, 1), (2, 300, 2, 320), (2, 3, 5, 0), (1, 70_000, 70_000, 40)],
)
def test_plans_of_kernels_are_those_of_tensors(device, batch, num_a, num_b, entries):
    g = torch.Generator().manual_seed(entries)
    a = torch.randint(num_a, (batch, entries), generator=g).to(device)
    b = torch.randint(num_b, (1, entries), generator=g).to(device).expand_as(a)
    ours = build_both_ways(a, b, num_a, num_b, impl="triton")
    theirs = plan_both_ways(a, b, num_a, num_b, padded=True)
    for made, expected in zip(ours, theirs, strict=True):
        assert made[:2] == expected[:2]
        for rows, wanted in zip(made[2:4], expected[2:4], strict=True):
            used = int(wanted.row_start[-1])
            assert torch.equal(rows.row_start, wanted.row_start)
            assert torch.equal(rows.column[:used], wanted.column[:used])
            assert torch.equal(rows.weight[:used], wanted.weight[:used])


def test_registration_of_plans(device):
    _, src, dst, num_dst, _ = case(device)
    # Not what compares values: the unused ends hold anything.
    tests = ("test_schema", "test_autograd_registration", "test_faketensor")
    torch.library.opcheck(kernels.plan_op, (src, dst, 5, num_dst, 1e-6), test_utils=tests)


def test_the_unused_end_of_a_plan_is_never_read(device):
    x, src, dst, num_dst, _ = case(device, entries=60, dtype=torch.float32)
    plan = plan_regroup(src, dst, 5, num_dst, padded=True)
    used = int(plan.forward.row_start[-1])
    end, (_, column, weight) = torch.arange(used, 120, device=device), plan.forward
    spoilt = plan.forward._replace(
        column=column.index_fill(0, end, 2**30), weight=weight.index_fill(0, end, float("nan"))
    )
    out = apply_plan(x, plan._replace(forward=spoilt), impl="triton")
    assert torch.equal(out, apply_plan(x, plan, impl="triton"))


def test_images_do_not_see_each_other(device):
    x, src, dst, num_dst, _ = case(device, batch=3, entries=200, channels=40, dtype=torch.float32)
    together = regroup(x, src, dst, num_dst, impl="triton")
    alone = regroup(x[[1]], src[[1]], dst[[1]], num_dst, impl="triton")
    assert torch.equal(together[1], alone[0])


def test_a_row_does_not_depend_on_the_size_of_the_tile(device, monkeypatch):
    x, src, dst, num_dst, _ = case(device, entries=200, channels=40, dtype=torch.float32)
    expected = regroup(x, src, dst, num_dst, impl="triton")
    for rows in (1, 4):
        monkeypatch.setattr(kernels, "tile", lambda channels, rows=rows: (rows, 64))
        assert torch.equal(regroup(x, src, dst, num_dst, impl="triton"), expected)


def test_tiles_are_powers_of_two_and_waste_little():
    for channels in (1, 3, 16, 64, 65, 128, 320, 512, 640, 1024, 2048):
        rows, width = kernels.tile(channels)
        assert rows * width >= 2048
        assert rows & (rows - 1) == width & (width - 1) == 0
        assert width <= 64 or -(-channels // width) * width <= 1.25 * channels


def test_registration(device):
    x, src, dst, num_dst, _ = case(device, dtype=torch.float32)
    plan = plan_regroup(src, dst, 5, num_dst, padded=True)
    flat = x.flatten(0, 1).requires_grad_()
    arguments = (flat, list(plan.forward), list(plan.backward))
    torch.library.opcheck(kernels.gather_sum, arguments)


def test_one_graph(device):
    x, src, dst, num_dst, _ = case(device, dtype=torch.float32)

    def whole(x, src, dst):
        plan = plan_regroup(src, dst, 5, num_dst, padded=True)
        return apply_plan(x, plan, impl="triton")

    expected = whole(x, src, dst)
    compiled = torch.compile(whole, backend="aot_eager", fullgraph=True)
    x.requires_grad_()
    out = compiled(x, src, dst)
    assert torch.equal(out, expected)
    out.sum().backward()
    ones = torch.ones_like(expected)
    (grad,) = torch.autograd.grad(whole(x, src, dst), x, ones)
    assert torch.equal(x.grad, grad)
