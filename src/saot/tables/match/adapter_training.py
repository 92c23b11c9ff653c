"""Adapters behind the rows of a table: trained once on pseudo-labels of training pairs, kept, and taken from there."""

import hashlib
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import torch
from safetensors.torch import load_file, save
from torch import Tensor

from saot.data import write_atomic
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
    shape_of_you,
    token_map,
)
from saot.match.pairs import Pair
from saot.runs import Checkpoint, first_weights
from saot.tables.label_room import Progress
from saot.tables.match.viewer import Viewer
from saot.tables.match.way import AdapterPlan

_KEPT = 64  # pairs in memory; at 60 x 60 tokens of 768 numbers each has 22 MB


def trained_adapter(
    plan: AdapterPlan, pairs: Sequence[Pair], viewer: Viewer, folder: Path, seed: int, progress: Progress | None = None
) -> Adapter:
    """The adapter of a plan, from its file if it was trained before.

    Raises:
        ValueError: If too few pairs have a pseudo-label.
    """
    key = viewer.network.key
    digest = hashlib.sha256(
        json.dumps([plan.identity(), key.to_json(), viewer.models, seed], default=str).encode()
    ).hexdigest()[:16]
    path = folder / f"adapter-{digest}.safetensors"
    adapter = _new_adapter(plan, viewer, seed)
    if path.is_file():
        adapter.load_state_dict(load_file(path))
        return adapter.eval()
    view = _opener(plan, pairs, viewer, seed)
    labels: dict[int, PseudoLabel] = {}
    for number in range(len(pairs)):
        if progress is not None:
            progress("pseudo-labels", number, len(pairs))
        pair = view(number)
        label = _label(plan, pair.source, pair.target)
        if len(label):
            labels[number] = label
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
    write_atomic(path, save({name: tensor.cpu().contiguous() for name, tensor in fit.adapter.state_dict().items()}))
    checkpoint.clear()
    return fit.adapter


def split(numbers: Sequence[int] | dict[int, PseudoLabel], held_out: int) -> tuple[list[int], list[int]]:
    """Numbers to train on and numbers to hold out, the latter spread evenly.

    Example:
        >>> split(range(6), 2)
        ([1, 2, 4, 5], [0, 3])
    """
    numbers = list(numbers)
    apart = [numbers[place * len(numbers) // held_out] for place in range(held_out)]
    return [number for number in numbers if number not in set(apart)], apart


def adapted(adapter: Adapter, side: MatchSide) -> MatchSide:
    """The side with the adapter's tokens."""
    with torch.no_grad():
        tokens: Tensor = adapter.tokens([token_map(side.tokens, side.shape)], side.shape)
    return MatchSide(torch.nn.functional.normalize(tokens, dim=-1), side.shape, side.mask, side.points)


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
        maps = [[token_map(side.tokens, side.shape)] for side in (source, target)]
        return AdapterPair(source, target, *maps)

    return view


def _new_adapter(plan: AdapterPlan, viewer: Viewer, seed: int) -> Adapter:
    with first_weights(seed):
        return Adapter((viewer.network.dim,), out=plan.width).to(viewer.device)


def _label(plan: AdapterPlan, source: MatchSide, target: MatchSide) -> PseudoLabel:
    settings = plan.label_settings()
    if plan.labels == "nearest":
        return nearest_label(source, target, settings)
    return pseudo_label(shape_of_you(source, target, settings), settings)
