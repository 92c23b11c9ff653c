"""The fused update of a GPU against the log domain by torch's operations, in Triton's interpreter.

`test_triton_kernels.py` starts these in a process of their own, and compiles the kernel.
"""

import pytest
import torch
from helpers.interpreter import count_launches, interpreted
from helpers.transport import DOUBLE, sample
from torch.testing import assert_close
from torch.utils._python_dispatch import TorchDispatchMode

from saot.transport import (
    SparseCost,
    Support,
    block_diagonal,
    gpu_updates,
    loop,
    pairs,
    solve_transport,
    triton_kernels,
)
from saot.transport.gpu_updates import TritonUpdates, has_fused_updates
from saot.transport.pairs import DensePairs
from saot.transport.problem import build_problem
from saot.transport.updates import LogUpdates, State

pytestmark = interpreted
RTOL = {torch.float32: 1e-5, DOUBLE: 1e-13}  # rounding of a few sweeps
TYPES = pytest.mark.parametrize("dtype", [torch.float32, DOUBLE])
SETTINGS = {
    "unbalanced": {},
    "balanced": {"tau": torch.inf},
    "counting": {"reference": "counting"},
    "balanced, counting": {"tau": torch.inf, "reference": "counting"},
    "sharp": {"epsilon": 2e-3, "tau": 2.0},
}


@pytest.fixture(autouse=True)
def _log_domain_by_torch(monkeypatch):
    """The twin has no part of Triton's kernels."""
    monkeypatch.setattr(pairs, "has_triton", lambda device: False)


def support(n, m, share, crowd):
    """Random pairs: source 3 and target 5 have none, target 0 is paired with the last `crowd` sources."""
    keep = torch.rand(n, m, generator=torch.Generator().manual_seed(1)) < share
    keep[n - crowd :, 0] = True
    keep[3], keep[:, 5] = False, False
    return Support.from_pairs(*torch.nonzero(keep, as_tuple=True), (n, m))


def problem_of(dtype, epsilon=0.1, tau=0.3, reference="product", size=(29, 23), share=0.3, crowd=0):
    """Weights of zero, tokens without pairs, a token with infinite costs only, and pairs of infinite cost."""
    generator = torch.Generator().manual_seed(4)
    found = support(*size, share, crowd)
    values = torch.rand(found.nnz, generator=generator, dtype=DOUBLE).to(dtype)
    values[::9] = torch.inf
    values[found.row == 7] = torch.inf
    a, b = (torch.rand(count, generator=generator, dtype=DOUBLE).to(dtype) for count in size)
    a[4] = b[8] = 0
    return build_problem(SparseCost(values, found), a, b, epsilon, tau, reference)


@TYPES
@pytest.mark.parametrize("name", SETTINGS)
def test_sweeps_are_those_of_the_log_domain(name, dtype):
    problem = problem_of(dtype, **SETTINGS[name])
    assert not problem.rows.active[[3, 4, 7]].any() and not problem.cols.active[[5, 8]].any()
    first = State(torch.where(problem.cols.active, torch.linspace(-0.3, 0.3, 23, dtype=dtype), 0.0))
    fused, plain = (updates.sweeps(first, 2) for updates in (TritonUpdates(problem), LogUpdates(problem)))
    for found, expected in zip(fused, plain, strict=True):
        assert_close(found.values, expected.values, rtol=RTOL[dtype], atol=RTOL[dtype])
    assert not fused[0].values[~problem.rows.active].any() and not fused[1].values[~problem.cols.active].any()


@TYPES
def test_what_a_sweep_leaves_the_next_one_reads(monkeypatch, dtype):
    """From the log scalings as written, and so bit for bit what as many sweeps in one call give."""
    problem = problem_of(dtype)
    updates, start = TritonUpdates(problem), State(torch.zeros_like(problem.cols.weight))
    x, y = updates.sweeps(start, 3)
    _, halfway = updates.sweeps(start, 2)
    scaled = []
    monkeypatch.setattr(type(problem.cols), "scale", lambda *given: scaled.append(given))
    for _ in range(2):  # a state is not written over
        again = updates.sweeps(halfway, 1)
        assert torch.equal(again[0].values, x.values) and torch.equal(again[1].values, y.values)
    assert not scaled


@TYPES
def test_a_crowded_target_is_taken_alone(dtype):
    """More pairs than a program has in flight, and far more than the mean."""
    problem = problem_of(dtype, size=(1200, 300), share=0.01, crowd=1100)
    _, block = triton_kernels._tile(problem.pairs.cost.numel(), 300)
    assert triton_kernels._LONGEST * block < triton_kernels._LANES < 1100
    start = State(torch.zeros_like(problem.cols.weight))
    fused, plain = (updates.sweeps(start, 2) for updates in (TritonUpdates(problem), LogUpdates(problem)))
    for found, expected in zip(fused, plain, strict=True):
        assert_close(found.values, expected.values, rtol=4 * RTOL[dtype], atol=4 * RTOL[dtype])


@TYPES
def test_far_and_undefined_potentials_are_as_in_the_log_domain(dtype):
    """Nothing overflows 1e5 epsilon away, and what is not a number stays with the tokens that see it."""
    problem = problem_of(dtype, epsilon=1e-3)
    far = torch.linspace(-100, 100, 23, dtype=dtype)
    for first, wrong in ((far, 0), (far.clone().fill_(0).index_fill(0, torch.tensor([2]), torch.nan), None)):
        fused, plain = (updates.sweeps(State(first), 1) for updates in (TritonUpdates(problem), LogUpdates(problem)))
        for found, expected in zip(fused, plain, strict=True):
            assert_close(found.values, expected.values, rtol=RTOL[dtype], atol=RTOL[dtype], equal_nan=True)
        missing = fused[0].values.isnan()
        assert bool(missing.any()) == (wrong is None) and not bool(missing.all())


def solved(monkeypatch, fused, *given, **settings):
    """A solve by the fused updates, or by the log domain."""
    with monkeypatch.context() as patch:
        patch.setattr(loop, "has_fast_path", lambda pairs: False)
        if not fused:
            patch.setattr(loop, "has_fused_updates", lambda pairs: False)
        return solve_transport(*given, **settings)


def assert_same(result, twin, rtol, atol):
    assert torch.equal(result.iterations, twin.iterations) and torch.equal(result.status, twin.status)
    for name in ("plan_values", "potentials", "marginals", "value", "mass"):
        assert_close(getattr(result, name), getattr(twin, name), rtol=rtol, atol=atol)


@pytest.mark.parametrize("tau", [0.3, 5.0, torch.inf])
@pytest.mark.parametrize("tol", [0, 1e-7])
def test_whole_solves_are_those_of_the_log_domain(monkeypatch, tau, tol):
    """To tolerance too, where later sweeps start from an extrapolated g (tau = 5) or from a frozen one."""
    problem = sample(3, n=23, m=17, balanced=tau == torch.inf)
    a = problem.a.clone()
    if tau < torch.inf:
        a[5] = 0
    given, settings = (problem.sparse, a, problem.b), {"tau": tau, "tol": tol, "max_iter": 200 if tol else 15}
    launches = count_launches(monkeypatch)
    result = solved(monkeypatch, True, *given, **settings)
    assert launches.count("_update_kernel") == 2 * int(result.iterations)
    launches.clear()
    twin = solved(monkeypatch, False, *given, **settings)
    assert not {"_update_kernel", "_logsumexp_kernel"} & set(launches)
    assert_same(result, twin, rtol=1e-9, atol=1e-12)  # extrapolation makes more of a rounding


@pytest.mark.parametrize("tol", [0, 1e-5])
@pytest.mark.parametrize("balanced", [False, True])
def test_each_member_of_a_block_diagonal_has_its_own_scales(monkeypatch, balanced, tol):
    """Of other sizes too, so that some tokens are padding; members that end early are frozen."""
    members = [sample(seed, n=n, m=m, balanced=balanced) for seed, n, m in ((1, 9, 7), (2, 11, 8), (3, 10, 10))]
    weights = torch.cat([one.a for one in members]), torch.cat([one.b for one in members])
    epsilon = torch.tensor([0.1, 0.2, 0.4], dtype=DOUBLE)
    tau = torch.inf if balanced else torch.tensor([0.3, 0.7, 0.1], dtype=DOUBLE)
    given = (block_diagonal([one.sparse for one in members]), *weights, epsilon, tau)
    settings = {"tol": tol, "max_iter": 400 if tol else 9}
    launches = count_launches(monkeypatch)
    result = solved(monkeypatch, True, *given, **settings)
    assert launches.count("_update_kernel") == 2 * int(result.iterations.max())
    if tol:
        assert len(set(result.iterations.tolist())) > 1
    assert_same(result, solved(monkeypatch, False, *given, **settings), rtol=1e-9, atol=1e-12)


def test_crowded_targets_of_two_members_have_their_own_scales(monkeypatch):
    found = support(1200, 300, 0.01, 1100)
    members = [SparseCost(torch.rand(found.nnz, dtype=DOUBLE), found) for _ in range(2)]
    epsilon, tau = (torch.tensor(scales, dtype=DOUBLE) for scales in ([0.1, 0.3], [0.3, 0.2]))
    given, settings = (block_diagonal(members), None, None, epsilon, tau), {"tol": 0, "max_iter": 2}
    assert_same(*(solved(monkeypatch, fused, *given, **settings) for fused in (True, False)), rtol=1e-12, atol=1e-14)


def test_a_sweep_is_two_launches_and_nothing_else(monkeypatch):
    """No operation of torch's between them; once a call, the first scaling and memory of the two results."""
    problem = problem_of(torch.float32)
    updates, start, launches = TritonUpdates(problem), State(torch.zeros_like(problem.cols.weight)), []
    monkeypatch.setattr(triton_kernels, "_launch", lambda function, *given, **flags: launches.append(function.__name__))
    counts = []
    for count in (1, 30):
        launches.clear()
        with Operations() as seen:
            updates.sweeps(start, count)
        assert launches == ["_update_kernel"] * 2 * count
        counts.append(seen.names)
    assert counts[0] == counts[1] and sum("empty" in name for name in counts[0]) == 2


class Operations(TorchDispatchMode):
    """The names of torch's operations."""

    def __init__(self):
        super().__init__()
        self.names = []

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        self.names.append(str(function))
        return function(*args, **(kwargs or {}))


def test_no_kernel_is_stored_where_all_take_part(monkeypatch):
    """The log domain by torch's operations would hold -C / epsilon twice."""
    cost = torch.rand(6, 5, dtype=DOUBLE)
    sparse = SparseCost(cost.flatten(), Support.full(6, 5))
    monkeypatch.setattr(gpu_updates, "LogUpdates", lambda problem: pytest.fail("not needed"))
    result = solve_transport(sparse, max_iter=300, tol=1e-12)
    assert_close(result.plan, solve_transport(cost, max_iter=300, tol=1e-12).plan, rtol=1e-9, atol=0)


def test_a_warm_start_goes_on_where_it_was(monkeypatch):
    problem = sample(3, n=23, m=17)
    first = solve_transport(problem.sparse, problem.a, problem.b, tol=0, max_iter=4)
    given, settings = (problem.sparse, problem.a, problem.b), {"tol": 0, "max_iter": 3, "init": first.potentials}
    assert_same(*(solved(monkeypatch, fused, *given, **settings) for fused in (True, False)), rtol=1e-11, atol=1e-14)


def test_pairs_of_a_matrix_have_no_fused_update():
    assert not has_fused_updates(DensePairs(torch.zeros(2, 2), None))
    assert has_fused_updates(problem_of(DOUBLE).pairs)


def test_a_problem_without_any_pair(monkeypatch):
    nothing = torch.zeros(0, dtype=torch.long)
    sparse = SparseCost(torch.zeros(0, dtype=DOUBLE), Support.from_pairs(nothing, nothing, (3, 2)))
    result, twin = (solved(monkeypatch, fused, sparse, tol=0, max_iter=3) for fused in (True, False))
    assert_same(result, twin, rtol=0, atol=0)
    assert float(result.mass) == 0
