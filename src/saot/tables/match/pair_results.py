"""What a way of matching says of a pair, and the file that keeps it."""

import hashlib
import json
import os
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Bool, Float64
from torch import Tensor

from saot.data import point_tokens
from saot.match import (
    Basis,
    MatchSettings,
    MatchSide,
    as_it_is,
    choose_pose,
    flow_hits,
    in_mask,
    match_sides,
    mirror_points,
    mirror_side,
    to_pixels,
)
from saot.match.pairs import Pair
from saot.runs import peak_bytes, reset_peak
from saot.tables.match.viewer import Seen, Viewer, symmetric_tokens
from saot.tables.match.way import Way

Look = Callable[[Seen], MatchSide]  # what the matcher sees of a picture
ALPHAS = (0.01, 0.05, 0.1, 0.15, 0.2)


@dataclass(frozen=True)
class PairResult:
    """What one way of matching says of one pair.

    Attributes:
        seconds: Of matching.
        feature_seconds: Of the features of both pictures; 0 where they were kept.
        memory_mib: Most that matching held beyond what was there before.
        places: (x, y) in the target of each key point of the pair, pixels; empty for flow.
        inside: Key points whose target lies on the object's mask; empty where there is none.
        hits: Of flow, the pixels within each of ALPHAS, then how many count.
    """

    seconds: float
    feature_seconds: float = 0.0
    memory_mib: float = 0.0
    places: tuple[tuple[float, ...], ...] = ()
    inside: tuple[bool, ...] = ()
    hits: tuple[int, ...] = ()


def annotation(pair: Pair) -> str:
    """Stands for what is known of a pair: its names, places, boxes and sizes. Another annotation is another result."""
    found = hashlib.sha256()
    for side in (pair.source, pair.target):
        found.update(f"{pair.key} {side.name} {side.size} {side.box}".encode())
        found.update(side.points.tobytes() + side.visible.tobytes())
    return found.hexdigest()[:32]


def read_results(path: Path, pairs: Sequence[Pair]) -> dict[str, PairResult]:
    """What an earlier run found for these pairs as they are annotated now, by their keys.

    A last line that was cut off is left out.
    """
    found: dict[str, PairResult] = {}
    known = {pair.key: annotation(pair) for pair in pairs} if path.exists() else {}
    for line in path.read_text().splitlines() if known else ():
        try:
            record = json.loads(line)
            key = record.pop("key")
            if record.pop("annotation", "") != known.get(key):
                continue  # of other pairs of the set, or annotated anew
            places = tuple(tuple(place) for place in record.pop("places"))
            lists = {name: tuple(record.pop(name)) for name in ("inside", "hits")}
            found[key] = PairResult(places=places, **lists, **record)
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
            continue  # killed while writing, or damaged since
    return found


def append_result(path: Path, pair: Pair, result: PairResult) -> None:
    """Add one line; one that was cut off before it stays apart."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("ab+") as file:
        end = file.seek(0, os.SEEK_END)
        file.seek(max(0, end - 1))
        broken = end > 0 and file.read(1) != b"\n"
        line = json.dumps({"key": pair.key, "annotation": annotation(pair), **asdict(result)}) + "\n"
        file.write(("\n" * broken + line).encode())


def key_point_result(
    way: Way,
    pair: Pair,
    pictures: tuple[Seen, Seen],
    look: Look,
    viewer: Viewer,
    basis: Basis = as_it_is,
) -> PairResult:
    """Where each key point of the source goes: what the nearest token of its mask says."""
    source, target = pictures
    sides = look(source), look(target)
    points, names, side = pair.source.points, np.arange(len(pair.names)), sides[0]
    spent, flipped = source.seconds + target.seconds, None
    if way.pose_align:
        started = time.perf_counter()
        flipped = viewer.mirrored(source, side, way)
        spent += time.perf_counter() - started
    watch = Watch(viewer.device)
    reduced = basis(*sides)
    side, sides = reduced(side), (reduced(sides[0]), reduced(sides[1]))
    if flipped is not None:
        flipped = reduced(flipped)
    if flipped is not None and mirror_is_nearer(flipped, source, target, sides, viewer):
        side = flipped
        moved, origin = mirror_points(torch.from_numpy(points), source.image.shape[1], pair.mirror)
        points, names = moved.numpy(), origin.numpy()
    tokens = tokens_of(points, source)
    symmetric = symmetric_tokens(pair, source.grid, tokens) if way.symmetric else None
    matching = match_sides(side, sides[1], way.settings, symmetric)
    places = to_pixels(matching.positions.cpu()[nearest_in_mask(tokens, side)], target.grid).flip(-1).numpy()
    if way.pose_align and not np.array_equal(names, np.arange(len(names))):
        places = _only_where_annotated(way, pair, names, places, (source, target), sides)
    seconds, memory = watch.read()
    inside = inside_mask(pair, viewer.object_mask(target)) if way.counted == "mask" else ()
    kept = tuple(tuple(place) for place in np.round(places, 3).tolist())
    return PairResult(seconds, spent, memory, kept, inside)


def mirror_is_nearer(
    flipped: MatchSide, source: Seen, target: Seen, sides: tuple[MatchSide, MatchSide], viewer: Viewer
) -> bool:
    """Whether the mirrored source lies nearer to the target, within the objects' masks where there are any."""
    straight, other = sides
    if viewer.has_mask(source) and viewer.has_mask(target):
        straight = replace(straight, mask=viewer.token_mask(source))
        other = replace(other, mask=viewer.token_mask(target))
        flipped = mirror_side(straight, flipped.tokens)
    return choose_pose(straight, flipped, other)[1]


class Watch:
    """Seconds and memory since it was made: the GPU's where matching runs on one, else the host's."""

    def __init__(self, device: str = "cpu") -> None:
        self.gpu = torch.device(device) if torch.device(device).type == "cuda" else None
        if self.gpu is None:
            reset_peak()
        else:
            torch.cuda.synchronize(self.gpu)  # what was begun before is not ours
            torch.cuda.reset_peak_memory_stats(self.gpu)
        self.before, self.started = self._peak(), time.perf_counter()

    def read(self) -> tuple[float, float]:
        """Seconds, and MiB above what was held at the start."""
        if self.gpu is not None:
            torch.cuda.synchronize(self.gpu)
        return time.perf_counter() - self.started, max(0, self._peak() - self.before) / 2**20

    def _peak(self) -> int:
        return peak_bytes() if self.gpu is None else torch.cuda.max_memory_allocated(self.gpu)


def inside_mask(pair: Pair, mask: Bool[np.ndarray, "h w"]) -> tuple[bool, ...]:
    """Which of the target's key points lie on the object's mask."""
    places = torch.from_numpy(pair.target.points).flip(-1)
    return tuple(in_mask(places, torch.from_numpy(mask.ravel().copy()), (mask.shape[0], mask.shape[1])).tolist())


def _only_where_annotated(
    way: Way,
    pair: Pair,
    names: np.ndarray,
    places: np.ndarray,
    pictures: tuple[Seen, Seen],
    sides: tuple[MatchSide, MatchSide],
) -> np.ndarray:
    """Places by the mirrored picture where its key point is annotated in the source, else those without mirror."""
    source, target = pictures
    tokens = tokens_of(pair.source.points, source)
    symmetric = symmetric_tokens(pair, source.grid, tokens) if way.symmetric else None
    plain = match_sides(*sides, way.settings, symmetric).positions.cpu()
    tokens = nearest_in_mask(tokens, sides[0])
    straight = to_pixels(plain[tokens], target.grid).flip(-1).numpy()
    return np.where(pair.source.visible[names][:, None], places, straight)


def tokens_of(points: Float64[np.ndarray, "p 2"], seen: Seen) -> Tensor:
    """The source token under each key point; those outside the picture count at its edge."""
    height, width = seen.image.shape[:2]
    x = torch.from_numpy(np.clip(np.floor(points[:, 0] + 0.5), 0, width - 1)).long()
    y = torch.from_numpy(np.clip(np.floor(points[:, 1] + 0.5), 0, height - 1)).long()
    return point_tokens(x, y, seen.grid)


def nearest_in_mask(tokens: Tensor, side: MatchSide) -> Tensor:
    """The nearest token that may be matched."""
    inside = side.mask.nonzero()[:, 0].cpu()
    columns = side.shape[1]

    def places(numbers: Tensor) -> Tensor:
        return torch.stack([numbers // columns, numbers % columns], -1).float()

    return inside[torch.cdist(places(tokens), places(inside)).argmin(-1)]


def flow_result(
    settings: MatchSettings,
    pair: Pair,
    pictures: tuple[Seen, Seen],
    look: Look,
    device: str,
    basis: Basis = as_it_is,
) -> PairResult:
    """Flow from the target's pixels to the source, bilinear between tokens: the target asks, the source answers."""
    source, target = pictures
    sides = look(target), look(source)
    watch = Watch(device)
    reduced = basis(*sides)
    matching = match_sides(reduced(sides[0]), reduced(sides[1]), settings)
    places = to_pixels(matching.positions.cpu(), source.grid).flip(-1)
    flow = dense_flow(places.reshape(*sides[0].shape, 2), target)
    seconds, memory = watch.read()
    hits, total = flow_hits(flow, pair, ALPHAS)
    return PairResult(seconds, source.seconds + target.seconds, memory, hits=(*hits.tolist(), total))


def dense_flow(places: Tensor, target: Seen) -> Float64[np.ndarray, "h w 2"]:
    """(x, y) of the place in the source minus that of each pixel of the target."""
    grid = target.grid
    height, width = target.image.shape[:2]
    rows = (torch.arange(height) + 0.5) * grid.input_height / (height * grid.patch_size)
    columns = (torch.arange(width) + 0.5) * grid.input_width / (width * grid.patch_size)
    y, x = torch.meshgrid(2 * rows / grid.height - 1, 2 * columns / grid.width - 1, indexing="ij")
    field = places.permute(2, 0, 1)[None].double()
    spread = torch.nn.functional.grid_sample(
        field, torch.stack([x, y], -1)[None].double(), padding_mode="border", align_corners=False
    )[0].permute(1, 2, 0)
    here = torch.stack(torch.meshgrid(torch.arange(width), torch.arange(height), indexing="xy"), -1)
    return (spread - here).numpy()
