"""The questions that tables ask of the main job and of its data."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path

import torch
from jaxtyping import Int64, UInt8
from torch import Tensor

from saot.data import ClassSet, mask_map_of
from saot.evaluate import predict_mask
from saot.label import (
    Contest,
    RunSettings,
    Wings,
    all_methods,
    fingerprints_file,
    open_contest,
    open_inputs,
    parse_size,
    score_some,
)
from saot.runs import Workspace, read_kept
from saot.tables.interventions import all_rivals
from saot.tables.rivals import run_rivals
from saot.tables.wings import ALL_WINGS

Progress = Callable[[str, int, int], None]


@dataclass(frozen=True)
class MethodScore:
    """One method on the evaluation set.

    Attributes:
        counts: (N, K, K) confusion counts of each picture, rows truth.
        budget: Target labels the method has seen.
        seconds: Of scoring.
        edges: As `counts`, of the pixels near an edge of the truth alone; None where they were not counted.
    """

    counts: Int64[Tensor, "N K K"]
    budget: int
    seconds: float
    edges: Int64[Tensor, "N K K"] | None = None


@dataclass(frozen=True)
class Scored:
    """What a run has scored.

    Attributes:
        methods: By name.
        stages: Name -> `seconds` and `peak_memory_bytes`.
        left_out: Sentences about pictures whose masks have another size.
    """

    methods: Mapping[str, MethodScore]
    stages: Mapping[str, Mapping[str, float]]
    left_out: tuple[str, ...] = ()


def score(
    settings: RunSettings,
    folder: Path,
    methods: Sequence[str],
    store: Path,
    device: str,
    progress: Progress | None,
    strict: bool = False,
) -> Scored:
    """Do a run, or go on with it, until these methods are scored; runs beside it share what they have in common.

    Raises:
        ValueError: If an input is not as it should be, or a method does not exist in this run.
    """
    outcome = score_some(
        settings,
        folder,
        methods,
        store=store,
        shared=shared_folder(folder),
        device=device,
        wings=ALL_WINGS,
        rivals=all_rivals,
        strict=strict,
        progress=progress,
    )
    scores = {
        name: MethodScore(result.counts, result.budget, outcome.seconds[name], result.edges)
        for name, result in outcome.methods.items()
        if result.counts is not None
    }
    return Scored(scores, outcome.stages, outcome.left_out)


def shared_folder(folder: Path) -> Path:
    """Where a run and those beside it leave for each other what does not depend on their decoders."""
    return folder.parent / "shared"


@contextmanager
def opened(settings: RunSettings, folder: Path, store: Path, device: str) -> Iterator[Contest]:
    """A run that is there already, with everything a stage may use."""
    space = Workspace(folder, settings.to_dict())
    try:
        inputs = open_inputs(settings, device, ALL_WINGS, fingerprints_file(folder, store))
        yield open_contest(settings, inputs, space, store, device)
    finally:
        space.close()


def predicted_masks(
    settings: RunSettings, folder: Path, methods: Sequence[str], pictures: Sequence[int], store: Path, device: str
) -> dict[str, dict[int, UInt8[Tensor, "h w"]]]:
    """Masks of some evaluation pictures by methods that a run has scored, by method and picture number."""
    with opened(settings, folder, store, device) as contest:
        builders, masks, domain = all_methods(contest, run_rivals), {}, contest.evaluation.domain
        for method in methods:
            scorer = builders[method]()
            masks[method] = {
                number: predict_mask(scorer.score(number).cpu(), domain.grid(number), scorer.bias)
                for number in pictures
            }
        return masks


def source_tokens(folder: Path, num_classes: int) -> Int64[Tensor, " K"] | None:
    """Labelled source tokens of each class in a run; None before it has labelled them."""
    kept = read_kept(folder / "work" / "source-labels.safetensors")
    if kept is None:
        return None
    counts = torch.zeros(num_classes, dtype=torch.int64)
    for part in kept.tensors.values():
        counts += torch.bincount(part[part != 255].long(), minlength=num_classes)
    return counts


@lru_cache(maxsize=64)
def available_pictures(spec: str) -> int:
    """How many pictures a data set has."""
    return len(ALL_WINGS.images(spec))


@lru_cache(maxsize=64)
def classes_of(spec: str, mask_map: str | None = None) -> ClassSet:
    """The classes of a labelled data set; `mask_map` as in `RunSettings`."""
    return wings_of(mask_map).labelled(spec).classes


def wings_of(mask_map: str | None) -> Wings:
    """All wings, with a map of mask values where one is given."""
    return replace(ALL_WINGS, mask_map=mask_map_of(mask_map))


@dataclass(frozen=True)
class Grid:
    """What a backbone makes of a picture: patch size and input size in pixels, feature width."""

    patch: int
    dim: int
    height: int
    width: int

    @property
    def tokens(self) -> int:
        """Tokens of the picture."""
        return (self.height // self.patch) * (self.width // self.patch)


@lru_cache(maxsize=64)
def grid_of(backbone: str, weights: str | None, size: str | None, spec: str) -> Grid:
    """What a backbone makes of the first picture of a data set."""
    network = ALL_WINGS.backbone(backbone, weights, size=parse_size(size))
    height, width = network.input_size(*ALL_WINGS.images(spec).size(0))
    return Grid(network.patch_size, network.dim, height, width)


@lru_cache(maxsize=64)
def patch_size(backbone: str, weights: str | None) -> int:
    """Pixels of network input per token."""
    return ALL_WINGS.backbone(backbone, weights).patch_size
