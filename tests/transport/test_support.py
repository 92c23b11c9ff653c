import pytest
import torch
from torch.testing import assert_close

from saot.transport import SparseCost, Support, cosine_cost, products, squared_euclidean_cost, topk_support
from saot.transport import similarity as similarity_file


def _features(n, d, seed, dtype=torch.float64):
    return torch.randn(n, d, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).to(dtype)


def _check_orders(support):
    n, m = support.shape
    rows, cols = support.rows().long(), support.col.long()
    key = rows * m + cols
    assert bool((key.diff() > 0).all())  # CSR order, no pair twice
    assert support.crow.dtype == support.col.dtype == support.perm.dtype == torch.int32
    assert torch.equal(support.crow.diff().long(), torch.bincount(rows, minlength=n))
    assert torch.equal(support.ccol.diff().long(), torch.bincount(cols, minlength=m))
    by_column = cols * n + rows
    assert torch.equal(by_column[support.perm.long()], by_column.sort().values)
    assert torch.equal(support.trow, support.row[support.perm.long()])
    assert torch.equal(support.tcol, support.col[support.perm.long()])


@pytest.mark.parametrize("cover", [None, 1, 3])
@pytest.mark.parametrize("chunk", [1, 400, 2**26])  # bytes: one row at a time, a few, all
def test_topk_is_the_brute_force_choice(cover, chunk, monkeypatch):
    monkeypatch.setattr(similarity_file, "_BLOCK_BYTES", chunk)
    monkeypatch.setattr(similarity_file, "_LARGEST_BLOCK_BYTES", chunk)
    x, y = _features(11, 5, 1), _features(13, 5, 2)
    support = topk_support(x, y, k=4, cover=cover)
    similarity = torch.nn.functional.normalize(x, dim=1) @ torch.nn.functional.normalize(y, dim=1).T
    keep = similarity >= similarity.topk(4, dim=1).values[:, -1:]
    if cover is not None:
        keep |= similarity >= similarity.topk(cover, dim=0).values[-1]
    assert torch.equal(torch.stack([support.rows(), support.col], 1).long(), torch.nonzero(keep))
    _check_orders(support)


def test_k_above_m_is_clipped_and_cover_leaves_no_target_out():
    x, y = _features(4, 3, 1), _features(6, 3, 2)
    assert topk_support(x, y, k=99, cover=99).nnz == 24
    clustered = torch.cat([y[:1] + 0.01 * _features(30, 3, 3)])
    assert int((topk_support(clustered, y, k=1).ccol.diff() == 0).sum()) > 0
    assert int((topk_support(clustered, y, k=1, cover=1).ccol.diff() == 0).sum()) == 0


def test_zero_and_half_features():
    x, y = _features(4, 3, 1, torch.float16), _features(6, 3, 2, torch.float16)
    x[1] = 0
    _check_orders(topk_support(x, y, k=2, cover=1))


@pytest.mark.parametrize("shape", [(3, 4), (1, 1), (5, 40000)])  # the last has columns beyond 16 bits
def test_full_and_from_pairs_in_any_order(shape):
    full = Support.full(*shape)
    _check_orders(full)
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
        _check_orders(support)
        assert support.row.tolist() == [0, 0, 2, 2]
        assert support.col.tolist() == [1, 3, 0, 2]
    assert rows.tolist() == [0, 0, 2, 2]
    assert cols.tolist() == [1, 3, 0, 2]


def test_pairs_whose_key_needs_64_bits():
    n = m = 70000  # n m > 2**32
    rows, cols = torch.tensor([69999, 0, 69999, 69999]), torch.tensor([69999, 5, 0, 69999])
    support = Support.from_pairs(rows, cols, (n, m))
    assert list(zip(support.row.tolist(), support.col.tolist(), strict=True)) == [(0, 5), (69999, 0), (69999, 69999)]
    _check_orders(support)


def test_empty_support_has_both_orders():
    none = torch.zeros(0, dtype=torch.int64)
    _check_orders(Support.from_pairs(none, none, (3, 2)))


def test_support_errors_say_what_to_do():
    with pytest.raises(ValueError, match="cols must lie in \\[0, 2\\), but they reach from 0 to 5"):
        Support.from_pairs(torch.tensor([0, 1]), torch.tensor([0, 5]), (2, 2))
    with pytest.raises(ValueError, match="k must be at least 1, but is 0"):
        topk_support(_features(2, 3, 1), _features(2, 3, 1), k=0)
    with pytest.raises(ValueError, match="source features have 3 dimensions but target features 4"):
        topk_support(_features(2, 3, 1), _features(2, 4, 1), k=1)
    bad = _features(2, 3, 1)
    bad[1, 2] = torch.nan
    with pytest.raises(ValueError, match="source features must be finite, but token 1 is not"):
        topk_support(bad, _features(2, 3, 1), k=1)
    with pytest.raises(ValueError, match="one cost for each of the 4 pairs"):
        SparseCost(torch.zeros(3), Support.full(2, 2))
    with pytest.raises(ValueError, match="support is for 2 sources and 2 targets"):
        cosine_cost(_features(3, 3, 1), _features(2, 3, 1), Support.full(2, 2))


@pytest.mark.parametrize("kernels", [True, False])
@pytest.mark.parametrize("cost", [cosine_cost, squared_euclidean_cost])
def test_costs_dense_and_sparse_by_definition(cost, kernels, monkeypatch):
    if not kernels:
        monkeypatch.setattr(products, "has_sparse_kernels", lambda device: False)
        monkeypatch.setattr(products, "_CHUNK_ELEMENTS", 20)
    x, y = _features(6, 4, 1).requires_grad_(), _features(5, 4, 2).requires_grad_()
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
    many = _features(300, 64, 1, torch.float32)  # rounding takes some of these distances below zero
    diagonal = Support.from_pairs(torch.arange(300), torch.arange(300), (300, 300))
    assert float(squared_euclidean_cost(many, many).min()) >= 0
    assert float(squared_euclidean_cost(many, many, diagonal).values.min()) >= 0
    assert cosine_cost(x, x)[0].tolist() == [1.0, 1.0]


def test_costs_of_half_features_are_float32_even_under_autocast():
    x = _features(6, 64, 1, torch.bfloat16)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        cost = cosine_cost(x, x)
    assert cost.dtype == torch.float32
    assert_close(cost, cosine_cost(x.float(), x.float()))


@pytest.mark.parametrize("kernels", [True, False])
def test_products_and_their_gradients(kernels, monkeypatch):
    if not kernels:
        monkeypatch.setattr(products, "has_sparse_kernels", lambda device: False)
        monkeypatch.setattr(products, "_CHUNK_ELEMENTS", 7)
    support = topk_support(_features(6, 4, 1), _features(5, 4, 2), k=3)
    values = torch.randn(support.nnz, dtype=torch.float64, requires_grad=True)
    x, y = _features(6, 3, 3).requires_grad_(), _features(5, 3, 4).requires_grad_()
    matrix = SparseCost(values, support).dense().masked_fill(SparseCost(values, support).dense().isinf(), 0)
    assert_close(products.multiply(values, y, support), matrix @ y)
    assert_close(products.multiply(values, x, support, True), matrix.T @ x)
    assert torch.autograd.gradcheck(lambda v, y: products.multiply(v, y, support), (values, y))
    assert torch.autograd.gradcheck(lambda v, x: products.multiply(v, x, support, True), (values, x))
    assert torch.autograd.gradcheck(lambda x, y: products.pair_dots(x, y, support), (x, y))
