"""T2S-DA: networks trained end to end on labelled source and unlabelled target pictures."""

from saot.adapt.backbone import BACKBONES, Adapted
from saot.adapt.encoder_files import load_encoder, read_encoder, save_encoder
from saot.adapt.encoders import Encoder
from saot.adapt.figures import masks_figure, separation_figure, similarity_figure
from saot.adapt.finished import FINISHED, AdaptedRun, open_adapted, published_network
from saot.adapt.frozen_pull import FrozenPull, Pull, pull_step, translated_pictures
from saot.adapt.inputs import AdaptSettings
from saot.adapt.lora import LoraOutcome, LoraSettings, run_lora
from saot.adapt.lora_fit import AdapterRecipe, LoraRecipe, MovingDomain, fit_adapters, held_out_accuracy
from saot.adapt.low_rank import LowRank, add_adapters, merge_adapters
from saot.adapt.recipe import (
    PAPER,
    PAPER_CNN,
    PAPER_HRDA,
    SMALL,
    AdaptRecipe,
    Method,
    NetworkRecipe,
    for_source,
    recipe_differences,
    recipe_from_words,
    with_method,
)
from saot.adapt.run import run_adaptation
from saot.adapt.separation import (
    ClassMoments,
    ClassSample,
    PixelDiscrimination,
    center_similarity,
    class_center_distance,
    sample_per_class,
)
from saot.adapt.training import Pace

__all__ = [
    "BACKBONES",
    "FINISHED",
    "PAPER",
    "PAPER_CNN",
    "PAPER_HRDA",
    "SMALL",
    "AdaptRecipe",
    "AdaptSettings",
    "Adapted",
    "AdaptedRun",
    "AdapterRecipe",
    "ClassMoments",
    "ClassSample",
    "Encoder",
    "FrozenPull",
    "LoraOutcome",
    "LoraRecipe",
    "LoraSettings",
    "LowRank",
    "Method",
    "MovingDomain",
    "NetworkRecipe",
    "Pace",
    "PixelDiscrimination",
    "Pull",
    "add_adapters",
    "center_similarity",
    "class_center_distance",
    "fit_adapters",
    "for_source",
    "held_out_accuracy",
    "load_encoder",
    "masks_figure",
    "merge_adapters",
    "open_adapted",
    "published_network",
    "pull_step",
    "read_encoder",
    "recipe_differences",
    "recipe_from_words",
    "run_adaptation",
    "run_lora",
    "sample_per_class",
    "save_encoder",
    "separation_figure",
    "similarity_figure",
    "translated_pictures",
    "with_method",
]
