"""`saot run`: from two sets of pictures to masks, a network and a report."""

import json
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cache, partial
from pathlib import Path
from typing import Any

import torch

from saot.data import Points, check_place, read_record, whole_record, write_atomic
from saot.features import FeatureStore, Projected
from saot.label.best import saot_decoder
from saot.label.calibration import calibrate
from saot.label.data import Bench, EvaluationData, TrainingData
from saot.label.expected import ExpectedStage, Expecting, expected_stages
from saot.label.finished import REMADE, FinishedRun, open_run
from saot.label.fusion import joined_contest, packed_decoder, scores_of_sizes
from saot.label.inputs import Inputs, check_manifest, keep_manifest, kept_manifest, open_inputs, shared_pictures
from saot.label.networks import Trained
from saot.label.opening import (
    PictureSets,
    Tokens,
    check_masks,
    declare,
    label_source,
    open_features,
    open_points,
    picture_sets,
    stores_of,
    tell_size,
)
from saot.label.paper import learned_cost, similarities
from saot.label.quality import estimate
from saot.label.scoring import (
    COMPARISONS,
    Compare,
    Contest,
    MethodScores,
    Rivals,
    all_methods,
    chosen_methods,
    compared,
    methods_of,
    score_methods,
    write_metrics,
)
from saot.label.settings import RunSettings, fingerprints_file, settings_of, size_folder
from saot.label.start import Start, continued_decoder, open_start
from saot.label.summary import report_data, run_record
from saot.label.wings import NO_WINGS, Wings
from saot.report import write_report
from saot.runs import Shared, Workspace, check_device, identity_of, write_kept

ADDED_LATER = ("eval",)  # settings that a run may be given when it has begun


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
    compare: Compare | None = None,
    strict: bool = False,
    progress: Callable[[str, int, int], None] | None = None,
) -> RunOutcome:
    """The main job, from features to report; the same call again goes on where it stopped.

    Only what is asked for is trained: the decoder, then what it is compared with. A later call may ask for more.

    Args:
        settings: What is asked.
        out: The run folder.
        store: Where features are kept; the run folder unless given.
        device: Where networks and transport run, such as "cuda". A run on the CPU ends with the same bytes however
            often it is interrupted; an accelerator promises no such thing.
        wings: What the core does not know: readers, backbones, the pull loss.
        rivals: What SAOT may be compared with; None compares it with nothing but its own transport.
        compare: "none": the decoder alone; "points": with methods that see the same labels; "all". Unless given,
            "all" where there is an evaluation set, else "none".
        strict: Whether a mask that has not the size of its picture ends the run; else the picture is left out.
        progress: Called with (stage, done, total).

    Raises:
        ValueError: If an input is not as it should be; nothing made so far is lost.
    """
    check_device(device)
    check_place(out)
    compare = asked(compare, settings)
    inputs = open_inputs(settings, device, wings, fingerprints_file(Path(out), store), strict)
    space = Workspace(out, settings.to_dict(), progress, later=ADDED_LATER)
    try:
        inputs.seen.save()
        finished, kept = finished_run(space, compare), kept_manifest(space)
        if finished is not None and kept is not None:  # without a list of its data it is made of its stages again
            check_manifest(inputs.found, kept)
            return finished
        began = time.time()
        if isinstance(progress, Expecting):
            progress.expect(_expected(settings, inputs, space, compare))
        contest = open_contest(settings, inputs, space, store, device)  # points, features, source labels
        publish(space.path("decoder.safetensors"), contest.decoder(), contest.data)
        _keep_projections(inputs, space.root)
        scores, left_out = score_methods(contest, compared(all_methods(contest, rivals), compare))
        scores |= scores_of_sizes(contest)
        publish_cost(contest)
        metrics = write_metrics(space.path("metrics.json"), contest.data, contest.evaluation, scores)
        calibration = calibrate(contest, scores["saot_decoder"].bias, transported="saot" in scores)
        bias = scores["saot_decoder"].bias
        quality = estimate(contest.bench, contest.data, contest.decoder(), bias, contest.before)
        space.write_log()
        record = partial(run_record, settings, inputs, contest, scores, left_out, compare, quality, began)
        with space.stage("report"):
            write_report(space.path("report.html"), report_data(contest, record(), metrics, scores, calibration))
        run = record()
        write_atomic(space.path("run.json"), (json.dumps(run, indent=1) + "\n").encode())
        return RunOutcome(metrics, run, Path(out), resumed=False)
    finally:
        space.close()


@contextmanager
def reopened(
    folder: Path,
    wings: Wings = NO_WINGS,
    *,
    store: Path | None = None,
    device: str = "cpu",
    progress: Callable[[str, int, int], None] | None = None,
) -> Iterator[tuple[FinishedRun, Contest]]:
    """A finished run with all that it was made of, for whoever asks more of it; no result of it changes.

    Args:
        folder: Of the run.
        wings: What the core does not know.
        store: Where its features are; the run folder unless given. What is missing is made again.
        device: Where networks run, such as "cuda".
        progress: Called with (stage, done, total).

    Raises:
        ValueError: If it is no finished run of `saot run`, or its pictures are not what they were.
    """
    run = open_run(folder, wings, device)
    if not isinstance(run, FinishedRun):
        raise ValueError(f"expected a run of `saot run`; {folder} is a network of another command")
    settings = settings_of(read_record(folder / "run.json", REMADE)["settings"])
    inputs = open_inputs(settings, device, wings, fingerprints_file(folder, store))
    space = Workspace(folder, settings.to_dict(), progress, later=ADDED_LATER)
    try:
        yield run, open_contest(settings, inputs, space, store, device)
    finally:
        space.close()


def _expected(settings: RunSettings, inputs: Inputs, space: Workspace, compare: Compare) -> list[ExpectedStage]:
    """The stages to come; a method counts as scored where a file of its scores is there."""
    pictures = {"source": len(inputs.source), "target": len(inputs.target)}
    pictures["eval"] = 0 if inputs.truth is None else len(inputs.truth)
    scored = {path.stem for path in space.work("scores").glob("*.safetensors")}
    return expected_stages(settings, pictures, methods_of(compare), scored, inputs.divided)


def _put_aside(inputs: Inputs, sets: PictureSets, space: Workspace) -> None:
    """Move the run's own features of other settings out of the way, and those of its settings back.

    A link to the features of others is left alone.
    """
    root = space.path("features")
    for folder, backbone, _ in stores_of(inputs, sets, root):
        if not folder.resolve().is_relative_to(space.root.resolve()):
            continue
        own = FeatureStore(folder).key if (folder / "store.json").is_file() else backbone.key
        before, again = (
            space.path("features-of-other-settings") / identity_of(key)[:8] / folder.relative_to(root)
            for key in (own, backbone.key)
        )
        if before != again:
            before.parent.mkdir(parents=True, exist_ok=True)
            folder.rename(before)
            inputs.say(f"features of other settings were in {folder}: they are in {before} until you remove them")
        if again.is_dir() and not folder.exists():
            again.rename(folder)


def open_contest(
    settings: RunSettings,
    inputs: Inputs,
    space: Workspace,
    store: Path | None = None,
    device: str = "cpu",
) -> Contest:
    """Draw points, make what features are missing, label the source's patches.

    Until every input has proved readable nothing is kept that hangs on it, so that a bad file can be mended and the
    same command given again.

    Raises:
        ValueError: If an input is not as it should be, or not the one the run began with.
    """
    inputs.seen.save()
    start = open_start(settings, inputs.classes, space)
    if start is not None:
        start.check_features((inputs.early(settings.size) or inputs.backbone).key.to_json())
    found, kept = inputs.found, kept_manifest(space)
    if kept is not None:
        check_manifest(found, kept)
        if found != kept:  # an evaluation set was added
            check_masks(inputs, space, added=True)
            keep_manifest(space, found)
    masks, root = inputs.target_masks, store or space.path("features")
    with space.stage("points"):
        drawn = open_points(settings, inputs, masks, space, fresh=kept is None)
        if start is not None:
            start.check_points(drawn, inputs.classes)
    if kept is None:
        check_masks(inputs, space)
    sets = picture_sets(settings, inputs)
    if store is None and not space.trained():
        _put_aside(inputs, sets, space)
    tell_size(inputs, sets, root)
    _keep_projections(inputs, fingerprints_file(space.root, store).parent)
    several = len(inputs.sizes) > 1
    contests = {}
    for size, backbone in inputs.sizes.items():
        own = replace(settings, size=size)
        part = space.part(str(size), own.to_dict()) if several else space
        place, early = size_folder(root, size, inputs.sizes), inputs.early(size)
        found_tokens = open_features(sets, backbone, part, place, device, inputs.seen, early)
        bench = Bench(part, settings.recipe, settings.seed, torch.device(device))
        contests[str(size)] = _contest(own, inputs, bench, found_tokens, drawn, start)
    if kept is None:
        keep_manifest(space, found)
    if not several:
        return contests[str(settings.size)]
    return joined_contest(Bench(space, settings.recipe, settings.seed, torch.device(device)), contests)


def _keep_projections(inputs: Inputs, folder: Path) -> None:
    """Put what projects tokens beside the features, for further runs, or beside the network, for further pictures."""
    for backbone in inputs.sizes.values():
        if isinstance(backbone, Projected):
            backbone.projection.save(folder)


def _contest(
    settings: RunSettings, inputs: Inputs, bench: Bench, tokens: Tokens, drawn: Points, start: Start | None
) -> Contest:
    """The contest at one input size, its source labelled patch by patch."""
    masks, declared = inputs.target_masks, shared_pictures(inputs.found) > 0
    source = label_source(inputs, tokens.source, settings.source, bench)
    share = 0.0 if declared or start is not None else settings.recipe.scores.holdout_points
    points = declare(settings.points, drawn, source, tokens.target, masks, bench, share)
    tail = inputs.tail(settings.size)
    data = TrainingData(
        inputs.classes, source, tokens.target, points, tokens.translated, inputs.pull, tail, inputs.grower
    )
    evaluation = EvaluationData(tokens.test, inputs.truth, declared, settings.eval)
    domains = {"test": tokens.test, "target": tokens.target}
    decoder: Callable[[], Trained] = partial(saot_decoder, bench, data)
    if start is not None:
        decoder = partial(continued_decoder, start, bench, data)
    return Contest(
        bench,
        data,
        evaluation,
        masks,
        cost=cache(partial(learned_cost, bench, data)),
        decoder=cache(decoder),
        similar=cache(partial(similarities, bench, source, domains)),
        before=None if start is None else (start.trained, start.unseen(drawn, inputs.classes)),
    )


def asked(compare: Compare | None, settings: RunSettings) -> Compare:
    """What is compared: as asked, else everything where there is something to score on.

    Raises:
        ValueError: If there is no such comparison.
    """
    if compare is None:
        return "none" if settings.eval is None else "all"
    if compare not in COMPARISONS:
        raise ValueError(f"expected a comparison among {', '.join(COMPARISONS)}; got {compare!r}")
    return compare


def finished_run(space: Workspace, compare: Compare) -> RunOutcome | None:
    """The outcome of a run that is complete, scored there, and compares at least that much, or None.

    run.json is written last.
    """
    names = [
        "run.json",
        "metrics.json",
        "calibration.json",
        "report.html",
        "decoder.safetensors",
        "log.jsonl",
    ]
    if not all(space.path(name).is_file() for name in names):
        return None
    run, metrics = (whole_record(space.path(name)) for name in ("run.json", "metrics.json"))
    settings = None if run is None else run.get("settings")
    if run is None or metrics is None or not isinstance(settings, dict):
        return None  # damaged: both are written again from what the stages kept
    if any(settings.get(name) != space.settings[name] for name in ADDED_LATER):
        return None  # an evaluation set was added
    if "estimate" not in run or run.get("compare") not in COMPARISONS[COMPARISONS.index(compare) :]:
        return None  # of a build before both, or of less than is asked
    return RunOutcome(metrics, run, space.root, resumed=True)


def publish(path: Path, trained: Trained, data: TrainingData) -> None:
    """decoder.safetensors, the small network, or one for each input size, with all that `predict` needs to know."""
    extra = {"classes": list(data.classes.names), "colors": [list(c) for c in data.classes.colors]}
    write_kept(path, packed_decoder(trained.decoder, **extra), trained.identity)


def publish_cost(contest: Contest) -> None:
    """cost.safetensors of a run of several input sizes: the one learned at the first of them, where one was."""
    for member in list(contest.members.values())[:1]:
        made = member.bench.space.path("cost.safetensors")
        if made.exists():
            write_atomic(contest.bench.space.path(made.name), made.read_bytes())


@dataclass(frozen=True)
class PartialOutcome:
    """What `score_some` ends with.

    Attributes:
        contest: What was opened.
        methods: Scores of the methods asked for, by name, in their order.
        seconds: Of scoring each, without training.
        stages: Every stage of the run so far, as in run.json: `seconds` and `peak_memory_bytes`.
        notes: What could not be done as the paper does it, by method.
        left_out: Sentences about pictures whose masks have another size.
    """

    contest: Contest
    methods: Mapping[str, MethodScores]
    seconds: Mapping[str, float]
    stages: Mapping[str, Mapping[str, float]]
    notes: Mapping[str, str]
    left_out: tuple[str, ...] = ()


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
    strict: bool = False,
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
        strict: Whether a mask that has not the size of its picture is an error; else the picture is left out.
        progress: Called with (stage, done, total).

    Raises:
        ValueError: If an input is not as it should be, or this run has no such method; nothing made so far is lost.
    """
    check_device(device)
    if settings.eval is None:
        raise ValueError("expected an evaluation set to score methods on; got none: name one with eval=...")
    inputs = open_inputs(settings, device, wings, fingerprints_file(Path(out), store), strict)
    share = None if shared is None else Shared(shared)
    space = Workspace(out, settings.to_dict(), progress, share, later=ADDED_LATER)
    try:
        contest = open_contest(settings, inputs, space, store, device)
        scores, left_out = score_methods(contest, chosen_methods(all_methods(contest, rivals), methods))
        stages = space.facts("stages")
        seconds = {name: float(stages[f"score {name}"]["seconds"]) for name in scores}
        notes = {name: f"left out: {why}" for name, why in left_out.items()}
        notes |= {name: one.facts["note"] for name, one in scores.items() if "note" in one.facts}
        return PartialOutcome(contest, scores, seconds, stages, notes, tuple(inputs.left_out))
    finally:
        space.close()
