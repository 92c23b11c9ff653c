"""How much of the plan's mass joins tokens of different true classes: what the paper says of its plans in sec. 7."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float64, Int, UInt8
from torch import Tensor

from saot.data import patch_labels
from saot.label import Contest, RunSettings, fingerprints_file, open_contest, open_inputs
from saot.runs import Kept, Making, Shared, Workspace, check_device, identity_of
from saot.tables.wings import ALL_WINGS
from saot.transfer import SemanticCost, solve_pair
from saot.transport import TransportResult

IGNORE = 255


def wrong_class_mass(
    settings: RunSettings,
    out: Path,
    *,
    store: Path | None = None,
    shared: Path | None = None,
    device: str = "cpu",
    progress: Callable[[str, int, int], None] | None = None,
) -> dict[str, dict[str | None, float | None]]:
    """Share of plan mass that joins a source token with an evaluation token of another true class.

    Each evaluation picture is transported from its most similar source picture, by the learned cost ("saot") and by
    |x - y|^2 ("uot"); a share is of the mass that reaches labelled tokens, and the mean is over evaluation pictures.
    Evaluation masks are read to measure this, after the plans are made. What is found is kept in the run folder.

    Args:
        settings: What is asked; an evaluation set is needed.
        out: The run folder, new or begun by `saot run` or `score_some`.
        store: Where features are kept; the run folder unless given.
        shared: See `score_some`.
        device: Where transport runs.
        progress: Called with (stage, done, total).

    Returns:
        By method, then by class name: the share of the mass leaving source tokens of that class, 0 to 1; under None
        that of all mass. A class that no plan sends from is None.

    Raises:
        ValueError: If an input is not as it should be.
    """
    check_device(device)
    if settings.eval is None:
        raise ValueError("expected an evaluation set to measure mass on; got none: name one with eval=...")
    inputs = open_inputs(settings, device, ALL_WINGS, fingerprints_file(Path(out), store))
    space = Workspace(out, settings.to_dict(), progress, None if shared is None else Shared(shared))
    try:
        contest = open_contest(settings, inputs, space, store, device)
        learned = contest.cost()

        def make(making: Making) -> Kept:
            costs = {"saot": learned.cost, "uot": None}
            return Kept(facts={name: _measure(contest, cost, name) for name, cost in costs.items()})

        identity = identity_of(learned.identity, contest.evaluation, settings.recipe.transfer)
        kept = space.once("work/wrong-mass", identity, make, title="wrong mass").facts
        return {name: {None: part["all"], **part["classes"]} for name, part in kept.items()}
    finally:
        space.close()


def mass_between_classes(
    result: TransportResult,
    source: Int[Tensor, " n"] | UInt8[Tensor, " n"],
    target: Int[Tensor, " m"] | UInt8[Tensor, " m"],
    num_classes: int,
) -> Float64[Tensor, "K K"]:
    """Plan mass by source class (rows) and true target class (columns); tokens marked 255 are left out.

    Args:
        result: Of a problem on a support.
        source: Classes of the source tokens.
        target: True classes of the target tokens.
        num_classes: Number of classes K.
    """
    support = result.support
    assert support is not None, "pictures are transported on a support"
    rows, columns = source.long()[support.row.long()], target.long()[support.col.long()]
    known = (rows != IGNORE) & (columns != IGNORE)
    mass = torch.zeros(num_classes * num_classes, dtype=torch.float64, device=rows.device)
    values = result.plan_values.detach().double()
    mass.index_add_(0, rows[known] * num_classes + columns[known], values[known])
    return mass.view(num_classes, num_classes).cpu()


def _measure(contest: Contest, cost: SemanticCost | None, name: str) -> dict[str, Any]:
    """Overall and by class name, mean over the evaluation pictures that have any such mass."""
    bench, data, evaluation = contest.bench, contest.data, contest.evaluation
    domain, masks = evaluation.domain, evaluation.truth
    assert masks is not None, "only with evaluation labels"
    similar, shares = contest.similar("test"), []
    transport = bench.recipe.transport
    if cost is None:  # the competitor, by appearance alone
        transport = replace(transport, alpha=0.0)
    ignored = bench.recipe.transfer.ignored_patches
    for number in range(len(domain)):
        closest = int(similar[number].argmax())
        source, labels = data.source.labelled(closest)
        places = data.source.places(closest), domain.places(number)
        with torch.no_grad():
            result = solve_pair(source, labels, domain.tokens(number), cost, transport, places=places)
        grid = domain.grid(number)
        truth = patch_labels(masks.mask(number), grid, num_classes=data.num_classes, ignore=ignored)
        mass = mass_between_classes(result, labels, truth.to(labels.device), data.num_classes)
        shares.append(wrong_shares(mass))
        bench.space.tell(f"wrong mass {name}")(number + 1, len(domain))
    mean = torch.stack(shares).nanmean(0).tolist()
    values = [None if value != value else value for value in mean]
    return {"all": values[-1], "classes": dict(zip(data.classes.names, values[:-1], strict=True))}


def wrong_shares(mass: Float64[Tensor, "K K"]) -> Float64[Tensor, " classes"]:
    """Share of the mass off the diagonal, row by row and (last, K + 1 in all) overall; NaN where there is none.

    Example:
        >>> wrong_shares(torch.tensor([[3.0, 1.0], [0.0, 0.0]]).double()).tolist()
        [0.25, nan, 0.25]
    """
    rows = torch.cat([mass.sum(1), mass.sum().unsqueeze(0)])
    right = torch.cat([mass.diagonal(), mass.diagonal().sum().unsqueeze(0)])
    return (rows - right) / rows
