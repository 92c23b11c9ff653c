"""Fixed costs, dense and on a support, by definition."""

import pytest
import torch
from helpers.transport import (
    features,
)
from torch.testing import assert_close

from saot.transport import Support, cosine_cost, products, squared_euclidean_cost, topk_support


@pytest.mark.parametrize("kernels", [True, False])
@pytest.mark.parametrize("cost", [cosine_cost, squared_euclidean_cost])
def test_costs_dense_and_sparse_by_definition(cost, kernels, monkeypatch):
    if not kernels:
        monkeypatch.setattr(products, "has_sparse_kernels", lambda device: False)
        monkeypatch.setattr(products, "_CHUNK_ELEMENTS", 20)
    x, y = features(6, 4, 1).requires_grad_(), features(5, 4, 2).requires_grad_()
    support = topk_support(x, y, k=3, cover=1)
    if cost is cosine_cost:
        expected = 1 - torch.nn.functional.cosine_similarity(x[:, None], y[None], dim=-1)
    else:
        expected = (x[:, None] - y[None]).square().sum(-1)
    rows, cols = support.rows().long(), support.col.long()
    sparse, dense = cost(x, y, support), cost(x, y)
    assert_close(dense, expected, rtol=1e-12, atol=1e-12)
    assert_close(sparse.values, expected[rows, cols], rtol=1e-12, atol=1e-12)
    assert_close(sparse.dense()[rows, cols], sparse.values)
    assert int(sparse.dense().isinf().sum()) == 30 - support.nnz
    weights = torch.randn(support.nnz, dtype=torch.float64)
    ours = torch.autograd.grad((sparse.values * weights).sum(), (x, y))
    theirs = torch.autograd.grad((expected[rows, cols] * weights).sum(), (x, y))
    assert_close(ours, theirs, rtol=1e-11, atol=1e-12)


def test_cost_of_zero_and_equal_features_has_finite_gradients():
    x = torch.tensor([[0.0, 0.0], [1.0, 2.0]], requires_grad=True)
    for cost in (cosine_cost(x, x), squared_euclidean_cost(x, x)):
        assert bool((cost >= -1e-6).all())
        (grad,) = torch.autograd.grad(cost.sum(), x)
        assert bool(grad.isfinite().all())
    assert squared_euclidean_cost(x, x).diagonal().tolist() == [0.0, 0.0]
    many = features(300, 64, 1, torch.float32)  # rounding takes some of these distances below zero
    diagonal = Support.from_pairs(torch.arange(300), torch.arange(300), (300, 300))
    assert float(squared_euclidean_cost(many, many).min()) >= 0
    assert float(squared_euclidean_cost(many, many, diagonal).values.min()) >= 0
    assert cosine_cost(x, x)[0].tolist() == [1.0, 1.0]


def test_costs_of_half_features_are_float32_even_under_autocast():
    x = features(6, 64, 1, torch.bfloat16)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        cost = cosine_cost(x, x)
    assert cost.dtype == torch.float32
    assert_close(cost, cosine_cost(x.float(), x.float()))
