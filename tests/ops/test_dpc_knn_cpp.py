"""The C++ kernel of DPC-KNN against the definition, over its tiles, blocks and fallbacks."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tcformer.ops import csrc, dpc_knn

pytestmark = pytest.mark.skipif(
    csrc.library() is None, reason=f"no C++ kernels: {csrc.unsupported_reason()}"
)

BLOCK = 224
"""Rows of a block where vectors are 16 wide; with narrower ones blocks are smaller."""


def features(seed, batch=2, tokens=40, channels=8):
    g = torch.Generator().manual_seed(seed)
    return torch.randn(batch, tokens, channels, generator=g)


def same(actual, expected):
    return torch.equal(actual.assignment, expected.assignment) and torch.equal(
        actual.centers, expected.centers
    )


def agrees(x, clusters, k=5, **options):
    """The kernel on float32 features against the definition in float64."""
    wide = {n: v.double() if n == "density_noise" else v for n, v in options.items()}
    expected = dpc_knn(x.double(), clusters, k, impl="reference", **wide)
    return same(dpc_knn(x, clusters, k, impl="cpp", **options), expected)


@settings(max_examples=40, deadline=None)
@given(
    st.integers(0, 10**6),
    st.integers(1, 70),
    st.integers(1, 20),
    st.integers(1, 24),
    st.sampled_from([1, 3, 16, 17, 40]),
)
def test_equals_the_definition(seed, tokens, clusters, k, channels):
    assert agrees(features(seed, tokens=tokens, channels=channels), clusters, k)


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 10**6), st.integers(1, 60), st.integers(1, 30))
def test_ties_go_to_the_lower_index(seed, tokens, clusters):
    g = torch.Generator().manual_seed(seed)
    assert agrees(torch.randint(0, 2, (2, tokens, 3), generator=g).float(), clusters)


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 10**6), st.integers(2, 60), st.integers(1, 10))
def test_masks_noise_and_tolerance_mean_what_they_say(seed, tokens, clusters):
    x = features(seed, tokens=tokens, channels=3)
    g = torch.Generator().manual_seed(seed)
    mask = torch.rand(2, tokens, generator=g) < 0.6  # of an image nothing may be left
    assert agrees(x, clusters, mask=mask, tolerance=0.3)
    assert agrees(x, clusters, density_noise=torch.rand(2, tokens, generator=g) * 0.1)


@pytest.mark.parametrize("tokens", [BLOCK - 1, BLOCK, BLOCK + 1, 2 * BLOCK + 17, 3 * BLOCK + 5])
def test_blocks_leave_no_seam(tokens):
    x = features(tokens, batch=1, tokens=tokens, channels=6)
    wide = dpc_knn(x.double(), tokens // 4, impl="eager")
    assert same(dpc_knn(x, tokens // 4, impl="cpp"), wide)


def test_the_number_of_threads_and_the_batch_change_nothing():
    x = features(0, batch=5, tokens=3 * BLOCK + 9, channels=12)
    x[2] = x[2].round()  # an image full of ties
    expected = dpc_knn(x, 170, impl="cpp")
    before = torch.get_num_threads()
    try:
        for threads in (1, 2, 3, 7):
            torch.set_num_threads(threads)
            assert same(dpc_knn(x, 170, impl="cpp"), expected)
            alone = dpc_knn(x[2:3], 170, impl="cpp")
            assert torch.equal(alone.assignment[0], expected.assignment[2])
    finally:
        torch.set_num_threads(before)


def test_what_products_cannot_tell_apart_is_searched_exactly():
    """Two far groups: the square of their distance swallows the distances inside a group."""
    g = torch.Generator().manual_seed(3)
    side = torch.where(torch.arange(300) % 2 == 0, 4096.0, -4096.0)
    near = torch.randint(-8, 9, (300, 4), generator=g) / 1024  # exact next to 4096
    near += torch.randint(-8, 9, (300, 4), generator=g) / 64
    x = (side[:, None] + near)[None]
    found = dpc_knn(x, 60, impl="cpp")
    assert same(found, dpc_knn(x.double(), 60, impl="eager"))
    assert found.centers.unique().numel() == 60


def test_flat_images_are_shared_out_by_index():
    clusters = dpc_knn(torch.ones(1, 300, 8), 50, impl="cpp")
    assert torch.equal(clusters.centers[0], torch.arange(50))
    assert torch.equal(clusters.assignment[0], torch.arange(300).where(torch.arange(300) < 50, 0))


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf"), 1e30])
@pytest.mark.parametrize("tokens", [3, 50, 300])
def test_what_is_not_finite_never_leaves_the_range(bad, tokens):
    x = features(4, batch=2, tokens=tokens)
    x[0, tokens // 2, 3] = bad
    x[1] = bad
    clusters = dpc_knn(x, 12, impl="cpp")
    count = min(12, tokens)
    assert ((clusters.assignment >= 0) & (clusters.assignment < count)).all()
    assert torch.equal(clusters.centers, clusters.centers.sort(dim=1).values)
    assert ((clusters.centers >= 0) & (clusters.centers < tokens)).all()


def test_strided_and_half_precision_features():
    x = features(5, batch=2, tokens=90, channels=16)
    expected = dpc_knn(x, 20, impl="cpp")
    strided = x.transpose(0, 1).contiguous().transpose(0, 1)
    assert same(dpc_knn(strided, 20, impl="cpp"), expected)
    half = x.bfloat16()
    assert same(dpc_knn(half, 20, impl="cpp"), dpc_knn(half.float(), 20, impl="eager"))
    with pytest.raises(ValueError, match="'cpp' cannot run here"):
        dpc_knn(x.double(), 20, impl="cpp")


@pytest.mark.slow
def test_compiles_into_one_graph():
    x = features(6, batch=2, tokens=60, channels=8)
    step = torch.compile(
        lambda x: dpc_knn(x * 2, 15).assignment + 1, fullgraph=True, backend="aot_eager"
    )
    assert torch.equal(step(x), dpc_knn(x * 2, 15).assignment + 1)
    op = torch.ops.tcformer.dpc_knn.default
    torch.library.opcheck(op, (x, 15, 5, None, None, 0.0, "cpp"))


def test_stand_ins_for_tensors_get_the_shapes():
    from torch._subclasses.fake_tensor import FakeTensorMode

    with FakeTensorMode():
        clusters = dpc_knn(torch.empty(3, 64, 8), 16)
    assert clusters.assignment.shape == (3, 64)
    assert clusters.centers.shape == (3, 16)
