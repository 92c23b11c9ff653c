import numpy as np
import pytest
import torch

from saot.evaluate import near_edges, picture_counts


def slow_near_edges(mask, reach, ignore=255):
    height, width = mask.shape
    found = np.zeros(mask.shape, bool)
    for row in range(height):
        for column in range(width):
            around = mask[max(row - reach, 0) : row + reach + 1, max(column - reach, 0) : column + reach + 1]
            others = around[(around != ignore) & (around != mask[row, column])]
            found[row, column] = mask[row, column] != ignore and len(others) > 0
    return found


@pytest.mark.parametrize("reach", [1, 3, 5])
@pytest.mark.parametrize("shape", [(1, 1), (1, 9), (17, 23), (3, 4)])
@pytest.mark.parametrize("dtype", [np.uint8, np.int64])
def test_edges_are_those_of_a_window_around_each_pixel(shape, reach, dtype):
    generator = np.random.default_rng(0)
    for share in (0.0, 0.2, 1.0):
        mask = np.kron(generator.integers(0, 4, shape), np.ones((3, 3))).astype(dtype)[: shape[0], : shape[1]]
        mask[generator.random(shape) < share] = 255
        before = mask.copy()
        assert np.array_equal(near_edges(mask, reach), slow_near_edges(mask, reach))
        assert np.array_equal(mask, before)


def test_counts_of_a_picture_and_of_its_edges():
    truth = np.zeros((9, 20), np.uint8)
    truth[:, 10:] = 1
    truth[0] = 255
    mask = torch.zeros(9, 20, dtype=torch.uint8)
    mask[:, 12:] = 1  # two columns too far right
    whole, near = picture_counts(mask, truth, 2)
    assert whole.tolist() == [[80, 0], [16, 64]]
    assert near.tolist() == [[24, 0], [16, 8]]  # columns 7 to 12
