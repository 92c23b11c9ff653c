"""Every setting of the main job, frozen, with its source, and the presets built from them.

A recipe is a plain value: it is written into `run.json`, compared with the paper's, and never changed in place.
"""

from saot.recipes.checked import Checked, Count, Dropped, Number, Positive, Weight
from saot.recipes.differences import RecipeDifference, differences
from saot.recipes.parts import (
    BaselineRecipe,
    BridgeRecipe,
    CostRecipe,
    DecoderRecipe,
    InterventionRecipe,
    Recipe,
    RefineRecipe,
    ScoreRecipe,
    TaughtRecipe,
    TransferRecipe,
    TransportRecipe,
)
from saot.recipes.presets import (
    BEST,
    DEMO,
    DEMO_SIZE,
    DEMO_SOURCE,
    DEMO_TARGET,
    DEMO_TEST,
    PAPER,
    PAPER_BACKBONE,
    PAPER_PICTURES,
    PAPER_POINTS,
    PAPER_SIZE,
    PAPER_SMALL,
    PRESETS,
    preset,
)
from saot.recipes.words import as_dict, replaced, setting_paths, with_value, with_words

__all__ = [
    "BEST",
    "DEMO",
    "DEMO_SIZE",
    "DEMO_SOURCE",
    "DEMO_TARGET",
    "DEMO_TEST",
    "PAPER",
    "PAPER_BACKBONE",
    "PAPER_PICTURES",
    "PAPER_POINTS",
    "PAPER_SIZE",
    "PAPER_SMALL",
    "PRESETS",
    "BaselineRecipe",
    "BridgeRecipe",
    "Checked",
    "CostRecipe",
    "Count",
    "DecoderRecipe",
    "Dropped",
    "InterventionRecipe",
    "Number",
    "Positive",
    "Recipe",
    "RecipeDifference",
    "RefineRecipe",
    "ScoreRecipe",
    "TaughtRecipe",
    "TransferRecipe",
    "TransportRecipe",
    "Weight",
    "as_dict",
    "differences",
    "preset",
    "replaced",
    "setting_paths",
    "with_value",
    "with_words",
]
