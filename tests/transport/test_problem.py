"""Wrong input is told with what was expected and what to do."""

import math

import pytest
import torch

from saot.transport import SolveSettings, SparseCost, Support, TransportError, TransportStatus, solve_transport


@pytest.mark.parametrize("value", [math.nan, -math.inf])
def test_non_finite_input_raises_with_its_place(value):
    cost = torch.rand(2, 3, 4)
    cost[1, 2, 0] = value
    with pytest.raises(TransportError, match=r"cost\[1, 2, 0\] is (nan|-inf)") as caught:
        solve_transport(cost)
    assert caught.value.status == TransportStatus.NON_FINITE
    assert caught.value.indices == ((1,),)
    sparse = SparseCost(cost[1].flatten(), Support.full(3, 4))
    with pytest.raises(TransportError, match=r"cost.values\[8\] \(source 2, target 0\) is (nan|-inf)"):
        solve_transport(sparse)
    weights = torch.tensor([0.5, value, 0.5])
    with pytest.raises(TransportError, match=r"weights must be finite, but a\[1\] is"):
        solve_transport(torch.rand(3, 4), weights)


def _checked(name, value):
    """Settings with a value that the run-time type checker of the tests would stop at the door."""
    settings = SolveSettings()
    object.__setattr__(settings, name, value)
    settings.__post_init__()


def test_errors_say_what_was_expected_and_what_to_do():
    cost = torch.rand(2, 3)
    cases = {
        r"cost has 3 targets but b has 2 weights; pass b=None": lambda: solve_transport(cost, None, torch.ones(2)),
        r"a must have shape \(2,\) or \(2,\)": lambda: solve_transport(cost, torch.ones(4, 2)),
        r"must not be negative, but a\[1\] is -1": lambda: solve_transport(cost, torch.tensor([1.0, -1.0])),
        r"epsilon must be above 0 and finite, but is 0": lambda: solve_transport(cost, epsilon=0.0),
        r"epsilon must be above 0 and finite, but is inf": lambda: solve_transport(cost, epsilon=math.inf),
        r"tau must be above 0, or math.inf": lambda: solve_transport(cost, tau=-1.0),
        r"at least one source and one target": lambda: solve_transport(torch.zeros(0, 3)),
        r"max_iter must be at least 1": lambda: solve_transport(cost, max_iter=0),
        r"tol must be 0 or above": lambda: solve_transport(cost, tol=math.nan),
        r"finite for the whole batch": lambda: solve_transport(torch.rand(2, 2, 3), tau=torch.tensor([0.3, math.inf])),
        r'reference must be "product"': lambda: _checked("reference", "lebesgue"),
        r'gradient must be "implicit"': lambda: _checked("gradient", "magic"),
    }
    for text, call in cases.items():
        with pytest.raises(ValueError, match=text):
            call()


def test_the_tau_that_is_wrong_is_shown():
    with pytest.raises(ValueError, match=r"tau must be above 0, or math.inf.*but is -1.0"):
        solve_transport(torch.rand(2, 3, 3), tau=torch.tensor([math.inf, -1.0]))
