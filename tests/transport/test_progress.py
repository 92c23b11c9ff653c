"""A member of a batch that has ended stays as it is."""

import math

import torch

from saot.transport.progress import Progress, stack

NO = torch.zeros(3, dtype=torch.bool)


def _one(value):
    return torch.tensor([[value], [value], [value]])


def test_within_tol_takes_the_last_iterate_and_out_of_range_keeps_the_one_before():
    start = Progress.at(_one(0.0), _one(0.0), 0)
    first = start.after(_one(1.0), _one(2.0), torch.tensor([0.5, 0.01, math.nan]), 0.1, NO)
    assert first.f.flatten().tolist() == [1, 1, 0] and first.g.flatten().tolist() == [2, 2, 0]
    assert first.ended.tolist() == [False, True, True]
    assert first.frozen.tolist() == [False, False, True]
    assert first.non_finite.tolist() == [False, False, True]
    second = first.after(_one(3.0), _one(4.0), torch.tensor([0.02, 0.0, 0.0]), 0.1, NO)
    assert second.f.flatten().tolist() == [3, 1, 0] and second.g.flatten().tolist() == [4, 2, 0]
    assert second.iterations.tolist() == [2, 1, 1]
    assert second.residual[:2].tolist() == [torch.tensor(0.02).item(), torch.tensor(0.01).item()]
    assert bool(second.residual[2].isnan()) and second.non_finite.tolist() == [False, False, True]
    assert bool(second.ended.all())


def test_a_stuck_member_ends_where_it_is_and_says_so():
    stuck = torch.tensor([True, True, False])
    now = Progress.at(_one(0.0), _one(0.0), 0).after(_one(1.0), _one(2.0), torch.tensor([0.5, 0.01, 0.5]), 0.1, stuck)
    assert now.ended.tolist() == [True, True, False] and now.stuck.tolist() == [True, False, False]
    later = now.after(_one(3.0), _one(4.0), torch.tensor([0.5, 0.01, 0.5]), 0.1, NO)
    assert later.f.flatten().tolist() == [1, 1, 3] and later.stuck.tolist() == [True, False, False]


def test_potentials_out_of_range_that_nobody_looked_at_are_zeros():
    f = torch.tensor([[1.0, math.inf], [1.0, 2.0]])
    now = Progress.at(f, f, 7)
    assert now.f.tolist() == [[0, 0], [1, 2]]
    assert now.iterations.tolist() == [7, 7] and now.iterations.dtype == torch.int64


def test_members_are_stacked_field_by_field():
    members = [Progress.at(torch.full((3,), float(i)), torch.zeros(2), i) for i in range(4)]
    batch = stack(members, torch.Size((2, 2)))
    assert batch.f[..., 0].tolist() == [[0, 1], [2, 3]] and batch.iterations.tolist() == [[0, 1], [2, 3]]
    assert batch.g.shape == (2, 2, 2) and batch.ended.shape == (2, 2)
