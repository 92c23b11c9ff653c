import sys

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from saot.transport import cells, multiscale
from saot.transport.candidates import measure_recall, topk_support
from saot.transport.cells import make_cells
from saot.transport.multiscale import faiss_support, multiscale_support

SEARCHES = [multiscale_support, pytest.param(faiss_support, id="faiss_support")]


@pytest.fixture(autouse=True)
def _faiss_if_asked(request):
    if "faiss" in request.node.name:
        pytest.importorskip("faiss")


def _clustered(n, seed, dtype=torch.float64, d=24):
    modes = torch.randn(60, d, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    drawn = torch.Generator().manual_seed(seed)
    mode = torch.randint(60, (n,), generator=drawn)
    shift = 0.2 * seed * torch.ones(d, dtype=torch.float64)  # a domain shift
    return (modes[mode] + shift + 0.4 * torch.randn(n, d, generator=drawn, dtype=torch.float64)).to(dtype)


def _pairs(support):
    return torch.stack([support.rows(), support.col], 1)


@pytest.mark.parametrize("search", SEARCHES)
def test_recall_on_clustered_features(search):
    x, y = _clustered(3000, 1), _clustered(2800, 2)
    found = search(x, y, 16)
    everything = measure_recall(found.support, x, y, 16, sample=3000).share
    assert everything >= 0.95
    assert abs(found.recall.share - everything) < 0.03  # three standard errors of 512 sources
    assert found.scanned < 0.25
    assert torch.equal(found.support.crow.diff(), torch.full((3000,), 16, dtype=torch.int32))


@pytest.mark.parametrize("search", SEARCHES)
def test_the_recall_asked_for_chooses_the_probes(search):
    generator = torch.Generator().manual_seed(0)
    x, y = torch.randn(2000, 12, generator=generator), torch.randn(2500, 12, generator=generator)
    some, most = (search(x, y, 8, recall=recall) for recall in (0.5, 0.9))
    assert some.probes < most.probes < most.clusters
    for found, recall in ((some, 0.5), (most, 0.9)):
        share = measure_recall(found.support, x, y, 8, sample=2000).share
        assert recall <= share < recall + 0.1


@pytest.mark.parametrize("clusters", [1, 7, 100])
@pytest.mark.parametrize("shape", [(500, 900), (900, 500)])
def test_all_cells_are_an_exact_search(shape, clusters):
    x, y = _clustered(shape[0], 1), _clustered(shape[1], 2)
    exact = topk_support(x, y, 9, cover=3)
    assert torch.equal(
        _pairs(multiscale_support(x, y, 9, cover=3, clusters=clusters, probes=10**6).support), _pairs(exact)
    )
    found = multiscale_support(x, y, 9, cover=3, clusters=clusters, recall=1)
    assert torch.equal(_pairs(found.support), _pairs(exact))
    assert found.recall.share == 1 and found.probes == found.clusters


def test_what_was_set_aside_is_merged_whenever_there_is_too_much(monkeypatch):
    x, y = _clustered(300, 1), _clustered(400, 2)
    expected = _pairs(topk_support(x, y, 5))
    monkeypatch.setattr(multiscale, "_FIRST_SHARE", 0)
    for waiting, visits, products in ((1, 2**22, 2**18), (2**22, 700, 2**18), (200, 1, 1)):
        monkeypatch.setattr(cells, "_WAITING", waiting)
        monkeypatch.setattr(multiscale, "_VISITS", visits)
        monkeypatch.setattr(cells, "_PRODUCT_ELEMENTS", products)
        assert torch.equal(_pairs(multiscale_support(x, y, 5, probes=1000).support), expected)


@pytest.mark.parametrize("search", SEARCHES)
def test_cover_leaves_no_target_without_candidates(search):
    x = _clustered(2000, 1)
    x[:1900] = x[0] + 0.01 * x[:1900]  # nearly all sources in one place
    y = _clustered(1500, 2)
    without, covered = search(x, y, 4).support, search(x, y, 4, cover=3).support
    assert int((without.ccol.diff() == 0).sum()) > 100
    assert int(covered.ccol.diff().min()) >= 3 and int(covered.crow.diff().min()) >= 4
    key = covered.rows().long() * 1500 + covered.col
    assert bool((key.diff() > 0).all()) and torch.isin(without.rows().long() * 1500 + without.col, key).all()


def test_cover_takes_the_best_sources():
    x, y = _clustered(2500, 1), _clustered(2000, 2)
    support = multiscale_support(x, y, 1, cover=8).support
    flipped = type(support).from_pairs(support.col, support.rows(), (2000, 2500))
    assert measure_recall(flipped, y, x, 8, sample=2000).share >= 0.95


@pytest.mark.parametrize("search", SEARCHES)
def test_the_same_again(search):
    x, y = _clustered(1500, 1), _clustered(1200, 2)
    once, again = search(x, y, 8, cover=2), search(x, y, 8, cover=2)
    assert torch.equal(_pairs(once.support), _pairs(again.support)) and once.recall == again.recall
    state = torch.random.get_rng_state()
    seeds = [torch.Generator().manual_seed(s) for s in (3, 3, 4)]
    a, b, c = (search(x, y, 8, probes=1, generator=generator).support for generator in seeds)
    assert torch.equal(_pairs(a), _pairs(b))
    if search is multiscale_support:
        assert not torch.equal(_pairs(a), _pairs(c))
    assert torch.equal(torch.random.get_rng_state(), state)


@pytest.mark.parametrize("search", SEARCHES)
@pytest.mark.parametrize("shape", [(1, 1), (1, 30), (30, 1), (5, 3), (40, 17)])
def test_few_tokens_and_k_above_m(search, shape):
    x, y = _clustered(shape[0], 1), _clustered(shape[1], 2)
    found = search(x, y, 50, cover=50, clusters=200)
    assert found.support.nnz == shape[0] * shape[1] and found.recall.share == 1
    one = search(x, y, 1, clusters=200, probes=1).support
    assert one.crow.diff().tolist() == [1] * shape[0]


@pytest.mark.parametrize("search", SEARCHES)
def test_every_source_gets_k_from_cells_smaller_than_k(search):
    x, y = _clustered(300, 1), _clustered(400, 2)
    support = search(x, y, 50, clusters=100, probes=1).support
    assert bool(((support.rows().long() * 400 + support.col).diff() > 0).all())  # none twice
    assert torch.equal(support.crow.diff(), torch.full((300,), 50, dtype=torch.int32))


@pytest.mark.parametrize("search", SEARCHES)
def test_identical_features(search):
    x, y = torch.ones(700, 6), torch.ones(900, 6)
    found = search(x, y, 5, cover=2)
    assert int(found.support.crow.diff().min()) >= 5 and int(found.support.ccol.diff().min()) >= 2
    assert found.recall.share == 1  # equally similar targets count as found


@pytest.mark.parametrize("search", SEARCHES)
def test_zero_rows(search):
    x, y = _clustered(800, 1), _clustered(900, 2)
    x[::7], y[::9] = 0, 0
    found = search(x, y, 6, cover=1).support
    assert int(found.crow.diff().min()) >= 6 and int(found.ccol.diff().min()) >= 1
    nothing = search(torch.zeros(30, 4), torch.zeros(20, 4), 3).support
    assert nothing.nnz == 90


@pytest.mark.parametrize("search", SEARCHES)
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_lower_precision_input(search, dtype):
    x, y = _clustered(1000, 1, dtype), _clustered(1100, 2, dtype)
    found = search(x.requires_grad_(), y, 8)
    assert found.recall.share >= 0.9
    double = search(x.detach().double(), y.double(), 8, probes=found.probes)
    same = torch.isin(*(s.rows().long() * 1100 + s.col for s in (found.support, double.support)))
    assert float(same.double().mean()) > 0.99  # the values are the same, the arithmetic is not


class _Largest(TorchDispatchMode):
    largest = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        sizes = [leaf.untyped_storage().nbytes() // 4 for leaf in tree_leaves(out) if isinstance(leaf, torch.Tensor)]
        self.largest = max(self.largest, *sizes, 0)
        return out


@pytest.mark.parametrize(("clusters", "probes"), [(None, None), (None, 10**6), (1, None)])
def test_no_large_share_of_all_similarities_is_ever_held(clusters, probes):
    generator = torch.Generator().manual_seed(0)
    x, y = torch.randn(5000, 16, generator=generator), torch.randn(5000, 16, generator=generator)  # unkind
    with _Largest() as watch:
        multiscale_support(x, y, 16, cover=2, clusters=clusters, probes=probes)
    assert 0 < watch.largest < 5000 * 5000 // 4


def test_cells_hold_every_target_once_and_are_balanced():
    y = torch.nn.functional.normalize(_clustered(3000, 2), dim=1)
    y[:2000] = y[0] + 1e-3 * y[:2000]  # one cell would hold two thirds
    cells = make_cells(y, 50, torch.Generator().manual_seed(0))
    assert torch.equal(cells.member.sort().values, torch.arange(3000))
    assert torch.equal(
        cells.label[cells.member], torch.arange(len(cells.sizes)).repeat_interleave(torch.tensor(cells.sizes))
    )
    assert max(cells.sizes) <= 4 * 60
    assert len(cells.centres) == len(cells.sizes)


def test_targets_of_dissolved_cells_go_to_the_nearest_other_one(monkeypatch):
    monkeypatch.setattr(cells, "_SMALLEST", 1.0)
    monkeypatch.setattr(cells, "_LARGEST", 1e9)
    y = torch.nn.functional.normalize(_clustered(3000, 2), dim=1)
    made = make_cells(y, 100, torch.Generator().manual_seed(0))
    assert 0 < len(made.sizes) < 60 and min(made.sizes) >= 30
    assert torch.equal(made.label, (y @ made.centres.T).argmax(1))


def test_errors_say_what_to_do(monkeypatch):
    x = _clustered(10, 1)
    bad = x.clone()
    bad[7, 3] = torch.nan
    with pytest.raises(ValueError, match="target features must be finite, but token 7 is not"):
        multiscale_support(x, bad, 2)
    for name, value in (("recall", 0.0), ("recall", 1.5), ("clusters", 0), ("probes", 0), ("cover", 0)):
        with pytest.raises(ValueError, match=f"{name} must .*but is {value}; "):
            multiscale_support(x, x, 2, **{name: value})
    with pytest.raises(ValueError, match="dimensions"):
        multiscale_support(x, x[:, :5], 2)
    with pytest.raises(ValueError, match="at least one token"):
        multiscale_support(x[:0], x, 2)
    monkeypatch.setitem(sys.modules, "faiss", None)
    with pytest.raises(ImportError, match=r"extra `ann`.*pip install faiss-cpu"):
        faiss_support(x, x, 2)
