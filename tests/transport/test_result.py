"""What can be done with a result."""

import pytest
import torch
from helpers.transport import (
    DOUBLE,
    sample,
    solve,
)
from torch.testing import assert_close

from saot.transport import TransportStatus


def test_plan_apply_and_repr():
    s = sample(23)
    x, y = torch.randn(9, 4, dtype=DOUBLE), torch.randn(7, 4, dtype=DOUBLE)
    for cost in (s.cost, s.sparse):
        result = solve(cost, s.a, s.b)
        assert_close(result.apply(x), result.plan.T @ x)
        assert_close(result.apply_transpose(y), result.plan @ y)
        assert_close(result.apply(torch.stack([x, 2 * x])), torch.stack([result.apply(x), 2 * result.apply(x)]))
        assert "converged=True" in repr(result)
        assert result.status == TransportStatus.CONVERGED
        with pytest.raises(ValueError, match="the plan has 9 sources but x has shape"):
            result.apply(y)
