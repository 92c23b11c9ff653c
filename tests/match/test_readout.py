import math

import pytest
import torch
from torch import Tensor
from torch.testing import assert_close

from saot.data.patches import PatchGrid, point_tokens
from saot.evaluate.upsample import interpolation_matrix
from saot.match.readout import (
    Readout,
    argmax_positions,
    best_targets,
    from_pixels,
    in_mask,
    mass_positions,
    parabola_positions,
    read_out,
    soft_argmax,
    to_pixels,
    token_positions,
    windowed_soft_argmax,
)

SHAPE = (4, 5)
WAYS = ["argmax", "soft", "window", "parabola", "mass"]


def scores_of(*batch: int, sources: int = 3) -> Tensor:
    return torch.rand(*batch, sources, 20, dtype=torch.float64)


def window_by_loop(row: Tensor, allowed: Tensor, readout: Readout) -> list[float]:
    """Soft-argmax of one row by hand, window by leaving out or, in the legacy way, by zeros."""
    best = max((j for j in range(20) if allowed[j]), key=lambda j: float(row[j]))
    total, place = 0.0, [0.0, 0.0]
    for j in range(20):
        near = abs(j // 5 - best // 5) <= readout.half_width and abs(j % 5 - best % 5) <= readout.half_width
        if not allowed[j] or not (near or readout.legacy_zero_window):
            continue
        weight = math.exp((float(row[j]) if near else 0.0) / readout.temperature)
        total += weight
        place = [place[0] + weight * (j // 5), place[1] + weight * (j % 5)]
    return [place[0] / total, place[1] / total]


def test_positions_run_row_by_row():
    places = token_positions(SHAPE, torch.zeros(1))
    assert places[7].tolist() == [1.0, 2.0] and places.shape == (20, 2)


@pytest.mark.parametrize("legacy", [False, True])
@pytest.mark.parametrize("half_width", [0, 1, 9])
def test_window_by_loop(half_width, legacy):
    scores, mask = scores_of(), torch.rand(20) < 0.6
    readout = Readout(half_width=half_width, temperature=0.2, legacy_zero_window=legacy)
    expected = torch.tensor([window_by_loop(row, mask, readout) for row in scores], dtype=torch.float64)
    assert_close(windowed_soft_argmax(scores, SHAPE, mask, readout), expected)


def test_a_window_over_all_is_the_whole_map():
    scores, mask = scores_of(), torch.rand(20) < 0.6
    wide = Readout(half_width=9, temperature=0.3)
    assert_close(windowed_soft_argmax(scores, SHAPE, mask, wide), soft_argmax(scores, SHAPE, mask, 0.3))


def test_zeroed_similarities_pull_a_low_peak_to_the_middle():
    scores = torch.zeros(1, 60 * 60)
    scores[0, 0] = 0.1  # exp(5) = 148 against 3,375 zeros
    left_out = windowed_soft_argmax(scores, (60, 60))
    zeroed = windowed_soft_argmax(scores, (60, 60), readout=Readout(legacy_zero_window=True))
    assert float(left_out.max()) < 2 and float(zeroed.min()) > 20


def test_parabola_finds_the_top_of_a_parabola():
    places = token_positions(SHAPE, torch.zeros(1, dtype=torch.float64))
    tops = torch.tensor([[1.3, 2.4], [2.0, 1.5001], [1.6, 3.2]], dtype=torch.float64)
    scores = -((places - tops[:, None]) ** 2 * torch.tensor([1.0, 0.3], dtype=torch.float64)).sum(-1)
    assert_close(parabola_positions(scores, SHAPE), tops)


def test_parabola_keeps_to_the_centre_where_it_has_no_neighbours():
    scores = torch.zeros(1, 20)
    scores[0, 0], scores[0, 1] = 2.0, 1.0  # a corner
    assert parabola_positions(scores, SHAPE).tolist() == [[0.0, 0.0]]
    scores = torch.zeros(1, 20)
    scores[0, 6], scores[0, 7] = 2.0, 1.0
    mask = torch.ones(20, dtype=torch.bool)
    assert parabola_positions(scores, SHAPE, mask)[0, 1] > 1
    mask[7] = False
    assert parabola_positions(scores, SHAPE, mask).tolist() == [[1.0, 1.0]]
    assert parabola_positions(torch.ones(1, 20), SHAPE).tolist() == [[0.0, 0.0]]  # flat: the first token, no NaN


def test_parabola_never_leaves_its_token():
    scores = scores_of(50)
    moved = (parabola_positions(scores, SHAPE) - argmax_positions(scores, SHAPE)).abs()
    assert float(moved.max()) <= 0.5


def test_centre_of_mass_by_loop():
    scores, mask = scores_of(), torch.rand(20) < 0.6
    expected = []
    for row in scores:
        best = max((j for j in range(20) if mask[j]), key=lambda j: float(row[j]))
        near = [j for j in range(20) if mask[j] and abs(j // 5 - best // 5) <= 1 and abs(j % 5 - best % 5) <= 1]
        mass = sum(float(row[j]) for j in near)
        expected.append(
            [sum(float(row[j]) * part(j) for j in near) / mass for part in (lambda j: j // 5, lambda j: j % 5)]
        )
    assert_close(mass_positions(scores, SHAPE, mask, 1), torch.tensor(expected, dtype=torch.float64))


def test_a_row_without_mass_has_a_defined_place():
    mask = torch.arange(20) >= 7
    assert mass_positions(torch.zeros(1, 20), SHAPE, mask).tolist() == [[1.0, 2.0]]


@pytest.mark.parametrize("how", WAYS)
def test_masked_targets_never_win(how):
    scores = torch.rand(2, 6, 20, dtype=torch.float64)
    mask = torch.rand(2, 20) < 0.4
    mask[:, 3] = True
    louder = torch.where(mask[:, None], scores, 50.0)
    readout = Readout(how, half_width=2, temperature=0.1)
    assert_close(read_out(louder, SHAPE, mask, readout), read_out(scores, SHAPE, mask, readout))
    assert bool(mask.gather(1, best_targets(louder, mask)).all())
    one = torch.zeros(20, dtype=torch.bool)
    one[13] = True
    assert_close(read_out(scores[0], SHAPE, one, readout), torch.tensor([[2.0, 3.0]] * 6, dtype=torch.float64))


@pytest.mark.parametrize("how", WAYS)
def test_a_batch_is_its_members(how):
    scores, mask = scores_of(2, 3), torch.rand(2, 3, 20) < 0.7
    readout = Readout(how, half_width=1)
    together = read_out(scores, SHAPE, mask, readout)
    assert together.shape == (2, 3, 3, 2)
    assert_close(together[1, 2], read_out(scores[1, 2], SHAPE, mask[1, 2], readout))
    assert_close(read_out(scores, SHAPE, mask[0, 0], readout)[1, 1], read_out(scores[1, 1], SHAPE, mask[0, 0], readout))


@pytest.mark.parametrize("how", WAYS)
def test_one_token_and_half_precision(how):
    readout = Readout(how)
    assert read_out(torch.rand(2, 1), (1, 1), readout=readout).tolist() == [[0.0, 0.0]] * 2
    assert read_out(torch.rand(2, 20).half(), SHAPE, readout=readout).dtype == torch.float32


def test_soft_argmax_carries_a_gradient():
    scores = torch.rand(2, 20, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda x: soft_argmax(x, SHAPE, None, 0.5), (scores,))
    mask = torch.arange(20) != 4
    assert torch.autograd.gradcheck(lambda x: windowed_soft_argmax(x, SHAPE, mask, Readout(temperature=0.5)), (scores,))


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: read_out(torch.rand(1, 7), (2, 4)), "2 x 4 = 8"),
        (lambda: read_out(torch.rand(1, 4), (2, 2), torch.zeros(4, dtype=torch.bool)), "leaves no target"),
        (lambda: mass_positions(torch.tensor([[-1.0, 1.0]]), (1, 2)), "0 and above"),
        (lambda: Readout(half_width=-1), "half_width"),
        (lambda: Readout(temperature=0.0), "temperature"),
        (lambda: in_mask(torch.zeros(1, 2), torch.ones(3, dtype=torch.bool), (1, 2)), "1 x 2"),
    ],
)
def test_what_is_refused(call, words):
    with pytest.raises(ValueError, match=words):
        call()


GRID = PatchGrid(image_height=30, image_width=47, input_height=20, input_width=33, patch_size=7, height=3, width=5)


def test_pixels_and_back():
    positions = torch.rand(40, 2, dtype=torch.float64) * torch.tensor([2.0, 3.5])
    pixels = to_pixels(positions, GRID)
    assert_close(from_pixels(pixels, GRID), positions)
    assert pixels[:, 0].max() <= 29 and pixels[:, 1].max() <= 46
    assert to_pixels(torch.tensor([[9.0, -3.0]]), GRID).tolist() == [[29.0, 0.0]]


def test_pixels_are_where_upsampling_and_points_have_them():
    y, x = torch.meshgrid(torch.arange(30), torch.arange(47), indexing="ij")
    pixels = torch.stack([y, x], -1).reshape(-1, 2)
    positions = from_pixels(pixels.double(), GRID)
    tokens = (positions + 0.5).floor().clamp(max=torch.tensor([2.0, 4.0], dtype=torch.float64)).long()
    assert_close(tokens[:, 0] * 5 + tokens[:, 1], point_tokens(pixels[:, 1], pixels[:, 0], GRID))
    weights = interpolation_matrix(30, 20, 7, 3)
    rows = positions[::47, 0].clamp(0, 2)
    assert_close(weights @ torch.arange(3, dtype=torch.float64), rows)


def test_key_points_within_the_mask():
    mask = torch.tensor([[True, False], [False, True]])
    points = torch.tensor([[-0.5, 0.49], [0.4, 0.6], [1.2, 1.4], [1.5, 1.0], [-0.6, 0.0], [math.nan, 0.0]])
    assert in_mask(points, mask.flatten(), (2, 2)).tolist() == [True, False, True, False, False, False]
    assert in_mask(torch.zeros(0, 2), mask.flatten(), (2, 2)).shape == (0,)
