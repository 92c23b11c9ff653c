"""`saot run`: from two sets of pictures to masks, a network and a report."""

import json
import platform
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch

from saot.data import write_atomic
from saot.label.best import saot_decoder
from saot.label.calibration import calibrate
from saot.label.data import (
    Bench,
    EvaluationData,
    TrainingData,
    check_truth,
    declare,
    label_source,
    open_features,
    open_points,
)
from saot.label.inputs import (
    Inputs,
    check_manifest,
    digest,
    keep_manifest,
    kept_manifest,
    manifest,
    open_inputs,
    shared_pictures,
    target_labels,
)
from saot.label.networks import Trained, packed
from saot.label.paper import learned_cost
from saot.label.scoring import (
    Builders,
    Contest,
    MethodScores,
    Rivals,
    chosen_methods,
    joined_facts,
    ordered,
    own_methods,
    score_methods,
    write_metrics,
)
from saot.label.settings import RunSettings
from saot.label.summary import report_data
from saot.label.wings import NO_WINGS, Wings
from saot.recipes import differences
from saot.report import write_report
from saot.runs import (
    RUN_FORMAT,
    Shared,
    Workspace,
    check_device,
    commit_of_code,
    device_name,
    versions,
    write_kept,
)

PACKAGES = ("saot", "torch", "numpy", "safetensors", "pillow", "transformers")


@dataclass(frozen=True)
class RunOutcome:
    """What a run ends with.

    Attributes:
        metrics: Contents of metrics.json.
        run: Contents of run.json.
        folder: Where everything lies.
        resumed: True if nothing was left to do.
    """

    metrics: dict[str, Any]
    run: dict[str, Any]
    folder: Path
    resumed: bool


def run_job(
    settings: RunSettings,
    out: Path,
    *,
    store: Path | None = None,
    device: str = "cpu",
    wings: Wings = NO_WINGS,
    rivals: Rivals | None = None,
    progress: Callable[[str, int, int], None] | None = None,
) -> RunOutcome:
    """The main job, from features to report; the same call again goes on where it stopped.

    Args:
        settings: What is asked.
        out: The run folder.
        store: Where features are kept; the run folder unless given.
        device: Where networks and transport run, such as "cuda". A run on the CPU ends with the same bytes however
            often it is interrupted; an accelerator promises no such thing.
        wings: What the core does not know: readers, backbones, the pull loss.
        rivals: What SAOT is compared with; None compares it with nothing.
        progress: Called with (stage, done, total).

    Raises:
        ValueError: If an input is not as it should be; nothing made so far is lost.
    """
    check_device(device)
    inputs = open_inputs(settings, device, wings)
    space = Workspace(out, settings.to_dict(), progress)
    try:
        finished = finished_run(space)
        if finished is not None:
            check_manifest(manifest(inputs, settings), kept_manifest(space) or {})
            return finished
        began = time.time()
        contest = open_contest(settings, inputs, space, store, device)  # points, features, labels of the source
        learned_cost(contest.bench, contest.data)
        decoder = saot_decoder(contest.bench, contest.data)
        publish(space.path("decoder.safetensors"), decoder, contest.data)
        scores, left_out = score_methods(contest, ordered(all_methods(contest, rivals)))
        metrics = write_metrics(space.path("metrics.json"), contest.data, contest.evaluation, scores)
        calibration = calibrate(contest, scores["saot_decoder"].bias)
        space.write_log()
        record = partial(run_record, settings, inputs, contest, decoder, scores, left_out, began)
        with space.stage("report"):
            write_report(space.path("report.html"), report_data(contest, record(), metrics, scores, calibration))
        run = record()
        write_atomic(space.path("run.json"), (json.dumps(run, indent=1) + "\n").encode())
        return RunOutcome(metrics, run, Path(out), resumed=False)
    finally:
        space.close()


def open_contest(
    settings: RunSettings, inputs: Inputs, space: Workspace, store: Path | None = None, device: str = "cpu"
) -> Contest:
    """Draw points, make what features are missing, label the source's patches.

    Until every input has proved readable nothing is kept that hangs on it, so that a bad file can be mended and the
    same command given again.

    Raises:
        ValueError: If an input is not as it should be, or not the one the run began with.
    """
    found, kept = manifest(inputs, settings), kept_manifest(space)
    if kept is not None:
        check_manifest(found, kept)
    bench = Bench(space, settings.recipe, settings.seed, torch.device(device))
    with space.stage("points"):
        drawn = open_points(settings, inputs, space, fresh=kept is None)
    tokens = open_features(settings, inputs, found, space, store, device)
    source = label_source(inputs, tokens.source, settings.source, bench)
    if kept is None:
        check_truth(inputs, space)
        keep_manifest(space, found)
    points = declare(settings, inputs, found, drawn, source, tokens.target, bench)
    data = TrainingData(inputs.classes, source, tokens.target, points, tokens.translated, inputs.wings.pull)
    evaluation = EvaluationData(tokens.test, inputs.truth, shared_pictures(found) > 0, settings.eval)
    return Contest(bench, data, evaluation, partial(target_labels, settings, inputs))


def all_methods(contest: Contest, rivals: Rivals | None) -> Builders:
    """SAOT's own methods and those handed in."""
    return {**({} if rivals is None else rivals(contest)), **own_methods(contest)}


def finished_run(space: Workspace) -> RunOutcome | None:
    """The outcome of a run that is already complete, or None. run.json is written last."""
    names = [
        "run.json",
        "metrics.json",
        "calibration.json",
        "report.html",
        "decoder.safetensors",
        "cost.safetensors",
        "log.jsonl",
    ]
    if not all(space.path(name).exists() for name in names):
        return None
    run = json.loads(space.path("run.json").read_text())
    metrics = json.loads(space.path("metrics.json").read_text())
    return RunOutcome(metrics, run, space.root, resumed=True)


def publish(path: Path, trained: Trained, data: TrainingData) -> None:
    """decoder.safetensors, the small network with all that `predict` needs to know."""
    extra = {"classes": list(data.classes.names), "colors": [list(c) for c in data.classes.colors]}
    write_kept(path, packed(trained.decoder, **extra), trained.identity)


def run_record(
    settings: RunSettings,
    inputs: Inputs,
    contest: Contest,
    decoder: Trained,
    scores: Mapping[str, MethodScores],
    left_out: Mapping[str, str],
    began: float,
) -> dict[str, Any]:
    """run.json: everything but the scores."""
    space, data, recipe = contest.bench.space, contest.data, contest.bench.recipe
    found, bias = kept_manifest(space) or {}, scores["saot_decoder"].bias
    return {
        "format": RUN_FORMAT,
        "settings": settings.to_dict(),
        "source": settings.source,
        "target": settings.target,
        "eval": settings.eval,
        "backbone": settings.backbone,
        "preset": recipe.name,
        "points": settings.points,
        "seed": settings.seed,
        "label_budget": data.points.budget,
        "differences_from_paper": [vars(d) for d in differences(recipe)],
        "features": json.loads(inputs.backbone.key.to_json()),
        "data": {
            name: {"images": len(found[name]), "sha256": digest(found[name])} for name in ("source", "target", "eval")
        },
        "stages": space.facts("stages"),
        "started": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(began)),
        "trials": joined_facts(scores, "trials"),
        "adjustment": joined_facts(scores, "adjustment"),
        "decoder_bias": None if bias is None else bias.tolist(),
        "transport": _transports(contest, decoder, scores),
        "taught": decoder.facts.get("taught", {}),
        "notes": _notes(contest, scores, left_out),
        "versions": versions(PACKAGES),
        "commit": commit_of_code(),
        "device": device_name(contest.bench.device),
        "python": platform.python_version(),
    }


def _transports(contest: Contest, decoder: Trained, scores: Mapping[str, MethodScores]) -> dict[str, dict[str, Any]]:
    """What the transports of a run have to say of themselves."""
    cost: dict[str, Any] = {"converged_share": learned_cost(contest.bench, contest.data).converged_share}
    if "pseudo_uncovered_share" in decoder.facts:
        cost["pseudo_uncovered_share"] = decoder.facts["pseudo_uncovered_share"]
    said = {name: scores[name].facts if name in scores else {} for name in ("saot", "saot_multi", "ot")}
    return {
        "cost": cost,
        **{
            name: {key: value for key, value in facts.items() if key in ("uncovered_share", "statuses")}
            for name, facts in said.items()
        },
    }


def _notes(contest: Contest, scores: Mapping[str, MethodScores], left_out: Mapping[str, str]) -> list[str]:
    """What a reader of the scores should know."""
    notes = [note for one in scores.values() for note in one.facts.get("notes", ())]
    if "oracle" in left_out:
        notes.append(f"The oracle is left out: {left_out['oracle']}.")
    if contest.evaluation.declared:
        notes.append(
            "Evaluation pictures are target pictures too, so their points were declared: scores are optimistic, and "
            "no logit adjustment was chosen."
        )
    unknown = contest.data.points.unknown
    if unknown:
        notes.append(f"Points name classes the source never shows ({', '.join(unknown)}); transport cannot carry them.")
    return notes


@dataclass(frozen=True)
class PartialOutcome:
    """What `score_some` ends with.

    Attributes:
        contest: What was opened.
        methods: Scores of the methods asked for, by name, in their order.
        seconds: Of scoring each, without training.
        stages: Every stage of the run so far, as in run.json: `seconds` and `peak_memory_bytes`.
        notes: What could not be done as the paper does it, by method.
    """

    contest: Contest
    methods: Mapping[str, MethodScores]
    seconds: Mapping[str, float]
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
    rivals: Rivals | None = None,
    progress: Callable[[str, int, int], None] | None = None,
) -> PartialOutcome:
    """Score these methods alone, training no more than they need.

    Everything is kept in the run folder as `saot run` keeps it: a later call with more methods goes on, and so does
    `saot run`.

    Args:
        settings: What is asked; an evaluation set is needed.
        out: The run folder.
        methods: Names.
        store: Where features are kept; the run folder unless given.
        shared: Folder in which runs leave trainings for each other: one that differs in its decoder alone takes the
            learned cost over, with the time it took. Nothing is shared unless given.
        device: Where networks and transport run.
        wings: What the core does not know: readers, backbones, the pull loss.
        rivals: What SAOT is compared with; None compares it with nothing.
        progress: Called with (stage, done, total).

    Raises:
        ValueError: If an input is not as it should be, or this run has no such method; nothing made so far is lost.
    """
    check_device(device)
    if settings.eval is None:
        raise ValueError("expected an evaluation set to score methods on; got none: name one with eval=...")
    inputs = open_inputs(settings, device, wings)
    space = Workspace(out, settings.to_dict(), progress, None if shared is None else Shared(shared))
    try:
        contest = open_contest(settings, inputs, space, store, device)
        scores, left_out = score_methods(contest, chosen_methods(all_methods(contest, rivals), methods))
        stages = space.facts("stages")
        seconds = {name: float(stages[f"score {name}"]["seconds"]) for name in scores}
        notes = {name: f"left out: {why}" for name, why in left_out.items()}
        notes |= {name: one.facts["note"] for name, one in scores.items() if "note" in one.facts}
        return PartialOutcome(contest, scores, seconds, stages, notes)
    finally:
        space.close()
