"""Adapters behind the rows of a table: trained once on pseudo-labels of training pairs, kept, and taken from there."""

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path

import torch
from safetensors.torch import load_file, save
from torch import Tensor

from saot.data import write_atomic
from saot.data.pairs import Pair
from saot.match import Side, pseudo_label, shape_of_you
from saot.match.adapter import Adapter, token_map
from saot.match.shape_of_you import PseudoLabel, nearest_label
from saot.match.train_adapter import AdapterPair, AdapterSettings, fit_adapter
from saot.reproduce.matching.model import AdapterPlan
from saot.reproduce.matching.sides import Viewer
from saot.reproduce.pieces import Progress
from saot.transfer import Checkpoint

WIDTH = 256  # of the refined features here; the paper's is 768


def trained_adapter(
    plan: AdapterPlan, pairs: Sequence[Pair], viewer: Viewer, folder: Path, seed: int, progress: Progress | None = None
) -> Adapter:
    """The adapter of a plan, from its file if it was trained before."""
    key = viewer.network.key
    digest = hashlib.sha256(
        json.dumps([plan.identity(), key.to_json(), viewer.models, seed], default=str).encode()
    ).hexdigest()[:16]
    path = folder / f"adapter-{digest}.safetensors"
    adapter = _new_adapter(viewer, seed)
    if path.is_file():
        adapter.load_state_dict(load_file(path))
        return adapter.eval()
    prepared: list[AdapterPair] = []
    labels: list[PseudoLabel] = []
    for number in range(len(pairs)):
        if progress is not None:
            progress("pseudo-labels", number, len(pairs))
        pair = pairs[number]
        seen = viewer.see(pair.source), viewer.see(pair.target)
        sides = [viewer.side_of(one, "object", plan.space, seed) for one in seen]
        maps = [[token_map(side.tokens, side.shape)] for side in sides]
        label = _label(plan, sides[0], sides[1])
        if len(label):
            prepared.append(AdapterPair(sides[0], sides[1], maps[0], maps[1]))
            labels.append(label)
    if not prepared:
        raise ValueError(f"no pseudo-label survived in {plan.pairs}; raise cycle_radius or topk")
    settings = AdapterSettings(**{**plan.changes, "seed": seed})
    told = None if progress is None else lambda done, total: progress("adapter", done, total)
    checkpoint = Checkpoint(path.with_suffix(".checkpoint"))
    fit = fit_adapter(adapter, prepared, labels, settings, checkpoint=checkpoint, progress=told)
    write_atomic(path, save({name: tensor.cpu().contiguous() for name, tensor in fit.adapter.state_dict().items()}))
    checkpoint.clear()
    return fit.adapter


def adapted(adapter: Adapter, side: Side) -> Side:
    """The side with the adapter's tokens."""
    with torch.no_grad():
        tokens: Tensor = adapter.tokens([token_map(side.tokens, side.shape)], side.shape)
    return Side(torch.nn.functional.normalize(tokens, dim=-1), side.shape, side.mask, side.points)


def _new_adapter(viewer: Viewer, seed: int) -> Adapter:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return Adapter((viewer.network.dim,), out=WIDTH).to(viewer.device)


def _label(plan: AdapterPlan, source: Side, target: Side) -> PseudoLabel:
    settings = plan.label_settings()
    if plan.labels == "nearest":
        return nearest_label(source, target, settings)
    return pseudo_label(shape_of_you(source, target, settings), settings)
