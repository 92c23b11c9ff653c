import pytest
import torch
from torch.testing import assert_close

from saot.transfer import class_correction

SHARES = torch.tensor([0.2, 0.3, 0.5], dtype=torch.float64)


def posterior(sharpness: float, count: int = 400, seed: int = 0, bias: float = 2.0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    lean = bias * torch.tensor([1.0, 0.0, -1.0], dtype=torch.float64)  # it likes class 0 and forgets class 2
    return torch.softmax(sharpness * torch.randn(count, 3, generator=generator, dtype=torch.float64) + lean, -1)


def shares_after(probs: torch.Tensor, correction: torch.Tensor) -> torch.Tensor:
    return torch.softmax(probs.log() + correction, -1).mean(0)


def plan(probs: torch.Tensor, f: torch.Tensor, g: torch.Tensor) -> torch.Tensor:
    return probs * torch.exp(f[:, None] + g[None, :])


@pytest.mark.parametrize("tau", [0.3, 1.0, 5.0])
def test_the_potential_is_the_log_of_what_a_class_lacks(tau):
    """Optimality: f_j = -tau log(row mass / (1/m)), g_k = -tau log(column mass / share), plan = p e^(f + g)."""
    probs = posterior(1.0)
    g = class_correction(probs, SHARES, tau)
    rows = (probs * g.exp()).sum(1)
    f = -tau / (1 + tau) * (rows * len(probs)).log()
    lacking = -tau * (plan(probs, f, g).sum(0) / SHARES).log()
    # up to the constant that the correction leaves out; solved to 1e-5 of a potential's change
    assert_close(g - g[0], lacking - lacking[0], rtol=0, atol=1e-3)


def test_the_correction_is_centred_by_what_the_network_gives_each_class():
    """The constant that a potential leaves open: the mean correction of all probability is 0, over known classes."""
    probs = posterior(1.0)
    for shares in (SHARES, torch.tensor([0.4, 0.6, 0.0], dtype=torch.float64)):
        assert_close((probs.sum(0) * class_correction(probs, shares, 1.0)).sum().item(), 0.0, rtol=0, atol=1e-9)


def test_without_tau_nothing_moves_and_with_a_large_one_the_shares_are_met():
    probs = posterior(1.0)
    assert not class_correction(probs, SHARES, 0.0).any()
    correction = class_correction(probs, SHARES, 1e4)
    assert_close(shares_after(probs, correction), SHARES, rtol=0, atol=2e-3)


def test_a_sure_network_is_moved_less_than_a_doubtful_one():
    moved = []
    for sharpness in (0.1, 6.0):
        probs = posterior(sharpness, bias=0.4)
        correction = class_correction(probs, SHARES, 1.0)
        moved.append(float((probs.argmax(1) != (probs.log() + correction).argmax(1)).double().mean()))
    assert moved[0] > moved[1] + 0.2


def test_a_class_the_source_never_shows_is_left_alone():
    shares = torch.tensor([0.5, 0.5, 0.0], dtype=torch.float64)
    correction = class_correction(posterior(1.0), shares, 1.0)
    assert correction[2] == 0 and bool(correction[:2].any()) and bool(correction.isfinite().all())


def test_probabilities_of_zero_do_no_harm():
    probs = torch.tensor([[1.0, 0.0, 0.0], [0.0, 1.0, 0.0]], dtype=torch.float64)
    assert bool(class_correction(probs, SHARES, 1.0).isfinite().all())


def test_wrong_input_is_named():
    with pytest.raises(ValueError, match="all are zero"):
        class_correction(posterior(1.0), torch.zeros(3), 1.0)
    with pytest.raises(ValueError, match="tau >= 0; got -1"):
        class_correction(posterior(1.0), SHARES, -1.0)
