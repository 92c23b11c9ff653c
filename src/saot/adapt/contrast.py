"""Which features are pulled where: the rows of the paper's first ablation, sec. 4.2, as one choice each."""

from typing import Literal

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from saot.adapt.pull import PullBatch, PullResult, class_confidence, class_weights, pull_loss, source_prototypes
from saot.adapt.recipe import PullRecipe
from saot.adapt.teacher import PseudoLabels
from saot.transfer import Prototypes


def loss_weights(
    pseudo: PseudoLabels | None, num_classes: int, recipe: PullRecipe, of: Literal["pull", "target"]
) -> Float[Tensor, " K"]:
    """w* of one loss: dynamic weights, Eqs. (12) and (13), where the recipe puts them, else 1/K for each class.

    Args:
        pseudo: The teacher's labels of the batch's target pictures; None without any.
        num_classes: Number of classes K.
        recipe: Says which loss is re-weighted.
        of: The loss asked about.
    """
    if of == "pull" and recipe.reweight == "fixed":
        fixed = torch.tensor(recipe.fixed_weights)
        return fixed / fixed.sum()
    if pseudo is None or recipe.reweight != of:
        return torch.full((num_classes,), 1 / num_classes)
    mean, pixels = class_confidence(pseudo.confidence, pseudo.labels, num_classes)
    return class_weights(mean, pixels, recipe.settings)


def pixel_weights(labels: Int64[Tensor, "*pixels"], weights: Float[Tensor, " K"]) -> Float[Tensor, "*pixels"]:
    """K w* of each pixel's class, so that equal weights are 1; 1 where the label is no class (DRW on L_target)."""
    known = (labels >= 0) & (labels < len(weights))
    scaled = (weights * len(weights)).to(labels.device, torch.float32)
    return torch.where(known, scaled[labels.clamp(0, len(weights) - 1)], 1.0)


def positive_keys(
    batch: PullBatch, translated: Float[Tensor, "n d"] | None, num_classes: int, recipe: PullRecipe
) -> Prototypes:
    """k+: class means of the teacher's source features; of its translated source, or pseudo-labelled target, features.

    Args:
        batch: Features, labels, pseudo-labels.
        translated: The teacher's on T(x^s), for "pseudo_target".
        num_classes: Number of classes K.
        recipe: Which of them.

    Raises:
        ValueError: If the features it needs are not there.
    """
    form = recipe.settings.prototypes
    if recipe.positives == "source":
        return source_prototypes(batch.source, batch.labels, num_classes, form)
    if recipe.positives == "target":
        return source_prototypes(batch.target, batch.pseudo_labels, num_classes, form)
    if translated is None:
        raise ValueError("expected the teacher's features of the translation for keys from the pseudo-target; got none")
    return source_prototypes(translated, batch.labels, num_classes, form)


def pull(
    batch: PullBatch,
    translated: Float[Tensor, "n d"] | None,
    weights: Float[Tensor, " K"],
    recipe: PullRecipe,
    generator: torch.Generator,
) -> PullResult:
    """L_pull, Eq. (3), in the direction of the recipe; it is not yet multiplied by lambda."""
    keys = positive_keys(batch, translated, len(weights), recipe)
    return pull_loss(batch, weights, recipe.settings, generator, keys)
