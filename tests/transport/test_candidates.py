"""Candidate search: forms and coverage against their definitions."""

import pytest
import torch
from helpers.transport import (
    check_orders,
    features,
)
from torch.testing import assert_close
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from saot.transport import (
    Support,
    candidates,
    cosine_cost,
    measure_recall,
    select,
    squared_euclidean_cost,
    topk_candidates,
    topk_support,
)


@pytest.mark.parametrize("cover", [None, 1, 3])
@pytest.mark.parametrize("chunk", [1, 400, 2**26])  # bytes: one row at a time, a few, all
def test_topk_is_the_brute_force_choice(cover, chunk, monkeypatch):
    monkeypatch.setattr(candidates, "_BLOCK_BYTES", chunk)
    monkeypatch.setattr(candidates, "_LARGEST_BLOCK_BYTES", chunk)
    x, y = features(11, 5, 1), features(13, 5, 2)
    support = topk_support(x, y, k=4, cover=cover)
    similarity = torch.nn.functional.normalize(x, dim=1) @ torch.nn.functional.normalize(y, dim=1).T
    keep = similarity >= similarity.topk(4, dim=1).values[:, -1:]
    if cover is not None:
        keep |= similarity >= similarity.topk(cover, dim=0).values[-1]
    assert torch.equal(torch.stack([support.rows(), support.col], 1).long(), torch.nonzero(keep))
    check_orders(support)


def test_k_above_m_is_clipped_and_cover_leaves_no_target_out():
    x, y = features(4, 3, 1), features(6, 3, 2)
    assert topk_support(x, y, k=99, cover=99).nnz == 24
    clustered = torch.cat([y[:1] + 0.01 * features(30, 3, 3)])
    assert int((topk_support(clustered, y, k=1).ccol.diff() == 0).sum()) > 0
    assert int((topk_support(clustered, y, k=1, cover=1).ccol.diff() == 0).sum()) == 0


def test_zero_and_half_features():
    x, y = features(4, 3, 1, torch.float16), features(6, 3, 2, torch.float16)
    x[1] = 0
    check_orders(topk_support(x, y, k=2, cover=1))


def _clustered(n, d, seed):
    centres = torch.nn.functional.normalize(features(19, d, 99, torch.float32), dim=1)
    which = torch.randint(19, (n,), generator=torch.Generator().manual_seed(seed))
    return centres[which] + features(n, d, seed, torch.float32) / d**0.5


def _pairs(support):
    return set(zip(support.row.tolist(), support.col.tolist(), strict=True))


def _definition(x, y, k, cover, form):
    """The pairs, from the whole matrix; for features without ties."""
    cos = torch.nn.functional.normalize(x, dim=1) @ torch.nn.functional.normalize(y, dim=1).T

    def best(count, dim):
        return cos >= cos.topk(min(count, cos.shape[dim]), dim=dim).values.amin(dim, keepdim=True)

    by_source, by_target = best(k, 1), best(k, 0)
    keep = {"source": by_source, "union": by_source | by_target, "mutual": by_source & by_target}[form]
    if cover:
        keep = keep | best(cover, 0)
        if form == "mutual":
            keep = keep | best(cover, 1)
    return set(map(tuple, keep.nonzero().tolist()))


def _use_fast(monkeypatch):
    """The bfloat16 route also on a processor where it is slow."""
    monkeypatch.setattr(candidates, "has_fast_bfloat16", lambda device: True)


@pytest.mark.parametrize("form", ["source", "union", "mutual"])
@pytest.mark.parametrize("cover", [None, 1, 3, 9])
@pytest.mark.parametrize("shape", [(40, 31), (31, 40), (1, 12), (12, 1), (30, 30)])
@pytest.mark.parametrize("search", ["exact", "fast"])
def test_forms_by_definition(form, cover, shape, search, monkeypatch):
    _use_fast(monkeypatch)
    monkeypatch.setattr(candidates, "_MARGIN", 1)  # re-scores all that could matter on so small a problem
    x, y = features(shape[0], 6, 1), features(shape[1], 6, 2)
    found = topk_candidates(x, y, 5, cover, form, search)
    expected = _definition(x, y, 5, cover, form)
    if search == "exact" or not cover or form != "source":
        assert _pairs(found.support) == expected
    if cover:
        assert int(found.support.ccol.diff().min()) >= 1
        assert int(found.support.crow.diff().min()) >= 1
    cos = torch.nn.functional.cosine_similarity(x[found.support.row.long()], y[found.support.col.long()])
    assert_close(found.similarity, cos, rtol=1e-12, atol=1e-12)


def test_mutual_alone_may_leave_tokens_out():
    x, y = torch.tensor([[1.0, 0.0], [1.0, 0.1]]), torch.tensor([[1.0, 0.0], [0.0, 1.0]])
    # both sources choose target 0, which chooses source 0; target 1 chooses source 1
    assert _pairs(topk_support(x, y, 1, form="mutual")) == {(0, 0)}
    assert _pairs(topk_support(x, y, 1, cover=1, form="mutual")) == {(0, 0), (1, 0), (1, 1)}


@pytest.mark.parametrize("search", ["exact", "fast"])
def test_ties_and_zero_rows_have_exactly_k_of_the_lowest_indices(search, monkeypatch):
    _use_fast(monkeypatch)
    x, y = torch.eye(4)[[0, 0, 1]], torch.eye(4)[[2, 0, 0, 0, 3]]
    x[2] = 0  # similar to nothing
    found = topk_candidates(x, y, 2, search=search)
    assert found.support.crow.tolist() == [0, 2, 4, 6]
    assert found.support.col.tolist() == [1, 2, 1, 2, 0, 1]
    assert found.similarity.tolist() == [1, 1, 1, 1, 0, 0]


@pytest.mark.parametrize("numba", [True, False])
@pytest.mark.parametrize("form", ["source", "mutual"])
def test_many_equal_features(numba, form, monkeypatch):
    if not numba:
        monkeypatch.setattr(select, "has_numba", lambda: False)
    x = torch.eye(3)[torch.arange(1100) % 3]  # beyond what is sorted plainly
    found = topk_candidates(x, x, 7, form=form)
    expected = torch.arange(7) * 3 + (torch.arange(1100) % 3)[:, None]
    if form == "source":
        assert torch.equal(found.support.col.view(1100, 7).long(), expected)
        assert torch.equal(found.support.crow, torch.arange(0, 7701, 7, dtype=torch.int32))
    else:  # each token chose the first seven of its kind: only those chose one another
        assert _pairs(found.support) == {(i, j) for i in range(21) for j in range(21) if i % 3 == j % 3}
    assert bool((found.similarity == 1).all())


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_features_of_every_precision_even_under_autocast(dtype):
    x, y = features(9, 16, 1, dtype), features(8, 16, 2, dtype)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = topk_candidates(x, y, 3)
    assert found.similarity.dtype == torch.promote_types(dtype, torch.float32)
    exact = topk_candidates(x.double(), y.double(), 3)
    assert torch.equal(found.support.col, exact.support.col)
    assert_close(found.similarity.double(), exact.similarity, rtol=0, atol=1e-14 if dtype == torch.float64 else 1e-6)
    mixed = topk_candidates(x, y.double(), 3)
    assert mixed.similarity.dtype == torch.float64


def test_costs_are_those_of_the_pairs_and_carry_no_gradient():
    x, y = features(9, 5, 1).requires_grad_(), features(8, 5, 2).requires_grad_()
    found = topk_candidates(x, y, 3, cover=1)
    cosine, euclidean = found.cosine_cost(), found.squared_euclidean_cost()
    unit = torch.nn.functional.normalize
    assert_close(cosine.values, cosine_cost(x, y, found.support).values.detach(), rtol=1e-12, atol=1e-12)
    expected = squared_euclidean_cost(unit(x), unit(y), found.support).values.detach()
    assert_close(euclidean.values, expected, rtol=1e-12, atol=1e-12)
    assert not cosine.values.requires_grad
    assert not euclidean.values.requires_grad
    itself = topk_candidates(features(200, 64, 1, torch.float32), features(200, 64, 1, torch.float32), 1)
    assert float(itself.squared_euclidean_cost().values.min()) >= 0


@pytest.mark.parametrize("product", ["onednn", "plain"])
@pytest.mark.parametrize("kernels", [True, False])
def test_float32_products_are_exact_to_rounding(product, kernels, monkeypatch):
    monkeypatch.setattr(candidates, "has_sparse_kernels", lambda device: kernels)
    monkeypatch.setattr(candidates, "_GATHER_ELEMENTS", 40)
    if product == "plain":
        monkeypatch.setattr(candidates, "_onednn_linear", lambda: None)
    x, y = candidates.unit(features(13, 130, 1)), candidates.unit(features(17, 130, 2))
    block = candidates.exact_product(x.float(), y.float())(slice(3, 9))
    assert_close(block.double(), (x @ y.T)[3:9], rtol=0, atol=1e-6)
    col = torch.tensor([[0, 4], [3, 16]] * 3, dtype=torch.int32)
    assert_close(candidates.pair_similarity(x[:6], y, col), (x[:6] @ y.T).gather(1, col.long()), rtol=0, atol=1e-14)


def test_a_product_that_is_absent_or_wrong_is_not_used(monkeypatch):
    def wrong(x, y, *rest):
        return x @ y.T + 0.01

    def absent(*rest):
        raise RuntimeError("no kernel")

    for operator in (wrong, absent):
        candidates._onednn_linear.cache_clear()
        monkeypatch.setattr(torch.ops.mkldnn, "_linear_pointwise", operator, raising=False)
        assert candidates._onednn_linear() is None
    candidates._onednn_linear.cache_clear()
    monkeypatch.undo()


def test_rows_in_blocks_cover_all_rows_and_stay_small():
    for n, m in ((1, 1), (1000, 3), (5000, 5000), (7, 10**7), (300, 10**5)):
        rows = list(candidates.row_blocks(n, m, 4))
        assert [i for r in rows for i in range(r.start, r.stop)] == list(range(n))
        assert max(r.stop - r.start for r in rows) * m * 4 <= max(64 * 2**20, 4 * m)


@pytest.mark.parametrize("data", ["random", "clustered"])
def test_fast_search_finds_nearly_all_and_scores_exactly(data, monkeypatch):
    _use_fast(monkeypatch)
    if data == "random":
        x, y = features(600, 128, 1, torch.float32), features(500, 128, 2, torch.float32)
    else:
        x, y = _clustered(600, 128, 1), _clustered(500, 128, 2)
    found = topk_candidates(x + 1, y + 1, 32, search="fast")  # a shift that rounding alone would not survive
    recall = measure_recall(found.support, x + 1, y + 1, 32, sample=600)
    assert recall.share > 0.99
    assert recall.worst_miss < 0.004  # half a unit in the last place of bfloat16 below 1
    assert int(found.support.crow.diff().min()) == int(found.support.crow.diff().max()) == 32
    assert_close(found.cosine_cost().values, cosine_cost(x + 1, y + 1, found.support).values, rtol=0, atol=1e-6)


def test_fast_coverage_adds_each_target_s_best_source_up_to_rounding(monkeypatch):
    _use_fast(monkeypatch)
    x, y = _clustered(300, 64, 1) + 1, _clustered(200, 64, 2) + 1
    found = topk_candidates(x, y, 1, cover=1, search="fast")
    exact = topk_candidates(x, y, 1, cover=1)
    best = [
        torch.zeros(200).index_reduce_(0, c.support.col.long(), c.similarity, "amax", include_self=False)
        for c in (found, exact)
    ]
    assert float((best[1] - best[0]).max()) < 0.004


def test_fast_search_without_fast_bfloat16_is_exact(monkeypatch):
    monkeypatch.setattr(candidates, "has_fast_bfloat16", lambda device: False)
    x, y = _clustered(90, 64, 1), _clustered(80, 64, 2)
    assert torch.equal(topk_support(x, y, 9, search="fast").col, topk_support(x, y, 9).col)


def test_recall_by_hand():
    x, y = torch.tensor([[1.0, 0.0], [0.0, 1.0]]), torch.tensor([[1.0, 0.0], [0.8, 0.6], [0.0, 1.0]])
    # true pairs for k = 2: (0, 0), (0, 1), (1, 1), (1, 2)
    support = Support.from_pairs(torch.tensor([0, 1, 1]), torch.tensor([1, 0, 1]), (2, 3))
    recall = measure_recall(support, x, y, 2)
    assert recall.share == 0.5
    assert recall.worst_miss == pytest.approx(0.4)  # (1, 2) has cosine 1, the second best of source 1 has 0.6
    assert recall.sampled == 2
    assert measure_recall(Support.full(2, 3), x, y, 2) == candidates.Recall(1.0, 0.0, 2)
    none = Support.from_pairs(torch.zeros(0, dtype=torch.int64), torch.zeros(0, dtype=torch.int64), (2, 3))
    assert measure_recall(none, x, y, 2).share == 0


def test_recall_of_a_sample_in_blocks(monkeypatch):
    monkeypatch.setattr(candidates, "_BLOCK_BYTES", 700)
    monkeypatch.setattr(candidates, "_LARGEST_BLOCK_BYTES", 700)
    x, y = features(50, 7, 1), features(40, 7, 2)
    worse = topk_support(x, y, 6)
    whole = measure_recall(worse, x, y, 12, sample=50)
    assert whole.share == 0.5
    part = measure_recall(worse, x, y, 12, sample=9, generator=torch.Generator().manual_seed(1))
    assert part.sampled == 9
    assert part.share == 0.5
    assert measure_recall(topk_support(x, y, 12), x, y, 12).share == 1
    equal = torch.ones(20, 3)  # any k of equal targets are right
    assert measure_recall(topk_support(equal, equal, 4), equal, equal, 4).share == 1


class _Largest(TorchDispatchMode):
    """The most numbers that any operation made."""

    def __init__(self):
        super().__init__()
        self.numel = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        sizes = [t.numel() for t in tree_leaves(out) if isinstance(t, torch.Tensor) and t.layout == torch.strided]
        self.numel = max([self.numel, *sizes])
        return out


@pytest.mark.parametrize(
    ("form", "search", "cover"), [("source", "exact", 2), ("mutual", "exact", 1), ("union", "fast", None)]
)
@pytest.mark.parametrize("numba", [True, False])
def test_no_operation_makes_a_dense_matrix(form, search, cover, numba, monkeypatch):
    _use_fast(monkeypatch)
    if not numba:
        monkeypatch.setattr(select, "has_numba", lambda: False)
    n = 5000
    x, y = features(n, 16, 1, torch.float32), features(n, 16, 2, torch.float32)
    with _Largest() as largest:
        topk_candidates(x, y, 8, cover, form, search)
    assert 0 < largest.numel < n * n / 4


def test_errors_say_what_to_do():
    x = features(3, 4, 1)
    for arguments, message in (
        ({"k": 0}, "k must be at least 1, but is 0"),
        ({"k": 1, "cover": 0}, "cover must be at least 1, but is 0"),
        ({"k": 1, "form": "both"}, "form must be one of source, union, mutual, but is 'both'"),
        ({"k": 1, "search": "slow"}, "search must be one of exact, fast, but is 'slow'"),
    ):
        with pytest.raises((ValueError, TypeError), match=message):
            candidates.check_features(x, x, **{"cover": None, "form": "source", "search": "exact", **arguments})
    with pytest.raises(ValueError, match="target must hold at least one token"):
        topk_candidates(x, x[:0], 1)
    for value in (torch.nan, torch.inf):
        bad = x.clone()
        bad[2, 1] = value
        with pytest.raises(ValueError, match="target features must be finite, but token 2 is not"):
            topk_candidates(x, bad, 1)
    with pytest.raises(ValueError, match="support is for 3 sources and 3 targets, but the features are 3 and 2"):
        measure_recall(Support.full(3, 3), x, x[:2], 1)
    with pytest.raises(ValueError, match="sample must be at least 1, but is 0"):
        measure_recall(Support.full(3, 3), x, x, 1, sample=0)
    with pytest.raises(ValueError, match="on meta but target features on cpu"):
        candidates.check_features(x.to("meta"), x, 1, None, "source", "exact")
