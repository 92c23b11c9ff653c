import io
import zipfile
from dataclasses import replace
from itertools import pairwise

import pytest
import torch
from torch.testing import assert_close

from saot.recipes import CostRecipe, TransportRecipe
from saot.runs import Checkpoint
from saot.runs.training import write_check
from saot.transfer import (
    PairData,
    SemanticCost,
    TargetExample,
    class_prototypes,
    diversity_loss,
    entropy_loss,
    fit_cost,
    fit_prior,
    supports,
    transfer_labels,
    transfer_pair,
)
from saot.transfer.fit import pair_loss, plan_loss, solve_pair
from saot.transport import SparseCost, solve_transport, topk_support

pytestmark = pytest.mark.training

SMALL = CostRecipe(dim=6, steps=30, points_per_class=5)


def unit(*shape: int, seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.nn.functional.normalize(torch.randn(*shape, generator=generator), dim=-1)


def test_cost_network_size_is_the_papers():
    count = sum(p.numel() for p in SemanticCost(1024).parameters())
    assert count == 2 * 1024 * 256  # 0.52M, E.3


def test_equation_3_written_out():
    source, target, labels = unit(5, 8), unit(4, 8, seed=1), torch.tensor([0, 1, 2, 1, 0])
    prototypes = class_prototypes(source, labels, 3)
    cost = SemanticCost(8, SMALL, prototypes).eval()
    dense = cost(source, labels, target)
    log_pi = cost.class_log_probs(target, prototypes)
    for i in range(5):
        for j in range(4):
            apart = cost.project(source)[i] - cost.project(target)[j]
            expected = (apart * apart).sum() - SMALL.lambda_sem * log_pi[j, labels[i]]
            # float32 inner products against differences: 1e-5 absolute at costs of order one
            assert_close(dense[i, j], expected, rtol=1e-5, atol=1e-5)


def test_sparse_cost_is_the_dense_one_on_its_support():
    source, target, labels = unit(9, 8), unit(7, 8, seed=1), torch.randint(0, 3, (9,))
    cost = SemanticCost(8, SMALL, class_prototypes(source, labels, 3)).eval()
    dense = cost(source, labels, target)
    support = topk_support(source, target, k=3)
    sparse = cost(source, labels, target, support=support)
    assert isinstance(sparse, SparseCost)
    assert_close(sparse.values, dense[support.row.long(), support.col.long()], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("head", ["shared", "full", "free"])
def test_every_reading_of_equation_4_is_a_distribution_over_present_classes(head):
    source, labels = unit(6, 8), torch.tensor([0, 0, 2, 2, 255, 2])
    prototypes = class_prototypes(source, labels, 4)
    cost = SemanticCost(8, replace(SMALL, head=head), prototypes)
    probs = cost.class_log_probs(unit(5, 8, seed=2), prototypes).exp()
    assert_close(probs.sum(-1), torch.ones(5))
    assert probs[:, [1, 3]].abs().max() == 0


def test_prototypes_mark_absent_classes_and_add_up_over_pictures():
    features, labels = unit(6, 4), torch.tensor([0, 0, 2, 255, 2, 0])
    prototypes = class_prototypes(features, labels, 3, normalize=False)
    assert prototypes.present.tolist() == [True, False, True]
    assert_close(prototypes.means[0], features[[0, 1, 5]].mean(0))
    assert prototypes.means[1].abs().max() == 0
    assert_close(class_prototypes(features, labels, 3).means[2].norm(), torch.tensor(1.0))


def test_a_source_class_without_prototype_is_named():
    source = unit(3, 4)
    prototypes = class_prototypes(source, torch.tensor([0, 0, 0]), 2)
    with pytest.raises(ValueError, match="class 1 has none"):
        SemanticCost(4, SMALL)(source, torch.tensor([0, 1, 0]), source, prototypes=prototypes)


def test_saot_is_a_prototype_classifier_times_a_kernel_vote():
    """FACTS A-7: with Eq. (3) the transferred label is pi^(lambda/epsilon) times a reweighted kernel vote."""
    source, target, labels = unit(6, 8).double(), unit(5, 8, seed=1).double(), torch.tensor([0, 1, 1, 2, 0, 2])
    prototypes = class_prototypes(source, labels, 3)
    cost = SemanticCost(8, SMALL, type(prototypes)(prototypes.means.double(), prototypes.present)).double().eval()
    epsilon = 0.2
    with torch.no_grad():
        result = solve_transport(cost(source, labels, target), epsilon=epsilon, max_iter=500, tol=1e-13)
        got = transfer_labels(result, labels, 3).probs
        pi = cost.class_log_probs(target, cost.prototypes()).exp()
        apart = torch.cdist(cost.project(source), cost.project(target)) ** 2
        kernel = torch.exp(result.potentials[0] / epsilon).unsqueeze(-1) * torch.exp(-apart / epsilon)
        votes = torch.stack([kernel[labels == c].sum(0) for c in range(3)], dim=-1)
        expected = pi ** (SMALL.lambda_sem / epsilon) * votes
    assert_close(got, expected / expected.sum(-1, keepdim=True), rtol=1e-9, atol=1e-12)


def test_gradient_of_equation_9_reaches_both_projections_and_is_right():
    source, target, labels = unit(6, 5).double(), unit(7, 5, seed=1).double(), torch.tensor([0, 1, 1, 0, 1, 0])
    example = TargetExample(target, torch.tensor([0, 3]), torch.tensor([1, 0]))
    config = replace(SMALL, spectral_norm=False)
    cost = SemanticCost(5, config).double()
    prototypes_free = cost(source, labels, target)
    assert bool(torch.isfinite(prototypes_free).all())
    recipe = TransportRecipe(k=4, cover=1, max_iter=500, tol=1e-13)
    loss, _ = pair_loss(cost, source, labels.to(torch.uint8), example, 2, recipe)
    loss.backward()
    for weight in (cost.appearance.weight, cost.semantic.weight):
        assert weight.grad is not None
        step = torch.zeros_like(weight)
        step[1, 2] = 1e-5
        values = []
        for sign in (1, -1):
            with torch.no_grad():
                weight += sign * step
                values.append(float(pair_loss(cost, source, labels.to(torch.uint8), example, 2, recipe)[0]))
                weight -= sign * step
        # central differences with step 1e-5 in float64: error about 1e-10 + curvature
        assert_close(float(weight.grad[1, 2]), (values[0] - values[1]) / 2e-5, rtol=1e-5, atol=1e-8)


def pairs(points: bool = True) -> PairData:
    source, labels = unit(40, 8), torch.randint(0, 3, (40,), generator=torch.Generator().manual_seed(5))
    source = torch.nn.functional.normalize(source + 0.8 * torch.eye(8)[labels], dim=-1)
    target = torch.nn.functional.normalize(unit(40, 8, seed=9) + 0.8 * torch.eye(8)[(labels + 3) % 8], dim=-1)
    chosen = torch.arange(0, 40, 2) if points else torch.zeros(0, dtype=torch.int64)
    return PairData(
        1, 1, lambda _: (source, labels.to(torch.uint8)), lambda _i, _g: TargetExample(target, chosen, labels[chosen])
    )


def test_learning_the_cost_lowers_the_point_loss_on_a_shifted_target():
    data = pairs()
    source, labels = data.source(0)
    cost = SemanticCost(8, replace(SMALL, steps=80, learning_rate=2e-2), class_prototypes(source, labels, 3))
    fit = fit_cost(cost, data, 3, TransportRecipe(k=10, cover=2))
    first, last = fit.history[0]["points"], fit.history[-1]["points"]
    assert last < 0.7 * first
    example = data.target(0, torch.Generator())
    transfer = transfer_pair(source, labels, example.tokens, 3, fit.cost, TransportRecipe(k=10, cover=2))
    assert float(transfer.covered.float().mean()) == 1.0


@pytest.mark.parametrize(("space", "refresh", "searches"), [("raw", 1, 1), ("projected", 1, 9), ("projected", 4, 3)])
def test_a_support_is_searched_anew_every_refresh_steps_and_as_of_that_step(space, refresh, searches, monkeypatch):
    seen = []
    search = supports.topk_support
    monkeypatch.setattr(supports, "topk_support", lambda x, y, **how: seen.append(x.clone()) or search(x, y, **how))
    data = pairs()
    source, labels = data.source(0)
    config = replace(SMALL, steps=9, support_space=space, support_refresh=refresh, learning_rate=2e-2)
    fit_cost(SemanticCost(8, config, class_prototypes(source, labels, 3)), data, 3, TransportRecipe(k=10))
    assert len(seen) == searches
    assert all(not torch.equal(a, b) for a, b in pairwise(seen))  # the projection has learned
    if space == "raw":
        assert torch.equal(seen[0], source)


@pytest.mark.parametrize("space", ["raw", "projected"])
def test_an_interrupted_training_ends_with_the_same_weights(tmp_path, space):
    def train(checkpoint: Checkpoint | None, stop: int | None = None) -> SemanticCost:
        data = pairs()
        source, labels = data.source(0)
        torch.manual_seed(7)
        config = replace(SMALL, steps=9, support_space=space, support_refresh=4)
        cost = SemanticCost(8, config, class_prototypes(source, labels, 3))

        def interrupt(done: int, total: int) -> None:
            if done == stop:
                raise KeyboardInterrupt

        return fit_cost(cost, data, 3, TransportRecipe(k=10), checkpoint=checkpoint, progress=interrupt).cost

    whole = train(None)
    checkpoint = Checkpoint(tmp_path / "cost.pt", every=2)
    with pytest.raises(KeyboardInterrupt):
        train(checkpoint, stop=5)
    again = train(checkpoint)
    for mine, theirs in zip(whole.state_dict().values(), again.state_dict().values(), strict=True):
        assert torch.equal(mine, theirs)


def test_each_step_draws_its_source_and_its_target_one_without_the_other():
    drawn, nothing = [], torch.zeros(0, dtype=torch.uint8)
    example = TargetExample(unit(4, 8), torch.tensor([0]), torch.tensor([0]))
    data = PairData(
        3,
        2,
        lambda number: drawn.append([number]) or (unit(4, 8)[:0], nothing),  # without a label it is passed over
        lambda number, _: drawn[-1].append(number) or example,
    )
    fit = fit_cost(SemanticCost(8, replace(SMALL, steps=80)), data, 3, TransportRecipe())
    counts = [drawn.count([source, target]) for source in range(3) for target in range(2)]
    assert sum(counts) == 80 and min(counts) >= 5  # 13 on average
    assert all(record["skipped"] == 1 for record in fit.history)


def test_the_prior_alone_learns_without_transport():
    source, labels = pairs().source(0)
    prototypes = class_prototypes(source, labels, 3)
    cost = SemanticCost(8, replace(SMALL, steps=60, learning_rate=2e-2), prototypes)
    fit = fit_prior(cost, prototypes, lambda _: (source, labels.long()))
    assert fit.history[-1]["loss"] < fit.history[0]["loss"]


def test_no_pictures_is_an_error():
    data = pairs()
    with pytest.raises(ValueError, match="at least one source and one target"):
        fit_cost(SemanticCost(8, SMALL), PairData(0, 1, data.source, data.target), 3, TransportRecipe())


def test_fixed_cost_is_two_minus_two_cos():
    source, target = unit(5, 4), unit(6, 4, seed=1)
    result = solve_pair(source, torch.zeros(5, dtype=torch.uint8), target, None, TransportRecipe(k=6))
    dense = solve_transport(2 - 2 * source @ target.T, epsilon=0.1, tau=0.3, max_iter=30)
    assert_close(result.plan, dense.plan, rtol=1e-4, atol=1e-9)  # float32, 30 sweeps


def test_a_checkpoint_of_another_device_is_read_and_one_that_memory_does_not_hold_is_not_taken_for_damaged(
    tmp_path, monkeypatch
):
    """A run that goes on elsewhere must not start anew without a word."""
    path = tmp_path / "state.pt"
    Checkpoint(path).save({"weights": torch.arange(3.0)})
    parts = zipfile.ZipFile(path)
    moved = {name: parts.read(name) for name in parts.namelist()}
    pickled = next(name for name in moved if name.endswith("data.pkl"))
    assert b"X\x03\x00\x00\x00cpu" in moved[pickled]
    moved[pickled] = moved[pickled].replace(b"X\x03\x00\x00\x00cpu", b"X\x06\x00\x00\x00cuda:0")
    written = io.BytesIO()
    with zipfile.ZipFile(written, "w", zipfile.ZIP_STORED) as archive:
        for name, content in moved.items():
            archive.writestr(name, content)
    write_check(written)
    path.write_bytes(written.getvalue())
    kept = Checkpoint(path).load()
    assert kept is not None and torch.equal(kept["weights"], torch.arange(3.0))

    def full(*arguments, **options):
        raise RuntimeError("DefaultCPUAllocator: can't allocate memory")

    with monkeypatch.context() as patch:
        patch.setattr(torch, "load", full)
        with pytest.raises(RuntimeError, match="allocate"):
            Checkpoint(path).load()
    path.write_bytes(path.read_bytes()[:-40])
    assert Checkpoint(path).load() is None


def grouped(source: torch.Tensor, labels: torch.Tensor, **more) -> SemanticCost:
    """Three classes in two groups whose scales have moved."""
    cost = SemanticCost(8, replace(SMALL, **more), class_prototypes(source, labels, 3), (0, 1, 0)).eval()
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        cost.group_scale.copy_(0.5 * torch.randn(cost.group_scale.shape, generator=generator))
        cost.group_prior.copy_(torch.tensor([0.7, -0.4]))
    return cost


def test_the_cost_of_a_class_group_written_out():
    source, target, labels = unit(6, 8), unit(4, 8, seed=1), torch.tensor([0, 1, 2, 1, 0, 255])
    cost = grouped(source, labels)
    dense, prototypes = cost(source, labels, target), class_prototypes(source, labels, 3)
    log_pi = cost.class_log_probs(target, prototypes)
    for i, group in enumerate((0, 1, 0, 1, 0)):
        for j in range(4):
            apart = cost.group_scale[group].exp() * (cost.project(source)[i] - cost.project(target)[j])
            weight = SMALL.lambda_sem * cost.group_prior[group].exp()
            assert_close(dense[i, j], apart @ apart - weight * log_pi[j, labels[i]], rtol=1e-5, atol=1e-5)
    apart = cost.project(source)[5] - cost.project(target)  # without a class: of no group
    assert_close(dense[5], apart.square().sum(1), rtol=1e-5, atol=1e-5)
    support = topk_support(source, target, k=3)
    sparse = cost(source, labels, target, support=support)
    assert_close(sparse.values, dense[support.row.long(), support.col.long()], rtol=1e-5, atol=1e-5)


def test_the_record_of_a_step_has_shares():
    source, target, labels = unit(30, 8), unit(20, 8, seed=1), (torch.arange(30) % 3).byte()
    cost = SemanticCost(8, SMALL, class_prototypes(source, labels, 3))
    example = TargetExample(target, torch.arange(4), torch.tensor([0, 1, 2, 1]))
    _, record = pair_loss(cost, source, labels, example, 3, TransportRecipe(k=20))
    assert record["reached"] == 1 and record["covered"] == 1
    absent = TargetExample(target, torch.arange(4), torch.tensor([0, 1, 3, 3]))
    _, record = pair_loss(cost, source, labels, absent, 4, TransportRecipe(k=20))
    assert record["reached"] == 0.5


def test_equation_9_is_the_sum_of_its_three_terms():
    source, target, labels = unit(30, 8), unit(20, 8, seed=1), (torch.arange(30) % 3).byte()
    config = replace(SMALL, lambda_ent=0.3, lambda_div=0.7)
    cost = SemanticCost(8, config, class_prototypes(source, labels, 3))
    example = TargetExample(target, torch.tensor([4]), torch.tensor([1]))
    result = solve_pair(source, labels, target, cost, TransportRecipe(k=20))
    loss, record = plan_loss(result, labels, example, 3, config)
    transfer = transfer_labels(result, labels, 3)
    terms = -transfer.probs[4, 1].log(), entropy_loss(transfer), diversity_loss(transfer)
    for name, term in zip(("points", "entropy", "diversity"), terms, strict=True):
        assert_close(record[name], term.item(), rtol=1e-5, atol=1e-6)
    assert_close(loss, terms[0] + 0.3 * terms[1] + 0.7 * terms[2], rtol=1e-5, atol=1e-6)
    assert record["loss"] == float(loss.detach()) and record["reached"] == 1


def test_a_grouped_cost_starts_as_equation_3_and_its_groups_learn():
    source, target, labels = unit(30, 8), unit(20, 8, seed=1), (torch.arange(30) % 3).byte()
    prototypes = class_prototypes(source, labels, 3)
    with torch.random.fork_rng():
        torch.manual_seed(1)
        plain = SemanticCost(8, SMALL, prototypes).eval()
        torch.manual_seed(1)
        cost = SemanticCost(8, SMALL, prototypes, (0, 1, 0)).eval()
    # the same sums, over the rows of one group at a time: up to rounding
    assert_close(plain(source, labels, target), cost(source, labels, target), rtol=1e-5, atol=1e-6)
    example = TargetExample(target, torch.arange(6), torch.arange(6) % 3)
    data = PairData(1, 1, lambda number: (source, labels), lambda number, generator: example)
    fit_cost(cost, data, 3, TransportRecipe(k=10))
    assert bool((cost.group_scale != 0).any(1).all()) and bool((cost.group_prior != 0).all())


def test_the_gradient_of_a_grouped_cost_is_that_of_finite_differences():
    source, target, labels = unit(6, 8).double(), unit(5, 8, seed=1).double(), torch.tensor([0, 1, 2, 1, 0, 1])
    cost = grouped(source.float(), labels, spectral_norm=False).double()
    support = topk_support(source, target, k=3)
    weights = torch.linspace(-1, 1, support.nnz).double()

    def total(scale: torch.Tensor, prior: torch.Tensor) -> torch.Tensor:
        state = {"group_scale": scale, "group_prior": prior}
        made = torch.func.functional_call(cost, state, (source, labels, target), {"support": support})
        return made.values @ weights

    inputs = tuple(each.detach().clone().requires_grad_() for each in (cost.group_scale, cost.group_prior))
    assert torch.autograd.gradcheck(total, inputs)


def test_a_search_for_high_cosines_finds_the_low_costs_of_groups():
    source, target, labels = unit(9, 8), unit(12, 8, seed=1), torch.tensor([0, 1, 2, 1, 0, 255, 2, 2, 1])
    cost = grouped(source, labels)
    p, q = cost.search_vectors(source, labels, target)
    with torch.no_grad():
        dense = cost(source, labels, target)
    assert_close(p @ q.T, -dense, rtol=1e-4, atol=1e-4)
    assert p.shape[1] == 2 * SMALL.dim + 3 + 3


def test_search_vectors_without_kept_prototypes_take_those_of_the_source_as_the_cost_does():
    source, target, labels = unit(9, 8), unit(12, 8, seed=1), torch.tensor([0, 1, 2, 1, 0, 255, 2, 2, 1])
    cost = SemanticCost(8, SMALL).eval()
    p, q = cost.search_vectors(source, labels, target)
    with torch.no_grad():
        assert_close(-(p @ q.T), cost(source, labels, target), rtol=1e-4, atol=1e-4)
