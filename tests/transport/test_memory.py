"""Nothing of the size n m anywhere on the sparse path, and saved tensors that do not grow with max_iter."""

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from saot.transfer import transfer_labels
from saot.transport import (
    SparseCost,
    block_diagonal,
    cosine_cost,
    solve_transport,
    squared_euclidean_cost,
    topk_support,
)


class LargestTensor(TorchDispatchMode):
    """Remembers the largest storage (in numbers) that any operation returns."""

    def __init__(self):
        super().__init__()
        self.largest, self.name = 0, ""

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        for t in tree_leaves(out):
            if isinstance(t, torch.Tensor) and t.layout == torch.strided:
                count = t.untyped_storage().nbytes() // max(t.element_size(), 1)
                if count > self.largest:
                    self.largest, self.name = count, str(func)
        return out


@pytest.mark.parametrize("options", [{}, {"cover": 2}, {"form": "union"}, {"form": "mutual", "cover": 1}])
@pytest.mark.parametrize("search", ["exact", "fast"])
@pytest.mark.filterwarnings("ignore:the gradient of a transport plan")
def test_no_dense_tensor_from_features_to_labels_and_back(options, search):
    n = m = 5000
    generator = torch.Generator().manual_seed(0)
    x, y = (torch.randn(n, 16, generator=generator).requires_grad_() for _ in range(2))
    labels = torch.randint(0, 5, (n,), generator=generator)
    with LargestTensor() as watch:
        support = topk_support(x.detach(), y.detach(), k=32, search=search, **options)
        for cost in (cosine_cost(x, y, support), squared_euclidean_cost(x, y, support)):
            for tau, reference in ((0.3, "product"), (torch.inf, "counting")):
                result = solve_transport(cost, tau=tau, reference=reference, max_iter=12, tol=0)
                probs = transfer_labels(result, labels, num_classes=5).probs
                (probs.square().sum() + result.value + result.potentials[0].nan_to_num(posinf=0).sum()).backward(
                    retain_graph=True
                )
        padded = torch.full((n,), 1 / n)
        padded[0] = 0
        early = solve_transport(cost, padded, tau=3.0, max_iter=15, tol=1e-9, gradient="unrolled")
        early.plan_values.sum().backward()
        solve_transport(block_diagonal([SparseCost(cost.values.detach(), support)]), max_iter=5, tol=0)
    assert 2 * support.nnz < n * m / 4  # so that a pair list does not trip the wire
    assert watch.largest < n * m / 4, watch.name


def test_the_watch_sees_a_dense_tensor():
    with LargestTensor() as watch:
        cosine_cost(torch.randn(1000, 3), torch.randn(1000, 3))
    assert watch.largest >= 1000 * 1000


def test_no_dense_tensor_in_second_derivatives():
    generator = torch.Generator().manual_seed(0)
    x, y = (torch.randn(2000, 8, generator=generator, dtype=torch.float64).requires_grad_() for _ in range(2))
    support = topk_support(x.detach(), y.detach(), k=16, cover=1)
    padded = torch.full((2000,), 1 / 2000, dtype=torch.float64)
    padded[0] = 0
    with LargestTensor() as watch:
        for weights, reference in ((None, "counting"), (padded.requires_grad_(), "product")):
            result = solve_transport(cosine_cost(x, y, support), weights, reference=reference, max_iter=30, tol=0)
            (first,) = torch.autograd.grad(result.plan_values.square().sum() + result.value, x, create_graph=True)
            first.square().sum().backward()
    assert 2 * support.nnz < 2000 * 2000 / 4
    assert watch.largest < 2000 * 2000 / 4, watch.name


def _saved(gradient, max_iter, twice=False):
    generator = torch.Generator().manual_seed(1)
    x, y = (torch.randn(300, 8, generator=generator) for _ in range(2))
    support = topk_support(x, y, k=20)
    values = squared_euclidean_cost(x, y, support).values.requires_grad_()
    storages = {}

    def pack(t):
        storages[t.untyped_storage().data_ptr()] = t.untyped_storage()
        return t

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda t: t):
        result = solve_transport(SparseCost(values, support), max_iter=max_iter, tol=0, gradient=gradient)
        loss = result.plan_values.square().sum()
        if twice:
            loss = loss + result.value
            loss = torch.autograd.grad(loss, values, create_graph=True)[0].square().sum()
    size = sum(s.nbytes() for s in storages.values())
    loss.backward()
    return size / values.nbytes


def test_saved_tensors_do_not_grow_with_max_iter():
    sizes = [_saved("implicit", count) for count in (10, 30, 300)]
    assert sizes[0] == sizes[1] == sizes[2]
    assert 5 * sizes[0] < _saved("unrolled", 30) < 0.2 * _saved("unrolled", 300)


def test_second_derivatives_keep_a_number_of_pair_lists_whatever_max_iter():
    sizes = [_saved("implicit", count, twice=True) for count in (10, 300)]
    assert sizes[0] == sizes[1] < 25  # in units of the cost
