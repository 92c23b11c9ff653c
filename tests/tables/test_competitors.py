import math

import pytest
import torch
from torch.testing import assert_close

from saot.recipes import TransportRecipe
from saot.tables.competitors import (
    TokenBank,
    balanced_transport,
    choose_probe,
    fit_linear_probe,
    knn,
    label_propagation,
    nearest_neighbor,
    prototype_scores,
    reliable_transport,
    similar,
    token_miou,
    unbalanced_transport,
)
from saot.transfer import class_prototypes, pair_support, transfer_labels
from saot.transport import TransportStatus, solve_transport, squared_euclidean_cost


def clusters(count: int, seed: int = 0, noise: float = 0.2) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    labels = torch.randint(0, 3, (count,), generator=generator).to(torch.uint8)
    tokens = torch.eye(8)[labels.long()] + noise * torch.randn(count, 8, generator=generator)
    return torch.nn.functional.normalize(tokens, dim=-1), labels


def bank() -> TokenBank:
    return TokenBank(*clusters(60))


def test_neighbours_in_chunks_are_those_of_the_whole_matrix(monkeypatch):
    queries, keys = clusters(50, 1)[0], clusters(70, 2)[0]
    whole = torch.topk(queries @ keys.T, 4)
    monkeypatch.setattr("saot.tables.competitors.CHUNK_BYTES", 4 * 70 * 8)
    values, index = similar(queries, keys, 4)
    assert torch.equal(index, whole.indices)
    assert_close(values, whole.values)
    assert similar(queries, keys[:2], 10)[1].shape == (50, 2)


def test_the_two_pass_search_is_exact(monkeypatch):
    monkeypatch.setattr("saot.tables.competitors.BLOCK", 8)
    queries, keys = clusters(40, 1)[0], clusters(205, 2)[0]  # 25 blocks and a rest of 5
    for count in (1, 3, 6):
        whole = torch.topk(queries @ keys.T, count)
        values, index = similar(queries, keys, count)
        assert torch.equal(index, whole.indices)
        assert_close(values, whole.values)


def test_knn_with_one_neighbour_is_nearest_neighbour():
    target, _ = clusters(20, 5)
    nearest = nearest_neighbor(bank(), target, 3)
    assert torch.equal(knn(bank(), target, 3, 1, 0.1), nearest)
    votes = knn(bank(), target, 3, 10, 0.1)
    assert_close(votes.sum(-1), torch.ones(20))


def test_prototypes_give_absent_classes_nothing():
    tokens, labels = clusters(30)
    prototypes = class_prototypes(tokens, labels, 5)
    scores = prototype_scores(prototypes, tokens, 0.1)
    assert scores[:, 3:].abs().max() == 0
    assert float((scores.argmax(-1) == labels.long()).float().mean()) > 0.9


def test_propagation_repairs_a_token_its_own_picture_disagrees_with():
    labelled = TokenBank(torch.eye(4)[:2], torch.tensor([0, 1], dtype=torch.uint8))
    body = torch.nn.functional.normalize(torch.tensor([[1.0, 0.0, 0.9, 0.0]]), dim=-1).repeat(6, 1)
    odd = torch.nn.functional.normalize(torch.tensor([[0.30, 0.32, 1.2, 0.0]]), dim=-1)
    target = torch.cat([body, odd])
    alone = nearest_neighbor(labelled, target, 2).argmax(-1)
    spread = label_propagation(labelled, target, 2, 2, 0.9, 20, 0.1).argmax(-1)
    assert alone.tolist() == [0] * 6 + [1]
    assert spread.tolist() == [0] * 7


def test_propagation_without_diffusion_is_the_bank_vote():
    target, _ = clusters(20, 5)
    votes = knn(bank(), target, 3, 5, 0.1)
    assert_close(label_propagation(bank(), target, 3, 5, 0.0, 20, 0.1), votes, rtol=1e-4, atol=1e-6)


def test_uot_is_the_fixed_cost_problem_written_out():
    source, labels = clusters(20)
    target, _ = clusters(15, 1)
    recipe = TransportRecipe(k=15)
    dense = solve_transport(2 - 2 * source @ target.T, epsilon=0.1, tau=0.3, max_iter=30)
    expected = transfer_labels(dense, labels, 3)
    got = unbalanced_transport(source, labels, target, 3, recipe)
    assert_close(got.probs, expected.probs, rtol=1e-3, atol=1e-5)  # float32, two orders of summation


def test_balanced_transport_reports_an_infeasible_support_and_stays_finite():
    source, labels = clusters(40)
    target, _ = clusters(40, 1)
    transfer, result = balanced_transport(source, labels, target, 3, TransportRecipe(k=3), 50)
    assert TransportStatus(int(result.status)) is not TransportStatus.CONVERGED
    assert bool(torch.isfinite(transfer.probs).all())


def test_balanced_transport_is_the_sweeps_it_names():
    source, labels = clusters(40)
    target, _ = clusters(40, 1)
    recipe = TransportRecipe(k=3)
    support = pair_support(source, target, recipe)
    cost = squared_euclidean_cost(source, target, support=support)
    dense = torch.full((40, 40), torch.inf).double()
    dense[support.row.long(), support.col.long()] = cost.values.double()
    for sweeps in (5, 50):
        f, g = torch.zeros(40).double(), torch.zeros(40).double()
        for _ in range(sweeps):  # Eq. (8) at tau = infinity, weights 1/n and 1/m
            f = -0.1 * torch.logsumexp((g - dense) / 0.1 - math.log(40), dim=1)
            g = -0.1 * torch.logsumexp((f[:, None] - dense) / 0.1 - math.log(40), dim=0)
            g = g.masked_fill(~torch.isfinite(dense).any(0), 0.0)
        plan = torch.exp((f[:, None] + g - dense) / 0.1) / 40**2
        _, result = balanced_transport(source, labels, target, 3, recipe, sweeps)
        assert int(result.iterations) == sweeps
        assert_close(result.plan.double(), plan, rtol=1e-3, atol=1e-6)


def test_balanced_transport_that_has_a_solution_says_so():
    source, labels = clusters(20)
    target, _ = clusters(15, 1)
    _, result = balanced_transport(source, labels, target, 3, TransportRecipe(k=15), 500)
    assert bool(result.converged) and TransportStatus(int(result.status)) is TransportStatus.CONVERGED
    assert int(result.iterations) == 500


def test_rwot_gives_weight_to_sources_that_have_a_match():
    target = torch.eye(4)[:2]
    source = torch.eye(4)[[0, 1, 3]]  # the last matches nothing
    labels = torch.tensor([0, 1, 2], dtype=torch.uint8)
    recipe = TransportRecipe(k=2)
    plain = unbalanced_transport(source, labels, target, 3, recipe).probs
    weighted = reliable_transport(source, labels, target, 3, recipe).probs
    assert weighted[:, 2].abs().max() == 0 and float(plain[:, 2].min()) > 0


def test_the_probe_matches_scikit_learn():
    linear_model = pytest.importorskip("sklearn.linear_model")
    tokens, labels = clusters(300, noise=0.6)
    decay = 1e-3
    ours = fit_linear_probe(tokens, labels, 3, decay, iterations=1000)
    scaled = (tokens * 8**0.5).double().numpy()
    theirs = linear_model.LogisticRegression(C=1 / (300 * decay), tol=1e-8, max_iter=10_000)
    theirs.fit(scaled, labels.numpy())
    expected = torch.tensor(theirs.predict_proba(scaled))
    got = torch.softmax(ours(tokens), -1).double()
    assert_close(got, expected, rtol=0, atol=1e-3)  # float32 L-BFGS against float64; measured 2e-4


def test_sample_weights_are_repeats():
    tokens, labels = clusters(60, noise=0.6)
    weight = torch.ones(60)
    weight[:20] = 3.0
    repeated = torch.cat([tokens, tokens[:20], tokens[:20]]), torch.cat([labels, labels[:20], labels[:20]])
    a = fit_linear_probe(tokens, labels, 3, 1e-2, sample_weight=weight, iterations=1000)
    b = fit_linear_probe(*repeated, 3, 1e-2, iterations=1000)
    assert_close(torch.softmax(a(tokens), -1), torch.softmax(b(tokens), -1), rtol=0, atol=1e-3)


def test_a_class_without_tokens_is_never_predicted():
    tokens, labels = clusters(60)
    probe = fit_linear_probe(tokens, labels, 5, 1e-3)
    assert int(probe(tokens).argmax(-1).max()) < 3


def test_the_probe_is_chosen_on_held_out_tokens_and_every_trial_is_kept():
    train, held_out = clusters(120, 1, 0.7), clusters(80, 2, 0.7)
    choice = choose_probe(train, held_out, 3, (1e2, 1e-3), 200)
    assert [t["weight_decay"] for t in choice.trials] == [1e2, 1e-3]
    assert choice.trials[1]["score"] > choice.trials[0]["score"]
    shifted = (torch.roll(held_out[0], 3, -1), held_out[1])
    with_points = choose_probe(train, held_out, 3, (1e-3,), 200, points=shifted)
    fresh = torch.roll(clusters(80, 3, 0.7)[0], 3, -1), clusters(80, 3, 0.7)[1]
    assert token_miou(with_points.probe(fresh[0]), fresh[1].long()) > 0.1 + token_miou(
        choice.probe(fresh[0]), fresh[1].long()
    )


def test_token_miou_by_hand():
    scores = torch.eye(3)[torch.tensor([0, 0, 1, 1])]
    # class 0: 1 of 3 (union: two predicted, two true, one hit); class 1: 1 of 3
    assert_close(token_miou(scores, torch.tensor([0, 1, 0, 1])), 1 / 3)
