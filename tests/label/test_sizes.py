"""Several input sizes joined."""

import pytest
import torch

from saot.data import PatchGrid
from saot.evaluate import on_cells
from saot.label.sizes import SizesDecoder, centres, fit_weights, join, on_grid, on_tokens


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


class Says(torch.nn.Module):
    """A decoder whose answers are given."""

    def __init__(self, logits: torch.Tensor) -> None:
        super().__init__()
        self.logits = logits

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        return self.logits


def test_the_joined_decoder_is_the_weighted_sum_of_its_sizes():
    """As `join`, the first size being the finest; up to a factor a token, of which masks and softmax know nothing."""
    grids = [PatchGrid(112, 112, 112, 112, 14, 8, 8), PatchGrid(112, 112, 56, 56, 14, 4, 4)]
    generator = torch.Generator().manual_seed(0)
    logits = [3 * torch.randn(grid.num_tokens, 3, generator=generator) for grid in grids]
    weights = torch.rand(2, 3, generator=generator)
    weights /= weights.sum(0)
    biases = torch.randn(2, 3, generator=generator)
    decoder = SizesDecoder([Says(part) for part in logits], weights, biases)
    said = decoder([torch.zeros(grid.num_tokens, 5) for grid in grids], grids)
    wanted, grid = join(grids, [part + bias for part, bias in zip(logits, biases, strict=True)], weights)
    assert grid == grids[0]
    torch.testing.assert_close(said.softmax(1), wanted / wanted.sum(1, keepdim=True))


def test_a_size_with_all_the_weight_is_that_size_alone():
    grids = [PatchGrid(112, 112, 112, 112, 14, 8, 8), PatchGrid(112, 112, 56, 56, 14, 4, 4)]
    first, second = torch.randn(64, 3), torch.randn(16, 3)
    decoder = SizesDecoder([Says(first), Says(second)], torch.tensor([[1.0], [0.0]]).expand(2, 3), torch.zeros(2, 3))
    said = decoder([torch.zeros(64, 5), torch.zeros(16, 5)], grids)
    torch.testing.assert_close(said, first.log_softmax(1))


def test_impossible_classes_stay_finite():
    """Probabilities of 0 in float32 at every size."""
    grids = [PatchGrid(28, 28, 28, 28, 14, 2, 2)] * 2
    sure = torch.tensor([[0.0, -500.0]]).expand(4, 2)
    decoder = SizesDecoder([Says(sure), Says(sure)], torch.full((2, 2), 0.5), torch.zeros(2, 2))
    said = decoder([torch.zeros(4, 5)] * 2, grids)
    assert torch.isfinite(said).all() and torch.allclose(said, sure)


@pytest.mark.parametrize("size", [(40, 50), (56, 112), (37, 100)])
def test_cells_in_padding_come_and_go(size):
    """40 rows of input are 3 tokens of 16 and 10 cells of 4, not 12: readers that know cells by their number cope."""
    height, width = size
    grid = PatchGrid(height, width, height, width, 16, -(-height // 16), -(-width // 16))
    cells = grid.subdivide(4)
    values = torch.arange(cells.num_tokens).float().unsqueeze(1)
    whole = on_tokens(values, cells, grid)
    assert len(whole) == 16 * grid.num_tokens
    back, found = on_cells(whole, grid)
    assert found == cells and torch.equal(back, values)
