"""The scenes of docs/gallery.md at a tiny size: what the page says of them holds."""

import sys
from pathlib import Path

import pytest
import torch

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture
def examples(monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT / "examples"))
    yield
    for name in ("cells", "registration"):
        sys.modules.pop(name, None)


@pytest.mark.usefixtures("examples")
def test_the_unbalanced_plan_carries_names_over_a_shift_and_flags_the_new_type():
    import cells  # pyright: ignore[reportMissingImports]

    found = cells.compare(cells.draw(200, source=240, target=200))
    accuracy = {name: numbers[0] for name, numbers in found.items()}
    flagged = {name: numbers[1] for name, numbers in found.items()}
    assert accuracy["unbalanced plan"] > max(accuracy["balanced plan"], accuracy["nearest neighbour"]) + 0.1
    assert flagged["unbalanced plan"] > 0.7 > 0.6 > flagged["balanced plan"]


@pytest.mark.usefixtures("examples")
def test_shares_are_of_what_a_cell_receives_and_ties_count_half():
    import cells  # pyright: ignore[reportMissingImports]

    result = cells.solve_transport(torch.tensor([[0.0, 9.0], [9.0, 0.0]]), epsilon=0.1)
    assert cells.shares(result, torch.tensor([3, 5])).argmax(1).tolist() == [3, 5]
    torch.testing.assert_close(cells.shares(result, torch.tensor([3, 5])).sum(1), torch.ones(2))
    assert cells.auroc(torch.tensor([2.0, 1.0, 1.0]), torch.tensor([True, True, False])) == 0.75


@pytest.mark.usefixtures("examples")
def test_registration_by_the_unbalanced_plan_is_closer_than_icp():
    import registration  # pyright: ignore[reportMissingImports]

    views = registration.draw(106, points=100)
    *motion, result = registration.by_transport(views)
    assert registration.error(views, *motion) < 0.1 < registration.error(views, *registration.by_icp(views))
    placed = result.marginals[0] * len(views.source)
    assert placed[views.source_real].mean() > 2 * placed[~views.source_real].mean()


@pytest.mark.usefixtures("examples")
def test_kabsch_finds_the_motion_of_the_weighted_pairs():
    import registration  # pyright: ignore[reportMissingImports]

    points = torch.randn(20, 2, generator=torch.Generator().manual_seed(0))
    rotation, shift = registration.turn(0.7), torch.tensor([1.0, -2.0])
    seen = points @ rotation.T + shift
    seen[0] += 5
    found = registration.rigid(points, seen, torch.ones(20).index_fill(0, torch.tensor([0]), 0.0))
    torch.testing.assert_close(found, (rotation, shift), rtol=1e-4, atol=1e-5)
