"""Flicker: predicted labels that change along the true motion while the true ones do not."""

import numpy as np
import pytest
import torch

from saot.evaluate import flicker_counts


def mask(*rows):
    return torch.tensor(rows, dtype=torch.uint8)


def test_hand_made_numbers():
    """Everything moved one pixel to the right; a column is new at the left."""
    truth = mask([0, 0, 1, 1], [0, 0, 255, 2]), mask([0, 0, 0, 1], [1, 0, 0, 1])
    predicted = mask([0, 1, 1, 1], [3, 3, 3, 3]), mask([2, 0, 0, 1], [2, 3, 2, 2])
    rows, columns = np.mgrid[:2, :4].astype(float)
    motion = np.stack([rows + 0.3, columns - 1.2], -1)
    motion[:, 0] = np.nan
    # first row: three followed, the middle one's 1 became 0; second row: the first two keep their true label, and the
    # second of them changed; the last one was of unknown truth
    assert flicker_counts(predicted, truth, motion).tolist() == [2, 5]
    steady = predicted[0], torch.cat([predicted[1][:, :1], predicted[0][:, :3]], 1)
    assert flicker_counts(steady, truth, motion).tolist() == [0, 5]


def test_a_true_change_and_an_ignored_pixel_do_not_count():
    still = np.stack(np.mgrid[:1, :3].astype(float), -1)
    truth = mask([0, 1, 255]), mask([0, 2, 255])
    assert flicker_counts((mask([0, 0, 0]), mask([1, 1, 1])), truth, still).tolist() == [1, 1]


def test_wrong_input():
    still = np.stack(np.mgrid[:1, :3].astype(float), -1)
    one = mask([0, 0, 0])
    with pytest.raises(ValueError, match="one height and width"):
        flicker_counts((one, one), (one, one), still[:, :2])
    with pytest.raises(ValueError, match="leaves the picture"):
        flicker_counts((one, one), (one, one), still + 1)
