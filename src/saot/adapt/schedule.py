"""Learning rates and gradients of the optimiser's step."""

import torch
from torch import nn

from saot.adapt.recipe import OptimizerRecipe


def rate_factor(step: int, settings: OptimizerRecipe) -> float:
    """What the base rate is multiplied with: polynomial decay to 0, under a linear warm-up (sec. 4, FACTS T-1).

    Example:
        >>> settings = OptimizerRecipe(steps=100, warmup=10, warmup_ratio=0.0)
        >>> rate_factor(0, settings), rate_factor(5, settings), rate_factor(50, settings)
        (0.0, 0.475, 0.5)
    """
    decay = (1 - step / settings.steps) ** settings.power
    if step >= settings.warmup:
        return decay
    return decay * (1 - (1 - step / settings.warmup) * (1 - settings.warmup_ratio))


def set_rates(optimizer: torch.optim.Optimizer, step: int, settings: OptimizerRecipe) -> float:
    """Give every group its rate of this step; returns the encoder's."""
    factor = rate_factor(step, settings)
    for group in optimizer.param_groups:
        group["lr"] = group["base_rate"] * factor
    return settings.rate * factor


def silence_dropout(network: nn.Module) -> None:
    """Dropout and stochastic depth off, whatever the mode: the teacher's answers are not thinned out (FACTS T-1)."""
    for module in network.modules():
        if isinstance(module, nn.Dropout | nn.Dropout2d) or type(module).__name__.endswith("DropPath"):
            module.eval()
