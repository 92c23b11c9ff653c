"""The system behind the gradient of the structure term, against a direct solution."""

import torch
from helpers.transport import DOUBLE
from torch.testing import assert_close

from saot.transport.krylov import minimal_residual


def test_a_batch_is_solved_member_by_member_where_the_series_diverges_too():
    generator = torch.Generator().manual_seed(0)
    maps = torch.randn(3, 8, 8, dtype=DOUBLE, generator=generator)
    maps = maps * torch.tensor([0.05, 0.8, 2.0], dtype=DOUBLE)[:, None, None]  # of the last the series diverges
    right = torch.randn(3, 2, 4, dtype=DOUBLE, generator=generator)
    right[0] = 0.0

    def operator(x):
        return (maps @ x.reshape(3, 8, 1)).reshape(x.shape)

    found, left = minimal_residual(operator, right, 1, 1e-12, 8)
    expected = torch.linalg.solve(torch.eye(8, dtype=DOUBLE) - maps, right.reshape(3, 8, 1)).reshape(3, 2, 4)
    assert_close(found, expected, rtol=1e-9, atol=1e-12)
    assert float(left.max()) < 1e-12
    _, left = minimal_residual(operator, right, 1, 1e-12, 3)
    assert float(left[0]) == 0 and float(left[2]) > 1e-3  # told where it did not get there


def test_nothing_to_solve_is_zero():
    found, left = minimal_residual(lambda x: x, torch.zeros(2, 5), 0, 1e-6, 4)
    assert not bool(found.any()) and float(left) == 0
