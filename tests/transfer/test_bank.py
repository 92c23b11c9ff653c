import torch
from torch.testing import assert_close

from saot.recipes import TransportRecipe
from saot.transfer import LabelTransfer, bank_transfer, bank_weights, joined_correction
from saot.transport import solve_transport

CLASSES = 3
MILD = TransportRecipe(epsilon=2.0, tau=0.5, max_iter=200)
TRANSPORT = TransportRecipe(epsilon=0.2, tau=0.5, max_iter=200)


def problem(seed: int = 0):
    generator = torch.Generator().manual_seed(seed)
    unit = torch.nn.functional.normalize
    bank = unit(torch.randn(7, 4, generator=generator, dtype=torch.float64), dim=-1)
    target = unit(torch.randn(5, 4, generator=generator, dtype=torch.float64), dim=-1)
    labels = torch.tensor([0, 0, 0, 1, 1, 2, 2])
    prior = torch.softmax(torch.randn(5, CLASSES, generator=generator, dtype=torch.float64), dim=-1)
    return bank, labels, target, prior, torch.tensor([0.6, 0.3, 0.1], dtype=torch.float64)


def test_each_class_has_the_mass_of_its_share():
    _, labels, _, _, frequencies = problem()
    weights = bank_weights(labels, frequencies)
    assert_close(torch.zeros(3, dtype=torch.float64).index_add(0, labels, weights), frequencies)


def test_shares_of_classes_that_the_bank_lacks_are_left_out():
    weights = bank_weights(torch.tensor([0, 1]), torch.tensor([0.2, 0.2, 0.6]))
    assert_close(weights, torch.tensor([0.5, 0.5]))


def test_the_label_is_the_prior_to_a_power_times_a_weighted_kernel_vote():
    """A-7: P_jc ~ pi_jc^(lambda / epsilon) sum over i of class c of e^(u_i) e^(-|x_i - x_j|^2 / epsilon)."""
    bank, labels, target, prior, frequencies = problem()
    got = bank_transfer(bank, labels, target, prior.log(), frequencies, TRANSPORT, prior_weight=0.3).probs
    distances = (bank.unsqueeze(1) - target.unsqueeze(0)).square().sum(-1)
    cost = distances - 0.3 * prior.log().T[labels]
    a = bank_weights(labels, frequencies)
    result = solve_transport(cost, a=a, epsilon=0.2, tau=0.5, max_iter=200, tol=0)
    row = a * (result.potentials[0] / 0.2).exp()
    kernel = row.unsqueeze(1) * (-distances / 0.2).exp()
    votes = torch.stack([kernel[labels == c].sum(0) for c in range(CLASSES)], dim=1)
    expected = prior ** (0.3 / 0.2) * votes
    assert_close(got, expected / expected.sum(-1, keepdim=True))


def test_the_correction_goes_from_the_networks_answer_to_the_plans():
    bank, labels, target, prior, frequencies = problem()
    transfer = bank_transfer(bank, labels, target, prior.log(), frequencies, MILD, prior_weight=0.2)
    assert not joined_correction(prior, transfer, 0.0).any()
    assert bool((transfer.probs > 1e-4).all()), "no logarithm is cut off"
    assert_close((prior.log() + joined_correction(prior, transfer, 1.0)).softmax(-1), transfer.probs)
    half = (prior.log() + joined_correction(prior, transfer, 0.5)).softmax(-1)
    expected = (prior * transfer.probs).sqrt()
    assert_close(half, expected / expected.sum(-1, keepdim=True))


def test_where_the_plan_says_nothing_the_network_is_left_alone():
    prior = torch.full((2, CLASSES), 1 / 3)
    transfer = LabelTransfer(torch.tensor([[1.0, 0.0, 0.0], [0.0, 0.0, 0.0]]), torch.tensor([True, False]))
    correction = joined_correction(prior, transfer, 0.5)
    assert correction[0].any() and not correction[1].any()
