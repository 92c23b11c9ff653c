"""Implicit = unrolled = finite differences, on instances whose gradient is not small."""

import math
import warnings

import pytest
import torch
from helpers.transport import DOUBLE, sample, solve
from torch.testing import assert_close

from saot.transport import SparseCost, Support, products, solve_transport


def _fields(result, weights):
    """A number that every differentiable field enters with weights of its own."""
    plan_w, row_w, col_w = weights
    finite = [torch.where(p.isfinite(), p, 0.0) for p in result.potentials]
    potentials = (finite[0] * row_w).sum() + (finite[1] * col_w).sum()
    plan = (result.plan * plan_w).sum() + result.apply(row_w[:, None]).square().sum() + result.mass**2
    marginals = (result.marginals[0] * row_w.flip(0)).sum() + (result.marginals[1].sqrt() * col_w).sum()
    return potentials + plan + marginals + 2 * result.value + result.apply_transpose(col_w[:, None]).exp().sum()


def _problem(seed, balanced=False):
    """The hard instance: costs of three times the usual spread, non-uniform weights."""
    s = sample(seed, balanced=balanced, scale=3.0)
    weights = torch.randn(9, 7, dtype=DOUBLE), torch.randn(9, dtype=DOUBLE), torch.randn(7, dtype=DOUBLE)
    return s, weights


def _loss(s, weights, cost, a, b, epsilon, tau, sparse, reference, gradient, max_iter=2000):
    if sparse:
        cost = SparseCost(cost[s.support.row.long(), s.support.col.long()], s.support)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        result = solve(cost, a, b, epsilon, tau, reference=reference, gradient=gradient, max_iter=max_iter)
    return _fields(result, weights)


def _agree(one, two, tol):
    """Elementwise, in norm and in direction."""
    scale = float(two.abs().max())
    assert_close(one, two, rtol=0, atol=tol * scale)
    assert_close(one.norm(), two.norm(), rtol=tol, atol=0)
    cosine = (one * two).sum() / (one.norm() * two.norm())
    assert_close(cosine, torch.ones((), dtype=one.dtype), rtol=tol, atol=0)


@pytest.mark.parametrize("sparse", [False, True])
@pytest.mark.parametrize("reference", ["product", "counting"])
@pytest.mark.parametrize("tau", [0.3, math.inf])
def test_three_gradients_agree(sparse, reference, tau):
    s, weights = _problem(29, balanced=math.isinf(tau))
    start = [s.cost, s.a, s.b, torch.tensor(0.2, dtype=DOUBLE)]
    if not math.isinf(tau):
        start.append(torch.tensor(tau, dtype=DOUBLE))

    def loss(values, gradient):
        full = values if len(values) == 5 else [*values, math.inf]
        return _loss(s, weights, *full, sparse, reference, gradient)

    inputs = [v.clone().requires_grad_() for v in start]
    implicit, unrolled = (torch.autograd.grad(loss(inputs, mode), inputs) for mode in ("implicit", "unrolled"))
    for name, one, two in zip(("cost", "a", "b", "epsilon", "tau"), implicit, unrolled, strict=False):
        assert float(two.norm()) > 1e-2, name
        _agree(one, two, 1e-9)
    for i, gradient in enumerate(implicit):
        for _ in range(3):
            direction = torch.randn_like(start[i])
            if math.isinf(tau) and i in (1, 2):
                direction = direction - direction.mean()  # the two masses must stay equal
            step = 1e-5
            up, down = list(start), list(start)
            up[i], down[i] = start[i] + step * direction, start[i] - step * direction
            slope = (loss(up, "none") - loss(down, "none")) / (2 * step)
            # central differences: step^2 of curvature, and rounding over the step
            assert_close((gradient * direction).sum(), slope, rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("sparse", [False, True])
@pytest.mark.parametrize("reference", ["product", "counting"])
@pytest.mark.parametrize("tau", [0.3, math.inf])
def test_empty_and_zero_tokens_have_finite_and_equal_gradients(sparse, reference, tau):
    s, weights = _problem(31)
    cost, a, b = s.cost.clone(), s.a.clone(), s.b.clone()
    keep = torch.ones(9, 7, dtype=torch.bool)
    keep[:, 4], keep[6] = False, False  # no candidates
    a[2], b[1] = 0, 0
    a[6], b[4] = (0, 0) if math.isinf(tau) else (a[6], b[4])
    b = b * a.sum() / b.sum() if math.isinf(tau) else b
    support = Support.from_pairs(*torch.nonzero(keep, as_tuple=True), (9, 7))
    gradients = []
    for mode in ("implicit", "unrolled"):
        inputs = [v.clone().requires_grad_() for v in (cost, a, b, torch.tensor(0.2, dtype=DOUBLE))]
        if sparse:
            problem = SparseCost(inputs[0][support.row.long(), support.col.long()], support)
        else:
            problem = inputs[0].masked_fill(~keep, math.inf)
        strength = torch.tensor(tau, dtype=DOUBLE, requires_grad=True) if tau == 0.3 else tau
        result = solve(problem, *inputs[1:], strength, reference=reference, gradient=mode)
        plan_w, row_w, col_w = weights
        finite = [torch.where(p.isfinite(), p, 0.0) for p in result.potentials]
        loss = (result.plan * plan_w).sum() + (finite[0] * row_w).sum() + (finite[1] * col_w).sum()
        gradients.append(torch.autograd.grad(loss + result.value + result.mass, inputs))
        assert all(bool(g.isfinite().all()) for g in gradients[-1])
    for one, two in zip(*gradients, strict=True):
        _agree(one, two, 1e-9)


def test_a_zero_weight_has_its_one_sided_slope():
    s, weights = _problem(37)
    a = s.a.clone()
    a[2] = 0
    for sparse in (False, True):
        variable = a.clone().requires_grad_()
        arguments = (s.b, 0.2, 0.3, sparse, "product")
        (gradient,) = torch.autograd.grad(_loss(s, weights, s.cost, variable, *arguments, "implicit"), variable)
        step = torch.zeros_like(a)
        step[2] = 1e-6
        f0, f1, f2 = (_loss(s, weights, s.cost, a + i * step, *arguments, "none") for i in range(3))
        slope = (-3 * f0 + 4 * f1 - f2) / 2e-6
        assert_close(gradient[2], slope, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("tau", [0.3, math.inf])
def test_several_parts_each_with_a_gauge_of_its_own(tau):
    """Block-diagonal support: balanced potentials are free on each block, their gradients are not."""
    first, second = sample(41, 4, 3, balanced=True, scale=3.0), sample(43, 3, 4, balanced=True, scale=3.0)
    a, b = torch.cat([first.a, 2 * second.a]), torch.cat([first.b, 2 * second.b])
    cost = torch.block_diag(first.cost, second.cost)
    keep = torch.block_diag(torch.ones(4, 3), torch.ones(3, 4)).bool()
    weights = torch.randn(7, 7, dtype=DOUBLE), torch.randn(7, dtype=DOUBLE), torch.randn(7, dtype=DOUBLE)
    gradients = []
    for mode in ("implicit", "unrolled"):
        inputs = [v.clone().requires_grad_() for v in (cost, a, b)]
        result = solve(inputs[0].masked_fill(~keep, math.inf), *inputs[1:], 0.2, tau, gradient=mode)
        gradients.append(torch.autograd.grad(_fields(result, weights), inputs))
    for one, two in zip(*gradients, strict=True):
        _agree(one, two, 1e-9)
    f, g = result.potentials
    if math.isinf(tau):
        assert_close((a[:4] * f[:4]).sum(), (b[:3] * g[:3]).sum(), rtol=0, atol=1e-12)


def test_batch_of_settings_gets_a_gradient_each():
    cost = torch.rand(3, 5, 4, dtype=DOUBLE)
    epsilon = torch.tensor([0.1, 0.2, 0.4], dtype=DOUBLE, requires_grad=True)
    tau = torch.tensor([0.3, 1.0, 0.1], dtype=DOUBLE, requires_grad=True)
    weight = torch.randn(5, 4, dtype=DOUBLE)
    together = (solve(cost, None, None, epsilon, tau).plan * weight).sum()
    gradients = torch.autograd.grad(together, (epsilon, tau))
    for i in range(3):
        one = [t[i].detach().clone().requires_grad_() for t in (epsilon, tau)]
        alone = (solve(cost[i], None, None, *one).plan * weight).sum()
        assert_close([g[i] for g in gradients], list(torch.autograd.grad(alone, one)), rtol=1e-10, atol=1e-13)


def test_adjoint_is_solved_to_rounding_however_loose_the_loop():
    """The gradient at the iterate where the loop stopped must not inherit the loop's tolerance."""
    s, weights = _problem(47)
    start = solve_transport(s.cost, s.a, s.b, 0.2, tol=1e-2)
    loose = s.cost.clone().requires_grad_()
    result = solve_transport(loose, s.a, s.b, 0.2, tol=1e-2)
    (gradient,) = torch.autograd.grad((result.plan * weights[0]).sum(), loose)
    # the same linear system, dense and direct: rows (I, p V; p W^T, I) at the iterate
    f, g = start.potentials
    p = 0.3 / 0.5
    scaled = s.b.log() + (g - s.cost) / 0.2
    w = (scaled - scaled.logsumexp(1, keepdim=True)).exp()
    scaled = (s.a.log() + f / 0.2)[:, None] - s.cost / 0.2
    v = (scaled - scaled.logsumexp(0)).exp()
    pull = start.plan * weights[0] / 0.2
    system = torch.eye(16, dtype=DOUBLE)
    system[:9, 9:], system[9:, :9] = p * v, p * w.T
    solution = torch.linalg.solve(system, torch.cat([pull.sum(1), pull.sum(0)]))
    expected = p * (solution[:9, None] * w + v * solution[9:]) - pull
    assert_close(gradient, expected, rtol=0, atol=1e-11 * float(expected.abs().max()))


@pytest.mark.parametrize("sparse", [False, True])
def test_saved_tensors_do_not_grow_with_iterations(sparse):
    s, weights = _problem(53)
    counts = {}
    for gradient in ("implicit", "unrolled"):
        for iterations in (2, 50):
            saved = []
            with torch.autograd.graph.saved_tensors_hooks(lambda t, saved=saved: saved.append(t) or t, lambda t: t):
                values = s.cost.clone().requires_grad_()
                cost = SparseCost(values[s.support.row.long(), s.support.col.long()], s.support)
                result = solve_transport(
                    cost if sparse else values, s.a, s.b, max_iter=iterations, tol=0, gradient=gradient
                )
                _fields(result, weights)
            counts[gradient, iterations] = len(saved), sum(t.numel() * t.element_size() for t in saved)
    assert counts["implicit", 2] == counts["implicit", 50]
    assert counts["unrolled", 50][0] > 10 * counts["implicit", 50][0]


def test_modes_and_fields_that_carry_no_gradient():
    cost = torch.rand(4, 3, dtype=DOUBLE, requires_grad=True)
    for gradient in ("implicit", "unrolled"):
        result = solve(cost, gradient=gradient)
        for name in ("plan", "plan_values", "mass", "value"):
            assert getattr(result, name).requires_grad, name
        assert all(t.requires_grad for t in (*result.potentials, *result.marginals))
        assert result.apply(torch.ones(4, 2, dtype=DOUBLE)).requires_grad
        for name in ("gap", "dual_value", "residual"):
            assert not getattr(result, name).requires_grad, name
    result = solve(cost, gradient="none")
    assert not any(t.requires_grad for t in (result.plan, result.value, *result.potentials, *result.marginals))
    with torch.no_grad():
        assert not solve(cost).plan.requires_grad
    with torch.inference_mode():
        assert bool(solve(torch.rand(4, 3), tol=1e-5).converged)


def test_gradient_without_sparse_kernels(monkeypatch):
    from saot.transport import implicit, updates

    s, weights = _problem(59)
    inputs = [s.cost.clone().requires_grad_() for _ in range(2)]
    arguments = (s.a, s.b, 0.2, 0.3, True, "product", "implicit")
    (expected,) = torch.autograd.grad(_loss(s, weights, inputs[0], *arguments), inputs[0])
    for room in (products, implicit, updates):
        monkeypatch.setattr(room, "has_sparse_kernels", lambda device: False)
    (gradient,) = torch.autograd.grad(_loss(s, weights, inputs[1], *arguments), inputs[1])
    assert_close(gradient, expected, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_single_and_half_gradients_follow_double_ones(dtype):
    s, weights = _problem(61)
    cost = s.cost.to(dtype)
    exact, rough = cost.double().requires_grad_(), cost.clone().requires_grad_()
    (expected,) = torch.autograd.grad((solve(exact, s.a, s.b).plan * weights[0]).sum(), exact)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        result = solve_transport(rough, s.a, s.b)
        loss = (result.plan * weights[0].float()).sum() + 0 * result.apply(torch.ones(9, 2)).sum()
        (gradient,) = torch.autograd.grad(loss, rough)
    assert result.plan.dtype == torch.float32
    assert gradient.dtype == dtype
    # a gradient is rounded once to its own type, the solve stops where the plan is within 1e-3
    tol = max(2 * torch.finfo(dtype).eps, 1e-3) * float(expected.abs().max())
    assert_close(gradient.double(), expected, rtol=0, atol=tol)


def test_backward_under_autocast_is_in_full_precision():
    cost = torch.rand(40, 30, generator=torch.Generator().manual_seed(0))
    grads = []
    for on in (False, True):
        values = cost.reshape(-1).clone().requires_grad_()
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=on):
            result = solve_transport(SparseCost(values, Support.full(40, 30)), max_iter=40, tol=0)
            loss = result.plan_values.square().sum() + result.value + result.apply(torch.ones(40, 2)).square().sum()
            loss.backward()
        grads.append(values.grad)
    assert torch.equal(*grads)


@pytest.mark.parametrize("size", [1e-30, 1e30])
def test_the_adjoint_is_linear_whatever_the_size_of_the_loss(size):
    cost = torch.rand(9, 7, generator=torch.Generator().manual_seed(0))
    grads = []
    for factor in (1.0, size):
        values = cost.clone().requires_grad_()
        (factor * solve_transport(values, max_iter=40, tol=0).potentials[0][2]).backward()
        grads.append(values.grad / factor)
    assert_close(grads[1], grads[0], rtol=1e-4, atol=1e-7)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_token_of_next_to_no_mass_does_not_drown_the_others(dtype):
    """Its potential's gradient was divided by the root of its marginal, and the others solved to a share of that."""
    s, _ = _problem(3)
    cost, gradients = s.cost.clone(), []
    cost[4] += 30
    for how, kind in (("unrolled", DOUBLE), ("implicit", dtype)):
        variable = cost.to(kind).requires_grad_()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            result = solve(variable, s.a.to(kind), s.b.to(kind), 0.2, 1.0, gradient=how, max_iter=400)
        assert float(result.marginals[0][4].detach()) < 1e-10
        weight = torch.linspace(-1, 1, 9, dtype=kind)
        gradients.append(torch.autograd.grad((result.potentials[0] * weight).sum(), variable)[0].double())
    tol = 1e-4 if dtype == torch.float32 else 1e-10
    assert_close(gradients[1], gradients[0], rtol=0, atol=tol * float(gradients[0].abs().max()))
