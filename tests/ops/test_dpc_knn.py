"""DPC-KNN: every backend says what the definition says, whatever is asked and however it is cut."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch._subclasses.fake_tensor import FakeTensorMode

from tcformer.ops import csrc, dpc_knn
from tcformer.ops.dpc_knn import eager
from tcformer.ops.dpc_knn.peaks import Settings, stable_order

FAST = ["eager", *(["cpp"] if csrc.library() else [])]
IMPLS = ["reference", *FAST]
needs_cpp = pytest.mark.skipif("cpp" not in FAST, reason=f"no C++: {csrc.unsupported_reason()}")
on_all = pytest.mark.parametrize("impl", FAST)

BLOCK = 224
"""Rows of a block of the C++ kernel where vectors are 16 wide."""


def features(seed, batch=2, tokens=40, channels=8, dtype=torch.float32):
    g = torch.Generator().manual_seed(seed)
    return torch.randn(batch, tokens, channels, generator=g, dtype=dtype)


def assert_same(actual, expected):
    assert torch.equal(actual.assignment, expected.assignment)
    assert torch.equal(actual.centers, expected.centers)


def assert_agrees(impl, x, clusters, k=5, **options):
    """A backend (C++ in float32, the other in float64) against the definition in float64."""
    wide = {n: v.double() if n == "density_noise" else v for n, v in options.items()}
    expected = dpc_knn(x.double(), clusters, k, impl="reference", **wide)
    taken, options = (x, options) if impl == "cpp" else (x.double(), wide)
    assert_same(dpc_knn(taken, clusters, k, impl=impl, **options), expected)
    return expected


@on_all
@settings(max_examples=25, deadline=None)
@given(
    st.integers(0, 10**6),
    st.integers(1, 40),
    st.integers(1, 20),
    st.integers(1, 24),
    st.sampled_from([1, 3, 16, 17]),
)
def test_equals_the_definition(impl, seed, tokens, clusters, k, channels):
    assert_agrees(impl, features(seed, tokens=tokens, channels=channels), clusters, k)


@on_all
@settings(max_examples=20, deadline=None)
@given(st.integers(0, 10**6), st.integers(1, 30), st.integers(1, 20))
def test_ties_go_to_the_lower_index(impl, seed, tokens, clusters):
    g = torch.Generator().manual_seed(seed)
    assert_agrees(impl, torch.randint(0, 2, (2, tokens, 3), generator=g).float(), clusters)


@on_all
@settings(max_examples=15, deadline=None)
@given(st.integers(0, 10**6), st.integers(2, 24), st.integers(1, 10))
def test_masks_noise_and_tolerance_mean_what_they_say(impl, seed, tokens, clusters):
    x = features(seed, tokens=tokens, channels=3)
    g = torch.Generator().manual_seed(seed)
    mask = torch.rand(2, tokens, generator=g) < 0.6  # of an image nothing may be left
    found = assert_agrees(impl, x, clusters, mask=mask, tolerance=0.3)
    assert torch.equal(found.assignment == -1, ~mask)
    assert_agrees(impl, x, clusters, density_noise=torch.rand(2, tokens, generator=g) * 0.1)


def test_tokens_within_the_tolerance_are_equal():
    g = torch.Generator().manual_seed(6)
    x = torch.randn(1, 7, 48, generator=g)[:, torch.randint(7, (200,), generator=g)]
    expected = dpc_knn(x, 50)
    for _ in range(5):
        noisy = x + 1e-5 * torch.randn(x.shape, generator=g)
        assert_same(dpc_knn(noisy, 50, tolerance=1e-3), expected)


def test_finds_clusters_that_are_there():
    g = torch.Generator().manual_seed(0)
    middle = torch.randn(1, 6, 16, generator=g) * 10
    member = torch.randint(6, (1, 200), generator=g)
    x = middle[0, member] + 0.1 * torch.randn(1, 200, 16, generator=g)
    found = dpc_knn(x, 6).assignment
    assert len(set(zip(found[0].tolist(), member[0].tolist(), strict=True))) == 6


def test_masked_tokens_change_nothing_for_the_others():
    x = features(8, tokens=20)
    mask = torch.arange(30).expand(2, -1) < 20
    padded = dpc_knn(torch.cat((x, torch.full((2, 10, 8), 1e3)), dim=1), 5, mask=mask)
    plain = dpc_knn(x, 5)
    assert torch.equal(padded.assignment[:, :20], plain.assignment)
    assert torch.equal(padded.centers, plain.centers)


def test_a_mask_may_leave_fewer_tokens_than_clusters():
    mask = torch.tensor([[True, False, True, False]])
    clusters = dpc_knn(features(9, batch=1, tokens=4), 3, mask=mask)
    assert clusters.centers.tolist() == [[0, 2, -1]]
    assert clusters.assignment.tolist() == [[0, -1, 1, -1]]


@pytest.mark.parametrize("elements", [1, 100, 40_000])
def test_neither_row_blocks_nor_groups_of_images_matter(elements, monkeypatch):
    x = features(10, batch=3, tokens=130)
    whole = dpc_knn(x, 30, impl="eager")
    monkeypatch.setattr(eager, "CPU_BLOCK_ELEMENTS", elements)
    monkeypatch.setattr(eager, "MIN_ROWS", 1)
    assert_same(dpc_knn(x, 30, impl="eager"), whole)


@needs_cpp
@pytest.mark.parametrize("tokens", [BLOCK - 1, BLOCK, BLOCK + 1, 2 * BLOCK + 17])
def test_blocks_of_the_kernel_leave_no_seam(tokens):
    x = features(tokens, batch=1, tokens=tokens, channels=6)
    expected = dpc_knn(x.double(), tokens // 4, impl="eager")
    assert_same(dpc_knn(x, tokens // 4, impl="cpp"), expected)


def test_the_path_without_data_dependent_sizes_says_the_same():
    x = features(20, batch=3, tokens=150)
    mask = torch.rand(3, 150, generator=torch.Generator().manual_seed(0)) < 0.8
    for m in (None, mask):
        found = eager._cluster(x, Settings(40, 5, m, None, 0.0), 5000)
        for ours, expected in zip(found, dpc_knn(x, 40, mask=m), strict=True):
            assert torch.equal(ours, expected)


def test_no_block_is_larger_than_allowed():
    for batch, rows, columns in ((1, 65536, 65536), (256, 3136, 3136), (8, 10, 20)):
        x = torch.empty(batch, 0, 0)
        f = eager._Features(x, x, x, None, 0.0, eager.BLOCK_ELEMENTS)
        blocks = eager._blocks(f, rows, columns)
        largest = max(stop - start for start, stop in blocks)
        assert largest <= max(eager.MIN_ROWS, eager.BLOCK_ELEMENTS // (batch * columns))
        assert [start for start, _ in blocks[1:]] == [stop for _, stop in blocks[:-1]]
        assert blocks[-1][1] == rows


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 10**6), st.integers(1, 9), st.sampled_from([1, 48, 600, 1024, 2000]))
def test_the_two_step_selection_finds_the_smallest(seed, count, columns):
    g = torch.Generator().manual_seed(seed)
    d2 = torch.randint(0, 50, (2, 3, columns), generator=g).float()
    d2[:, :, columns // 2 :] += torch.rand(2, 3, columns - columns // 2, generator=g)
    count = min(count, columns)
    found = eager._smallest(d2, count)
    assert all(row.unique().numel() == count for row in found.flatten(0, 1))
    smallest = d2.sort(dim=-1).values[..., :count]
    assert torch.equal(d2.gather(2, found).sort(dim=-1).values, smallest)


@on_all
def test_neither_batch_mates_nor_threads_change_an_image(impl):
    x = features(0, batch=4, tokens=2 * BLOCK + 9, channels=12)
    x[2] = x[2].round()  # an image full of ties
    expected = dpc_knn(x, 120, impl=impl)
    before = torch.get_num_threads()
    try:
        for threads in (1, 2, 3):
            torch.set_num_threads(threads)
            assert_same(dpc_knn(x, 120, impl=impl), expected)
            alone = dpc_knn(x[2:3], 120, impl=impl)
            assert torch.equal(alone.assignment[0], expected.assignment[2])
    finally:
        torch.set_num_threads(before)


@needs_cpp
def test_what_products_cannot_tell_apart_is_searched_exactly():
    """Two far groups: the square of their distance swallows the distances inside a group."""
    g = torch.Generator().manual_seed(3)
    side = torch.where(torch.arange(300) % 2 == 0, 4096.0, -4096.0)
    near = torch.randint(-8, 9, (300, 4), generator=g) / 1024  # exact next to 4096
    near += torch.randint(-8, 9, (300, 4), generator=g) / 64
    x = (side[:, None] + near)[None]
    found = dpc_knn(x, 60, impl="cpp")
    assert_same(found, dpc_knn(x.double(), 60, impl="eager"))
    assert found.centers.unique().numel() == 60


def test_shifting_all_features_changes_no_cluster():
    x = features(13, tokens=50, dtype=torch.float64)
    assert_same(dpc_knn(x + 100, 12), dpc_knn(x, 12))


@on_all
def test_clusters_are_never_empty_and_centers_lead_them(impl):
    clusters = dpc_knn(features(14, tokens=90), 30, impl=impl)
    for b in range(2):
        assert clusters.assignment[b].unique().numel() == 30
        assert clusters.assignment[b][clusters.centers[b]].tolist() == list(range(30))
        assert clusters.centers[b].tolist() == sorted(clusters.centers[b].tolist())


@on_all
def test_equal_tokens_are_dealt_out_by_index(impl):
    clusters = dpc_knn(torch.ones(1, 300, 4), 50, impl=impl)
    assert clusters.centers.tolist() == [list(range(50))]
    assert clusters.assignment[0].tolist() == [*range(50), *[0] * 250]


@pytest.mark.parametrize("scale", [1e-20, 1e-3, 1e3, 1e15])
def test_any_scale_of_features(scale):
    x = features(15, dtype=torch.float64)
    expected = dpc_knn(x, 10, k=1)  # with k = 1 all densities are equal: only the order of d counts
    assert_same(dpc_knn((x * scale).float(), 10, k=1), expected)


@on_all
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_and_strided_features_are_computed_in_float32(impl, dtype):
    x = features(16).to(dtype)
    expected = dpc_knn(x.float(), 10, impl="eager")
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert_same(dpc_knn(x, 10, impl=impl), expected)
    strided = x.transpose(0, 1).contiguous().transpose(0, 1)
    assert_same(dpc_knn(strided, 10, impl=impl), expected)


NO_NUMBERS = [float("nan"), float("inf"), -float("inf"), 1e30, -3e38]


@pytest.mark.parametrize("impl", IMPLS)
@pytest.mark.parametrize("bad", NO_NUMBERS)
def test_an_image_without_distances_is_flat_whatever_runs(bad, impl):
    expected = dpc_knn(features(17, batch=3, tokens=30), 8, impl="reference")
    for place in ((0, 0, 0), (1, 3, 2), (2, 29, 7), (1, slice(None), 0)):
        x = features(17, batch=3, tokens=30)
        x[place] = bad
        mask = None if place[0] else torch.ones(3, 30, dtype=torch.bool)
        found = dpc_knn(x, 8, mask=mask, impl=impl)
        for b in range(3):
            if b == place[0]:
                assert found.centers[b].tolist() == list(range(8))
                assert found.assignment[b].tolist() == [*range(8), *[0] * 22]
            else:
                assert torch.equal(found.assignment[b], expected.assignment[b])
                assert torch.equal(found.centers[b], expected.centers[b])


@pytest.mark.parametrize("impl", IMPLS)
def test_masked_tokens_may_hold_anything(impl):
    x = features(18, tokens=20)
    mask = torch.arange(20).expand(2, -1) < 15
    expected = dpc_knn(x, 6, mask=mask, impl=impl)
    for bad in NO_NUMBERS:
        x[:, 16:] = bad
        noise = torch.where(mask, 0.0, bad)
        assert_same(dpc_knn(x, 6, mask=mask, impl=impl), expected)
        assert_same(dpc_knn(x, 6, mask=mask, density_noise=noise, impl=impl), expected)
    x[0, 4, 1] = float("nan")
    found = dpc_knn(x, 6, mask=mask, impl=impl)
    assert found.assignment[0].tolist() == [*range(6), *[0] * 9, *[-1] * 5]
    assert torch.equal(found.assignment[1], expected.assignment[1])


@pytest.mark.parametrize("impl", IMPLS)
def test_noise_that_is_no_number_or_exceeds_a_density_means_the_same_everywhere(impl):
    x = features(19, tokens=20)
    noise = torch.zeros(2, 20)
    noise[1] = -0.5
    expected = dpc_knn(x, 6, density_noise=noise, impl="reference")
    assert_same(dpc_knn(x, 6, density_noise=noise, impl=impl), expected)
    noise[0, 3] = float("nan")
    found = dpc_knn(x, 6, density_noise=noise, impl=impl)
    assert found.centers[0].tolist() == list(range(6))
    assert torch.equal(found.assignment[1], expected.assignment[1])


@on_all
@pytest.mark.parametrize(
    ("dtype", "scale"), [(torch.float16, 1e4), (torch.bfloat16, 1e15), (torch.float64, 1e100)]
)
def test_large_features_that_do_not_overflow_are_clustered(dtype, scale, impl):
    x = features(20, tokens=20, dtype=torch.float64)
    x[0] *= scale
    x = x.to(dtype)
    if dtype == torch.float64 and impl == "cpp":
        with pytest.raises(ValueError, match="'cpp' cannot run here"):
            dpc_knn(x, 6, impl=impl)
        return
    found = dpc_knn(x, 6, impl=impl)
    assert_same(found, dpc_knn(x, 6, impl="reference"))
    assert found.centers[0].tolist() != list(range(6))


@pytest.mark.slow(seconds=20)
def test_compiles_into_one_graph():
    x = features(21, batch=3, tokens=30)
    x[1, 3, 2] = float("nan")
    step = torch.compile(lambda x: dpc_knn(x, 8), fullgraph=True, backend="aot_eager")
    assert_same(step(x), dpc_knn(x, 8))


def test_the_operator_is_registered_as_it_should_be():
    x = features(6, tokens=60)
    op = torch.ops.tcformer.dpc_knn.default
    tests = ("test_schema", "test_faketensor")
    torch.library.opcheck(op, (x, 15, 5, None, None, 0.0, FAST[-1]), test_utils=tests)
    with FakeTensorMode():
        clusters = dpc_knn(torch.empty(3, 64, 8), 16)
    assert (clusters.assignment.shape, clusters.centers.shape) == ((3, 64), (3, 16))


def test_sizes_beyond_the_tokens_are_clamped():
    found = dpc_knn(features(18, tokens=3), 100, k=100)
    assert found.centers.tolist() == [[0, 1, 2]] * 2
    assert found.centres is found.centers  # the name that it had


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"x": torch.zeros(3, 4)}, "shape"),
        ({"x": torch.zeros(1, 3, 4, dtype=torch.long)}, "float"),
        ({"x": torch.zeros(1, 0, 4)}, "nothing to cluster"),
        ({"x": torch.zeros(1, 3, 4), "mask": torch.ones(1, 2, dtype=torch.bool)}, "mask must have"),
        ({"x": torch.zeros(1, 3, 4), "mask": torch.ones(1, 3)}, "mask must be bool"),
        ({"x": torch.zeros(1, 3, 4), "impl": "magic"}, "no implementation 'magic'"),
    ],
)
def test_refuses_what_does_not_fit(arguments, words):
    with pytest.raises(ValueError, match=words):
        dpc_knn(num_clusters=2, **arguments)


def test_nothing_is_differentiated():
    assert not dpc_knn(features(19).requires_grad_(), 5).assignment.requires_grad


@pytest.mark.parametrize("descending", [False, True])
def test_exported_graphs_sort_equal_values_by_index_too(monkeypatch, descending):
    g = torch.Generator().manual_seed(0)
    few = torch.tensor([0.0, -0.0, 1.0, -1.0, 1 + 2**-23, 1e-20, 3e38, torch.inf, -torch.inf])
    values = [few[torch.randint(9, (4, 3000), generator=g)], torch.randn(4, 3000, generator=g)]
    values += [torch.randint(-5, 5, (4, 3000), generator=g), (values[1] > 0).to(torch.uint8)]
    expected = [stable_order(x, descending=descending) for x in values]
    monkeypatch.setattr(torch.compiler, "is_exporting", lambda: True)
    for x, order in zip(values, expected, strict=True):
        assert torch.equal(stable_order(x, descending=descending), order)
