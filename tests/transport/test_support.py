"""Pairs in both orders."""

import pytest
import torch
from helpers.transport import check_orders, features

from saot.transport import SparseCost, Support, cosine_cost, topk_support


@pytest.mark.parametrize("shape", [(3, 4), (1, 1), (5, 40000)])  # the last has columns beyond 16 bits
def test_full_and_from_pairs_in_any_order(shape):
    full = Support.full(*shape)
    check_orders(full)
    shuffled = torch.randperm(full.nnz)
    rows, cols = full.rows()[shuffled], full.col[shuffled]
    twice = Support.from_pairs(torch.cat([rows, rows]), torch.cat([cols, cols]), shape)
    assert torch.equal(twice.col, full.col)
    assert torch.equal(twice.crow, full.crow)


def test_pairs_in_order_and_out_of_order_agree_and_keep_their_input():
    rows, cols = torch.tensor([0, 0, 2, 2]), torch.tensor([1, 3, 0, 2], dtype=torch.int32)
    ordered = Support.from_pairs(rows, cols, (3, 4))
    order = torch.tensor([2, 0, 3, 1])
    mixed = Support.from_pairs(rows[order], cols[order], (3, 4))
    for support in (ordered, mixed):
        check_orders(support)
        assert support.row.tolist() == [0, 0, 2, 2]
        assert support.col.tolist() == [1, 3, 0, 2]
    assert rows.tolist() == [0, 0, 2, 2]
    assert cols.tolist() == [1, 3, 0, 2]


def test_pairs_whose_key_needs_64_bits():
    n = m = 70000  # n m > 2**32
    rows, cols = torch.tensor([69999, 0, 69999, 69999]), torch.tensor([69999, 5, 0, 69999])
    support = Support.from_pairs(rows, cols, (n, m))
    assert list(zip(support.row.tolist(), support.col.tolist(), strict=True)) == [(0, 5), (69999, 0), (69999, 69999)]
    check_orders(support)


def test_empty_support_has_both_orders():
    none = torch.zeros(0, dtype=torch.int64)
    check_orders(Support.from_pairs(none, none, (3, 2)))


def test_support_errors_say_what_to_do():
    with pytest.raises(ValueError, match="cols must lie in \\[0, 2\\), but they reach from 0 to 5"):
        Support.from_pairs(torch.tensor([0, 1]), torch.tensor([0, 5]), (2, 2))
    with pytest.raises(ValueError, match="k must be at least 1, but is 0"):
        topk_support(features(2, 3, 1), features(2, 3, 1), k=0)
    with pytest.raises(ValueError, match="source features have 3 dimensions but target features 4"):
        topk_support(features(2, 3, 1), features(2, 4, 1), k=1)
    bad = features(2, 3, 1)
    bad[1, 2] = torch.nan
    with pytest.raises(ValueError, match="source features must be finite, but token 1 is not"):
        topk_support(bad, features(2, 3, 1), k=1)
    with pytest.raises(ValueError, match="one cost for each of the 4 pairs"):
        SparseCost(torch.zeros(3), Support.full(2, 2))
    with pytest.raises(ValueError, match="support is for 2 sources and 2 targets"):
        cosine_cost(features(3, 3, 1), features(2, 3, 1), Support.full(2, 2))
