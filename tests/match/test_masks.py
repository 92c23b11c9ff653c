import pytest
import torch

from saot.data.patches import PatchGrid
from saot.match.masks import token_mask


def test_token_mask_counts_shares_of_the_picture_alone():
    grid = PatchGrid(6, 10, 6, 10, 4, 2, 3)  # the last row and column of tokens are half padding
    mask = torch.zeros(6, 10, dtype=torch.bool)
    mask[4:, 8:] = True  # all there is of the last token
    mask[:4, 1:4] = True  # three quarters of the first
    mask[0, 4] = True  # a sixteenth of the second
    mask[4, :4] = True  # half of what there is of the fourth
    assert token_mask(mask, grid).tolist() == [True, False, False, True, False, True]
    assert token_mask(mask, grid, 0.51).tolist() == [True, False, False, False, False, True]
    assert token_mask(mask, grid, 0.8).tolist() == [False, False, False, False, False, True]
    assert token_mask(mask, grid, 0).tolist() == [True, True, False, True, False, True]
    assert torch.equal(token_mask(mask.numpy(), grid), token_mask(mask, grid))


def test_token_mask_of_a_small_or_thin_object():
    grid = PatchGrid(80, 120, 40, 60, 10, 4, 6)  # a token is 20 x 20 pixels of the picture
    mask = torch.zeros(80, 120, dtype=torch.bool)
    mask[45:49, 70:75] = True
    assert token_mask(mask, grid).nonzero().tolist() == [[2 * 6 + 3]]
    ring = torch.zeros(80, 120, dtype=torch.bool)
    ring[10:71, 20:101] = True
    ring[13:68, 23:98] = False
    assert token_mask(ring, grid).nonzero().tolist() == [[2 * 6 + 3]]  # its centre (60, 40), though beside it


def test_token_mask_of_nothing_and_of_another_picture():
    full = torch.ones(4, 4, dtype=torch.bool)
    for mask, share, message in ((~full, 0.5, "empty"), (full, 1.5, "min_share"), (full[:, :3], 0.5, "3x4 pixels")):
        with pytest.raises(ValueError, match=message):
            token_mask(mask, PatchGrid(4, 4, 4, 4, 2, 2, 2), share)
