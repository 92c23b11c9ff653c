"""From a pair of pictures to what a matcher sees of it, under the knowledge that a row may use."""

import hashlib
import json
import math
import time
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Protocol, TypeVar, runtime_checkable

import numpy as np
import torch
from jaxtyping import Bool, Float32, UInt8
from torch import Tensor

from saot.data import PatchGrid, sha256_file
from saot.features import (
    Backbone,
    FeatureGrid,
    FeatureStore,
    PositionSubspace,
    Prompt,
    PromptSegmenter,
    extract,
    position_subspace,
    read_keep,
)
from saot.label import parse_size
from saot.match import (
    Camera,
    LiftedTokens,
    MatchSide,
    lift_depth,
    lift_file,
    lift_flat,
    lift_points,
    mirror_side,
    token_mask,
)
from saot.match.pairs import Pair, PairSide
from saot.runs import check_device, generator_for, load_tensors, save_tensors
from saot.tables.match.way import Masks, Space, Way
from saot.tables.request import Request
from saot.tables.wings import ALL_WINGS

Inside = Bool[Tensor, "h w"] | None  # pixels whose depth counts
_KEPT = 256  # masks and lifted pictures in memory
_NOISE = 0.05  # of the depth, of the smooth noise of "distorted"
_SHIFT = 0.2  # of the median depth, at most
_BUMPS = 6  # of the smooth noise along a side


@runtime_checkable
class Lifter(Protocol):
    """A network that lifts a picture; `identity` says all that its points depend on besides the arguments."""

    @property
    def identity(self) -> str: ...

    def lift(self, image: UInt8[np.ndarray, "h w 3"], grid: PatchGrid, inside: Inside = None, /) -> LiftedTokens: ...


class FolderLifter:
    """Places in space that another program wrote, such as DUSt3R: a file a picture, NAME.npz or NAME.safetensors.

    Args:
        folder: Of the files; NAME is that of the picture in its set, with its folders or without.

    Raises:
        ValueError: If there is no such folder.
    """

    def __init__(self, folder: Path) -> None:
        if not folder.is_dir():
            raise ValueError(f"expected a folder behind --structure files:; {folder} is none")
        self.folder = folder

    @property
    def identity(self) -> str:
        """Stands for the contents of all its files."""
        files = sorted(path for path in self.folder.rglob("*") if path.suffix in (".npz", ".safetensors"))
        contents = [f"{path.relative_to(self.folder)} {sha256_file(path)}" for path in files]
        return hashlib.sha256("\n".join(contents).encode()).hexdigest()

    def file(self, name: str) -> Path:
        """The file of a picture.

        Raises:
            ValueError: If there is none.
        """
        names = [f"{one}{suffix}" for one in (name, Path(name).name) for suffix in (".npz", ".safetensors")]
        for one in names:
            if (self.folder / one).is_file():
                return self.folder / one
        raise ValueError(
            f"expected {names[0]} in {self.folder}, holding the picture's `points` or `depth`; none is there"
        )


def network_of(request: Request) -> Backbone:
    """The network that the features of a table come from.

    Raises:
        ValueError: If a setting does not fit it.
    """
    check_device(request.device)
    layers = None if request.layers is None else [part.strip() for part in request.layers.split(",")]
    return ALL_WINGS.backbone(
        request.backbone,
        request.weights,
        size=parse_size(request.size),
        layers=layers,
        final_norm=request.final_norm,
        device=request.device,
    )


def label_network(request: Request) -> Backbone | None:
    """The network whose features pseudo-labels are made of, where another is asked for than that of the adapter.

    Raises:
        ValueError: If it is not as it should be.
    """
    if request.label_backbone is None:
        return None
    name, _, weights = request.label_backbone.partition("=")
    return ALL_WINGS.backbone(name, weights or None, size=parse_size(request.size), device=request.device)


def feature_note(network: Backbone) -> str:
    """Which of a network's outputs the features are, in words."""
    key = network.key
    norm = "behind" if key.final_norm else "without"
    return f"Features: {key.backbone}, layers {', '.join(key.layers)}, {norm} the network's final norm."


@dataclass(frozen=True, eq=False)
class Seen:
    """One picture of a pair with its features and, once asked for, what else is known."""

    picture: PairSide
    image: UInt8[np.ndarray, "h w 3"]
    features: FeatureGrid
    seconds: float = 0.0  # of the features

    @property
    def grid(self) -> PatchGrid:
        """How the picture lies under its tokens."""
        return self.features.grid

    @property
    def fingerprint(self) -> str:
        """Stands for the picture's pixels."""
        return self.features.provenance.source


class NetworkOutputs:
    """What networks make of pictures besides features, on disk; what is missing or damaged is made anew.

    Args:
        folder: Made with the first file; None keeps nothing.
    """

    def __init__(self, folder: Path | None = None) -> None:
        self.folder = folder

    def get(self, made_of: Sequence[Any], make: Callable[[], Mapping[str, Tensor]]) -> Mapping[str, Tensor]:
        """The tensors of `made_of` (plain JSON values: all that they depend on), from their file or made now."""
        if self.folder is None:
            return make()
        identity = json.dumps(made_of)
        path = self.folder / f"{made_of[0]}-{hashlib.sha256(identity.encode()).hexdigest()[:32]}.safetensors"
        found = load_tensors(path)
        if found is None:
            found = make()
            save_tensors(path, found, {"made_of": identity})
        return found


class Viewer:
    """Opens pictures of pairs: features from the store or made, masks and space as a row wants them.

    Args:
        network: Of the features.
        store: Keeps the features of pictures that have a name of their own; None keeps nothing.
        sam: For object masks where the set has none.
        lifter: For rows whose space is "lifted": a network, or files.
        device: Where tokens go.
        models: Names of what `lifter` and `sam` are, for whoever keeps results.
        outputs: Where masks and points that networks made are kept.
        own_masks: Whether a set's own masks go before those of `sam`.
    """

    def __init__(
        self,
        network: Backbone,
        store: FeatureStore | None,
        sam: PromptSegmenter | None,
        lifter: Lifter | FolderLifter | None,
        device: str = "cpu",
        models: Sequence[str | None] = (),
        outputs: NetworkOutputs | None = None,
        own_masks: bool = True,
    ) -> None:
        self.models, self.outputs, self.own_masks = list(models), outputs or NetworkOutputs(), own_masks
        self.network, self.store, self.sam, self.lifter, self.device = network, store, sam, lifter, device
        self._kept = set() if store is None else set(store.keys())
        self._masks: OrderedDict[str, Bool[np.ndarray, "h w"]] = OrderedDict()
        self._subspaces: dict[str, PositionSubspace] = {}
        self._points: OrderedDict[tuple[str, str, Space, bool, int], Tensor] = OrderedDict()

    def beside(self, store: FeatureStore | None, network: Backbone | None = None) -> "Viewer":
        """The same networks on pictures of another set; or another network of the features, the rest the same."""
        outputs, own = self.outputs, self.own_masks
        network = network or self.network
        return Viewer(network, store, self.sam, self.lifter, self.device, self.models, outputs, own)

    @property
    def mask_words(self) -> str:
        """Whose object masks these are."""
        made = "MobileSAM's from annotated boxes of both pictures"
        return f"the set's own, else {made}" if self.own_masks else made

    def see(self, picture: PairSide) -> Seen:
        """The picture and its features."""
        image = picture.image()
        fingerprint = hashlib.sha256(image.tobytes()).hexdigest()
        if self.store is not None and picture.name in self._kept:
            kept = self.store.read(picture.name)
            if kept.provenance.source == fingerprint:
                return Seen(picture, image, kept)
        started = time.perf_counter()
        features = extract(self.network, image, fingerprint)
        seconds = time.perf_counter() - started
        if self.store is not None:
            self.store.write(picture.name, features)
            self._kept.add(picture.name)
        return Seen(picture, image, features, seconds)

    @property
    def parameters(self) -> int:
        """Of the network that makes the features."""
        return num_parameters(self.network)

    def mirrored(self, seen: Seen, side: MatchSide, way: Way) -> MatchSide:
        """What the matcher sees of the mirrored picture."""
        flipped = np.ascontiguousarray(seen.image[:, ::-1])
        tokens = extract(self.network, flipped, f"{seen.picture.name} mirrored").tokens.to(self.device)
        return mirror_side(side, self._placeless(tokens, way))

    def side(self, seen: Seen, way: Way, seed: int) -> MatchSide:
        """What the matcher sees of the picture."""
        side = self.side_of(seen, way.masks, way.space, seed)
        return replace(side, tokens=self._placeless(side.tokens, way))

    def _placeless(self, tokens: Float32[Tensor, "n d"], way: Way) -> Float32[Tensor, "n d"]:
        """The tokens without what their place makes, as far as the way wants it."""
        return tokens if way.position is None else self.subspace(way.position).removed(tokens)

    def subspace(self, position: str) -> PositionSubspace:
        """What is removed of the network's tokens; estimated once, and kept beside other outputs of networks."""
        if position not in self._subspaces:
            removed, key = read_keep(position, self.network.dim), self.network.key.to_json()

            def make() -> Mapping[str, Tensor]:
                found = position_subspace(self.network, removed)
                return {"directions": found.directions, "share": torch.tensor(found.share, dtype=torch.float64)}

            kept = self.outputs.get(["position", key, removed], make)
            self._subspaces[position] = PositionSubspace(kept["directions"], float(kept["share"]))
        return self._subspaces[position]

    def side_of(self, seen: Seen, masks: Masks, space: Space, seed: int) -> MatchSide:
        """The picture with this mask and these places in space.

        Raises:
            ValueError: If a mask or depth is needed that the set lacks.
        """
        grid, mask, points, inside = seen.grid, None, None, None
        if masks == "object":
            inside = torch.from_numpy(np.ascontiguousarray(self.object_mask(seen)))
            mask = self.token_mask(seen)
        if space != "none":
            key = (seen.fingerprint, seen.picture.name, space, inside is not None, seed)  # cuts may share a name
            points = _kept(self._points, key, lambda: self._lifted(seen, space, seed, inside)).to(self.device)
        return MatchSide.of(seen.features.tokens.to(self.device), (grid.height, grid.width), mask, points)

    def token_mask(self, seen: Seen) -> Bool[Tensor, " n"]:
        """The tokens on the object."""
        return token_mask(np.ascontiguousarray(self.object_mask(seen)), seen.grid).to(self.device)

    def has_mask(self, seen: Seen) -> bool:
        """Whether an object mask can be had."""
        return seen.picture.load_mask is not None or (self.sam is not None and seen.picture.box is not None)

    def object_mask(self, seen: Seen) -> Bool[np.ndarray, "h w"]:
        """Of the set or MobileSAM's from the object's box, as asked; the box where MobileSAM finds nothing in it."""
        key = f"{seen.fingerprint} {seen.picture.name} {seen.picture.box}"  # cuts may share a name
        return _kept(self._masks, key, lambda: self._mask(seen))

    def _mask(self, seen: Seen) -> Bool[np.ndarray, "h w"]:
        may_be_made = self.sam is not None and seen.picture.box is not None
        if seen.picture.load_mask is not None and (self.own_masks or not may_be_made):
            return seen.picture.mask()
        if self.sam is None or seen.picture.box is None:
            raise ValueError(
                f"{seen.picture.name} comes without an object mask; pass --sam PATH of the published mobile_sam.pt to "
                "have one from the object's box"
            )
        height, width = seen.image.shape[:2]
        x1, y1, x2, y2 = seen.picture.box
        box = (max(0.0, x1), max(0.0, y1), min(float(width), x2), min(float(height), y2))
        sam, made_of = self.sam, ["mask", seen.fingerprint, height, width, box, self.sam.identity]

        def make() -> Mapping[str, Tensor]:
            found = sam.segment(sam.encode(seen.image), [Prompt(box=box)]).masks[0].numpy()
            return {"bits": torch.from_numpy(np.packbits(found))}

        bits = self.outputs.get(made_of, make)["bits"].numpy()
        mask = np.unpackbits(bits, count=height * width).reshape(height, width).astype(bool)
        if not mask.any():
            mask[int(box[1]) : math.ceil(box[3]), int(box[0]) : math.ceil(box[2])] = True
        return mask

    def _lifted(self, seen: Seen, space: Space, seed: int, inside: Inside) -> Tensor:
        match space:
            case "grid":
                return lift_flat(seen.grid).points
            case "exact":
                space_map = torch.from_numpy(seen.picture.space())
                return lift_points(space_map, seen.grid, inside=inside, source="exact depth").points
            case "distorted":
                depth = distorted(seen.picture.depth(), seed, seen.picture.name)
                camera = Camera.of_view(*depth.shape)
                source = "distorted depth"
                return lift_depth(torch.from_numpy(depth), seen.grid, camera, inside=inside, source=source).points
            case _:
                return self._by_network(seen, inside)

    def _by_network(self, seen: Seen, inside: Inside) -> Tensor:
        lifter = self.lifter
        if isinstance(lifter, FolderLifter):
            return lift_file(lifter.file(seen.picture.name), seen.grid, inside=inside).points
        if lifter is None:
            raise ValueError("this table needs a model for depth: pass --structure depth:MODEL, metric:MODEL or vggt")
        within = None if inside is None else hashlib.sha256(inside.numpy().tobytes()).hexdigest()
        made_of = ["points", seen.fingerprint, asdict(seen.grid), within, lifter.identity]
        return self.outputs.get(made_of, lambda: {"points": lifter.lift(seen.image, seen.grid, inside).points})[
            "points"
        ]


def num_parameters(network: object) -> int:
    """Numbers in the weights of whatever networks an object holds; 0 for features without weights."""
    found: dict[int, int] = {}

    def look(thing: object, depth: int) -> None:
        if isinstance(thing, torch.nn.Module):
            found.update({id(number): number.numel() for number in thing.parameters()})
        elif depth and isinstance(thing, tuple | list):
            for part in thing:
                look(part, depth - 1)
        elif depth and hasattr(thing, "__dict__"):
            for part in vars(thing).values():
                look(part, depth - 1)

    look(network, 4)
    return sum(found.values())


T = TypeVar("T")


def _kept(cache: OrderedDict[Any, T], key: Any, make: Callable[[], T]) -> T:
    """What was made for this key, or made now; the last few hundred are kept."""
    if key not in cache:
        cache[key] = make()
        if len(cache) > _KEPT:
            cache.popitem(last=False)
    return cache[key]


def distorted(depth: Float32[np.ndarray, "h w"], seed: int, name: str) -> Float32[np.ndarray, "h w"]:
    """Depth as a monocular network may give it: of unknown scale and shift, with smooth noise; new for each picture.

    The scale is drawn between 1/2 and 2, the shift up to a fifth of the median depth either way, and the noise is
    bicubic between normal numbers on a coarse grid, with a deviation of 5 % of the depth.
    """
    generator = generator_for(seed, "distorted depth", name)
    finite = np.isfinite(depth)
    middle = float(np.median(depth[finite])) if finite.any() else 1.0
    scale, shift = (2 * torch.rand(2, generator=generator) - 1).tolist()
    coarse = torch.randn(1, 1, _BUMPS, _BUMPS, generator=generator)
    noise = torch.nn.functional.interpolate(coarse, depth.shape, mode="bicubic", align_corners=True)[0, 0].numpy()
    moved = 2**scale * (depth * (1 + _NOISE * noise) + _SHIFT * middle * shift)
    return np.where(finite, np.maximum(moved, 0.05 * middle), np.inf).astype(np.float32)


def symmetric_tokens(pair: Pair, grid: PatchGrid, tokens: Tensor) -> Tensor:
    """(pairs, 2) source tokens of symmetric key points that are both seen in the source."""
    known = [
        (first, second) for first, second in pair.mirror if pair.source.visible[first] and pair.source.visible[second]
    ]
    rows = [(int(tokens[first]), int(tokens[second])) for first, second in known]
    return torch.tensor(rows, dtype=torch.int64).reshape(-1, 2)
