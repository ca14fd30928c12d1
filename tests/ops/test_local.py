"""Parts of the image: their order, their padding, and clustering inside them."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tcformer.ops import cluster_parts, dpc_knn
from tcformer.ops.local import Parts, cut, grid_parts, nest_of, run_parts, usable_nest
from tcformer.tokens import grid_layout

NESTS = [((4, 4), (2, 2), (1, 1)), ((8, 8), (4, 4), (2, 2)), ((2, 4), (1, 2)), ((3, 1),), ((6, 2),)]
sides = st.integers(1, 23)


def layout_of(height, width):
    return grid_layout(1, (height, width), torch.device("cpu"))


def part_of(row, column, size, grid):
    """The definition: pad to a multiple, half of it (rounded down) before, and divide."""
    index = 0
    for position, length, parts in zip((row, column), size, grid, strict=True):
        padding = -length % parts
        index = index * parts + (position + padding // 2) * parts // (length + padding)
    return index


@settings(max_examples=60, deadline=None)
@given(sides, sides, st.sampled_from(NESTS))
def test_every_cell_stands_in_its_part_and_parts_are_in_nested_order(height, width, grids):
    nest = nest_of(grids)
    parts = grid_parts((height, width), nest)
    if parts.order is None:
        assert nest == ((1, 1),)
        return
    assert parts.order.shape == (parts.num_parts * parts.size,)
    assert parts.num_parts == nest[0][0] * nest[0][1]
    assert torch.equal(parts.order[parts.place], torch.arange(height * width))
    assert int((parts.order < 0).sum()) == len(parts.order) - height * width
    padded = [
        length + -length % fine for length, fine in zip((height, width), nest[0], strict=True)
    ]
    shift = [-length % fine // 2 for length, fine in zip((height, width), nest[0], strict=True)]
    for grid in nest:  # runs of the sequence are the parts of every grid, the coarse ones too
        runs = parts.order.view(grid[0] * grid[1], -1)
        numbers = set()
        for run in runs:
            found = {
                ((cell // width + shift[0]) * grid[0] // padded[0]) * grid[1]
                + (cell % width + shift[1]) * grid[1] // padded[1]
                for cell in run.tolist()
                if cell >= 0
            }
            assert len(found) <= 1
            assert not found & numbers
            numbers |= found
    fewest = min(int((run >= 0).sum()) for run in parts.order.view(parts.num_parts, -1))
    assert parts.smallest == fewest
    for run in parts.order.view(parts.num_parts, -1):  # row-major inside a part
        cells = run[run >= 0].tolist()
        assert cells == sorted(cells)


@pytest.mark.parametrize("length", [164, 188, 220, 244, 328, 332, 376, 388])
def test_parts_are_cut_by_integers(length):
    # Computed in float32, parts of these lengths come out a row too long or too short.
    parts = grid_parts((length, 4), ((4, 2), (2, 1), (1, 1)))
    rows = parts.order.view(8, -1) // 4
    assert [run.unique().numel() for run in rows] == [length // 4] * 8


@settings(max_examples=40, deadline=None)
@given(st.integers(4, 14), st.integers(4, 14), st.sampled_from(NESTS[2:]), st.integers(0, 999))
def test_equals_clustering_each_part_alone(height, width, grids, seed):
    g = torch.Generator().manual_seed(seed)
    x = torch.randn(2, height * width, 4, generator=g, dtype=torch.float64)
    noise = 0.05 * torch.rand(2, height * width, generator=g, dtype=torch.float64)
    nest = usable_nest(layout_of(height, width), nest_of(grids), height * width // 3)
    parts = cut(layout_of(height, width), nest)
    share = height * width // 3 // parts.num_parts
    found = cluster_parts(x, parts, share, 4, density_noise=noise)
    assert found.centers.shape == (2, share * parts.num_parts)
    members = {}
    for cell in range(height * width):
        number = part_of(cell // width, cell % width, (height, width), nest[0])
        members.setdefault(number, []).append(cell)
    for cells in members.values():
        alone = dpc_knn(x[:, cells], share, 4, density_noise=noise[:, cells], impl="reference")
        labels = found.assignment[:, cells]
        first = int(labels.min()) // share * share
        assert torch.equal(labels - first, alone.assignment)
        centers = found.centers[:, first : first + share]
        assert torch.equal(centers, torch.tensor(cells)[alone.centers])


def test_runs_of_tokens():
    x = torch.randn(3, 24, 4, generator=torch.Generator().manual_seed(0))
    found = cluster_parts(x, run_parts(24, 4), 2)
    for part in range(4):
        alone = dpc_knn(x[:, 6 * part : 6 * part + 6], 2)
        assert torch.equal(
            found.assignment[:, 6 * part : 6 * part + 6], alone.assignment + 2 * part
        )
        assert torch.equal(found.centers[:, 2 * part : 2 * part + 2], alone.centers + 6 * part)


def test_one_part_is_plain_clustering():
    x = torch.randn(2, 30, 4, generator=torch.Generator().manual_seed(1))
    for parts in (run_parts(30, 1), cut(layout_of(5, 6), nest_of([(1, 1)]))):
        for found, plain in zip(cluster_parts(x, parts, 7), dpc_knn(x, 7), strict=True):
            assert torch.equal(found, plain)


def test_padding_is_nobodys_neighbor():
    # 3 x 5 cells in 2 x 2 parts of 2 x 3: were padding a token of zeros, these ones would join it.
    x = torch.randn(1, 15, 8, generator=torch.Generator().manual_seed(2)) * 1e-3 + 1
    parts = grid_parts((3, 5), ((2, 2), (1, 1)))
    found = cluster_parts(x, parts, 1)
    assert parts.smallest == 2
    assert sorted(found.assignment.unique().tolist()) == [0, 1, 2, 3]
    assert int(found.centers.min()) >= 0


@pytest.mark.parametrize(
    ("size", "kept", "expected"),
    [
        ((56, 56), 784, (4, 4)),
        ((16, 16), 16, (4, 4)),
        ((16, 16), 15, (2, 2)),  # the finest would get no cluster
        ((5, 5), 25, (1, 1)),  # padded to 8 x 8 the finest has a row of parts without any cell
        ((5, 5), 7, (2, 2)),
        ((5, 5), 3, (1, 1)),
        ((6, 6), 16, (4, 4)),
        ((6, 6), 18, (4, 4)),
        ((6, 6), 32, (2, 2)),  # two for each of 16, but the corners have one cell
        ((1, 400), 100, (1, 1)),
    ],
)
def test_small_images_take_coarser_parts(size, kept, expected):
    assert usable_nest(layout_of(*size), nest_of(NESTS[0]), kept)[0] == expected


def test_what_was_passed_over_stays_so():
    nest = nest_of(NESTS[1])
    assert nest == ((8, 8), (4, 4), (2, 2), (1, 1))
    tokens = layout_of(16, 16)._replace(num_tokens=64, map_size=(8, 8), part_grids=nest[2:])
    assert usable_nest(tokens, nest, 64) == ((2, 2), (1, 1))
    assert usable_nest(tokens, ((8, 8), (2, 1), (1, 1)), 64) == ((1, 1),)
    whole = tokens._replace(part_grids=((1, 1),))
    assert usable_nest(whole, nest, 64) == ((1, 1),)


def test_nests():
    assert nest_of([]) == ((1, 1),)
    assert nest_of([(1, 1), (1, 1)]) == ((1, 1),)
    assert nest_of([(4, 4), (4, 4), (2, 1)]) == ((4, 4), (2, 1), (1, 1))


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
        nest_of(grids)


def test_refuses_what_does_not_fit():
    x = torch.zeros(1, 12, 2)
    with pytest.raises(ValueError, match="12 tokens cannot be cut into 5"):
        run_parts(12, 5)
    with pytest.raises(ValueError, match="smallest part has 3 tokens"):
        cluster_parts(x, run_parts(12, 4), 4)
    with pytest.raises(ValueError, match="parts of 16 tokens, not 12"):
        cluster_parts(x, Parts(4, 4, 4), 1)
    with pytest.raises(ValueError, match="parts of 15 tokens"):
        cluster_parts(x, grid_parts((3, 5), ((2, 2), (1, 1))), 1)
