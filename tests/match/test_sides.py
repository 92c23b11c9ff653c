"""What a matcher may be handed."""

import pytest
import torch
from torch.testing import assert_close

from saot.match.sides import MatchSide


def test_a_side_that_does_not_fit_is_refused():
    with pytest.raises(ValueError, match="leaves no token"):
        MatchSide.of(torch.eye(4), (2, 2), torch.zeros(4, dtype=torch.bool))
    with pytest.raises(ValueError, match="2 x 3 grid"):
        MatchSide.of(torch.eye(4), (2, 3))
    for part in ({"tokens": torch.full((4, 4), torch.nan)}, {"points": torch.full((4, 3), torch.inf)}):
        with pytest.raises(ValueError, match=f"{next(iter(part))} hold a number that is not finite"):
            MatchSide.of(**{"tokens": torch.eye(4), "shape": (2, 2)} | part)


def test_tokens_are_scaled_and_what_is_masked_may_be_anything():
    tokens, mask = torch.randn(4, 3), torch.tensor([True, True, False, True])
    side = MatchSide.of(tokens, (2, 2), mask)
    assert_close(side.tokens.norm(dim=1), torch.ones(4))
    tokens[2] = torch.nan
    broken = MatchSide.of(tokens, (2, 2), mask)
    assert_close(broken.tokens[mask], side.tokens[mask])
    assert bool(broken.tokens.isfinite().all())
    assert MatchSide.of(tokens[mask], (1, 3)).mask.tolist() == [True] * 3
