"""A training step of Algorithm 1 and GWOT, on a device."""

from dataclasses import replace
from typing import Any

import torch
from gpu.clock import Clock
from ours import declared_points, learned_cost
from problems import CLASSES, EPSILON, TAU, planted

from saot.match.gwot import GwotSettings, solve_gwot
from saot.recipes import TransportRecipe
from saot.transfer.fit import pair_loss


def step(tokens: int, k: int, dim: int, iterations: int, clock: Clock, repeats: int) -> dict[str, Any]:
    """Milliseconds of one step: candidates, cost, solve, losses, backward, AdamW; the middle of `repeats`."""
    data = planted(tokens, dim=dim)
    arrays = data.source, data.target, data.source_labels, data.target_labels
    source, target, labels, truth = (torch.from_numpy(array).to(clock.device) for array in arrays)
    cost = learned_cost(source, labels)[0].to(clock.device)
    recipe = replace(TransportRecipe(), k=k, epsilon=EPSILON, tau=TAU, max_iter=iterations)
    optimizer = torch.optim.AdamW(cost.train().parameters(), lr=cost.config.learning_rate)
    example = declared_points(target, truth, cost.config.points_per_class)

    def one() -> None:
        loss, _ = pair_loss(cost, source, labels, example, CLASSES, recipe)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()

    return {"tokens": tokens, "k": k, "dim": dim, "ms": clock.median(one, repeats)}


def gwot(side: int, steps: int, clock: Clock, repeats: int) -> dict[str, Any]:
    """Milliseconds of GWOT between two pictures of side x side tokens on random costs, as `bench_gwot.py` has them."""
    generator = torch.Generator().manual_seed(0)
    cost = torch.rand(1, side**2, side**2, generator=generator).to(clock.device)
    settings = GwotSettings(steps=steps)
    return {
        "side": side,
        "steps": steps,
        "ms": clock.median(lambda: solve_gwot(cost, (side, side), (side, side), settings), repeats),
    }
