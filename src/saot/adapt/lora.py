"""`saot lora`: low-rank adapters on a frozen backbone, trained through the transport loss and merged into it."""

import dataclasses
import json
import platform
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import torch

from saot.adapt.lora_fit import LoraRecipe, MovingDomain, fit_adapters, held_out_accuracy
from saot.adapt.low_rank import add_adapters, fill_adapters, merge_adapters, packed_adapters, without_adapters
from saot.data import said_of_masks, sha256_file, whole_record, write_atomic
from saot.features import FeatureStore, Trainable
from saot.label import (
    NO_WINGS,
    Bench,
    Inputs,
    RunSettings,
    TrainingData,
    Wings,
    check_manifest,
    declare,
    fingerprints_file,
    keep_manifest,
    kept_manifest,
    label_source,
    open_inputs,
    open_points,
    sizes_of,
)
from saot.recipes import Recipe, ScoreRecipe, as_dict
from saot.runs import (
    RUN_FORMAT,
    History,
    Kept,
    Making,
    Workspace,
    check_device,
    commit_of_code,
    device_name,
    first_weights,
    generator_for,
    identity_of,
    versions,
)
from saot.transfer import SemanticCost

KIND = "lora"
_TERMS = ("loss", "points", "entropy", "diversity", "reached", "covered", "converged")


@dataclass(frozen=True)
class LoraSettings:
    """The whole request behind a run folder of `saot lora`.

    Attributes:
        source: SPEC of the labelled pictures.
        target: SPEC of the pictures to adapt to.
        points: The budget of target labels, as in `RunSettings`; "0" lets source pictures stand in for the target.
        backbone: mobile-sam or a ViT.
        weights: Its weights.
        size: Its input size.
        seed: Fixes every draw.
        recipe: All other settings.
        mask_map: What the values in masks of a folder mean, as in `RunSettings`.
    """

    source: str
    target: str
    points: str = "0"
    backbone: str = "dinov2-large"
    weights: str | None = None
    size: str | None = None
    seed: int = 0
    recipe: LoraRecipe = field(default_factory=LoraRecipe)
    mask_map: str | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "mask_map", said_of_masks(self.mask_map, self.source, self.target))
        if len(sizes_of(self.size)) > 1:
            raise ValueError(f"expected one input size to adapt a backbone at; got {self.size}: choose one of them")
        self.request()

    def request(self) -> RunSettings:
        """The part of it that a run of the main job has, too."""
        recipe = Recipe(
            name=KIND,
            transport=self.recipe.transport,
            cost=self.recipe.cost,
            scores=ScoreRecipe(holdout_points=self.recipe.adapter.held_out),
        )
        plain = {one.name: getattr(self, one.name) for one in dataclasses.fields(self) if one.name != "recipe"}
        return RunSettings(**plain, recipe=recipe)

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values, for run.json."""
        plain = {one.name: getattr(self, one.name) for one in dataclasses.fields(self) if one.name != "recipe"}
        if self.mask_map is None:  # as in runs of earlier versions
            del plain["mask_map"]
        return {"format": RUN_FORMAT, "kind": KIND, **plain, "recipe": as_dict(self.recipe)}


@dataclass(frozen=True)
class LoraOutcome:
    """What `run_lora` ends with.

    Attributes:
        run: Contents of run.json.
        weights: The merged weights: what `--weights` takes.
        resumed: True if nothing was left to do.
    """

    run: dict[str, Any]
    weights: Path
    resumed: bool


def run_lora(
    settings: LoraSettings,
    out: Path,
    *,
    device: str = "cpu",
    wings: Wings = NO_WINGS,
    strict: bool = False,
    progress: Callable[[str, int, int], None] | None = None,
) -> LoraOutcome:
    """Train the adapters, merge them, write the backbone; the same call again goes on where it stopped.

    Args:
        settings: What is asked.
        out: The run folder: adapter.safetensors, backbone/ (or backbone.safetensors), points.csv, log.jsonl, run.json.
        device: Where network and transport run.
        wings: What the core does not know.
        strict: Whether a mask that has not the size of its picture ends the run; else the picture is left out.
        progress: Called with (stage, done, total).

    Raises:
        ValueError: If an input is not as it should be; nothing made so far is lost.
        FloatingPointError: If the loss is not finite.
    """
    check_device(device)
    inputs = open_inputs(settings.request(), device, wings, fingerprints_file(Path(out), None), strict)
    backbone, recipe = inputs.backbone, settings.recipe.adapter
    if not isinstance(backbone, Trainable):
        raise ValueError(f"expected a backbone that adapters fit, mobile-sam or a ViT; got {settings.backbone}")
    blocks = list(backbone.attention_blocks)
    if recipe.blocks > len(blocks):
        raise ValueError(f"expected at most {len(blocks)} --blocks, all of {settings.backbone}; got {recipe.blocks}")
    adapters = add_adapters(
        backbone.network, blocks[-recipe.blocks :], recipe.rank, recipe.alpha, recipe.layers, settings.seed
    )
    space = Workspace(out, settings.to_dict(), progress)
    try:
        inputs.seen.save()
        finished = _finished(space)
        if finished is not None:
            check_manifest(inputs.found, kept_manifest(space) or {})
            return finished
        began = time.time()
        data, bench = _open_data(settings, inputs, backbone, space, device)
        identity = identity_of(data, settings.seed, settings.recipe, device.split(":")[0])
        maker = partial(_train, settings, adapters, data, bench)
        kept = space.once("adapter", identity, maker, title="adapter", log="adapter")
        fill_adapters(adapters, kept.tensors)
        accuracy = _judged(adapters, data, space, identity)
        merge_adapters(backbone.network)
        with space.stage("backbone"):
            place = backbone.save(space.path("backbone"))
        space.write_log()
        run = _record(settings, inputs, data, space, kept, accuracy, place, began)
        write_atomic(space.path("run.json"), (json.dumps(run, indent=1) + "\n").encode())
        return LoraOutcome(run, place, resumed=False)
    finally:
        space.close()


def _open_data(
    settings: LoraSettings, inputs: Inputs, backbone: Trainable, space: Workspace, device: str
) -> tuple[TrainingData, Bench]:
    """Points and patch labels, and pictures whose tokens move; the target's masks are opened for its points alone."""
    request, kept = settings.request(), kept_manifest(space)
    if kept is not None:
        check_manifest(inputs.found, kept)
    with space.stage("points"):
        points = open_points(request, inputs, inputs.target_masks, space, fresh=kept is None)
    store = FeatureStore(space.work("features"), backbone.key)  # stays empty: tokens of a moment are not kept

    def domain(images: Any, content: object) -> MovingDomain:
        identity = identity_of(backbone.key, content)
        return MovingDomain(images, store, backbone.key.dim, torch.device(device), identity, network=backbone)

    source, target = (
        domain(images, inputs.found[name])
        for name, images in (("source", inputs.source.images), ("target", inputs.target))
    )
    bench = Bench(space, request.recipe, settings.seed, torch.device(device))
    labelled = label_source(inputs, source, settings.source, bench)
    share = settings.recipe.adapter.held_out
    declared = declare(settings.points, points, labelled, target, inputs.target_masks, bench, share)
    if kept is None:
        keep_manifest(space, inputs.found)
    return TrainingData(inputs.classes, labelled, target, declared), bench


def _train(settings: LoraSettings, adapters: Any, data: TrainingData, bench: Bench, making: Making) -> Kept:
    """The trained adapters, and the cost along with them."""
    recipe, cost = settings.recipe, None
    if recipe.adapter.learn_cost:
        with first_weights(generator_for(settings.seed, "cost weights").initial_seed()):
            cost = SemanticCost(data.target.dim, recipe.cost).to(bench.device)
    checkpoint = dataclasses.replace(making.checkpoint, every=min(50, making.checkpoint.every))
    history = fit_adapters(
        adapters, cost, data, recipe, seed=settings.seed, checkpoint=checkpoint, progress=making.progress
    )
    making.log(history)
    tensors = packed_adapters(adapters)
    facts = {
        "parameters": sum(value.numel() for value in tensors.values()),
        "layers": sorted({name.rpartition(".")[0] for name in tensors}),
        "losses": ends_of(history),
    }
    if cost is not None:
        tensors |= {f"cost.{name}": value.cpu() for name, value in cost.state_dict().items()}
    about = {"rank": recipe.adapter.rank, "alpha": recipe.adapter.alpha, "backbone": settings.backbone}
    return Kept(tensors, facts, about)


def ends_of(history: History) -> dict[str, dict[str, float]]:
    """Means of the records over the first and over the last fifth of a training.

    Example:
        >>> ends_of([{"loss": 3.0}, {"loss": 2.0}, {"loss": 2.0}, {"loss": 2.0}, {"loss": 1.0}])
        {'first': {'loss': 3.0}, 'last': {'loss': 1.0}}
    """
    solved = [record for record in history if "skipped" not in record]
    length = max(1, len(solved) // 5)
    found = {}
    for name, part in (("first", solved[:length]), ("last", solved[-length:])):
        terms = [term for term in _TERMS if all(term in record for record in part)] if part else []
        found[name] = {term: round(sum(record[term] for record in part) / len(part), 6) for term in terms}
    return found


def _judged(adapters: Any, data: TrainingData, space: Workspace, identity: str) -> dict[str, float | None]:
    """Accuracy of the nearest source token at held-out points, by frozen and by adapted tokens; None without points."""

    def make(making: Making) -> Kept:
        with without_adapters(adapters):
            before = held_out_accuracy(data, making.progress)
        after = held_out_accuracy(data, making.progress)
        found = {"frozen": before, "adapted": after}
        return Kept(facts={name: None if value is None else round(value, 6) for name, value in found.items()})

    return dict(space.once("work/held-out", identity_of(identity, "held out"), make, title="held-out points").facts)


def _finished(space: Workspace) -> LoraOutcome | None:
    """The outcome of a run that is complete, or None. run.json is written last."""
    path = space.path("run.json")
    if not path.is_file() or not space.path("adapter.safetensors").exists():
        return None
    run = whole_record(path)
    if run is None:
        return None  # damaged: it is written again
    place = space.path(str(run.get("weights")))
    return LoraOutcome(run, place, resumed=True) if place.exists() else None


def _record(
    settings: LoraSettings,
    inputs: Inputs,
    data: TrainingData,
    space: Workspace,
    kept: Kept,
    accuracy: dict[str, float | None],
    place: Path,
    began: float,
) -> dict[str, Any]:
    """run.json."""
    files = sorted(place.glob("*.safetensors")) if place.is_dir() else [place]
    return {
        "format": RUN_FORMAT,
        "kind": KIND,
        "settings": settings.to_dict(),
        "weights": place.name,
        "weights_sha256": {file.name: sha256_file(file) for file in files},
        "frozen_weights_sha256": inputs.backbone.key.weights_sha256,
        "pictures": {"source": len(data.source), "target": len(data.target)},
        "label_budget": data.points.budget,
        "held_out_points": len(data.points.tokens.held()),
        "parameters": kept.facts["parameters"],
        "layers": kept.facts["layers"],
        "losses": kept.facts["losses"],
        "held_out_accuracy": accuracy,
        "stages": space.all_stages(),
        "started": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(began)),
        "notes": list(inputs.left_out),
        "versions": versions(("saot", "torch", "numpy", "safetensors", "pillow", "transformers")),
        "commit": commit_of_code(),
        "device": device_name(data.target.device),
        "python": platform.python_version(),
    }
