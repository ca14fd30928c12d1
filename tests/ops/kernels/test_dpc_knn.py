import ctypes
import mmap
import os
from contextlib import contextmanager

import pytest
import torch

from tcformer.ops import dpc_knn
from tcformer.ops.dpc_knn import triton as kernels


@pytest.fixture
def small_tiles(monkeypatch):
    """Several tiles even where there are few tokens; short lists, to interpret less."""
    monkeypatch.setattr(kernels, "NUM_EXTRA_NEIGHBORS", kernels.NUM_EXTRA)
    use_tiles(monkeypatch, kernels.Tiles(32, 16, 16, 4, 2), kernels.Tiles(32, 32, 4, 4, 2))


def use_tiles(monkeypatch, tiles, scan):
    monkeypatch.setattr(kernels, "tiles_for", lambda channels: tiles)
    monkeypatch.setattr(kernels, "SCAN", scan)


def features(device, seed, batch=2, tokens=40, channels=8):
    g = torch.Generator().manual_seed(seed)
    return torch.randn(batch, tokens, channels, generator=g).to(device)


def assert_same(actual, expected):
    assert torch.equal(actual.assignment, expected.assignment.to(actual.assignment.device))
    assert torch.equal(actual.centers, expected.centers.to(actual.centers.device))


def exact_d2(x, tolerance=0.0):
    """All squared distances over C, rounded once."""
    d2 = (x.double().unsqueeze(1) - x.double().unsqueeze(2)).square().mean(-1)
    return torch.where(d2 <= tolerance**2, 0.0, d2)


@pytest.mark.parametrize(
    ("tokens", "channels", "clusters", "k"),
    [
        (3, 3, 2, 5),  # fewer tokens than neighbors
        (17, 1, 5, 5),  # one channel, one token beyond a tile
        (40, 20, 40, 3),  # every token a center
        (40, 40, 1, 8),  # features wider than a resident tile
        (60, 16, 15, 5),
    ],
)
def test_equals_the_definition(device, small_tiles, tokens, channels, clusters, k):
    x = features(device, tokens, tokens=tokens, channels=channels)
    impl = "reference" if tokens < 50 else "eager"
    expected = dpc_knn(x.double(), clusters, k, impl=impl)
    assert_same(dpc_knn(x, clusters, k, impl="triton"), expected)


@pytest.mark.skipif(os.environ.get("TRITON_INTERPRET") != "1", reason="fences memory of the CPU")
@pytest.mark.parametrize("image", [0, 1])
def test_an_image_without_a_token_reads_nothing_but_features(device, small_tiles, image):
    x = features(device, 3)
    mask = torch.ones(2, 40, dtype=torch.bool)
    mask[image] = False
    made = kernels.prepare(x, mask, 0.0)
    expected = made.x.clone()
    with fenced(made.x) as inside:
        centers = torch.arange(4).expand(2, 4).clone()
        valid = mask[:, :4]
        centers[image] = -1
        label = kernels.assign(made._replace(x=inside), centers, valid, mask)
        assert torch.equal(inside, expected)
    assert torch.equal(label[1 - image, :4], torch.arange(4))


@contextmanager
def fenced(x):
    """A copy of x between pages that end the process of whoever touches them."""
    libc = ctypes.CDLL(None, use_errno=True)
    page, size = mmap.PAGESIZE, x.numel() * x.element_size()
    middle = -(-size // page) * page
    memory = mmap.mmap(-1, middle + 2 * page)
    start = ctypes.addressof(ctypes.c_char.from_buffer(memory))
    inside = torch.frombuffer(memory, dtype=x.dtype, count=x.numel(), offset=page)
    inside.copy_(x.flatten())

    def protect(how):
        for end in (start, start + page + middle):
            assert libc.mprotect(ctypes.c_void_p(end), ctypes.c_size_t(page), how) == 0

    protect(0)
    try:
        yield inside.view(x.shape)
    finally:
        protect(mmap.PROT_READ | mmap.PROT_WRITE)


def test_equal_tokens(device, small_tiles):
    g = torch.Generator().manual_seed(0)
    x = torch.randint(0, 2, (2, 36, 4), generator=g).float().to(device)
    assert_same(dpc_knn(x, 12, impl="triton"), dpc_knn(x, 12, impl="reference"))


def test_a_constant_image(device, small_tiles):
    clusters = dpc_knn(torch.ones(1, 50, 4, device=device), 10, impl="triton")
    assert clusters.centers.tolist() == [list(range(10))]
    assert clusters.assignment[0].tolist() == [*range(10), *[0] * 40]
    nothing = dpc_knn(torch.zeros(0, 5, 4, device=device), 2, impl="triton")
    assert (nothing.assignment.shape, nothing.centers.shape) == ((0, 5), (0, 2))


@pytest.mark.parametrize("seed", [0, 1, 3])
def test_under_a_mask(device, small_tiles, seed):
    x = features(device, seed, tokens=24)
    mask = torch.rand(2, 24, generator=torch.Generator().manual_seed(seed)) < 0.2 + 0.2 * seed
    mask[:, seed] = True
    mask = mask.to(device)
    x = x.masked_fill(~mask.unsqueeze(-1), [float("nan"), 1e30, float("inf"), 7.0][seed])
    clean = torch.where(mask.unsqueeze(-1), x, 0.0)
    expected = dpc_knn(clean.double(), 9, mask=mask, impl="reference")
    assert_same(dpc_knn(x, 9, mask=mask, impl="triton"), expected)


def test_noise_and_tolerance(device, small_tiles):
    x = features(device, 7, tokens=30, channels=2)
    noise = torch.rand(2, 30, generator=torch.Generator().manual_seed(0)).to(device) * 0.1
    plain = dpc_knn(x, 8, impl="triton")
    for options in ({"density_noise": noise}, {"tolerance": 0.3}):
        actual = dpc_knn(x, 8, **options, impl="triton")
        assert_same(actual, dpc_knn(x, 8, **options, impl="reference"))
        assert not torch.equal(actual.assignment, plain.assignment)


@pytest.mark.parametrize("scale", [1e-36, 1e15])
def test_any_scale_of_features(device, small_tiles, scale):
    x = features(device, 15, batch=1)
    scale = 2.0 ** round(torch.tensor(scale).log2().item())
    # With k = 1 all densities are equal, so only the order of distances counts; where their
    # squares leave the range of float32, float64 says what that order is.
    actual = dpc_knn(x * scale, 10, k=1, impl="triton")
    if scale > 1e-19:
        assert_same(actual, dpc_knn((x * scale).double(), 10, k=1, impl="eager"))
    assert 0 <= int(actual.assignment.min()) <= int(actual.assignment.max()) < 10


def test_no_tile_size_shows_in_any_number(device, monkeypatch):
    # Nearly equal tokens as well: there rounding decides, and it must be the same rounding.
    g = torch.Generator().manual_seed(3)
    x = torch.randn(1, 20, 9, generator=g)[:, torch.randint(20, (40,), generator=g)]
    x = (x + 100 + 1e-4 * torch.randn(1, 40, 9, generator=g)).to(device)
    expected = None
    for sizes in ((16, 16, 16), (64, 64, 32)):
        tiles = kernels.Tiles(*sizes, 4, 2)
        use_tiles(monkeypatch, tiles, tiles)
        f = kernels.prepare(x, None, 0.0)
        near = kernels.nearest(f, kernels._Columns(f.half, f.norm, None), 5, None)
        actual = (near.d2[..., :5].clone(), *dpc_knn(x, 15, impl="triton"))
        expected = actual if expected is None else expected
        for ours, theirs in zip(actual, expected, strict=True):
            assert torch.equal(ours, theirs)


def smooth_features(device):
    """Like those of a network: neighbors are similar, parts are flat, lengths are normalized."""
    g = torch.Generator().manual_seed(4)
    coarse = torch.randn(1, 8, 5, 5, generator=g)
    smooth = torch.nn.functional.interpolate(coarse, (7, 7), mode="bilinear").flatten(2).mT
    smooth[:, 20:32] = smooth[:, :1]
    return torch.nn.functional.layer_norm(smooth, (8,)).contiguous().to(device)


def test_nor_does_the_precision_of_the_proposals(device, small_tiles, monkeypatch):
    x = smooth_features(device)
    expected = dpc_knn(x, 12, tolerance=0.3, impl="triton")
    real, scanned = kernels.prepare, []

    def hardly_any(*arguments):
        f = real(*arguments)
        return f._replace(moved=f.moved + 1e6, most_moved=f.most_moved + 1e6)

    def compact(*arguments, like, real=kernels.compact, **options):
        rows = real(*arguments, like=like, **options)
        scanned.append(int(rows.number.sum()) / like.shape[1])
        return rows

    monkeypatch.setattr(kernels, "prepare", hardly_any)
    monkeypatch.setattr(kernels, "compact", compact)
    assert_same(dpc_knn(x, 12, tolerance=0.3, impl="triton"), expected)
    # So nearly all was done again: neighbors (all but equal tokens), centers (all).
    assert scanned[0] > 0.2
    assert scanned[-1] == 1.0


def test_the_bound_is_one(device, small_tiles):
    x = features(device, 11, batch=1, tokens=100, channels=24) + 100
    x[:, 50:] = x[:, :50] + 0.01 * x[:, 50:]  # pairs that half precision hardly tells apart
    f = kernels.prepare(x, None, 0.0)
    found = kernels.closest(f, kernels._Columns(f.half, f.norm, None), 8)
    d2 = exact_d2(x)
    outside = d2.scatter(2, found.column.long(), torch.inf).amin(dim=-1)
    assert (found.radius <= outside * (1 + 1e-6)).all()
    # It is of use as well: it proves nearly all rows, and the lists are nearly what they claim.
    fifth = d2.sort(dim=-1).values[..., 4]
    assert (fifth <= found.radius).double().mean() > 0.8
    torch.testing.assert_close(found.d2[..., 0], torch.zeros(1, 100, device=device))


@pytest.mark.parametrize("tolerance", [0.0, 0.5])
def test_neighbors_are_the_nearest_in_order(device, small_tiles, tolerance):
    x = features(device, 12, batch=1, tokens=70, channels=4)
    f = kernels.prepare(x, None, tolerance)
    everyone = kernels._Columns(f.half, f.norm, None)
    near, scanned = kernels.nearest(f, everyone, 5, None), _scanned(f, everyone)
    values, order = exact_d2(x, tolerance).sort(dim=-1, stable=True)
    for found in (near, scanned):
        torch.testing.assert_close(found.d2[..., :5], values[..., :5].float(), rtol=1e-5, atol=0)
    # Among equal distances the scan finds the first; proposals need only find as near ones.
    assert torch.equal(scanned.column.long(), order[..., :8])
    assert torch.equal(near.d2[..., :5], scanned.d2[..., :5])  # to the last bit
    assert torch.equal(near.column[..., :5], scanned.column[..., :5]) or tolerance > 0.0


def _scanned(f, columns):
    found = kernels._Found(
        f.x.new_empty(*f.x.shape[:2], 8),
        f.x.new_empty(*f.x.shape[:2], 8, dtype=torch.int32),
        f.x.new_empty(f.x.shape[:2]),
    )
    kernels.scan(f, columns, kernels.compact(None, like=f.x), found)
    return found


def test_the_first_of_equal_centers_even_where_others_are_proposed(device, small_tiles):
    # All distances count as zero, and which four centers are proposed is a matter of rounding.
    x = 1.0 + 1e-5 * features(device, 21, batch=1, tokens=40)
    f = kernels.prepare(x, None, 1e-2)
    centers = torch.arange(30, device=device)[None]
    assert kernels.assign(f, centers, None, None).tolist() == [[0] * 40]


def test_compact_lists_what_is_flagged(device):
    part = torch.tensor([0.0, 0.02, 0.5, 1.0])[:, None]
    flag = torch.rand(4, 2500, generator=torch.Generator().manual_seed(1)) < part
    rows = kernels.compact(flag.to(device), like=flag.to(device))
    for b in range(4):
        expected = flag[b].nonzero().squeeze(1).int()
        assert int(rows.number[b]) == len(expected)
        assert torch.equal(rows.token[b, : len(expected)].cpu(), expected)


def test_an_image_does_not_depend_on_its_batch_mates(device, small_tiles):
    x = features(device, 16, batch=3, tokens=24)
    x[0] *= 1e4
    x[2, :16] = 3.0
    together = dpc_knn(x, 10, impl="triton")
    alone = dpc_knn(x[[1]], 10, impl="triton")
    assert torch.equal(together.assignment[1], alone.assignment[0])
    assert torch.equal(together.centers[1], alone.centers[0])


def test_permuting_tokens_permutes_the_partition(device, small_tiles):
    x = features(device, 17, batch=1, tokens=40)
    order = torch.randperm(40, generator=torch.Generator().manual_seed(2)).to(device)
    plain, permuted = dpc_knn(x, 20, impl="triton"), dpc_knn(x[:, order], 20, impl="triton")
    together = plain.assignment[0, order][:, None] == plain.assignment[0, order]
    assert torch.equal(together, permuted.assignment[0][:, None] == permuted.assignment[0])
    assert torch.equal(order[permuted.centers[0]].sort().values, plain.centers[0])


def test_the_tiles_of_the_models(device):
    for channels in (32, 140):
        x = features(device, channels, batch=1, tokens=50, channels=channels)
        expected = dpc_knn(x.double(), 20, impl="eager")
        assert_same(dpc_knn(x, 20, impl="triton"), expected)


def test_refusals(device):
    x = features(device, 1, tokens=64)
    with pytest.raises(ValueError, match="these features are float64"):
        dpc_knn(x.double(), 4, impl="triton")
    with pytest.raises(ValueError, match="hold 29 neighbors, not k=30"):
        dpc_knn(x, 4, k=30, impl="triton")
    assert_same(dpc_knn(x, 4, k=29, impl="triton"), dpc_knn(x.double(), 4, k=29, impl="eager"))


def test_registration(device, small_tiles):
    x = features(device, 19, tokens=20)
    mask = torch.arange(20, device=device).expand(2, -1) < 15
    arguments = (x, 5, 3, mask, torch.rand_like(x[..., 0]), 0.1, "triton")
    tests = ("test_schema", "test_faketensor")  # what is traced is `test_one_graph`
    torch.library.opcheck(torch.ops.tcformer.dpc_knn.default, arguments, test_utils=tests)


def test_one_graph(device, small_tiles):
    def whole(x):
        assignment, centers = dpc_knn(x * 2, 5, impl="triton")
        return assignment + 1, centers

    x = features(device, 20, tokens=20)
    compiled = torch.compile(whole, backend="aot_eager", fullgraph=True)
    for ours, theirs in zip(compiled(x), whole(x), strict=True):
        assert torch.equal(ours, theirs)


@pytest.mark.parametrize("bad", [float("nan"), 1e30])
def test_an_image_without_distances_is_flat(device, small_tiles, bad):
    x = features(device, 31, batch=2, tokens=20)
    expected = dpc_knn(x, 5, impl="triton")
    x[0, 7, 3] = bad
    found = dpc_knn(x, 5, impl="triton")
    assert found.centers[0].tolist() == list(range(5))
    assert found.assignment[0].tolist() == [*range(5), *[0] * 15]
    assert torch.equal(found.assignment[1], expected.assignment[1])
