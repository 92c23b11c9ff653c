import pytest
import torch
from torch.testing import assert_close

from saot.decoder.pyramid import around, block_grid, pyramid


def blocks_by_hand(grid: torch.Tensor, side: int) -> torch.Tensor:
    height, width = grid.shape[:2]
    corners = [(top, left) for top in range(0, height, side) for left in range(0, width, side)]
    return torch.stack([grid[top : top + side, left : left + side].flatten(0, 1).mean(0) for top, left in corners])


@pytest.mark.parametrize(("rows", "columns"), [(9, 9), (7, 11), (1, 2), (1, 1), (28, 4)])
def test_blocks_are_the_means_of_the_tokens_that_are_there(rows, columns):
    tokens = torch.randn(rows * columns, 3, dtype=torch.float32)
    expected = torch.cat([blocks_by_hand(tokens.view(rows, columns, 3), side) for side in (3, 9)])
    assert_close(pyramid(tokens, rows, columns, 2), expected, rtol=1e-5, atol=1e-6)  # float32, other order of sums


def test_between_two_centres_the_means_are_mixed_by_distance():
    rows, columns = 1, 6  # block centres at tokens 1 and 4
    blocks = torch.tensor([[0.0], [3.0]])
    seen = around(blocks, torch.arange(6), rows, columns, 1).squeeze(-1)
    assert_close(seen, torch.tensor([0.0, 0.0, 1.0, 2.0, 3.0, 3.0]))


def test_a_constant_picture_looks_the_same_at_every_level_and_place():
    rows, columns, levels = 10, 13, 3
    blocks = pyramid(torch.full((rows * columns, 2), 0.7), rows, columns, levels)
    assert len(blocks) == sum(h * w for h, w in (block_grid(rows, columns, level) for level in (1, 2, 3)))
    seen = around(blocks, torch.arange(rows * columns), rows, columns, levels)
    assert_close(seen, torch.full((rows * columns, 2 * levels), 0.7))


def test_without_levels_nothing_is_added():
    assert around(pyramid(torch.ones(4, 2), 2, 2, 0), torch.arange(4), 2, 2, 0).shape == (4, 0)
