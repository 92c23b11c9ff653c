"""Which stages a run will go through and about how long each takes, so that whoever waits can be told what is left."""

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Protocol, runtime_checkable

from saot.label.quality import FOLDS, SHORTER
from saot.label.settings import RunSettings, points_request, sizes_of
from saot.label.start import PARTS
from saot.recipes import DecoderRecipe

# Seconds a unit on two cores with the decoder of `saot demo`. Only their relations count: what a run measures of itself
# takes their place.
FEATURES, FEATURES_OF_NETWORKS = 0.07, 1.3
STEP, TAUGHT_STEP, REFINE_STEP, COST_STEP, PROBE_STEP = 0.02, 0.045, 0.015, 0.08, 0.05
LABELS, PLAN, PSEUDO, SCORE, CALIBRATION, ESTIMATE = 0.04, 0.015, 0.2, 0.06, 0.25, 0.03
EARLY_SHARE = 0.5  # of the time for features that the network's first layers take
WINDOW, WHOLE = 0.36, 0.4  # a step of training on a window of 28 x 28 tokens; an answer for a picture of 48 x 64
DEMO_ROWS = 512 * 128  # rows a step times width of the decoder that `STEP` is of
CLASSES = 10  # in which a picture has points, roughly


@dataclass(frozen=True)
class ExpectedStage:
    """A stage that a run will go through.

    Attributes:
        title: As it is told.
        units: Pictures or steps.
        seconds: A unit, roughly.
        phase: Stages of a phase may come in any order and side by side; those of the next come after all of them.
    """

    title: str
    units: int
    seconds: float
    phase: int = 0


@runtime_checkable
class Expecting(Protocol):
    """Progress that wants to know what is to come."""

    def expect(self, stages: Sequence[ExpectedStage]) -> None:
        """Hear of the stages of a run, in about their order."""
        ...


def expected_stages(
    settings: RunSettings,
    pictures: Mapping[str, int],
    methods: Collection[str],
    scored: Collection[str] = (),
    divided: bool = False,
) -> list[ExpectedStage]:
    """The stages of a run, in about their order.

    Args:
        settings: What was asked.
        pictures: How many of "source", "target" and "eval".
        methods: Those that are trained and scored.
        scored: Those whose scores are there already.
        divided: Whether the decoder is trained along with the network's last layers.
    """
    sizes = sizes_of(settings.size)
    found = list(_opening(settings, pictures))
    opening = [*_features(settings, pictures, divided)]
    trained = (_joint if divided else _decoder)(_own(settings), pictures)
    for phase, stages in enumerate((opening, [*trained]), start=1):
        for size in sizes:
            prefix = "" if len(sizes) == 1 else f"{size}: "
            found += [ExpectedStage(f"{prefix}{title}", units, seconds, phase) for title, units, seconds in stages]
    for name in methods:
        if name not in scored:
            found += [ExpectedStage(*stage, 3) for stage in _method(settings, name, pictures, divided)]
    found += [ExpectedStage("calibration", pictures["eval"] or 1, CALIBRATION, 4)]
    if _folds(settings, pictures["target"]):  # networks of a fraction of the steps, each without a part of the points
        for number in range(FOLDS):
            recipe, tail = settings.recipe.decoder, settings.recipe.tail
            name, steps = "teacher-0" if divided else f"fold-{number}", max(1, recipe.steps // SHORTER)
            found.append(ExpectedStage(f"train {name}", steps, STEP * _work(recipe), 4))
            if divided:
                seconds = WINDOW * (tail.source_windows + _points_windows(settings))
                found.append(ExpectedStage("train teacher-tail", max(1, tail.steps // SHORTER), seconds, 4))
    return [*found, ExpectedStage("estimate", pictures["target"], ESTIMATE, 4)]


Stages = Iterator[tuple[str, int, float]]


def _own(settings: RunSettings) -> RunSettings:
    """With the steps that a decoder takes which goes on from another run's."""
    if settings.start is None:
        return settings
    recipe = settings.recipe
    taught = replace(recipe.taught, rounds=1, steps=max(1, recipe.taught.steps // PARTS[1]))
    tail = replace(recipe.tail, taught_steps=max(1, recipe.tail.taught_steps // PARTS[1]))
    return replace(settings, recipe=replace(recipe, taught=taught, tail=tail))


def _folds(settings: RunSettings, target: int) -> bool:
    """Whether `estimate` will train folds, as far as is known before there are points; clicked ones are few."""
    (scope, count), scores = points_request(settings.points), settings.recipe.scores
    if count == 0 or scope == "resample" or settings.recipe.taught.teachers == 0 or settings.start is not None:
        return False
    points = (count or 0) * CLASSES * (1 if scope.endswith("total") else target)
    apart = settings.eval != settings.target  # nothing is held out of pictures that are scored on
    return not (apart and scores.holdout_points > 0 and scores.holdout_points * points >= scores.holdout_least)


def _opening(settings: RunSettings, pictures: Mapping[str, int]) -> Iterator[ExpectedStage]:
    scope, count = points_request(settings.points)
    if count and scope != "resample":  # else nothing is drawn here
        yield ExpectedStage("points", pictures["target"], LABELS)
    for title, domain in (("source masks", "source"), ("evaluation masks", "eval")):
        if pictures[domain]:
            yield ExpectedStage(title, pictures[domain], LABELS)


def _features(settings: RunSettings, pictures: Mapping[str, int], divided: bool) -> Stages:
    seconds = FEATURES if settings.backbone == "filterbank" else FEATURES_OF_NETWORKS
    for domain in ("source", "target", "eval"):
        if pictures[domain]:
            yield f"features {domain}", pictures[domain], seconds
        if pictures[domain] and divided:
            yield f"early features {domain}", pictures[domain], EARLY_SHARE * seconds
    yield "source labels", pictures["source"], LABELS
    if divided or settings.recipe.decoder.architecture == "fine":
        yield "source cells", pictures["source"], LABELS


def _decoder(settings: RunSettings, pictures: Mapping[str, int]) -> Stages:
    recipe, target = settings.recipe, pictures["target"]
    work = _work(recipe.decoder)
    if recipe.taught.teachers > 0:
        again = [] if settings.start is None else [("again", recipe.decoder.steps // PARTS[0])]
        teachers = [(f"teacher-{member}", recipe.decoder.steps) for member in range(recipe.taught.teachers)]
        for name, steps in again or teachers:
            yield f"train {name}", max(1, steps), STEP * work
        tau = float(recipe.taught.tau)
        yield from _taught(settings, f"plan-{tau}" if tau > 0 else "self", target)
        return
    yield "cost", recipe.cost.steps, COST_STEP
    rounds = max(1, recipe.decoder.rounds)
    for number in range(rounds):
        name = "saot_decoder" if rounds == 1 else f"saot_decoder-{number}"
        yield "pseudo-labels", target, PSEUDO
        yield f"train {name}", recipe.decoder.steps // rounds, STEP * work
    last = "saot_decoder" if rounds == 1 else f"saot_decoder-{rounds - 1}"
    yield f"refine {last}", recipe.refine.steps, REFINE_STEP * work


def _joint(settings: RunSettings, pictures: Mapping[str, int]) -> Stages:
    recipe, tail, points = settings.recipe.decoder, settings.recipe.tail, _points_windows(settings)
    tau = float(settings.recipe.taught.tau)
    part = 1 if settings.start is None else PARTS[0]
    fine, other = ("teacher-0", "teacher-tail") if settings.start is None else ("again", "again-tail")
    yield f"train {fine}", max(1, recipe.steps // part), STEP * _work(recipe)
    yield f"train {other}", max(1, tail.steps // part), WINDOW * (tail.source_windows + points)
    yield from _taught_joint(settings, f"plan-{tau}" if tau > 0 else "self", pictures["target"])


def _taught_joint(settings: RunSettings, label: str, target: int) -> Stages:
    recipe, taught, tail = settings.recipe.decoder, settings.recipe.taught, settings.recipe.tail
    if tail.taught_steps == 0:
        return
    if label != "self":
        yield f"plan {label}-joint", target, PLAN + WHOLE
    yield f"labels {label}-joint", target, PLAN
    yield f"train taught-{label}-joint", taught.steps, TAUGHT_STEP * _work(recipe)
    windows = tail.source_beside + _points_windows(settings) + tail.taught_windows
    yield f"train taught-{label}-joint-tail", tail.taught_steps, WINDOW * windows


def _points_windows(settings: RunSettings) -> float:
    """As many windows as those of points take the time of."""
    tail = settings.recipe.tail
    none = points_request(settings.points)[1] == 0
    return 0.0 if none else tail.points_windows * (tail.points_crop / tail.crop) ** 2


def _taught(settings: RunSettings, label: str, target: int) -> Stages:
    taught = settings.recipe.taught
    for number in range(1, taught.rounds + 1):
        if label != "self":
            yield f"plan {label}-{number}", target, PLAN
        yield f"labels {label}-{number}", target, PLAN
        yield f"train taught-{label}-{number}", taught.steps, TAUGHT_STEP * _work(settings.recipe.decoder)


def _method(settings: RunSettings, name: str, pictures: Mapping[str, int], divided: bool) -> Stages:
    recipe = settings.recipe
    work, train = _work(recipe.decoder), (f"train {name}", recipe.decoder.steps, STEP * _work(recipe.decoder) / 2)
    match name:
        case "saot" if recipe.taught.teachers > 0:
            yield "cost", recipe.cost.steps, COST_STEP
        case "best_no_transport" if divided:
            yield from _taught_joint(settings, "self", pictures["target"])
        case "best_no_transport" if recipe.taught.teachers > 0:
            yield from _taught(settings, "self", pictures["target"])
        case "best_no_transport":
            yield train
            yield f"refine {name}", recipe.refine.steps, REFINE_STEP * work
        case "mlp" | "mlp_points" | "oracle":
            yield train
        case "mlp_ema" | "mlp_points_ema":
            yield f"refine {name}", recipe.refine.steps, REFINE_STEP * work
        case "linear_probe" | "linear_probe_points":
            yield f"train {name}", recipe.baselines.probe_iterations, PROBE_STEP
        case "semantic_prior":
            yield "semantic prior", recipe.cost.steps, STEP / 2
        case _:
            pass
    yield f"score {name}", pictures["eval"], SCORE


def _work(decoder: DecoderRecipe) -> float:
    """How much more a step of this decoder is than one of the demo's."""
    return decoder.batch * decoder.hidden / DEMO_ROWS
