import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tcformer.ops import csrc, dpc_knn
from tcformer.ops.dpc_knn import eager
from tcformer.ops.dpc_knn.peaks import Settings, neg_log_density, rank_of


def features(seed, batch=2, tokens=40, channels=8, dtype=torch.float64):
    g = torch.Generator().manual_seed(seed)
    return torch.randn(batch, tokens, channels, generator=g, dtype=dtype)


def assert_same(actual, expected):
    assert torch.equal(actual.assignment, expected.assignment)
    assert torch.equal(actual.centers, expected.centers)


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 10**6), st.integers(1, 14), st.integers(1, 16), st.integers(1, 16))
def test_equals_the_definition(seed, tokens, clusters, k):
    x = features(seed, tokens=tokens)
    assert_same(dpc_knn(x, clusters, k), dpc_knn(x, clusters, k, impl="reference"))


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 10**6), st.integers(1, 14), st.integers(1, 10))
def test_equals_the_definition_with_many_equal_tokens(seed, tokens, clusters):
    g = torch.Generator().manual_seed(seed)
    x = torch.randint(0, 2, (2, tokens, 2), generator=g).double()
    assert_same(dpc_knn(x, clusters), dpc_knn(x, clusters, impl="reference"))


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 10**6), st.integers(2, 12), st.integers(1, 10))
def test_equals_the_definition_under_a_mask(seed, tokens, clusters):
    x = features(seed, tokens=tokens)
    mask = torch.rand(2, tokens, generator=torch.Generator().manual_seed(seed)) < 0.6
    mask[:, 0] = True
    actual = dpc_knn(x, clusters, mask=mask)
    assert_same(actual, dpc_knn(x, clusters, mask=mask, impl="reference"))
    assert torch.equal(actual.assignment == -1, ~mask)


def test_equals_the_definition_with_noise():
    x = features(7, tokens=30)
    noise = torch.rand(2, 30, dtype=torch.float64) * 0.1
    actual = dpc_knn(x, 8, density_noise=noise)
    assert_same(actual, dpc_knn(x, 8, density_noise=noise, impl="reference"))
    assert not torch.equal(actual.centers, dpc_knn(x, 8).centers)


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 10**6), st.integers(2, 14), st.integers(1, 10))
def test_equals_the_definition_with_a_tolerance(seed, tokens, clusters):
    x = features(seed, tokens=tokens, channels=2)
    actual = dpc_knn(x, clusters, tolerance=0.5)
    assert_same(actual, dpc_knn(x, clusters, tolerance=0.5, impl="reference"))


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
    pairs = set(zip(found[0].tolist(), member[0].tolist(), strict=True))
    assert len(pairs) == 6


def test_masked_tokens_change_nothing_for_the_others():
    x = features(8, tokens=20, dtype=torch.float32)
    padding = torch.full((2, 10, 8), 1e3)
    mask = torch.arange(30).expand(2, -1) < 20
    padded = dpc_knn(torch.cat((x, padding), dim=1), 5, mask=mask)
    plain = dpc_knn(x, 5)
    assert torch.equal(padded.assignment[:, :20], plain.assignment)
    assert torch.equal(padded.centers, plain.centers)


def test_a_mask_may_leave_fewer_tokens_than_clusters():
    mask = torch.tensor([[True, False, True, False]])
    clusters = dpc_knn(features(9, batch=1, tokens=4), 3, mask=mask)
    assert clusters.centers.tolist() == [[0, 2, -1]]
    assert clusters.assignment.tolist() == [[0, -1, 1, -1]]


@pytest.mark.parametrize("elements", [1, 7, 100, 1000, 40_000])
def test_neither_row_blocks_nor_groups_of_images_matter(elements, monkeypatch):
    x = features(10, batch=3, tokens=130, dtype=torch.float32)
    whole = dpc_knn(x, 30)
    monkeypatch.setattr(eager, "CPU_BLOCK_ELEMENTS", elements)
    monkeypatch.setattr(eager, "MIN_ROWS", 1)
    assert_same(dpc_knn(x, 30), whole)


def test_the_path_without_data_dependent_sizes_says_the_same(monkeypatch):
    x = features(20, batch=3, tokens=150, dtype=torch.float32)
    mask = torch.rand(3, 150, generator=torch.Generator().manual_seed(0)) < 0.8
    for m in (None, mask):
        expected = dpc_knn(x, 40, mask=m)
        assert_same(dpc_knn(x, 40, mask=m), expected)
        centers = expected.centers
        static = eager._cluster(x, Settings(40, 5, m, None, 0.0), 5000)
        assert torch.equal(static[0], expected.assignment)
        assert torch.equal(static[1], centers)


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


@pytest.mark.parametrize("min_rows", [1, 3, 32, 128])
def test_the_full_scans_find_what_the_neighbor_lists_say(monkeypatch, min_rows):
    monkeypatch.setattr(eager, "MIN_ROWS", min_rows)
    x = features(11, tokens=80, dtype=torch.float32)
    f = eager._prepare(x, None, 0.0, 1)
    d2, neighbor = eager._nearest(f, 8)
    rank = rank_of(neg_log_density(d2, 5, None, None))
    quick = eager._separation(f, rank, d2, neighbor)
    full = eager._separation_scan(f, rank, torch.arange(80))
    torch.testing.assert_close(quick, full, rtol=1e-6, atol=0)
    ordered = eager._separation_in_order(f, rank)
    torch.testing.assert_close(ordered, full, rtol=0, atol=0)


def test_an_image_does_not_depend_on_its_batch_mates():
    x = features(12, batch=4, tokens=100, dtype=torch.float32)
    together = dpc_knn(x, 25)
    for b in range(4):
        alone = dpc_knn(x[[b]], 25)
        assert torch.equal(together.assignment[b], alone.assignment[0])


@pytest.mark.parametrize("shift", [0.0, 100.0])
def test_shifting_all_features_changes_no_cluster(shift):
    x = features(13, tokens=50)
    assert_same(dpc_knn(x + shift, 12), dpc_knn(x, 12))


def test_clusters_are_never_empty_and_centers_lead_them():
    clusters = dpc_knn(features(14, tokens=90), 30)
    for b in range(2):
        assert clusters.assignment[b].unique().numel() == 30
        assert clusters.assignment[b][clusters.centers[b]].tolist() == list(range(30))
        assert clusters.centers[b].tolist() == sorted(clusters.centers[b].tolist())


def test_equal_tokens_are_shared_out_by_index():
    clusters = dpc_knn(torch.ones(1, 100, 4), 10)
    assert clusters.centers.tolist() == [list(range(10))]
    assert clusters.assignment[0].tolist() == [*range(10), *[0] * 90]


@pytest.mark.parametrize("scale", [1e-20, 1e-3, 1.0, 1e3, 1e15])
def test_any_scale_of_features(scale):
    x = features(15, tokens=40)
    expected = dpc_knn(x, 10, k=1)  # with k = 1 all densities are equal: only the order of d counts
    assert_same(dpc_knn((x * scale).float(), 10, k=1), expected)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_is_computed_in_float32(dtype):
    x = features(16, tokens=40).to(dtype)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert_same(dpc_knn(x, 10), dpc_knn(x.float(), 10))


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_what_is_not_finite_never_leaves_the_range(bad):
    x = features(17, tokens=30, dtype=torch.float32)
    x[0, 3] = bad
    clusters = dpc_knn(x, 8)
    assert int(clusters.assignment.min()) >= 0
    assert int(clusters.assignment.max()) < 8
    assert torch.equal(clusters.assignment[1], dpc_knn(x[[1]], 8).assignment[0])


IMPLS = ["reference", "eager", *(["cpp"] if csrc.library() else [])]
NO_NUMBERS = [float("nan"), float("inf"), -float("inf"), 1e30, -3e38]


@pytest.mark.parametrize("impl", IMPLS)
@pytest.mark.parametrize("bad", NO_NUMBERS)
@pytest.mark.parametrize("place", [(0, 0, 0), (1, 3, 2), (2, 29, 7), (1, slice(None), 0)])
def test_an_image_without_distances_is_flat_whatever_runs(place, bad, impl):
    x = features(17, batch=3, tokens=30, dtype=torch.float32)
    expected = dpc_knn(x, 8, impl="reference")
    x[place] = bad
    for mask in (None, torch.ones(3, 30, dtype=torch.bool)):
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
    x = features(18, tokens=20, dtype=torch.float32)
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
    x = features(19, tokens=20, dtype=torch.float32)
    noise = torch.zeros(2, 20)
    noise[1] = -0.5
    expected = dpc_knn(x, 6, density_noise=noise, impl="reference")
    assert_same(dpc_knn(x, 6, density_noise=noise, impl=impl), expected)
    noise[0, 3] = float("nan")
    found = dpc_knn(x, 6, density_noise=noise, impl=impl)
    assert found.centers[0].tolist() == list(range(6))
    assert torch.equal(found.assignment[1], expected.assignment[1])


@pytest.mark.parametrize("impl", IMPLS)
@pytest.mark.parametrize(
    ("dtype", "scale"), [(torch.float16, 1e4), (torch.bfloat16, 1e15), (torch.float64, 1e100)]
)
def test_large_features_that_do_not_overflow_are_clustered(dtype, scale, impl):
    if dtype == torch.float64 and impl == "cpp":
        pytest.skip("it computes in float32")
    x = features(20, tokens=20)
    x[0] *= scale
    x = x.to(dtype)
    found = dpc_knn(x, 6, impl=impl)
    assert_same(found, dpc_knn(x, 6, impl="reference"))
    assert found.centers[0].tolist() != list(range(6))


@pytest.mark.slow(seconds=60)
def test_the_rule_holds_in_a_compiled_graph():
    x = features(21, batch=3, tokens=30, dtype=torch.float32)
    x[1, 3, 2] = float("nan")
    step = torch.compile(lambda x: dpc_knn(x, 8), fullgraph=True, backend="aot_eager")
    assert_same(step(x), dpc_knn(x, 8))


def test_sizes_beyond_the_tokens_are_clamped():
    x = features(18, tokens=3)
    assert dpc_knn(x, 100, k=100).centers.tolist() == [[0, 1, 2]] * 2


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
    x = features(19).requires_grad_()
    assert not dpc_knn(x, 5).assignment.requires_grad


@pytest.mark.parametrize("descending", [False, True])
def test_exported_graphs_sort_equal_values_by_index_too(monkeypatch, descending):
    from tcformer.ops.dpc_knn.peaks import stable_order

    g = torch.Generator().manual_seed(0)
    few = torch.tensor([0.0, -0.0, 1.0, -1.0, 1 + 2**-23, 1e-20, 3e38, torch.inf, -torch.inf])
    values = [few[torch.randint(9, (4, 3000), generator=g)], torch.randn(4, 3000, generator=g)]
    values += [torch.randint(-5, 5, (4, 3000), generator=g), (values[1] > 0).to(torch.uint8)]
    expected = [stable_order(x, descending=descending) for x in values]
    monkeypatch.setattr(torch.compiler, "is_exporting", lambda: True)
    for x, order in zip(values, expected, strict=True):
        assert torch.equal(stable_order(x, descending=descending), order)


def test_centers_have_their_old_name_too():
    found = dpc_knn(torch.arange(6.0).view(1, 6, 1), 2)
    assert found.centres is found.centers
