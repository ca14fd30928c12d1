import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from tcformer.models.tcformer import TokenMlp
from tcformer.ops import csrc, dpc_knn, plan_token_map, token_conv
from tcformer.ops.token_conv import cpp
from tcformer.ops.token_map import TokenMap
from tcformer.tokens import Layout, Tokens, grid_layout

needs_cpp = pytest.mark.skipif(
    csrc.library() is None, reason=f"no C++ kernels: {csrc.unsupported_reason()}"
)
IMPLS = ["eager", pytest.param("cpp", marks=needs_cpp)]


def case(
    channels=5,
    grid=(6, 8),
    map_size=(3, 4),
    num_tokens=7,
    batch=2,
    dtype=torch.float64,
    layout=False,
):
    """x, plan, weight, bias, skip; no tokens (num_tokens 0) means the grid itself."""
    g = torch.Generator().manual_seed(channels)

    def random(*shape):
        return torch.randn(shape, generator=g, dtype=torch.float64).to(dtype)

    if num_tokens:
        cells = torch.randint(num_tokens, (batch, grid[0] * grid[1]), generator=g)
        cells[:, :num_tokens] = torch.arange(num_tokens)
        made = Layout(cells, num_tokens, grid, map_size, torch.ones(cells.shape))
        if layout:
            return made
        plan = plan_token_map(made, dtype=dtype)
    else:
        plan, num_tokens = TokenMap(grid, None, None), grid[0] * grid[1]
    return (
        random(batch, num_tokens, channels),
        plan,
        random(channels, 1, 3, 3),
        random(channels),
        random(channels),
    )


SHAPES = [
    {},
    {"num_tokens": 0},
    {"channels": 33, "map_size": (5, 2)},
    {"channels": 130, "grid": (1, 1), "map_size": (1, 1), "num_tokens": 1},
    {"channels": 64, "grid": (7, 1), "num_tokens": 0, "batch": 1},
    {"channels": 70, "grid": (19, 21), "map_size": (19, 21), "num_tokens": 300},
    {"channels": 16, "grid": (70, 66), "num_tokens": 0},  # several bands
    {"channels": 17, "grid": (64, 66), "map_size": (64, 66), "num_tokens": 90, "batch": 1},
]


def gradients(function, tensors, grad):
    leaves = [t.detach().requires_grad_() for t in tensors]
    out = function(*leaves)
    return [out.detach(), *torch.autograd.grad(out, leaves, grad.to(out.dtype))]


@pytest.mark.parametrize("impl", IMPLS)
@pytest.mark.parametrize(("gelu", "with_skip"), [(False, False), (True, False), (True, True)])
@pytest.mark.parametrize("shape", SHAPES[:5])
def test_equals_the_definition(shape, with_skip, gelu, impl):
    dtype = torch.float64 if impl == "eager" else torch.float32
    x, plan, weight, bias, skip = case(**shape)
    skip = skip if with_skip else None
    expected = token_conv(x, plan, weight, bias, skip, gelu=gelu, impl="reference")
    plan = case(**shape, dtype=dtype)[1]
    narrow = [None if t is None else t.to(dtype) for t in (x, weight, bias, skip)]
    actual = token_conv(narrow[0], plan, *narrow[1:], gelu=gelu, impl=impl)
    assert actual.dtype == dtype
    limit = 1e-12 if dtype == torch.float64 else 3e-6
    torch.testing.assert_close(actual.double(), expected, rtol=limit, atol=limit)


@pytest.mark.parametrize("num_tokens", [0, 7])
def test_gradient(num_tokens):
    x, plan, weight, bias, skip = case(3, num_tokens=num_tokens)
    tensors = [t.requires_grad_() for t in (x, weight, bias, skip)]
    assert torch.autograd.gradcheck(
        lambda x, *rest: token_conv(x, plan, *rest, gelu=True, impl="eager"), tensors
    )


@needs_cpp
@pytest.mark.parametrize(("gelu", "with_skip"), [(False, True), (True, False), (True, True)])
@pytest.mark.parametrize("shape", SHAPES)
def test_cpp_gradients_are_those_of_float64(shape, with_skip, gelu):
    x, plan, *weights = case(**shape)
    weights = weights if with_skip else weights[:2]
    narrow_plan = case(**shape, dtype=torch.float32)[1]
    grad = torch.randn(x.shape, generator=torch.Generator().manual_seed(0))

    def run(impl, dtype, plan):
        tensors = [t.to(dtype) for t in (x, *weights)]
        return gradients(
            lambda x, *rest: token_conv(x, plan, *rest, gelu=gelu, impl=impl), tensors, grad
        )

    ours, plain = run("cpp", torch.float32, narrow_plan), run("eager", torch.float32, narrow_plan)
    for mine, other, exact in zip(ours, plain, run("eager", torch.float64, plan), strict=True):
        budget = 2 * (other - exact).abs().max() + 4e-7 * exact.abs().max()
        assert (mine - exact).abs().max() <= budget


def by_cpp(x, plan, *weights, grad):
    """The result of the kernel and the gradients of all tensors."""
    return gradients(
        lambda x, *rest: token_conv(x, plan, *rest, gelu=True, impl="cpp"), [x, *weights], grad
    )


@needs_cpp
@pytest.mark.parametrize("num_tokens", [0, 7])
def test_cpp_bfloat16_loses_no_more_than_its_input(num_tokens):
    x, plan, *weights = case(40, num_tokens=num_tokens, dtype=torch.float32)
    x = x.bfloat16()
    grad = torch.randn(x.shape, generator=torch.Generator().manual_seed(0)).bfloat16()
    narrow = by_cpp(x, plan, *weights, grad=grad)
    assert narrow[0].dtype == torch.bfloat16
    half = [t.bfloat16() for t in weights]
    assert token_conv(x, plan, *half, impl="cpp").dtype == torch.bfloat16
    for ours, exact in zip(narrow, by_cpp(x.float(), plan, *weights, grad=grad), strict=True):
        assert (ours - exact).abs().max() <= 2**-8 * exact.abs().max()


@needs_cpp
@pytest.mark.parametrize("shape", [SHAPES[5], SHAPES[6]])
def test_cpp_results_do_not_depend_on_threads_or_the_batch(shape):
    x, plan, *weights = case(**shape, dtype=torch.float32)
    grad = torch.randn(x.shape, generator=torch.Generator().manual_seed(0))
    before, found = torch.get_num_threads(), []
    try:
        for threads in (1, 2):
            torch.set_num_threads(threads)
            found.append(by_cpp(x, plan, *weights, grad=grad))
    finally:
        torch.set_num_threads(before)
    assert all(map(torch.equal, *found))
    alone = plan  # the second image alone, with a plan of its own
    if plan.to_map is not None:
        layout = case(**shape, layout=True)
        cells = layout.cell_to_token[1:]
        alone = plan_token_map(layout._replace(cell_to_token=cells))
    one = by_cpp(x[1:], alone, *weights, grad=grad[1:])
    for ours, theirs in zip(one[:2], found[0][:2], strict=True):
        assert torch.equal(ours[0], theirs[1])


@needs_cpp
def test_a_kernel_writes_everything(monkeypatch):
    real = torch.empty_like

    def poisoned(x, **options):
        return real(x, **options).fill_(float("nan"))

    monkeypatch.setattr(torch, "empty_like", poisoned)
    for shape in SHAPES:
        tensors = case(**shape, dtype=torch.float32)
        for result in by_cpp(*tensors, grad=torch.ones(tensors[0].shape)):
            assert result.isfinite().all()


@needs_cpp
@pytest.mark.parametrize("num_tokens", [0, 7])
def test_cpp_ops_are_registered_as_they_should_be(num_tokens):
    x, plan, weight, bias, skip = case(num_tokens=num_tokens, dtype=torch.float32)
    lists = cpp.plan_tensors(plan)
    tests = ("test_schema", "test_faketensor")
    ahead = (x, weight, bias, skip, lists, *plan.map_size, True)
    back = (x, weight, bias, skip, lists, x, *plan.map_size, True)
    torch.library.opcheck(torch.ops.tcformer.token_conv.default, ahead, test_utils=tests)
    torch.library.opcheck(torch.ops.tcformer.token_conv_backward.default, back, test_utils=tests)


@needs_cpp
def test_cpp_is_one_graph_when_compiled():
    x, plan, *weights = case(dtype=torch.float32)
    torch._dynamo.reset()
    compiled = torch.compile(token_conv, fullgraph=True, backend="aot_eager")
    ones = torch.ones(x.shape)
    found = gradients(
        lambda x, *rest: compiled(x, plan, *rest, gelu=True, impl="cpp"), [x, *weights], ones
    )
    assert all(map(torch.equal, found, by_cpp(x, plan, *weights, grad=ones)))


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"x": torch.zeros(2, 5)}, "x must be float of shape"),
        ({"x": torch.zeros(2, 6, 5)}, "the plan is for 7 tokens, but x has 6"),
        ({"x": torch.zeros(3, 7, 5)}, "the plan is for 2 images, but x has 3"),
        ({"weight": torch.zeros(5, 3, 3)}, "weight must have shape"),
        ({"bias": torch.zeros(4)}, "bias must have shape"),
        ({"skip": torch.zeros(4)}, "skip must have shape"),
        ({"impl": "cuda"}, "choose one of auto, cpp, eager, reference"),
        pytest.param({"impl": "cpp"}, "it takes tokens in float32 or bfloat16", marks=needs_cpp),
    ],
)
def test_refuses_what_does_not_fit(change, words):
    names = ("x", "plan", "weight", "bias", "skip")
    with pytest.raises(ValueError, match=words):
        token_conv(**{**dict(zip(names, case(), strict=True)), **change})


@pytest.mark.parametrize("impl", IMPLS)
@pytest.mark.parametrize("num_tokens", [0, 7])
def test_gradients_count_nine_products_a_pixel_and_are_the_same_when_counted(num_tokens, impl):
    x, plan, weight, *others = case(num_tokens=num_tokens, dtype=torch.float32)
    inputs = x.requires_grad_(), weight.requires_grad_()
    out = token_conv(x, plan, weight, *others, impl=impl)
    expected = torch.autograd.grad(out.square().sum(), inputs)
    with FlopCounterMode(display=False) as counter:
        out = token_conv(x, plan, weight, *others, impl=impl)
        found = torch.autograd.grad(out.square().sum(), inputs)
    for actual, right in zip(found, expected, strict=True):
        torch.testing.assert_close(actual, right)
    pixels = plan.map_size[0] * plan.map_size[1]
    assert counter.get_total_flops() == 3 * 18 * x.shape[0] * x.shape[2] * pixels


@needs_cpp
@torch.no_grad()
@pytest.mark.parametrize("gelu", [False, True])
@pytest.mark.parametrize("shape", SHAPES)
def test_images_of_a_batch_are_overwritten_by_what_the_whole_gives(shape, gelu):
    x, plan, *weights = case(**{**shape, "batch": 3}, dtype=torch.float32)
    whole = token_conv(x, plan, *weights, gelu=gelu)
    for first, last in ((0, 1), (1, 3), (0, 3)):
        chunk = x[first:last].clone()
        out = cpp.token_conv(chunk, plan, *weights, gelu, first)
        assert out.data_ptr() == chunk.data_ptr()
        assert torch.equal(out, whole[first:last])


@needs_cpp
def test_a_second_derivative_is_refused_in_words():
    x, *others = case(dtype=torch.float32)
    loss = token_conv(x.requires_grad_(), *others, gelu=True, impl="cpp").square().sum()
    with pytest.raises(RuntimeError, match="no second derivative; choose impl='eager'"):
        torch.autograd.grad(loss, x, create_graph=True)


def test_transforms_of_pytorch_get_what_they_know():
    torch.manual_seed(0)
    mlp = TokenMlp(8, 16).eval()
    tokens = Tokens(torch.randn(2, 24, 8), grid_layout(2, (4, 6), torch.device("cpu")))
    plan = plan_token_map(tokens.layout)

    def loss(parameters):
        return torch.func.functional_call(mlp, parameters, (tokens.x, plan)).square().sum()

    parameters = dict(mlp.named_parameters())
    expected = torch.autograd.grad(loss(parameters), parameters.values())
    detached = {name: value.detach() for name, value in parameters.items()}
    actual = torch.func.grad(loss)(detached)
    for gradient, value in zip(expected, actual.values(), strict=True):
        torch.testing.assert_close(value, gradient)
    x = torch.randn(3, 2, 20, 4)
    found = torch.func.vmap(lambda part: dpc_knn(part, 5).assignment)(x)
    assert torch.equal(found, dpc_knn(x.flatten(0, 1), 5).assignment.view_as(found))
