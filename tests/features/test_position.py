"""The subspace of place: found where it was planted, removed without touching the rest."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from saot.features import Keyed, PositionSubspace, load_backbone, position_subspace, read_keep


class Planted(Keyed):
    """A network whose tokens are content in 8 numbers plus place along two directions of them."""

    def __init__(self, strength: float = 1.0) -> None:
        self._key = replace(load_backbone("filterbank").key, patch_size=8, l2_norm=False, dim=8)
        self._size, self.strength = 64, strength
        self.axes = torch.linalg.qr(torch.randn(8, 2, generator=torch.Generator().manual_seed(0))).Q

    def input_size(self, height, width):
        return 64, 64

    def tokens(self, image):
        patches = torch.from_numpy(image).float().view(8, 8, 8, 8, 3)  # rows, within, columns, within, colour
        content = patches.mean((1, 3)).reshape(64, 3) - 127.5
        mixing = torch.randn(3, 8, generator=torch.Generator().manual_seed(1))
        down, right = torch.meshgrid(torch.linspace(-1, 1, 8), torch.linspace(-1, 1, 8), indexing="ij")
        place = torch.stack([2 * down.flatten(), right.flatten()], -1) @ self.axes.T
        return content @ mixing + self.strength * place + 1.0


def test_the_planted_directions_are_found_under_content():
    network = Planted(strength=60.0)
    found = position_subspace(network, 2)
    inside = (network.axes.T @ found.directions).norm()
    assert inside**2 == pytest.approx(2, abs=0.02)  # content tilts them a little
    assert position_subspace(network, 0.7).directions.shape == (8, 1)  # 4 of 5 parts of the variance run down


def test_removing_leaves_content_and_takes_place():
    network = Planted(strength=60.0)
    found = position_subspace(network, 2)
    flat = np.full((64, 64, 3), 200, np.uint8)
    before, after = network.tokens(flat), found.removed(network.tokens(flat))
    assert before.var(0).sum() > 100  # place alone has thousands at this strength
    assert after.var(0).sum() < 1e-3  # what the found directions miss of it, after scaling to length 1
    torch.testing.assert_close(after.norm(dim=-1), torch.ones(64))
    assert (after @ found.directions).abs().max() < 1e-6  # rounding of float32 at length 1


def test_more_than_place_changes_is_refused():
    with pytest.raises(ValueError, match="place changes tokens of filterbank along 0 directions of 8"):
        position_subspace(_Still(), 2)
    with pytest.raises(ValueError, match="expected tokens of 8 numbers"):
        PositionSubspace(torch.eye(8)[:, :1], 1.0).removed(torch.ones(2, 9))


class _Still(Planted):
    def tokens(self, image):
        return torch.ones(64, 8)


@pytest.mark.parametrize("text", ["0", "256", "0%", "100%", "x%", "-3", "1.5", ""])
def test_what_may_be_removed(text):
    with pytest.raises(ValueError, match=r"expected --remove-position .* from 1 to 255; got"):
        read_keep(text, 256)
