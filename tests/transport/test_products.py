"""Products on a support against the dense ones."""

import pytest
import torch
from helpers.transport import (
    features,
)
from torch.testing import assert_close

from saot.transport import SparseCost, products, topk_support


@pytest.mark.parametrize("kernels", [True, False])
def test_products_and_their_gradients(kernels, monkeypatch):
    if not kernels:
        monkeypatch.setattr(products, "has_sparse_kernels", lambda device: False)
        monkeypatch.setattr(products, "_CHUNK_ELEMENTS", 7)
    support = topk_support(features(6, 4, 1), features(5, 4, 2), k=3)
    values = torch.randn(support.nnz, dtype=torch.float64, requires_grad=True)
    x, y = features(6, 3, 3).requires_grad_(), features(5, 3, 4).requires_grad_()
    matrix = SparseCost(values, support).dense().masked_fill(SparseCost(values, support).dense().isinf(), 0)
    assert_close(products.multiply(values, y, support), matrix @ y)
    assert_close(products.multiply(values, x, support, True), matrix.T @ x)
    assert torch.autograd.gradcheck(lambda v, y: products.multiply(v, y, support), (values, y))
    assert torch.autograd.gradcheck(lambda v, x: products.multiply(v, x, support, True), (values, x))
    assert torch.autograd.gradcheck(lambda x, y: products.pair_dots(x, y, support), (x, y))
