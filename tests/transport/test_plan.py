"""Plan, values and gap from their definitions."""

import pytest
import torch
from helpers.transport import (
    objective,
    sample,
    solve,
)
from torch.testing import assert_close

from saot.transport import solve_transport


@pytest.mark.parametrize("reference", ["product", "counting"])
@pytest.mark.parametrize("sparse", [False, True])
def test_value_dual_gap_and_the_value_identity(reference, sparse):
    s = sample(11)
    cost = s.masked if sparse else s.cost
    result = solve(s.sparse if sparse else cost, s.a, s.b, reference=reference)
    plan = result.plan
    assert_close(result.value, objective(plan, cost, s.a, s.b, 0.1, 0.3, reference), rtol=1e-12, atol=1e-12)
    finite = cost.isfinite()
    reach = ((s.a[:, None] * s.b) if reference == "product" else torch.ones_like(cost))[finite].sum()
    mass = plan.sum()
    identity = 0.1 * (reach - mass) + 0.3 * (s.a.sum() - mass) + 0.3 * (s.b.sum() - mass)
    assert_close(result.value, identity, rtol=1e-12, atol=1e-12)
    assert_close(result.mass, mass)
    assert_close(result.marginals, (plan.sum(1), plan.sum(0)))
    # far from the optimum the gap is what the two values differ by, and shrinks to nothing
    early = solve_transport(s.sparse if sparse else cost, s.a, s.b, reference=reference, max_iter=2, tol=0)
    f, g = early.potentials
    ra, rb = (s.a, s.b) if reference == "product" else (torch.ones_like(s.a), torch.ones_like(s.b))
    density = ((f[:, None] + g - cost) / 0.1).exp()
    dual = -0.3 * ((s.a * torch.expm1(-f / 0.3)).sum() + (s.b * torch.expm1(-g / 0.3)).sum())
    dual = dual - 0.1 * (ra[:, None] * rb * (density - 1))[finite].sum()
    assert_close(early.dual_value, dual, rtol=1e-11, atol=1e-11)
    assert_close(early.gap, early.value - early.dual_value, rtol=1e-9, atol=1e-11)
    assert float(early.gap) > 1e-4
    assert 0 <= float(result.gap) < 1e-20
