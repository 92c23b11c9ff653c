"""A main job that takes seconds."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
from PIL import Image

from saot import label, match
from saot.data import open_images, open_labelled
from saot.label import RunSettings
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
from saot.runs import Workspace
from saot.scenes import READERS
from saot.tables import ALL_WINGS, all_rivals, run_rivals

run_job = partial(label.run_job, wings=ALL_WINGS, rivals=run_rivals)
score_some = partial(label.score_some, wings=ALL_WINGS, rivals=all_rivals)
predict_pictures = partial(label.predict_pictures, wings=ALL_WINGS)
evaluate_run = partial(label.evaluate_run, wings=ALL_WINGS)
match_pictures = partial(match.match_pictures, wings=ALL_WINGS)
open_labelled = partial(open_labelled, readers=READERS)
open_images = partial(open_images, readers=READERS)

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


def make_folder(root: Path, seed: int, masked: bool = True) -> str:
    """A folder set of two pictures, blue above and red below."""
    rng = np.random.default_rng(seed)
    for part in ("images", "masks") if masked else ("images",):
        (root / part).mkdir(parents=True)
    (root / "classes.txt").write_text("sky\nroof\n")
    for number in range(2):
        mask = np.zeros((56, 112), np.uint8)
        mask[20 + 8 * number :] = 1
        picture = np.where(mask[..., None] == 1, (200, 60, 40), (30, 90, 200)) + rng.integers(-20, 20, (56, 112, 3))
        Image.fromarray(picture.clip(0, 255).astype(np.uint8)).save(root / "images" / f"{number}.png")
        if masked:
            Image.fromarray(mask).save(root / "masks" / f"{number}.png")
    return f"folder:{root}"


@contextmanager
def opened(settings: RunSettings, folder: Path, store: Path | None = None) -> Iterator[label.Contest]:
    """A run with all its stages may use."""
    space = Workspace(folder, settings.to_dict())
    try:
        yield label.open_contest(settings, label.open_inputs(settings, "cpu", ALL_WINGS), space, store)
    finally:
        space.close()
