"""What `saot match` reads: pictures with features, masks, structure and key points."""

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Bool, Float, UInt8
from torch import Tensor

from saot.data import COLUMNS, IGNORE_INDEX, PatchGrid, read_mask, read_table, sha256_file
from saot.features import (
    Backbone,
    FeatureGrid,
    Prompt,
    PromptSegmenter,
    extract,
    position_subspace,
    read_keep,
)
from saot.match.adapter_file import adapted, load_adapter
from saot.match.lift import LiftedTokens, lift_file, lift_flat, read_arrays
from saot.match.lift_models import lifting_model
from saot.match.masks import token_mask
from saot.match.matching import MatchSettings
from saot.match.sides import MatchSide

KEY_POINT_COLUMNS = {"x": COLUMNS["x"], "y": COLUMNS["y"], "name": ("name", *COLUMNS["class"])}

Progress = Callable[[str, int, int], None]
Inside = Bool[Tensor, "h w"] | None
Lifter = Callable[[int, UInt8[np.ndarray, "h w 3"], PatchGrid, Inside], LiftedTokens]  # first the picture's number


@dataclass(frozen=True)
class MatchRequest:
    """What `saot match` was asked for.

    Attributes:
        source: The picture to match from.
        targets: The pictures to match to.
        settings: Method and its settings.
        points: Key points of the source to carry over: "x,y;x,y" or a CSV file with columns x, y and perhaps name.
        backbone, weights, size: Of the features, as in `saot run`.
        masks: "all"; "sam" for the object at each picture's centre; or files with commas, one a picture, source first:
            pixels above 0 are the object, "-" is the whole picture.
        sam: MobileSAM's weight file, for "sam"; that of the backbone unless given.
        structure: Of shape-of-you: "grid" (the patch grid), "depth:MODEL" (relative depth), "metric:MODEL" (depth in
            metres), "vggt" or "vggt:WEIGHTS", or files with commas, one a picture, holding `points` or `depth`.
        features: Files with commas, one a picture, source first, holding `features` (rows, columns, numbers) of the
            whole picture: from networks that run elsewhere. The backbone is not used then.
        labels: Mask of the source, class index per pixel and 255 for none, to carry along the targets in their order.
        device: Where networks and matching run.
        adapter: File or folder of a trained adapter, whose features are matched in place of the backbone's.
        layers: Of the backbone, with commas; its own unless given.
        pca: What each map of the features is reduced to by a PCA of each pair, as `read_dims` reads it.
        remove_position: How much of a token's place is taken out of the backbone's features: "95%" of what place
            changes, or a number of directions; see `saot.features.position_subspace`.
    """

    source: Path
    targets: tuple[Path, ...]
    settings: MatchSettings = field(default_factory=MatchSettings)
    points: str | None = None
    backbone: str = "filterbank"
    weights: str | None = None
    size: str | None = None
    masks: str = "all"
    sam: str | None = None
    structure: str = "grid"
    features: str | None = None
    labels: str | None = None
    device: str = "cpu"
    adapter: str | None = None
    layers: str | None = None
    pca: str | None = None
    remove_position: str | None = None

    @property
    def pictures(self) -> tuple[Path, ...]:
        """Source first."""
        return (self.source, *self.targets)


@dataclass(frozen=True, eq=False)
class Picture:
    """A picture on its way to being matched."""

    path: Path
    image: UInt8[np.ndarray, "h w 3"]
    grid: PatchGrid
    side: MatchSide
    structure: str


def prepare(
    request: MatchRequest, images: Sequence[UInt8[np.ndarray, "h w 3"]], network: Backbone | None, tell: Progress
) -> list[Picture]:
    """Features, mask and structure of each picture.

    Raises:
        ValueError: If a mask or the structure does not fit, or a network lacks its weights.
    """
    segmenter, lifter = _segmenter(request), _lifter(request)
    masks, files, refine = _given_masks(request, images), _feature_files(request), _refiner(request, network)
    pictures = []
    for number, (path, image) in enumerate(zip(request.pictures, images, strict=True)):
        tokens, grid = _tokens(network, path, image, files[number])
        mask = masks[number]
        if segmenter is not None:
            centre = Prompt.at((image.shape[1] - 1) / 2, (image.shape[0] - 1) / 2)
            mask = segmenter.segment(segmenter.encode(image), [centre]).masks[0].numpy()
            if not mask.any():
                raise ValueError(f"no object was found at the centre of {path}; give masks as files")
        inside = None if mask is None else torch.from_numpy(mask)
        lifted: LiftedTokens = lifter(number, image, grid, inside)
        side = MatchSide.of(
            tokens.to(request.device),
            (grid.height, grid.width),
            None if mask is None else token_mask(mask, grid).to(request.device),
            lifted.points.to(request.device),
        )
        pictures.append(Picture(path, image, grid, refine(side), lifted.source))
        tell("pictures", number + 1, len(images))
    return pictures


def _refiner(request: MatchRequest, network: Backbone | None) -> Callable[[MatchSide], MatchSide]:
    """What is made of a side before it is matched: its place removed, or an adapter's features; else the side itself.

    Raises:
        ValueError: If the adapter cannot be read, or was trained on other features, or both are asked for.
    """
    if request.remove_position is not None:
        if request.adapter is not None or network is None:
            other = "adapter, which was trained on whole features" if request.adapter is not None else "features"
            raise ValueError(f"--remove-position is of the backbone's own features; leave it or --{other}, out")
        subspace = position_subspace(network, read_keep(request.remove_position, network.dim))
        return lambda side: replace(side, tokens=subspace.removed(side.tokens))
    if request.adapter is None:
        return lambda side: side
    kept = load_adapter(Path(request.adapter))
    if network is None:
        raise ValueError(
            "expected --backbone with --adapter, which was trained on its features; got --features: leave one out"
        )
    kept.check(network.key, Path(request.adapter))
    adapter = kept.adapter.to(request.device)
    return lambda side: adapted(adapter, side)


def _feature_files(request: MatchRequest) -> list[str | None]:
    if request.features is None:
        return [None] * len(request.pictures)
    files = [part.strip() for part in request.features.split(",")]
    if len(files) != len(request.pictures):
        raise ValueError(
            f"expected --features as {len(request.pictures)} files with commas, one a picture, source first; got "
            f"{len(files)}"
        )
    return list(files)


def _tokens(
    network: Backbone | None, path: Path, image: UInt8[np.ndarray, "h w 3"], file: str | None
) -> tuple[Float[Tensor, "n d"], PatchGrid]:
    """Tokens of a picture and how it lies under them: from a file, else from the network."""
    if file is None:
        assert network is not None
        made: FeatureGrid = extract(network, image, sha256_file(path))
        return made.tokens, made.grid
    tokens = read_arrays(Path(file)).get("features")
    if tokens is None or tokens.ndim != 3 or 0 in tokens.shape:
        raise ValueError(f"{file} must hold `features` of shape (rows, columns, numbers) over the whole picture")
    height, width = tokens.shape[:2]
    grid = PatchGrid(image.shape[0], image.shape[1], height, width, 1, height, width)
    return tokens.flatten(0, 1).float(), grid


def _segmenter(request: MatchRequest) -> PromptSegmenter | None:
    if request.masks != "sam":
        return None
    weights = request.sam or (request.weights if request.backbone == "mobile-sam" else None)
    if weights is None:
        raise ValueError("masks from MobileSAM need its weights; pass --sam PATH of the published mobile_sam.pt")
    return PromptSegmenter(weights, device=request.device)


def _given_masks(
    request: MatchRequest, images: Sequence[UInt8[np.ndarray, "h w 3"]]
) -> list[Bool[np.ndarray, "h w"] | None]:
    if request.masks in ("all", "sam"):
        return [None] * len(images)
    names = [name.strip() for name in request.masks.split(",")]
    if len(names) != len(images):
        raise ValueError(
            f"expected --masks as all, sam, or {len(images)} files with commas, one a picture, source first (- for a "
            f"whole picture); got {len(names)}"
        )
    found: list[Bool[np.ndarray, "h w"] | None] = []
    for name, image, path in zip(names, images, request.pictures, strict=True):
        mask = None if name == "-" else read_mask(name) > 0
        if mask is not None and mask.shape != image.shape[:2]:
            raise ValueError(f"mask {name} is {mask.shape} pixels but {path} is {image.shape[:2]}; use one of its size")
        if mask is not None and not mask.any():
            raise ValueError(f"mask {name} is empty: no pixel is above 0; mark the object in it")
        found.append(mask)
    return found


def _lifter(request: MatchRequest) -> Lifter:
    """What gives the tokens of picture number i their places in space."""
    if request.structure == "grid":
        return lambda number, image, grid, inside: lift_flat(grid)
    model = lifting_model(request.structure, request.device)
    if model is not None:
        return lambda number, image, grid, inside: model.lift(image, grid, inside)
    files = [part.strip() for part in request.structure.split(",")]
    if len(files) != len(request.pictures):
        raise ValueError(
            f"expected --structure as grid, depth:MODEL, metric:MODEL, vggt, or {len(request.pictures)} files with "
            f"commas, one a picture, source first; got {request.structure!r}"
        )
    return lambda number, image, grid, inside: lift_file(files[number], grid, inside=inside)


def read_labels(path: str, image: UInt8[np.ndarray, "h w 3"], of: Path) -> UInt8[np.ndarray, "h w"]:
    """The source's mask to carry along: a class index a pixel, 255 for none.

    Raises:
        ValueError: If it is not of the source's size, has no class or one alone, or numbers above 255.
    """
    mask = read_mask(path).astype(np.int64)
    if mask.shape != image.shape[:2]:
        raise ValueError(f"labels {path} are {mask.shape} pixels but {of} is {image.shape[:2]}; use a mask of its size")
    if mask.min() < 0 or mask.max() > IGNORE_INDEX:
        raise ValueError(
            f"expected class indices from 0 to 254 in {path}, and 255 for none; got {mask.min()} to {mask.max()}"
        )
    known = np.unique(mask[mask != IGNORE_INDEX])
    if len(known) < 2:
        raise ValueError(
            f"expected two classes or more in {path}, and 255 for none; got {known.tolist()}: every token would get "
            "the same. In a mask of one object give the object 1 and the rest 0"
        )
    return mask.astype(np.uint8)


def key_points(text: str | None, image: UInt8[np.ndarray, "h w 3"]) -> tuple[list[str], Float[Tensor, "k 2"]]:
    """Names, and x and y of each, pixels of the source."""
    if text is None:
        return [], torch.zeros(0, 2)
    rows: list[tuple[str, str, str]] = []
    if not re.fullmatch(r"[\d.,;\s+-]+", text) and Path(text).is_file():
        for _, row in read_table(text, KEY_POINT_COLUMNS, ("x", "y")).rows:
            rows.append((row["x"].replace(",", "."), row["y"].replace(",", "."), row.get("name", "")))
        if not rows:
            raise ValueError(f"expected at least one point in {text}; got a file without any")
    else:
        for part in text.split(";"):
            x, _, y = part.partition(",")
            rows.append((x, y, ""))
    names, points = [], []
    for number, (x, y, name) in enumerate(rows):
        try:
            place = float(x), float(y)
        except ValueError as error:
            raise ValueError(
                f"expected --points as x,y;x,y in pixels, or a CSV file with columns x and y; got {text!r}"
            ) from error
        if not (-0.5 <= place[0] < image.shape[1] - 0.5 and -0.5 <= place[1] < image.shape[0] - 0.5):
            raise ValueError(
                f"point {x},{y} lies outside the source of {image.shape[1]}x{image.shape[0]} pixels (width x height); "
                "count from 0 at the top left"
            )
        names.append(name or str(number))
        points.append(place)
    return names, torch.tensor(points).reshape(-1, 2)
