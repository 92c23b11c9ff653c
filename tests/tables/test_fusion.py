"""Several input sizes joined."""

import torch

from saot.data import PatchGrid
from saot.tables.fusion import centres, fit_weights, join, on_grid


def test_weights_go_to_the_size_that_is_right():
    """Two constant answers are balanced; a right one outweighs a wrong one."""
    first = torch.tensor([[0.9, 0.1], [0.9, 0.1]])
    second = torch.tensor([[0.1, 0.9], [0.1, 0.9]])
    mixed = torch.stack([first, second])
    weights = fit_weights(mixed, torch.arange(2), 2)
    assert torch.allclose(weights.sum(0), torch.ones(2))
    fused = (weights.unsqueeze(1) * mixed).sum(0)
    assert torch.allclose(fused[:, 0], fused[:, 1], atol=1e-3)  # neither can be right about both: balanced
    sure, unsure = torch.tensor([[0.9, 0.1], [0.1, 0.9]]), torch.tensor([[0.1, 0.9], [0.9, 0.1]])
    assert bool((fit_weights(torch.stack([sure, unsure]), torch.arange(2), 2)[0] > 0.8).all())


def test_without_points_every_size_weighs_the_same():
    weights = fit_weights(torch.zeros(3, 0, 5), torch.zeros(0, dtype=torch.int64), 5)
    assert torch.equal(weights, torch.full((3, 5), 1 / 3))


def test_grids_of_two_sizes_lie_over_each_other():
    """A ramp over the picture is the same ramp on either grid, away from the border."""
    coarse, fine = PatchGrid(112, 112, 56, 56, 14, 4, 4), PatchGrid(112, 112, 112, 112, 14, 8, 8)
    ramp = centres(coarse)[1].float().unsqueeze(1)
    moved = on_grid(ramp, coarse, fine).reshape(8, 8)
    expected = centres(fine)[1].float().reshape(8, 8)
    torch.testing.assert_close(moved[:, 1:-1], expected[:, 1:-1], atol=1.0, rtol=0)  # a pixel: centres are rounded
    assert torch.equal(on_grid(ramp, coarse, coarse), ramp)


def test_joined_sizes_keep_the_cells_of_the_finest():
    """Cells are finer than the tokens of a larger input: the sum lies on them, and each class has its own weights."""
    grids = [PatchGrid(112, 112, 56, 56, 14, 4, 4), PatchGrid(112, 112, 112, 112, 14, 8, 8)]
    cells, tokens = torch.zeros(16 * 16, 2), torch.zeros(64, 2)
    cells[7 * 16 + 5, 1] = 9.0  # one cell is sure of class 1
    tokens[:, 0] = 2.0  # the tokens prefer class 0
    weights = torch.tensor([[0.0, 1.0], [1.0, 0.0]])  # class 0 from the tokens, class 1 from the cells
    scores, grid = join(grids, [cells, tokens], weights)
    assert grid == grids[0].subdivide(4) and scores.shape == (256, 2)
    assert torch.allclose(scores[:, 0], torch.sigmoid(torch.tensor(2.0)))
    assert torch.allclose(scores[:, 1], cells.softmax(1)[:, 1])
