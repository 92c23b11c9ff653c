"""Scoring some methods of a run: what tables and ablations need of it."""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from jaxtyping import Int64
from torch import Tensor

from saot.data import ClassSet
from saot.label.inputs import open_inputs
from saot.label.job import Job, open_job
from saot.label.rivals import Scorer, method_builders
from saot.label.run import check_device
from saot.label.scoring import score_method
from saot.label.settings import RunSettings
from saot.label.wings import NO_WINGS, Wings
from saot.runs import Workspace


@dataclass(frozen=True)
class MethodResult:
    """One method on the evaluation pictures.

    Attributes:
        counts: (N, K, K) confusion counts of each picture, rows truth.
        budget: Target labels the method has seen.
        seconds: Of scoring, without training.
    """

    counts: Int64[Tensor, "N K K"]
    budget: int
    seconds: float


@dataclass(frozen=True)
class PartialOutcome:
    """What `score_some` ends with.

    Attributes:
        settings: What was asked.
        classes: Of the counts.
        methods: The methods asked for, by name, in their order.
        stages: Every stage of the run so far, as in run.json: `seconds` and `peak_memory_bytes`.
        notes: What could not be done as the paper does it, by method.
    """

    settings: RunSettings
    classes: ClassSet
    methods: Mapping[str, MethodResult]
    stages: Mapping[str, Mapping[str, float]]
    notes: Mapping[str, str]


def score_some(
    settings: RunSettings,
    out: Path,
    methods: Sequence[str],
    *,
    store: Path | None = None,
    shared: Path | None = None,
    device: str = "cpu",
    wings: Wings = NO_WINGS,
    more: Callable[[Job], Mapping[str, Callable[[], Scorer]]] | None = None,
    progress: Callable[[str, int, int], None] | None = None,
) -> PartialOutcome:
    """Score these methods alone, training no more than they need.

    Everything is kept in the run folder as `saot run` keeps it: a later call with more methods goes on, and so does
    `saot run`. `more` brings methods beyond those of metrics.json.

    Args:
        settings: What is asked; an evaluation set is needed.
        out: The run folder.
        methods: Names.
        store: Where features are kept; the run folder unless given.
        shared: Folder in which runs leave the learned cost and the plan's pseudo-labels for each other: one that
            differs in its decoder alone takes them over, with the time they took. Nothing is shared unless given.
        device: Where networks and transport run.
        wings: What the core does not know: readers, backbones, the pull loss.
        more: Builders of further methods of a run, by name.
        progress: Called with (stage, done, total).

    Raises:
        ValueError: If an input is not as it should be, or this run has no such method; nothing made so far is lost.
    """
    check_device(device)
    if settings.eval is None:
        raise ValueError("expected an evaluation set to score methods on; got none: name one with eval=...")
    inputs = open_inputs(settings, device, wings)
    space = Workspace(out, settings.to_dict(), progress)
    try:
        job = dataclasses.replace(open_job(settings, space, inputs, store, device), shared=shared)
        builders = {**method_builders(job), **({} if more is None else more(job))}
        unknown = [name for name in methods if name not in builders]
        if unknown:
            raise ValueError(f"expected methods of this run among {', '.join(builders)}; got {', '.join(unknown)}")
        kept, noted = {}, noted_methods(space)
        for name in methods:
            try:
                kept[name] = score_method(job, name, builders[name])
            except ValueError as error:
                if name != "oracle":
                    raise
                noted[name] = f"left out: {error}"  # a bad target mask costs this row alone
        stages = space.facts("stages")
        results = {
            name: MethodResult(part["counts"], int(part["budget"]), float(stages[f"score {name}"]["seconds"]))
            for name, part in kept.items()
        }
        noted |= noted_methods(space)
        return PartialOutcome(
            settings, job.classes, results, stages, {name: noted[name] for name in methods if name in noted}
        )
    finally:
        space.close()


def noted_methods(space: Workspace) -> dict[str, str]:
    """What methods said could not be done as the paper does it, by name."""
    return dict(space.facts("interventions").get("notes", {}))
