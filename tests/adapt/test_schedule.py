"""Learning rates against numbers by hand; dropout off for the teacher."""

import pytest
import torch
from torch import nn
from torch.testing import assert_close

from saot.adapt.recipe import PAPER, OptimizerRecipe
from saot.adapt.schedule import rate_factor, set_rates, silence_dropout


def test_the_papers_schedule_by_numbers():
    """DAFormer: (1 - t / 40000), under a warm-up from 1e-6 of it at step 0 to all of it at step 1500."""
    settings = PAPER.optimizer
    assert_close(rate_factor(0, settings), 1e-6)
    assert_close(rate_factor(750, settings), (1 - 750 / 40000) * (0.5 + 0.5e-6))
    assert_close(rate_factor(1499, settings), (1 - 1499 / 40000) * (1 - (1 / 1500) * (1 - 1e-6)))
    assert_close(rate_factor(1500, settings), 1 - 1500 / 40000)
    assert_close(rate_factor(20000, settings), 0.5)
    assert_close(rate_factor(39999, settings), 1 / 40000)
    factors = [rate_factor(step, settings) for step in range(0, 40000, 100)]
    peak = factors.index(max(factors))
    assert peak == 15 and factors[: peak + 1] == sorted(factors[: peak + 1])
    assert factors[peak:] == sorted(factors[peak:], reverse=True)


def test_other_powers_and_no_warm_up():
    settings = OptimizerRecipe(steps=10, warmup=0, power=2.0)
    assert [round(rate_factor(step, settings), 6) for step in (0, 1, 5, 9)] == [1.0, 0.81, 0.25, 0.01]


def test_every_group_gets_its_own_rate():
    settings = OptimizerRecipe(steps=10, warmup=0, rate=0.5)
    slow, fast = (nn.Parameter(torch.zeros(1)) for _ in range(2))
    optimizer = torch.optim.SGD([{"params": [slow], "lr": 0.5}, {"params": [fast], "lr": 5.0}], lr=0.5)
    for group in optimizer.param_groups:
        group["base_rate"] = group["lr"]
    for step, encoder in ((0, 0.5), (8, 0.1), (4, 0.3)):  # from the base each time, not from the last rate
        assert set_rates(optimizer, step, settings) == pytest.approx(encoder)
        assert [group["lr"] for group in optimizer.param_groups] == pytest.approx([encoder, 10 * encoder])


def test_dropout_and_drop_path_are_silenced_and_nothing_else():
    transformers = pytest.importorskip("transformers.models.segformer.modeling_segformer")
    path = transformers.SegformerDropPath(0.5)
    network = nn.Sequential(nn.Dropout(0.5), nn.Dropout2d(0.5), nn.BatchNorm2d(3), path, nn.Conv2d(3, 3, 1)).train()
    silence_dropout(network)
    assert [part.training for part in network] == [False, False, True, False, True]
    ones = torch.ones(4, 3, 8, 8)
    assert torch.equal(network[3](network[1](network[0](ones))), ones)
