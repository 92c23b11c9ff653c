"""Second derivatives: Hessian-vector products against central differences of the first gradient, float64."""

import math

import pytest
import torch
from helpers.transport import DOUBLE, features, outputs, sample, solve
from torch.autograd import forward_ad, functional
from torch.testing import assert_close

from saot.recipes import CostRecipe
from saot.transfer import SemanticCost, class_prototypes, transfer_labels
from saot.transport import (
    SparseCost,
    Support,
    block_diagonal,
    cosine_cost,
    implicit,
    solve_transport,
    squared_euclidean_cost,
    topk_support,
)

EPSILON, TAU = torch.tensor(0.2, dtype=DOUBLE), torch.tensor(0.3, dtype=DOUBLE)


def _start(seed, balanced):
    """Cost, a, b, epsilon and, if not balanced, tau of the hard instance of `test_implicit`; and its support."""
    s = sample(seed, balanced=balanced, scale=3.0)
    return [s.cost, s.a, s.b, EPSILON, *([] if balanced else [TAU])], s.support


def _first(values, support, sparse, reference, gradient="implicit", again=False):
    """Inputs and, for each output, its gradients, to be differentiated `again` or not."""
    inputs = [v.detach().clone().requires_grad_() for v in values]
    cost, a, b, epsilon, *rest = inputs
    pairs = support.row.long(), support.col.long()
    cost = SparseCost(cost[pairs], support)
    tau = rest[0] if rest else math.inf
    accuracy = {"max_iter": 5000} if gradient == "implicit" else {"max_iter": 200, "tol": 1e-12}
    problem = (cost if sparse else cost.dense(), a, b, epsilon, tau)
    result = solve(*problem, reference=reference, gradient=gradient, **accuracy)
    numbers = outputs(result, seed=0).items()
    keep = {"create_graph": again, "retain_graph": True, "allow_unused": True, "materialize_grads": True}
    return inputs, {name: torch.autograd.grad(number, inputs, **keep) for name, number in numbers}


def _products(inputs, gradients, directions):
    """The Hessian times the directions."""
    slope = sum((g * d).sum() for g, d in zip(gradients, directions, strict=True))
    return torch.autograd.grad(slope, inputs, retain_graph=True, allow_unused=True, materialize_grads=True)


def _directions(values, inside=None):
    """Random ones, along which balanced transport keeps both masses equal; `inside` marks weights that move."""
    torch.manual_seed(1)
    directions = [torch.randn_like(v) for v in values]
    for i in (1, 2):
        mask = torch.ones_like(values[i], dtype=torch.bool) if inside is None else inside[i - 1]
        mean = directions[i][mask].mean() if len(values) == 4 else 0.0
        directions[i] = torch.where(mask, directions[i] - mean, 0.0)
    return directions


def _moved(values, directions, step):
    return [v + step * d for v, d in zip(values, directions, strict=True)]


def _agree(found, expected, tol, where):
    """Each to `tol` of the largest entry over all inputs, or of 1e-2 where all but vanish."""
    size = max(1e-2, *(float(t.abs().max()) for t in expected))
    for one, two in zip(found, expected, strict=True):
        assert_close(one, two, rtol=0, atol=tol * size, msg=lambda text: f"{where}: {text}")


@pytest.mark.parametrize("sparse", [False, True])
@pytest.mark.parametrize("reference", ["product", "counting"])
@pytest.mark.parametrize("tau", [0.3, math.inf])
def test_every_output_has_its_second_derivatives(sparse, reference, tau):
    values, support = _start(29, math.isinf(tau))
    directions, step, how = _directions(values), 1e-5, (support, sparse, reference)
    (_, up), (_, down) = (_first(_moved(values, directions, sign * step), *how) for sign in (1, -1))
    flat = ("mass", "marginals") if math.isinf(tau) else ()  # given by a and b
    for gradient in ("implicit", "unrolled"):
        inputs, first = _first(values, *how, gradient, again=True)
        for name, gradients in first.items():
            expected = [(u - d) / (2 * step) for u, d in zip(up[name], down[name], strict=True)]
            assert name in flat or float(expected[0].norm()) > 1e-2, name
            # central differences: step^2 of the fourth derivative, and rounding over the step
            _agree(_products(inputs, gradients, directions), expected, 1e-6, f"{name}, {gradient}")


@pytest.mark.parametrize("sparse", [False, True])
@pytest.mark.parametrize("reference", ["product", "counting"])
@pytest.mark.parametrize("tau", [0.3, math.inf])
def test_empty_and_zero_tokens_have_second_derivatives(sparse, reference, tau):
    """Weights of zero move up from there; with the counting reference they stay, having no finite slope."""
    values, support = _start(29, math.isinf(tau))
    keep = torch.zeros(9, 7, dtype=torch.bool)
    keep[support.row.long(), support.col.long()] = True
    keep[6], keep[:, 4] = False, False  # no candidates
    a, b = values[1], values[2]
    a[2], b[1] = 0, 0
    if math.isinf(tau):
        a[6], b[4] = 0, 0
        values[2] = b * a.sum() / b.sum()
    support = Support.from_pairs(*torch.nonzero(keep, as_tuple=True), (9, 7))
    directions = _directions(values, (a > 0, b > 0))
    if reference == "product":
        directions[1][2], directions[2][1] = 0.7, 0.4
        if math.isinf(tau):
            directions[1][0], directions[2][0] = directions[1][0] - 0.7, directions[2][0] - 0.4
    how, step = (support, sparse, reference), 1e-5
    (_, zero), (_, one), (_, two) = (_first(_moved(values, directions, i * step), *how) for i in range(3))
    for gradient in ("implicit", "unrolled"):
        inputs, first = _first(values, *how, gradient, again=True)
        for name, gradients in first.items():
            terms = zip(zero[name], one[name], two[name], strict=True)
            expected = [(4 * g1 - 3 * g0 - g2) / (2 * step) for g0, g1, g2 in terms]  # one-sided
            found = _products(inputs, gradients, directions)
            assert all(bool(t.isfinite().all()) for t in found)
            _agree(found, expected, 1e-5, f"{name}, {gradient}")


@pytest.mark.parametrize("reference", ["product", "counting"])
def test_gradgradcheck(reference):
    values, _ = _start(5, balanced=False)
    inputs = [values[0][:3, :2], values[1][:3], values[2][:2], EPSILON, TAU]

    def fields(cost, a, b, epsilon, tau):
        result = solve(cost, a, b, epsilon, tau, reference=reference)
        return result.plan, *result.potentials, *result.marginals, result.mass, result.value

    assert torch.autograd.gradgradcheck(fields, [v.clone().requires_grad_() for v in inputs])


@pytest.mark.parametrize("gradient", ["implicit", "unrolled"])
@pytest.mark.parametrize("sparse", [False, True])
def test_the_hessian_is_whole_and_symmetric(gradient, sparse):
    cost, support = torch.rand(4, 5, dtype=DOUBLE, generator=torch.Generator().manual_seed(0)), Support.full(4, 5)

    def field(name):
        def at(c):
            c = SparseCost(c.flatten(), support) if sparse else c
            return getattr(solve(c, max_iter=500, gradient=gradient), name)

        return functional.hessian(at, cost).view(20, 20)

    for name, least in (("value", 0.3), ("mass", 0.3)):
        hessian = field(name)
        assert float(hessian.abs().max()) > least
        assert_close(hessian, hessian.T, rtol=0, atol=1e-12)
    assert bool((torch.linalg.eigvalsh(field("value")) < 1e-12).all())  # the least over plans is concave in the cost


@pytest.mark.parametrize("name", ["value", "mass"])
def test_third_derivatives(name):
    values, _ = _start(29, balanced=False)
    direction, step = torch.randn(9, 7, dtype=DOUBLE), 1e-4

    def bend(cost):
        cost = cost.detach().clone().requires_grad_()
        number = getattr(solve(cost, *values[1:3], 0.2, 0.3), name)
        (first,) = torch.autograd.grad(number, cost, create_graph=True)
        (second,) = torch.autograd.grad((first * direction).sum(), cost, create_graph=True)
        return cost, (second * direction).sum()

    cost, number = bend(values[0])
    (third,) = torch.autograd.grad(number, cost)
    up, down = (bend(values[0] + sign * step * direction)[1].detach() for sign in (1, -1))
    assert_close((third * direction).sum(), (up - down) / (2 * step), rtol=1e-5, atol=0)


def _penalised(measure):
    """The gradient of |gradient of a loss|^2 in the features, and that number as a function of them."""

    def penalty(*inputs):
        gradients = torch.autograd.grad(measure(*inputs), inputs, create_graph=True)
        return sum(g.square().sum() for g in gradients)

    return penalty


@pytest.mark.parametrize("sparse", [False, True])
@pytest.mark.parametrize("cost", [cosine_cost, squared_euclidean_cost])
def test_a_gradient_penalty_reaches_the_features(cost, sparse):
    x, y = features(6, 3, 0), features(5, 3, 1)
    if cost is squared_euclidean_cost:
        y[2] = x[3]  # a distance of 0, which rounding may take below
        x[1] = 0
    support = topk_support(x, y, k=3, cover=1) if sparse else None
    labels = torch.tensor([0, 1, 2, 255, 1, 0])

    def measure(x, y):
        result = solve(cost(x, y, support), epsilon=0.5, tau=1.0)
        return result.value + transfer_labels(result, labels, 3).probs.square().sum()

    penalty, step = _penalised(measure), 1e-6
    inputs = [x.requires_grad_(), y.requires_grad_()]
    directions = [features(6, 3, 2), features(5, 3, 3)]
    gradients = torch.autograd.grad(penalty(*inputs), inputs)
    slope = sum((g * d).sum() for g, d in zip(gradients, directions, strict=True))
    moved = ([t.detach().requires_grad_() for t in _moved(inputs, directions, sign * step)] for sign in (1, -1))
    up, down = (penalty(*values).detach() for values in moved)
    assert_close(slope, (up - down) / (2 * step), rtol=1e-6, atol=0)


def test_a_zero_feature_does_not_spoil_the_others():
    x, y = features(4, 3, 0), features(4, 3, 1)
    x[1] = 0
    x.requires_grad_()
    (first,) = torch.autograd.grad(solve(cosine_cost(x, y)).value, x, create_graph=True)
    (second,) = torch.autograd.grad(first.square().sum(), x)
    assert bool(second.isfinite().all())
    assert float(second.norm()) > 1e-2


def test_a_class_without_a_source_token_does_not_spoil_the_others():
    x, y, labels = features(4, 3, 0), features(4, 3, 1), torch.tensor([0, 2, 2, 0])
    prototypes = class_prototypes(x.float(), labels, num_classes=3)
    cost = SemanticCost(3, CostRecipe(dim=2, normalize_projection=True), prototypes).double()
    weight = cost.semantic.parametrizations.weight.original if cost.config.spectral_norm else cost.semantic.weight
    value = solve(cost(x, labels, y)).value
    (first,) = torch.autograd.grad(value, weight, create_graph=True)
    (second,) = torch.autograd.grad(first.square().sum(), weight)
    assert bool(second.isfinite().all())
    assert float(second.norm()) > 0


@pytest.mark.parametrize("offset", [0.0, 1e3])
def test_a_distance_of_zero_is_curved(offset):
    """|x - y|^2 has the second derivative 2 where rounding takes it below 0, as it does at an offset."""
    x = features(20, 3, 0) + offset
    for support in (None, Support.full(20, 20)):
        moved = x.clone().requires_grad_()
        cost = squared_euclidean_cost(moved, x, support)
        cost = cost if support is None else cost.values.view(20, 20)
        assert bool((cost >= 0).all())
        (first,) = torch.autograd.grad(cost.trace(), moved, create_graph=True)
        (second,) = torch.autograd.grad(first.sum(), moved)
        assert_close(second, torch.full_like(second, 2.0))


def test_members_of_a_batch_keep_apart():
    cost = torch.rand(2, 4, 5, dtype=DOUBLE, generator=torch.Generator().manual_seed(0))
    support = Support.full(4, 5)

    def joined(c):
        return solve(block_diagonal([SparseCost(c[0].flatten(), support), SparseCost(c[1].flatten(), support)])).mass

    alone = [functional.hessian(lambda c: solve(c).mass, one).view(20, 20) for one in cost]
    expected = torch.block_diag(*alone)
    for together in (lambda c: solve(c).mass.sum(), lambda c: joined(c).sum()):
        assert_close(functional.hessian(together, cost).view(40, 40), expected, rtol=0, atol=1e-12)


def test_adjoint_systems_are_counted(monkeypatch):
    """None for the gradient of a value, one to differentiate it again; for other fields one and two more."""
    solved = []
    original = implicit.conjugate_gradients
    monkeypatch.setattr(implicit, "conjugate_gradients", lambda *a: solved.append(1) or original(*a))
    cost = torch.rand(4, 5, dtype=DOUBLE, requires_grad=True)
    for name, counts in (("value", (0, 0, 1)), ("mass", (1, 1, 3))):
        (_, plain, again), result = counts, solve(cost)
        torch.autograd.grad(getattr(result, name), cost, retain_graph=True)
        assert len(solved) == counts[0]
        solved.clear()
        (first,) = torch.autograd.grad(getattr(result, name), cost, create_graph=True)
        assert len(solved) == plain
        torch.autograd.grad(first.square().sum(), cost)
        assert len(solved) == again
        solved.clear()


def test_second_derivatives_under_autocast_are_in_full_precision():
    start = torch.rand(40, 30, generator=torch.Generator().manual_seed(0))
    found = []
    for on in (False, True):
        values = start.flatten().requires_grad_()
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=on):
            result = solve_transport(SparseCost(values, Support.full(40, 30)), max_iter=40, tol=0)
            loss = result.plan_values.square().sum() + result.value + result.apply(torch.ones(40, 2)).square().sum()
            (first,) = torch.autograd.grad(loss, values, create_graph=True)
            found.append(torch.autograd.grad(first.square().sum(), values)[0])
    assert torch.equal(*found)


COST = torch.rand(4, 5, dtype=DOUBLE, generator=torch.Generator().manual_seed(0))


def _mass(cost, support=None):
    cost = cost if support is None else SparseCost(cost.reshape(-1), support)
    return solve_transport(cost, tol=1e-12, max_iter=500).mass


def _with_tangent(function):
    with forward_ad.dual_level():
        return forward_ad.unpack_dual(function(forward_ad.make_dual(COST, COST))).tangent


def _batched_backward(function):
    cost = COST.clone().requires_grad_()
    return torch.autograd.grad(function(cost), cost, torch.ones(3, dtype=DOUBLE), is_grads_batched=True)


TRANSFORMS = {
    "grad": lambda function: torch.func.grad(function)(COST),
    "jvp": lambda function: torch.func.jvp(function, (COST,), (COST,)),
    "hessian": lambda function: torch.func.hessian(function)(COST),
    "vmap": lambda function: torch.func.vmap(function)(COST.unsqueeze(0)),
    "forward mode": _with_tangent,
    "batched backward": _batched_backward,
    "vectorize": lambda function: functional.hessian(function, COST, vectorize=True),
}


@pytest.mark.parametrize("sparse", [False, True])
@pytest.mark.parametrize("name", TRANSFORMS)
def test_transforms_without_a_rule_are_refused(name, sparse):
    support = Support.full(4, 5) if sparse else None
    with pytest.raises(NotImplementedError, match=r"torch.autograd.functional .*leading dimensions"):
        TRANSFORMS[name](lambda cost: _mass(cost, support))


def test_products_on_a_support_refuse_them_too():
    result, support = solve(SparseCost(COST.flatten(), Support.full(4, 5))), Support.full(4, 5)
    for function in (result.apply, lambda x: cosine_cost(x, x[:1].expand(5, -1), support).values):
        with pytest.raises(NotImplementedError, match="leading dimensions"):
            torch.func.jvp(function, (torch.ones(4, 2, dtype=DOUBLE),), (torch.ones(4, 2, dtype=DOUBLE),))


def test_products_along_a_direction_need_no_transform():
    direction = torch.randn_like(COST)
    hessian = functional.hessian(_mass, COST).view(20, 20)
    assert_close(functional.hvp(_mass, COST, direction)[1].flatten(), hessian @ direction.flatten())
    slope = (functional.jacobian(_mass, COST) * direction).sum()
    assert_close(functional.jvp(_mass, COST, direction)[1], slope)
