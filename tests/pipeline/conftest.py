from dataclasses import replace
from pathlib import Path

import pytest

from saot.label import RunSettings, run_job
from saot.recipes import (
    BaselineRecipe,
    CostRecipe,
    DecoderRecipe,
    Recipe,
    RefineRecipe,
    ScoreRecipe,
    TransferRecipe,
    TransportRecipe,
)

TINY = Recipe(
    name="tiny",
    transport=TransportRecipe(k=12, cover=1),
    cost=CostRecipe(dim=16, steps=6),
    transfer=TransferRecipe(multi_sources=2, pseudo_sources=2),
    decoder=DecoderRecipe(hidden=16, blocks=1, steps=8, batch=32, rounds=2, points_weight=1.0),
    refine=RefineRecipe(steps=6, batch=32, regenerate=3, source_weight=1.0, points_weight=1.0),
    baselines=BaselineRecipe(bank=400, propagation_bank=200, probe_weight_decays=(1e-3, 1e-4), probe_iterations=15),
    scores=ScoreRecipe(holdout_points=0.4),
)
SIZE = "height=64,width=128"


def tiny_settings(**changes) -> RunSettings:
    settings = RunSettings(
        source=f"scenes:game:train,count=3,{SIZE}",
        target=f"scenes:street:train,count=3,{SIZE}",
        eval=f"scenes:street:val,count=2,{SIZE}",
        points="4",
        backbone="filterbank",
        size="56x112",
        recipe=TINY,
    )
    return replace(settings, **changes)


@pytest.fixture(scope="session")
def finished(tmp_path_factory) -> Path:
    """A finished tiny run."""
    out = tmp_path_factory.mktemp("runs") / "run"
    run_job(tiny_settings(), out)
    return out
