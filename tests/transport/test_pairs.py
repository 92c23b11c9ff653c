"""Dense pairs and pairs on a support answer alike, and as torch does."""

import pytest
import torch
from helpers.transport import DOUBLE, sample
from torch.testing import assert_close

from saot.transport.pairs import DensePairs, SparsePairs


@pytest.fixture
def both():
    s = sample(83)
    masked, (row, col) = s.masked, (s.support.row.long(), s.support.col.long())
    dense = DensePairs(masked, masked.isfinite())
    return dense, SparsePairs(s.sparse.values, None, s.support), lambda v: v.expand_as(masked)[row, col]


def test_numbers_of_tokens_are_spread_over_the_pairs(both):
    dense, sparse, on_pairs = both
    x, y = torch.randn(9, dtype=DOUBLE), torch.randn(7, dtype=DOUBLE)
    assert torch.equal(sparse.spread_rows(x), on_pairs(dense.spread_rows(x)))
    assert torch.equal(sparse.spread_cols(y), on_pairs(dense.spread_cols(y)))
    v = torch.randn(sparse.cost.shape, dtype=DOUBLE)
    assert torch.equal(sparse.add_rows_(v.clone(), x), v + sparse.spread_rows(x))


def test_pairs_are_summed_and_maximised_by_row_and_by_column(both):
    dense, sparse, on_pairs = both
    full = torch.randn(9, 7, dtype=DOUBLE)
    zero, low = (torch.where(dense.finite, full, fill) for fill in (0.0, -torch.inf))
    v = on_pairs(full)
    for side in ("rows", "cols"):
        assert_close(getattr(sparse, f"sum_{side}")(v), getattr(dense, f"sum_{side}")(zero))
        assert torch.equal(getattr(sparse, f"max_{side}")(v), getattr(dense, f"max_{side}")(low))
    assert_close(sparse.sum_all(v), dense.sum_all(zero))


def test_log_sum_exps_and_their_gradients(both):
    dense, sparse, on_pairs = both
    full = torch.randn(9, 7, dtype=DOUBLE, requires_grad=True)
    for side, size in (("rows", 7), ("cols", 9)):
        added = torch.randn(size, dtype=DOUBLE, requires_grad=True)
        gradients = []
        for pairs, v in ((dense, torch.where(dense.finite, full, -torch.inf)), (sparse, on_pairs(full))):
            lse = getattr(pairs, f"lse_{side}")(pairs.in_columns(v) if side == "cols" else v, added)
            weight = torch.linspace(-1, 1, lse.numel(), dtype=DOUBLE)
            gradients.append((lse, *torch.autograd.grad((lse * weight).sum(), (full, added))))
        assert_close(*gradients)


def test_a_row_without_pairs_is_minus_infinity_without_a_gradient():
    v = torch.tensor([[-torch.inf, -torch.inf], [0.0, 1.0]], requires_grad=True)
    out = DensePairs(v, v.isfinite()).lse_rows(v, torch.zeros(2))
    assert out[0].item() == -torch.inf
    (gradient,) = torch.autograd.grad(out[1] + 0 * out.exp().sum(), v)
    assert bool(gradient.isfinite().all())
