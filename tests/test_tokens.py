import pytest
import torch

from tcformer.tokens import grid_layout, pixel_of_cell

CPU = torch.device("cpu")


@pytest.mark.parametrize(
    ("grid", "size"), [((4, 6), (2, 3)), ((7, 5), (4, 3)), ((122, 9), (16, 2))]
)
def test_pixel_of_cell_is_the_integer_rule(grid, size):
    pixels = pixel_of_cell(grid, size, CPU).view(grid)
    for i in range(grid[0]):
        for j in range(grid[1]):
            assert int(pixels[i, j]) == (i * size[0] // grid[0]) * size[1] + j * size[1] // grid[1]


def test_every_pixel_of_a_smaller_map_has_a_cell():
    for side in range(1, 70):
        half = (side + 1) // 2
        covered = pixel_of_cell((side, 3), (half, 2), CPU).unique()
        assert covered.numel() == half * 2


def test_grid_layout_is_the_identity():
    layout = grid_layout(2, (3, 4), CPU)
    assert layout.is_grid
    assert layout.num_tokens == 12
    assert torch.equal(layout.cell_to_token, torch.arange(12).expand(2, 12))
    assert torch.equal(layout.cell_weight, torch.ones(2, 12))
