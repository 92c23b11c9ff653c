import pytest
import torch
from helpers.runs import opened, tiny_settings
from torch.testing import assert_close

from saot.data import patch_labels
from saot.label.paper import unpacked_cost
from saot.runs import read_kept
from saot.tables.mass import mass_between_classes, wrong_class_mass, wrong_shares
from saot.transfer.fit import solve_pair
from saot.transport import cosine_cost, solve_transport, topk_support


def unit(count: int, seed: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.nn.functional.normalize(torch.randn(count, 5, generator=generator, dtype=torch.float64), dim=-1)


def test_mass_between_classes_adds_up_the_dense_plan():
    source, target = unit(12, 0), unit(9, 1)
    support = topk_support(source, target, k=4)
    result = solve_transport(cosine_cost(source, target, support=support), epsilon=0.1, tau=0.3)
    first = torch.tensor([0, 1, 2, 255] * 3, dtype=torch.uint8)
    second = torch.tensor([0, 2, 255] * 3, dtype=torch.uint8)
    mass = mass_between_classes(result, first, second, 3)
    for c in range(3):
        for k in range(3):
            assert_close(mass[c, k], result.plan[first == c][:, second == k].sum())


def test_shares_are_of_each_rows_mass_and_of_all():
    mass = torch.tensor([[6.0, 2.0, 0.0], [0.0, 1.0, 1.0], [0.0, 0.0, 0.0]], dtype=torch.float64)
    assert wrong_shares(mass).nan_to_num(-1).tolist() == pytest.approx([0.25, 0.5, -1, 0.3])


def test_a_run_measures_learned_and_fixed_cost(finished):
    settings = tiny_settings()
    found = wrong_class_mass(settings, finished)
    assert set(found) == {"saot", "uot"} and found["saot"] != found["uot"]
    with opened(settings, finished) as contest:
        data, domain, masks = contest.data, contest.evaluation.domain, contest.evaluation.truth
        similar = contest.similar("test")
    cost = unpacked_cost(read_kept(finished / "cost.safetensors"))
    for name in found:
        overall, of_road = [], []
        for number in range(len(domain)):
            source, labels = data.source.labelled(int(similar[number].argmax()))
            with torch.no_grad():
                chosen = cost if name == "saot" else None
                plan = solve_pair(source, labels, domain.tokens(number), chosen, settings.recipe.transport).plan
            truth = patch_labels(masks.mask(number), domain.grid(number), num_classes=19)
            plan, truth = plan[:, truth != 255], truth[truth != 255]
            wrong = labels.unsqueeze(1) != truth.unsqueeze(0)
            overall.append(float((plan * wrong).sum() / plan.sum()))
            of_road.append(float((plan * wrong)[labels == 0].sum() / plan[labels == 0].sum()))
        assert found[name][None] == pytest.approx(sum(overall) / len(overall), rel=1e-5)
        assert found[name]["road"] == pytest.approx(sum(of_road) / len(of_road), rel=1e-5)
        shown = [value for value in found[name].values() if value is not None]
        assert all(0 <= value <= 1 for value in shown) and len(shown) < 20  # some class is in no source picture used
    kept = (finished / "work" / "wrong-mass.safetensors").stat().st_mtime_ns
    assert wrong_class_mass(settings, finished) == found
    assert (finished / "work" / "wrong-mass.safetensors").stat().st_mtime_ns == kept


def test_mass_wants_evaluation_pictures(tmp_path):
    with pytest.raises(ValueError, match="expected an evaluation set"):
        wrong_class_mass(tiny_settings(eval=None), tmp_path / "run")
