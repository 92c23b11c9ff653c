"""Masks to patches and pixels to tokens, against loops and hand-made cases."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from saot.data import PatchGrid, patch_labels, point_tokens, soft_patch_labels


def whole(height, width, patch):
    """A grid over a picture that is not resized."""
    return PatchGrid(height, width, height, width, patch, -(-height // patch), -(-width // patch))


@st.composite
def grids(draw):
    side = st.integers(1, 24)
    image_height, image_width, input_height, input_width = (draw(side) for _ in range(4))
    patch = draw(st.integers(1, 7))
    height, width = (draw(st.integers(1, -(-n // patch))) for n in (input_height, input_width))
    return PatchGrid(image_height, image_width, input_height, input_width, patch, height, width)


def token_pixels(mask, grid):
    """Pixels of the resized and padded mask under each token, by loops."""
    for row in range(grid.height):
        for column in range(grid.width):
            values = []
            for v in range(row * grid.patch_size, (row + 1) * grid.patch_size):
                for u in range(column * grid.patch_size, (column + 1) * grid.patch_size):
                    if v >= grid.input_height or u >= grid.input_width:
                        values.append(255)
                    else:
                        y = int((v + 0.5) * grid.image_height / grid.input_height)
                        x = int((u + 0.5) * grid.image_width / grid.input_width)
                        values.append(int(mask[y, x]))
            yield values


@settings(max_examples=150, deadline=None)
@given(grid=grids(), seed=st.integers(0, 999), min_valid=st.sampled_from([0.0, 0.3, 0.5, 1.0]))
def test_votes_and_shares_equal_counting_by_loops(grid, seed, min_valid):
    shape = (grid.image_height, grid.image_width)
    mask = np.random.default_rng(seed).choice([0, 1, 2, 255], shape).astype(np.uint8)
    shares, valid = soft_patch_labels(mask, grid, num_classes=3)
    hard = patch_labels(mask, grid, num_classes=3, min_valid=min_valid)
    voted = patch_labels(mask, grid, num_classes=3, ignore="include")
    for token, values in enumerate(token_pixels(mask, grid)):
        counts = [values.count(c) for c in (0, 1, 2, 255)]
        labelled = sum(counts[:3])
        enough = labelled > 0 and labelled >= min_valid * len(values)
        assert int(hard[token]) == (int(np.argmax(counts[:3])) if enough else 255)
        assert int(voted[token]) == (0, 1, 2, 255)[int(np.argmax(counts))]
        expected = torch.tensor(counts[:3]) / max(labelled, 1)
        torch.testing.assert_close(shares[token], expected.float())
        assert float(valid[token]) == pytest.approx(labelled / len(values))


@settings(max_examples=100, deadline=None)
@given(grid=grids())
def test_points_lie_in_the_token_that_shows_their_pixel(grid):
    """Where the network sees a pixel at its own scale or larger, that pixel's token holds it."""
    y, x = np.mgrid[: grid.image_height, : grid.image_width]
    tokens = point_tokens(torch.from_numpy(x.ravel()), torch.from_numpy(y.ravel()), grid)
    assert int(tokens.min()) >= 0
    assert int(tokens.max()) < grid.num_tokens
    for pixel, token in enumerate(tokens.tolist()):
        v = int((pixel // grid.image_width + 0.5) * grid.input_height / grid.image_height)
        u = int((pixel % grid.image_width + 0.5) * grid.input_width / grid.image_width)
        row = min(v // grid.patch_size, grid.height - 1)
        column = min(u // grid.patch_size, grid.width - 1)
        assert token == row * grid.width + column


def test_a_mask_of_token_numbers_agrees_with_the_points():
    grid = PatchGrid(50, 90, 28, 56, 14, 2, 4)
    y, x = np.mgrid[:50, :90]
    tokens = point_tokens(torch.from_numpy(x.ravel()), torch.from_numpy(y.ravel()), grid)
    mask = tokens.numpy().astype(np.uint8).reshape(50, 90)
    assert patch_labels(mask, grid, num_classes=8).tolist() == list(range(8))
    shares, valid = soft_patch_labels(mask, grid, num_classes=8)
    torch.testing.assert_close(shares, torch.eye(8))
    torch.testing.assert_close(valid, torch.ones(8))


def test_min_valid_is_a_share_of_the_whole_patch():
    mask = np.full((2, 4), 255, np.uint8)
    mask[0, 0] = 1  # a quarter of the first patch
    grid = whole(2, 4, 2)
    assert patch_labels(mask, grid, num_classes=2).tolist() == [255, 255]
    assert patch_labels(mask, grid, num_classes=2, min_valid=0.25).tolist() == [1, 255]
    assert patch_labels(mask, grid, num_classes=2, min_valid=0.0).tolist() == [1, 255]


def test_ignore_may_win_only_where_it_takes_part():
    mask = np.array([[255, 255], [1, 0]], np.uint8)
    grid = whole(2, 2, 2)
    assert patch_labels(mask, grid, num_classes=2).tolist() == [0]  # the lower of two equal classes
    assert patch_labels(mask, grid, num_classes=2, ignore="include").tolist() == [255]
    mask[0, 0] = 1
    assert patch_labels(mask, grid, num_classes=2, ignore="include").tolist() == [1]


def test_padding_counts_as_ignored():
    mask = np.zeros((3, 3), np.uint8)
    labels = patch_labels(mask, whole(3, 3, 2), num_classes=1)
    assert labels.tolist() == [0, 0, 0, 255]  # the corner shows one pixel of four
    _, valid = soft_patch_labels(mask, whole(3, 3, 2), num_classes=1)
    assert valid.tolist() == [1.0, 0.5, 0.5, 0.25]


def test_a_strip_that_the_network_cuts_off_is_left_out():
    mask = np.zeros((5, 4), np.uint8)
    mask[4] = 1
    grid = PatchGrid(5, 4, 5, 4, 2, 2, 2)  # row 4 belongs to no token
    assert patch_labels(mask, grid, num_classes=2, min_valid=1.0).tolist() == [0, 0, 0, 0]
    assert point_tokens(torch.tensor([0]), torch.tensor([4]), grid).tolist() == [2]


def test_one_token_one_pixel_and_all_ignored():
    grid = whole(1, 1, 14)
    assert patch_labels(np.zeros((1, 1), np.uint8), grid, num_classes=1, min_valid=0.0).tolist() == [0]
    shares, valid = soft_patch_labels(np.full((1, 1), 255, np.uint8), grid, num_classes=3)
    assert shares.tolist() == [[0.0, 0.0, 0.0]]
    assert valid.tolist() == [0.0]


def test_all_255_classes_fit():
    mask = np.array([[254, 255]], np.uint8)
    assert patch_labels(mask, whole(1, 2, 1), num_classes=255).tolist() == [254, 255]


def test_wrong_size_and_wrong_class_are_named():
    grid = whole(4, 6, 2)
    with pytest.raises(ValueError, match=r"mask has 4x6 pixels but its picture 6x4"):
        patch_labels(np.zeros((6, 4), np.uint8), grid, num_classes=2)
    bad = np.zeros((4, 6), np.uint8)
    bad[1, 1] = 2
    with pytest.raises(ValueError, match=r"class 2, but allowed are 0-1 and 255"):
        soft_patch_labels(bad, grid, num_classes=2)


@pytest.mark.parametrize(("x", "y"), [(-1, 0), (0, -1), (6, 0), (0, 4)])
def test_points_outside_are_named(x, y):
    with pytest.raises(ValueError, match=rf"x={x}, y={y} lies outside its picture of 6x4"):
        point_tokens(torch.tensor([0, x]), torch.tensor([0, y]), whole(4, 6, 2))


def test_no_points_are_no_tokens():
    none = torch.zeros(0, dtype=torch.int64)
    assert point_tokens(none, none, whole(4, 6, 2)).shape == (0,)


def test_grids_that_cannot_be_are_refused():
    with pytest.raises(ValueError, match="patch_size of a patch grid must be at least 1, but is 0"):
        PatchGrid(1, 1, 1, 1, 0, 1, 1)
    with pytest.raises(ValueError, match=r"3 rows of 14-pixel tokens.*28 pixels.*leaves 2"):
        PatchGrid(100, 100, 28, 28, 14, 3, 2)
    with pytest.raises(ValueError, match=r"64 columns of 16-pixel tokens.*leaves 48"):
        PatchGrid(100, 100, 1024, 768, 16, 64, 64)
