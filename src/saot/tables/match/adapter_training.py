"""Adapters behind the rows of a table: trained once on pseudo-labels of training pairs, kept, and taken from there."""

import hashlib
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import torch

from saot.features import map_widths
from saot.match import (
    Adapter,
    AdapterPair,
    AdapterSettings,
    HeldOut,
    MatchSide,
    PseudoLabel,
    fit_adapter,
    nearest_label,
    pseudo_label,
    save_adapter,
    shape_of_you,
    token_maps,
)
from saot.match.pairs import Pair
from saot.runs import Checkpoint, first_weights, load_tensors
from saot.tables.label_room import Progress
from saot.tables.match.viewer import NetworkOutputs, Viewer
from saot.tables.match.way import AdapterPlan

_KEPT = 64  # pairs in memory; at 60 x 60 tokens of 768 numbers each has 22 MB


def trained_adapter(
    plan: AdapterPlan,
    pairs: Sequence[Pair],
    viewer: Viewer,
    folder: Path,
    seed: int,
    progress: Progress | None = None,
    labeller: Viewer | None = None,
) -> Adapter:
    """The adapter of a plan, from its file if it was trained before; pseudo-labels are kept beside it.

    Args:
        plan: What it is trained on, and how.
        pairs: Training pairs.
        viewer: Opens them; its features are refined.
        folder: Where the adapter and its labels are kept.
        seed: Fixes every draw.
        progress: Called with (stage, done, total).
        labeller: Opens them for the pseudo-labels, with features of its own (Tab. S1); the viewer unless given.

    Raises:
        ValueError: If too few pairs have a pseudo-label.
    """
    key = viewer.network.key
    made_of = [plan.identity(), key.to_json(), viewer.models, seed]
    made_of += [] if labeller is None else [labeller.network.key.to_json()]
    name = f"adapter-{hashlib.sha256(json.dumps(made_of, default=str).encode()).hexdigest()[:16]}"
    path = folder / f"{name}.safetensors"
    adapter = _new_adapter(plan, viewer, seed)
    if path.is_file():
        kept = load_tensors(path)
        if kept is not None:
            adapter.load_state_dict(kept)
            return adapter.eval()
    view = _opener(plan, pairs, viewer, seed)
    seen_by = view if labeller is None else _opener(plan, pairs, labeller, seed)
    kept_labels, labels = NetworkOutputs(folder / f"{name}-labels"), {}
    for number, pair in enumerate(pairs):
        label = _kept_label(plan, pair, lambda number=number: seen_by(number), kept_labels)
        if labeller is not None:
            _check_grids(label, view(number), pair)
        if len(label):
            labels[number] = label
        if progress is not None:
            progress("pseudo-labels", number + 1, len(pairs))
    if len(labels) <= plan.held_out:
        raise ValueError(
            f"{len(labels)} pairs of {plan.pairs} have a pseudo-label, and {plan.held_out} are held out; give more "
            "pairs, or raise cycle_radius or topk"
        )
    trained, held_out = (
        _Pairs(view, numbers, [labels[n] for n in numbers]) for numbers in split(labels, plan.held_out)
    )
    settings = AdapterSettings(**{**plan.changes, "seed": seed})
    told = None if progress is None else lambda done, total: progress("adapter", done, total)
    checkpoint = Checkpoint(path.with_suffix(".checkpoint"))
    chosen_by = HeldOut(held_out, held_out.labels) if len(held_out) else None
    fit = fit_adapter(
        adapter, trained, trained.labels, settings, held_out=chosen_by, checkpoint=checkpoint, progress=told
    )
    save_adapter(path, fit.adapter, key)
    checkpoint.clear()
    return fit.adapter


def _check_grids(label: PseudoLabel, seen: AdapterPair, pair: Pair) -> None:
    """Refuse labels of another grid than that of the features they are to train.

    Raises:
        ValueError: If the networks see the pair on different grids.
    """
    labelled, own = (label.source_shape, label.target_shape), (seen.source.shape, seen.target.shape)
    if labelled != own:
        raise ValueError(
            f"the network of --label-backbone sees pair {pair.key} on grids of {labelled} tokens and the backbone on "
            f"{own}; give both the same grid, such as by joining them: --label-backbone BACKBONE+OTHER"
        )


def _kept_label(plan: AdapterPlan, pair: Pair, view: Callable[[], AdapterPair], kept: NetworkOutputs) -> PseudoLabel:
    """The pseudo-label of a pair as it was kept, or made now: a table that is stopped goes on with the next."""

    def make() -> dict[str, torch.Tensor]:
        seen = view()
        label = _label(plan, seen.source, seen.target)
        shapes = torch.tensor([*label.source_shape, *label.target_shape])
        found = {"source": label.source, "target": label.target, "confidence": label.confidence, "shapes": shapes}
        return {name: tensor.cpu() for name, tensor in found.items()}

    known = [part for side in (pair.source, pair.target) for part in (side.name, side.size, side.box)]
    found = kept.get(["label", pair.key, *known], make)
    shapes = found["shapes"].tolist()
    return PseudoLabel(
        found["source"], found["target"], found["confidence"], (shapes[0], shapes[1]), (shapes[2], shapes[3])
    )


def split(numbers: Sequence[int] | dict[int, PseudoLabel], held_out: int) -> tuple[list[int], list[int]]:
    """Numbers to train on and numbers to hold out, the latter spread evenly.

    Example:
        >>> split(range(6), 2)
        ([1, 2, 4, 5], [0, 3])
    """
    numbers = list(numbers)
    apart = [numbers[place * len(numbers) // held_out] for place in range(held_out)]
    return [number for number in numbers if number not in set(apart)], apart


@dataclass(frozen=True, eq=False)
class _Pairs:
    """Some of the training pairs, opened when they are drawn."""

    view: Callable[[int], AdapterPair]
    numbers: Sequence[int]
    labels: Sequence[PseudoLabel]

    def __len__(self) -> int:
        return len(self.numbers)

    def __getitem__(self, place: int, /) -> AdapterPair:
        return self.view(self.numbers[place])


def _opener(plan: AdapterPlan, pairs: Sequence[Pair], viewer: Viewer, seed: int) -> Callable[[int], AdapterPair]:
    """Pairs by number; all stay in memory where no store keeps their features, else the last few."""

    @lru_cache(maxsize=None if viewer.store is None else _KEPT)
    def view(number: int) -> AdapterPair:
        pictures = viewer.see(pairs[number].source), viewer.see(pairs[number].target)
        source, target = (viewer.side_of(one, "object", plan.space, seed) for one in pictures)
        widths = map_widths(viewer.network)
        maps = [token_maps(side.tokens, side.shape, widths) for side in (source, target)]
        return AdapterPair(source, target, *maps)

    return view


def _new_adapter(plan: AdapterPlan, viewer: Viewer, seed: int) -> Adapter:
    with first_weights(seed):
        return Adapter(map_widths(viewer.network), out=plan.width).to(viewer.device)


def _label(plan: AdapterPlan, source: MatchSide, target: MatchSide) -> PseudoLabel:
    settings = plan.label_settings()
    if plan.labels == "nearest":
        return nearest_label(source, target, settings)
    return pseudo_label(shape_of_you(source, target, settings), settings)
