"""Grids of tokens that the tests of lifting share."""

import torch

from saot.data.patches import PatchGrid
from saot.match.lift import Camera

GRID = PatchGrid(60, 100, 84, 140, 14, 6, 10)  # a picture of 60 x 100 pixels, resized without padding
PADDED = PatchGrid(45, 100, 75, 168, 16, 5, 11)  # the last row and column of tokens reach into padding
CAMERA = Camera(80.0, 90.0, 47.0, 31.0)


def token_places(grid: PatchGrid) -> torch.Tensor:
    """(x, y) of the centre of each token, pixels of the picture, one by one."""
    across, down = grid.image_width / grid.input_width, grid.image_height / grid.input_height
    cells = [(column + 0.5, row + 0.5) for row in range(grid.height) for column in range(grid.width)]
    return torch.tensor(cells).double() * torch.tensor([grid.patch_size * across, grid.patch_size * down])
