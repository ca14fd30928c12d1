"""Windows of the image: their order, their padding, and clustering inside them."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tcformer.ops import cluster_windows, dpc_knn
from tcformer.ops.local import Windows, cut, grid_windows, nested_grids, run_windows, usable_grids
from tcformer.tokens import grid_layout

NESTS = [((4, 4), (2, 2), (1, 1)), ((8, 8), (4, 4), (2, 2)), ((2, 4), (1, 2)), ((3, 1),), ((6, 2),)]
sides = st.integers(1, 23)


def layout_of(height, width):
    return grid_layout(1, (height, width), torch.device("cpu"))


def window_of(row, column, size, grid, finest):
    """The definition: pad to a multiple, half of it (rounded down) before, and divide."""
    index = 0
    for position, length, windows, fine in zip((row, column), size, grid, finest, strict=True):
        padding = -length % fine
        index = index * windows + (position + padding // 2) * windows // (length + padding)
    return index


@settings(max_examples=40, deadline=None)
@given(sides, sides, st.sampled_from(NESTS))
def test_every_cell_stands_in_its_part_and_parts_are_in_nested_order(height, width, grids):
    grids = nested_grids(grids)
    windows = grid_windows((height, width), grids)
    if windows.order is None:
        assert grids == ((1, 1),)
        return
    assert windows.order.shape == (windows.num_windows * windows.size,)
    assert windows.num_windows == grids[0][0] * grids[0][1]
    assert torch.equal(windows.order[windows.place], torch.arange(height * width))
    assert int((windows.order < 0).sum()) == len(windows.order) - height * width
    for grid in grids:  # runs of the sequence are the windows of every grid, the coarse ones too
        numbers = set()
        for run in windows.order.view(grid[0] * grid[1], -1).tolist():
            cells = [divmod(cell, width) for cell in run if cell >= 0]
            found = {window_of(*cell, (height, width), grid, grids[0]) for cell in cells}
            assert len(found) <= 1
            assert not found & numbers
            numbers |= found
    fewest = min(int((run >= 0).sum()) for run in windows.order.view(windows.num_windows, -1))
    assert windows.smallest == fewest
    for run in windows.order.view(windows.num_windows, -1):  # row-major inside a window
        cells = run[run >= 0].tolist()
        assert cells == sorted(cells)


@pytest.mark.parametrize("length", [164, 188, 220, 244, 328, 332, 376, 388])
def test_parts_are_cut_by_integers(length):
    # Computed in float32, windows of these lengths come out a row too long or too short.
    windows = grid_windows((length, 4), ((4, 2), (2, 1), (1, 1)))
    rows = windows.order.view(8, -1) // 4
    assert [run.unique().numel() for run in rows] == [length // 4] * 8


@settings(max_examples=15, deadline=None)
@given(st.integers(4, 12), st.integers(4, 12), st.sampled_from(NESTS[2:]), st.integers(0, 999))
def test_equals_clustering_each_part_alone(height, width, grids, seed):
    g = torch.Generator().manual_seed(seed)
    x = torch.randn(2, height * width, 4, generator=g, dtype=torch.float64)
    noise = 0.05 * torch.rand(2, height * width, generator=g, dtype=torch.float64)
    grids = usable_grids(layout_of(height, width), nested_grids(grids), height * width // 3)
    windows = cut(layout_of(height, width), grids)
    each = height * width // 3 // windows.num_windows
    found = cluster_windows(x, windows, each, 4, density_noise=noise)
    assert found.centers.shape == (2, each * windows.num_windows)
    members = {}
    for cell in range(height * width):
        number = window_of(*divmod(cell, width), (height, width), grids[0], grids[0])
        members.setdefault(number, []).append(cell)
    for cells in members.values():
        alone = dpc_knn(x[:, cells], each, 4, density_noise=noise[:, cells], impl="reference")
        labels = found.assignment[:, cells]
        first = int(labels.min()) // each * each
        assert torch.equal(labels - first, alone.assignment)
        centers = found.centers[:, first : first + each]
        assert torch.equal(centers, torch.tensor(cells)[alone.centers])


def test_runs_of_tokens():
    x = torch.randn(3, 24, 4, generator=torch.Generator().manual_seed(0))
    found = cluster_windows(x, run_windows(24, 4), 2)
    for part in range(4):
        alone = dpc_knn(x[:, 6 * part : 6 * part + 6], 2)
        assert torch.equal(
            found.assignment[:, 6 * part : 6 * part + 6], alone.assignment + 2 * part
        )
        assert torch.equal(found.centers[:, 2 * part : 2 * part + 2], alone.centers + 6 * part)


def test_one_part_is_plain_clustering():
    x = torch.randn(2, 30, 4, generator=torch.Generator().manual_seed(1))
    for windows in (run_windows(30, 1), cut(layout_of(5, 6), nested_grids([(1, 1)]))):
        for found, plain in zip(cluster_windows(x, windows, 7), dpc_knn(x, 7), strict=True):
            assert torch.equal(found, plain)


def test_padding_is_nobodys_neighbor():
    # 3 x 5 cells in 2 x 2 windows of 2 x 3: a token of zeros would attract these ones.
    x = torch.randn(1, 15, 8, generator=torch.Generator().manual_seed(2)) * 1e-3 + 1
    windows = grid_windows((3, 5), ((2, 2), (1, 1)))
    found = cluster_windows(x, windows, 1)
    assert windows.smallest == 2
    assert sorted(found.assignment.unique().tolist()) == [0, 1, 2, 3]
    assert int(found.centers.min()) >= 0


@pytest.mark.parametrize(
    ("size", "kept", "expected"),
    [
        ((56, 56), 784, (4, 4)),
        ((16, 16), 16, (4, 4)),
        ((16, 16), 15, (2, 2)),  # the finest would get no cluster
        ((5, 5), 25, (1, 1)),  # padded to 8 x 8 the finest has a row of windows without any cell
        ((5, 5), 7, (2, 2)),
        ((5, 5), 3, (1, 1)),
        ((6, 6), 16, (4, 4)),
        ((6, 6), 18, (4, 4)),
        ((6, 6), 32, (2, 2)),  # two for each of 16, but the corners have one cell
        ((1, 400), 100, (1, 1)),
    ],
)
def test_small_images_take_coarser_parts(size, kept, expected):
    assert usable_grids(layout_of(*size), nested_grids(NESTS[0]), kept)[0] == expected


def test_what_was_passed_over_stays_so():
    grids = nested_grids(NESTS[1])
    assert grids == ((8, 8), (4, 4), (2, 2), (1, 1))
    tokens = layout_of(16, 16)._replace(num_tokens=64, map_size=(8, 8), part_grids=grids[2:])
    assert usable_grids(tokens, grids, 64) == ((2, 2), (1, 1))
    assert usable_grids(tokens, ((8, 8), (2, 1), (1, 1)), 64) == ((1, 1),)
    whole = tokens._replace(part_grids=((1, 1),))
    assert usable_grids(whole, grids, 64) == ((1, 1),)


def test_nests():
    assert nested_grids([]) == ((1, 1),)
    assert nested_grids([(1, 1), (1, 1)]) == ((1, 1),)
    assert nested_grids([(4, 4), (4, 4), (2, 1)]) == ((4, 4), (2, 1), (1, 1))


@pytest.mark.parametrize(
    ("grids", "words"),
    [
        ([(4, 4), (3, 3)], "3x3 does not divide the one before it, 4x4"),
        ([(2, 2), (4, 4)], "does not divide"),
        ([(2, 4), (2, 3)], "does not divide"),
        ([(0, 2)], "two positive integers"),
        ([(2.0, 2)], "two positive integers"),
        ([(2, 2, 2)], "two positive integers"),
        ([(True, True)], "two positive integers"),
    ],
)
def test_refuses_grids_that_do_not_nest(grids, words):
    with pytest.raises(ValueError, match=words):
        nested_grids(grids)


def test_refuses_what_does_not_fit():
    x = torch.zeros(1, 12, 2)
    with pytest.raises(ValueError, match="12 tokens cannot be cut into 5"):
        run_windows(12, 5)
    with pytest.raises(ValueError, match="smallest window has 3 tokens"):
        cluster_windows(x, run_windows(12, 4), 4)
    with pytest.raises(ValueError, match="windows of 16 tokens, not 12"):
        cluster_windows(x, Windows(4, 4, 4), 1)
    with pytest.raises(ValueError, match="windows of 15 tokens"):
        cluster_windows(x, grid_windows((3, 5), ((2, 2), (1, 1))), 1)
