"""Tables of T2S-DA: rows are ways of training a network end to end, columns what the trained network is worth."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import fmean
from typing import Any

from torch import Tensor

from saot.adapt import (
    PAPER,
    PAPER_CNN,
    PAPER_HRDA,
    SMALL,
    AdaptRecipe,
    AdaptSettings,
    NetworkRecipe,
    for_source,
    masks_figure,
    open_adapted,
    recipe_differences,
    run_adaptation,
    separation_figure,
    similarity_figure,
    with_method,
)
from saot.data import ClassSet, LabelledSet, fitting
from saot.evaluate import iou_from_counts
from saot.label import RunSettings
from saot.recipes import BEST, RecipeDifference, with_words
from saot.report import figure_png, shrink, shrink_mask
from saot.runs import load_tensors, save_tensors
from saot.tables.experiment import Column, Experiment, Row
from saot.tables.label.settings import tiny
from saot.tables.label_room import Progress, classes_of, predicted_masks, score, wings_of
from saot.tables.replace import with_changes
from saot.tables.request import Request
from saot.tables.results import TableResult
from saot.tables.table import Places, Planned, Table, Value, class_mean, run_name, same_names

SCENES = {
    "source": "scenes:game:train",
    "target": "scenes:street:train",
    "eval": "scenes:street:val",
    "source_eval": "scenes:game:val",
}
PAPERS = {"transformer": PAPER, "cnn": PAPER_CNN, "hrda": PAPER_HRDA}  # by the `preset` of a row
OF_FEATURES: tuple[str, ...] = ("ccd", "pdd", "similarity")
DIGITS: dict[str, int] = dict.fromkeys(OF_FEATURES, 3)
RECORDED = {
    **same_names("source target eval source_eval mask_map"),
    "encoder": "backbone",
    **same_names("weights counts set seeds device"),
}
SHOWN = 4  # evaluation pictures, spread over the set
SHOWN_WIDTH = 420  # pixels of one
OF_SOURCE = ("source_miou", "source_iou")
TINY = replace(
    SMALL,
    name="tiny",
    network=NetworkRecipe(encoder="mobile-sam", channels=8),
    pictures=replace(SMALL.pictures, crop=(32, 32)),
    optimizer=replace(SMALL.optimizer, steps=2, warmup=1, batch=1),
    pull=replace(SMALL.pull, settings=replace(SMALL.pull.settings, base_queries=2, negatives=8)),
    rare=replace(SMALL.rare, min_pixels=1) if SMALL.rare is not None else None,
)


@dataclass(frozen=True)
class Trained:
    """What one run left.

    Attributes:
        counts: (N, K, K) of the evaluation pictures.
        source_counts: The same of held-out source pictures, or None.
        features: Measure -> class -> value, or empty.
        minutes: Of training.
    """

    counts: Tensor
    source_counts: Tensor | None
    features: Mapping[str, Mapping[str, float | None]]
    minutes: float | None


class Adaptation(Table):
    """A table of T2S-DA.

    A row's `method` is that of the recipe, "t2s-da" unless given, and its `preset` the network of the paper; with
    counts of ours the small network stands for the table's main one, `preset` of its base, alone. A row with preset
    "best" is a method of the main job in place of all that, frozen, on the same pictures, without points.
    """

    words = "adaptation"
    recorded = RECORDED
    digits = DIGITS
    compared = ("miou", "source_miou")
    finished: dict[str, Trained]

    def __init__(self, experiment: Experiment, request: Request, places: Places) -> None:
        request = completed(request)
        self.classes = classes_of(request.source, request.mask_map)
        super().__init__(with_class_columns(experiment, self.classes), request, places)

    def plan(self, row: Row, column: Column, seed: int) -> Planned | None:
        settings = settings_of(self.request, self.experiment, row, seed)
        if settings is None:
            return None
        return Planned(run_name(settings), settings, str(column.quantity), column.of, row.method or "", seed)

    def make(self, wanted: Mapping[str, Sequence[Planned]]) -> None:
        for number, (name, plans) in enumerate(wanted.items()):
            told = self.places.telling(f"run {number + 1}/{len(wanted)}")
            run = self._frozen if isinstance(plans[0].settings, RunSettings) else self._trained
            self.finished[name] = run(plans[0], self.places.runs / name, told)

    def _frozen(self, plan: Planned, folder: Path, told: Progress | None) -> Trained:
        settings, method = plan.settings, plan.method
        outcome = score(settings, folder, [method], self._store_of(settings), self.request.device, told)
        return Trained(outcome.methods[method].counts, None, {}, None)

    def _store_of(self, settings: RunSettings) -> Path:
        return self.places.store / f"{settings.backbone}-{settings.size or 'default'}"

    def _trained(self, plan: Planned, folder: Path, told: Progress | None) -> Trained:
        outcome = run_adaptation(plan.settings, folder, device=self.request.device, progress=told)
        counts = load_tensors(folder / "work" / "scores" / "eval.safetensors")
        source = load_tensors(folder / "work" / "scores" / "source.safetensors")
        if counts is None:
            raise ValueError(f"expected the counts of a finished run in {folder}; they are missing: remove the folder")
        seconds = outcome.run["stages"].get("train", {}).get("seconds")
        return Trained(
            counts["counts"],
            None if source is None else source["counts"],
            outcome.metrics.get("features", {}),
            None if seconds is None else seconds / 60,
        )

    def value(self, plan: Planned) -> Value:
        return value_of(plan.quantity, plan.of, self.finished[plan.run], self.classes)

    def counts(self, plan: Planned) -> Tensor | None:
        return _counts(plan.quantity, self.finished[plan.run])

    @property
    def images(self) -> int:
        return max((len(one.counts) for one in self.finished.values()), default=0)

    def notes(self) -> list[str]:
        """Which rows were left out."""
        left_out = [
            row.label
            for row in self.experiment.rows
            if not row.quoted and settings_of(self.request, self.experiment, row, 0) is None
        ]
        names = ", ".join(left_out)
        return [f"Not run with these counts, which have one network: {names}. Use --counts paper."] * bool(left_out)

    def differences(self) -> list[RecipeDifference]:
        """Data, seeds, then every field of the recipe."""
        request, seeds = self.request, self.request.seeds
        recipe = recipe_of(request, self.experiment, Row(""))
        assert recipe is not None  # the main network's recipe is always there
        return [
            RecipeDifference(
                "data", self.experiment.data, f"{request.source}, {request.target}, {request.eval}", "as asked"
            ),
            RecipeDifference("seeds", "3", f"{len(seeds)} ({', '.join(map(str, seeds))})", "as asked"),
            *recipe_differences(recipe, PAPERS[main_network(self.experiment)], request.source),
        ]

    def figures(self, result: TableResult) -> dict[str, bytes]:
        """Masks side by side, of the first seed; where the table has them, what separates classes."""
        return {**self._masks(), **self._separation()}

    def _masks(self) -> dict[str, bytes]:
        """Pictures, truth and the mask of each row that is run, figs. 4 and S2-S4."""
        key, seed = self.experiment.columns[0].key, self.seeds[0]
        found = {row.label: self.plans[row.label, key] for row in self.experiment.rows}
        plans = {label: plan for label, of_row in found.items() for plan in of_row if plan and plan.seed == seed}
        if not plans:
            return {}
        truth = fitting(wings_of(self.request.mask_map).labelled(self.request.eval, self.classes)).data
        shown = sorted({number * len(truth) // SHOWN for number in range(SHOWN)})
        masks = {}
        for number, (label, plan) in enumerate(plans.items()):
            masks[label] = [shrink_mask(mask.numpy(), SHOWN_WIDTH) for mask in self._masks_of(plan, truth, shown)]
            if self.places.progress is not None:
                self.places.progress("masks", number + 1, len(plans))
        pictures = [shrink(truth.image(number), SHOWN_WIDTH) for number in shown]
        truths = [shrink_mask(truth.mask(number), SHOWN_WIDTH) for number in shown]
        return {"masks.png": figure_png(masks_figure(pictures, truths, masks, self.classes))}

    def _masks_of(self, plan: Planned, truth: LabelledSet, shown: Sequence[int]) -> list[Tensor]:
        """A run's masks of these evaluation pictures, as kept or made now."""
        folder, device = self.places.runs / plan.run, self.request.device
        path = folder / "work" / f"shown-{plan.method}.safetensors"
        names = [f"{truth.keys[number]} {truth.images.fingerprint(number)}" for number in shown]
        kept = load_tensors(path)
        if kept is None or set(kept) != set(names):
            if isinstance(plan.settings, RunSettings):
                store = self._store_of(plan.settings)
                made = predicted_masks(plan.settings, folder, [plan.method], shown, store, device)[plan.method]
                kept = {name: made[number] for name, number in zip(names, shown, strict=True)}
            else:
                run = open_adapted(folder, device)
                kept = {name: run.mask(truth.image(number), name) for name, number in zip(names, shown, strict=True)}
            save_tensors(path, kept)
        return [kept[name] for name in names]

    def _separation(self) -> dict[str, bytes]:
        """Distances and similarities class by class, means over seeds."""
        if self.experiment.figure != "separation":
            return {}
        key, names = self.experiment.columns[0].key, self.classes.names
        found = {row.label: [plan for plan in self.plans[row.label, key] if plan] for row in self.experiment.rows}
        runs = {
            label: [self.finished[plan.run] for plan in plans]
            for label, plans in found.items()
            if plans and not isinstance(plans[0].settings, RunSettings)
        }
        if not runs:
            return {}

        def mean(of_run: list[Trained], measure: str, name: str) -> float | None:
            if measure == "iou":
                values = [value_of("iou", name, run, self.classes) for run in of_run]
            else:
                values = [run.features.get(measure, {}).get(name) for run in of_run]
            known = [value for value in values if value is not None]
            return fmean(known) if known else None

        def all_of(measure: str) -> dict[str, Sequence[float | None]]:
            return {label: [mean(of_run, measure, name) for name in names] for label, of_run in runs.items()}

        iou = {label: [None if v is None else v / 100 for v in values] for label, values in all_of("iou").items()}
        return {
            "distances.png": figure_png(separation_figure(names, all_of("ccd"), all_of("pdd"))),
            "similarity.png": figure_png(similarity_figure(names, all_of("similarity"), iou)),
        }


def completed(request: Request) -> Request:
    """The request with the built-in scenes where it has none; the encoder is that of the counts unless it is named."""
    return replace(request.with_sets(**SCENES), backbone="" if request.backbone == "filterbank" else request.backbone)


def with_class_columns(experiment: Experiment, classes: ClassSet) -> Experiment:
    """The table with a column for every class after the others, where it asks for them."""
    if not experiment.every_class:
        return experiment
    where: Any = "iou" if experiment.every_class == "target" else "source_iou"
    every = (Column(f"{where}:{name}", name, quantity=where, of=name) for name in classes.names)
    return replace(experiment, columns=(*experiment.columns, *every))


def main_network(experiment: Experiment) -> str:
    """The network that ours stands for with counts other than the paper's."""
    return str(experiment.base.get("preset", "transformer"))


def recipe_of(request: Request, experiment: Experiment, row: Row) -> AdaptRecipe | None:
    """The recipe behind a row; None where these counts have no network for it."""
    changes, main = {**request.besides_set(experiment.base), **row.changes}, main_network(experiment)
    network = str(changes.pop("preset", main))
    if request.counts == "paper":
        base = for_source(PAPERS[network], request.source)
    elif network != main:
        return None
    else:
        base = SMALL if request.counts == "small" else TINY
    if request.backbone and network == main:
        head = "deeplab-v2" if "resnet" in request.backbone else "daformer"
        base = replace(base, network=replace(base.network, encoder=request.backbone, head=head))
    return with_changes(with_words(with_method(base, row.method or "t2s-da"), request.set), changes)


def settings_of(request: Request, experiment: Experiment, row: Row, seed: int) -> AdaptSettings | RunSettings | None:
    """The run behind a row and a seed, or None if there is none."""
    if row.quoted:
        return None
    if row.changes.get("preset") == "best":
        own = weights_of(request.weights, "mobile-sam")
        given = own is not None and own != "random"
        return RunSettings(
            request.source,
            request.target,
            request.eval,
            "0",
            backbone="mobile-sam" if given else "filterbank",
            weights=own if given else None,
            seed=seed,
            recipe=tiny(BEST) if request.counts == "tiny" else BEST,
            mask_map=request.mask_map,
        )
    recipe = recipe_of(request, experiment, row)
    if recipe is None:
        return None
    weights = weights_of(request.weights, recipe.network.encoder)
    weights = "random" if request.counts == "tiny" and weights is None else weights
    target, kept = request.target if recipe.needs_target else None, request.source_eval or None
    return AdaptSettings(request.source, target, request.eval, kept, weights, seed, recipe, request.mask_map)


def weights_of(given: str | None, encoder: str) -> str | None:
    """The weights of an encoder: PATH of the only one, or the one behind its name in NAME=PATH,NAME=PATH.

    Raises:
        ValueError: If a part is not NAME=PATH where others are.

    Example:
        >>> weights_of("mit-b5=/a,resnet-101=/b", "resnet-101"), weights_of("/a", "mit-b5"), weights_of(None, "mit-b5")
        ('/b', '/a', None)
    """
    if given is None or "=" not in given:
        return given
    parts = [part.strip().partition("=") for part in given.split(",")]
    if not all(name and path for name, _, path in parts):
        raise ValueError(f"expected --weights as PATH, or as NAME=PATH of each network with commas; got {given!r}")
    return {name: path for name, _, path in parts}.get(encoder)


def value_of(quantity: str, of: str | None, run: Trained, classes: ClassSet) -> float | None:
    """What stands in a cell, for one seed; None where there is nothing to say."""
    if quantity == "minutes":
        return run.minutes
    if quantity in OF_FEATURES:
        known = [value for value in run.features.get(quantity, {}).values() if value is not None]
        return fmean(known) if known else None
    counts = _counts(quantity, run)
    iou = None if counts is None else 100 * iou_from_counts(counts.sum(0))
    return None if iou is None else class_mean(quantity.removeprefix("source_"), of, iou, classes)


def _counts(quantity: str, run: Trained) -> Tensor | None:
    return run.source_counts if quantity in OF_SOURCE else run.counts
