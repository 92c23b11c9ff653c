"""Eq. (6) of GWOT against its loops, its gradient, and the pairs of one problem among several."""

import itertools

import pytest
import torch
from torch.testing import assert_close

from saot.match.symmetry import SymmetricPairs

SOURCE, TARGET = (4, 5), (5, 4)
N = M = 20
PAIRS = [torch.tensor([[0, 3], [6, 9]]), torch.tensor([[4, 1], [4, 12], [19, 15]])]


def sign(x: int) -> int:
    return (x > 0) - (x < 0)


def test_value_by_loops():
    plan = torch.rand(2, N, M, dtype=torch.float64, generator=torch.Generator().manual_seed(3))
    wanted = [0.0, 0.0]
    for number, pairs in enumerate(PAIRS):
        for (i, k), j, other in itertools.product(pairs.tolist(), range(M), range(M)):
            both = sign(i % 5 - k % 5) * sign(j % 4 - other % 4)
            wanted[number] -= both * float(plan[number, i, j] * plan[number, k, other])
    found = SymmetricPairs.of(PAIRS, 2, SOURCE, TARGET).value(plan)
    assert_close(found, torch.tensor(wanted, dtype=torch.float64), rtol=1e-12, atol=0)


def test_it_is_lowest_where_the_order_is_kept():
    """Tokens 0 and 2 of a row of three, carried to a row of three."""
    pairs = SymmetricPairs.of([torch.tensor([[0, 2]])], 1, (1, 3), (1, 3))
    kept, swapped, together = torch.eye(3), torch.eye(3).flip(0), torch.zeros(3, 3)
    together[:, 1] = 1
    assert [float(pairs.value(plan[None])) for plan in (kept, swapped, together)] == [-1.0, 1.0, 0.0]


def test_symmetry_gradient_is_that_of_its_value():
    plan = torch.rand(2, N, M, dtype=torch.float64, requires_grad=True)
    pairs = SymmetricPairs.of(PAIRS, 2, SOURCE, TARGET)
    pairs.value(plan).sum().backward()
    gradient = torch.zeros(2, N, M, dtype=torch.float64)
    weight = torch.ones(2, dtype=torch.float64)
    halves = sum(
        pairs.add(plan.detach(), gradient[:, rows], rows, weight) for rows in (slice(0, 7), slice(7, 13), slice(13, N))
    )
    assert_close(gradient, plan.grad, rtol=0, atol=1e-12)
    assert_close(halves, pairs.value(plan.detach()), rtol=1e-12, atol=0)


def test_a_problem_alone_has_its_own_pairs():
    plan = torch.rand(2, N, M, dtype=torch.float64)
    both = SymmetricPairs.of(PAIRS, 2, SOURCE, TARGET)
    assert both.degree.tolist() == [1, 2] and len(both) == 5  # token 4 takes part in two pairs
    for number in range(2):
        alone = both.only(number)
        assert len(alone) == len(PAIRS[number]) and alone.degree.tolist() == [both.degree[number]]
        assert_close(alone.value(plan[number : number + 1])[0], both.value(plan)[number])


def test_no_pairs_weigh_nothing_and_wrong_ones_are_refused():
    plan = torch.rand(2, N, M)
    nothing = SymmetricPairs.of(None, 2, SOURCE, TARGET)
    assert len(nothing) == 0 and nothing.value(plan).tolist() == [0.0, 0.0] and nothing.degree.tolist() == [0, 0]
    with pytest.raises(ValueError, match="for each of 2 pairs of pictures; got 1"):
        SymmetricPairs.of(PAIRS[:1], 2, SOURCE, TARGET)
    for wrong in ([[0, 20]], [[-1, 3]]):
        with pytest.raises(ValueError, match="none of the source's 20"):
            SymmetricPairs.of([torch.tensor(wrong)], 1, SOURCE, TARGET)


@pytest.mark.parametrize("default", [torch.float32, torch.float64])
def test_pairs_are_the_same_under_any_default_of_torch(default):
    before = torch.get_default_dtype()
    torch.set_default_dtype(default)
    try:
        found = SymmetricPairs.of(PAIRS, 2, SOURCE, TARGET)
    finally:
        torch.set_default_dtype(before)
    wanted = SymmetricPairs.of(PAIRS, 2, SOURCE, TARGET)
    assert torch.equal(found.degree.float(), wanted.degree) and torch.equal(found.sign.float(), wanted.sign)
