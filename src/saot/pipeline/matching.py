"""`saot match`: one picture against one or several others, from files to matches.json and matches.png."""

import csv
import dataclasses
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float, UInt8
from torch import Tensor

from saot.data import read_image, read_mask, sha256_file, write_atomic
from saot.data.patches import PatchGrid
from saot.features import Backbone, FeatureGrid, extract, load_backbone
from saot.match import Matching, MatchSettings, Side, from_pixels, match_sides, to_pixels
from saot.match.lift import DepthModel, LiftedTokens, VggtModel, lift_file, lift_flat
from saot.match.masks import Prompt, Segmenter, token_mask
from saot.pipeline.settings import parse_size
from saot.recipes import as_dict
from saot.report.matches import DrawnMatch, draw_matches

Progress = Callable[[str, int, int], None]
FORMAT = 1
LINES = 40  # shown where no key points are given


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
        device: Where networks and matching run.
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
    device: str = "cpu"

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
    side: Side
    structure: str


def match_pictures(request: MatchRequest, out: Path, progress: Progress | None = None) -> dict[str, Any]:
    """Match the source to each target; writes matches.json and matches.png to `out` and returns the former.

    Raises:
        ValueError: If a picture, mask, key point or network is not as it should be.
    """
    tell = progress or (lambda stage, done, total: None)
    if not request.targets:
        raise ValueError("expected at least one picture to match to; got none")
    if request.settings.method == "shape-of-you" and request.structure == "grid":
        request = dataclasses.replace(request, settings=_flat(request.settings))
    images = [read_image(path) for path in request.pictures]
    names, points = _key_points(request.points, images[0])
    network = load_backbone(request.backbone, request.weights, size=parse_size(request.size), device=request.device)
    pictures = _prepare(request, images, network, tell)
    first, found, drawn = pictures[0], [], []
    for number, picture in enumerate(pictures[1:]):
        matching = match_sides(first.side, picture.side, request.settings)
        found.append(_record(first, picture, matching, names, points))
        drawn.append(_drawn(first, picture, matching, points))
        tell("matches", number + 1, len(request.targets))
    result = {
        "format": FORMAT,
        "method": request.settings.method,
        "settings": as_dict(request.settings),
        "backbone": json.loads(network.key.to_json()),
        "masks": "the whole picture" if request.masks == "all" else request.masks,
        "structure": first.structure,
        "source": _described(first),
        "pairs": found,
    }
    out.mkdir(parents=True, exist_ok=True)
    write_atomic(out / "matches.json", (json.dumps(result, indent=1) + "\n").encode())
    write_atomic(out / "matches.png", draw_matches(drawn, request.settings.method))
    return result


def _flat(settings: MatchSettings) -> MatchSettings:
    return dataclasses.replace(settings, shape_of_you=dataclasses.replace(settings.shape_of_you, structure="grid2d"))


def _prepare(
    request: MatchRequest, images: Sequence[UInt8[np.ndarray, "h w 3"]], network: Backbone, tell: Progress
) -> list[Picture]:
    segmenter, lifter = _segmenter(request), _lifter(request)
    masks = _given_masks(request, images)
    pictures = []
    for number, (path, image) in enumerate(zip(request.pictures, images, strict=True)):
        features: FeatureGrid = extract(network, image, sha256_file(path))
        grid, mask = features.grid, masks[number]
        if segmenter is not None:
            centre = Prompt.at((image.shape[1] - 1) / 2, (image.shape[0] - 1) / 2)
            mask = segmenter.segment(segmenter.encode(image), [centre]).masks[0].numpy()
            if not mask.any():
                raise ValueError(f"no object was found at the centre of {path}; give masks as files")
        lifted: LiftedTokens = lifter(number, image, grid)
        side = Side.of(
            features.tokens.to(request.device),
            (grid.height, grid.width),
            None if mask is None else token_mask(mask, grid).to(request.device),
            lifted.points.to(request.device),
        )
        pictures.append(Picture(path, image, grid, side, lifted.source))
        tell("pictures", number + 1, len(images))
    return pictures


def _segmenter(request: MatchRequest) -> Segmenter | None:
    if request.masks != "sam":
        return None
    weights = request.sam or (request.weights if request.backbone == "mobile-sam" else None)
    if weights is None:
        raise ValueError("masks from MobileSAM need its weights; pass --sam PATH of the published mobile_sam.pt")
    return Segmenter(weights, device=request.device)


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


def _lifter(request: MatchRequest) -> Callable[[int, UInt8[np.ndarray, "h w 3"], PatchGrid], LiftedTokens]:
    """What gives the tokens of picture number i their places in space."""
    kind, _, name = request.structure.partition(":")
    if request.structure == "grid":
        return lambda number, image, grid: lift_flat(grid)
    if kind in ("depth", "metric") and name:
        depth = DepthModel(name, predicts="disparity" if kind == "depth" else "depth", device=request.device)
        return lambda number, image, grid: depth.lift(image, grid)
    if kind == "vggt":
        network = VggtModel(name, device=request.device) if name else VggtModel(device=request.device)
        return lambda number, image, grid: network.lift(image, grid)
    files = [part.strip() for part in request.structure.split(",")]
    if len(files) != len(request.pictures):
        raise ValueError(
            f"expected --structure as grid, depth:MODEL, metric:MODEL, vggt, or {len(request.pictures)} files with "
            f"commas, one a picture, source first; got {request.structure!r}"
        )
    return lambda number, image, grid: lift_file(files[number], grid)


def _key_points(text: str | None, image: UInt8[np.ndarray, "h w 3"]) -> tuple[list[str], Float[Tensor, "k 2"]]:
    """Names, and x and y of each, pixels of the source."""
    if text is None:
        return [], torch.zeros(0, 2)
    rows: list[tuple[str, str, str]] = []
    if Path(text).is_file():
        with Path(text).open(newline="") as file:
            for row in csv.DictReader(file):
                if row.get("x") is None or row.get("y") is None:
                    raise ValueError(f"expected columns x and y in {text}, and perhaps name; got {', '.join(row)}")
                rows.append((row["x"], row["y"], row.get("name") or ""))
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


def _carried(
    first: Picture, picture: Picture, matching: Matching, points: Float[Tensor, "k 2"]
) -> tuple[Float[Tensor, "k 2"], Float[Tensor, " k"]]:
    """Where key points go, pixels (x, y) of the target, and how sure: what the nearest token of the mask says."""
    tokens = torch.nonzero(first.side.mask)[:, 0].cpu()
    centres = torch.stack([tokens // first.grid.width, tokens % first.grid.width], -1).float()
    asked = from_pixels(points.flip(-1).float(), first.grid)
    token = tokens[torch.cdist(asked, centres).argmin(-1)]
    positions = matching.positions.cpu()[token]
    return to_pixels(positions, picture.grid).flip(-1), matching.confidence.cpu()[token]


def _record(
    first: Picture,
    picture: Picture,
    matching: Matching,
    names: Sequence[str],
    points: Float[Tensor, "k 2"],
) -> dict[str, Any]:
    """One pair for matches.json; every number with its unit in the docs."""
    grid = first.grid
    tokens = torch.nonzero(first.side.mask)[:, 0].cpu()
    here = torch.stack([tokens // grid.width, tokens % grid.width], -1).float()
    start = to_pixels(here, grid).flip(-1)
    end = to_pixels(matching.positions.cpu()[tokens], picture.grid).flip(-1)
    sure = matching.confidence.cpu()[tokens]
    moved, point_sure = _carried(first, picture, matching, points)
    return {
        **_described(picture),
        "note": matching.note,
        "matches": [[round(value, 2) for value in row] for row in torch.cat([start, end], -1).tolist()],
        "confidence": [round(value, 4) for value in sure.tolist()],
        "points": [
            {
                "name": name,
                "from": [round(value, 2) for value in points[number].tolist()],
                "to": [round(value, 2) for value in moved[number].tolist()],
                "confidence": round(float(point_sure[number]), 4),
            }
            for number, name in enumerate(names)
        ],
    }


def _described(picture: Picture) -> dict[str, Any]:
    height, width = picture.image.shape[:2]
    return {
        "image": str(picture.path),
        "width": width,
        "height": height,
        "tokens": list(picture.side.shape),
        "matched_tokens": int(picture.side.mask.sum()),
    }


def _drawn(first: Picture, picture: Picture, matching: Matching, points: Float[Tensor, "k 2"]) -> DrawnMatch:
    height, width = picture.image.shape[:2]
    places = to_pixels(matching.positions.cpu(), picture.grid).flip(-1)
    field = (places + 0.5) / places.new_tensor([width, height])
    if len(points):
        moved, sure = _carried(first, picture, matching, points)
        lines = torch.cat([points.float(), moved], -1)
    else:
        tokens = _spread(first, matching)
        here = torch.stack([tokens // first.grid.width, tokens % first.grid.width], -1).float()
        lines = torch.cat([to_pixels(here, first.grid).flip(-1), places[tokens]], -1)
        sure = matching.confidence.cpu()[tokens]
    return DrawnMatch(
        first.image,
        picture.image,
        (first.path.name, picture.path.name),
        _per_pixel(field.view(*first.side.shape, 2), first.grid).numpy(),
        _per_pixel(first.side.mask.cpu().view(*first.side.shape, 1), first.grid)[..., 0].numpy(),
        _per_pixel(picture.side.mask.cpu().view(*picture.side.shape, 1), picture.grid)[..., 0].numpy(),
        lines.numpy(),
        sure.numpy(),
    )


def _spread(first: Picture, matching: Matching) -> Tensor:
    """Tokens to draw lines from: the surest one of each part of the picture that is matched."""
    rows, columns = first.side.shape
    side = max(1, round((rows * columns / LINES) ** 0.5))
    tokens = torch.arange(rows * columns)
    part = (tokens // columns // side) * (-(-columns // side)) + tokens % columns // side
    sure = torch.where(first.side.mask.cpu(), matching.confidence.cpu(), -1.0)
    order = sure.argsort(descending=True, stable=True)
    seen: dict[int, int] = {}
    for token in order[sure[order] >= 0].tolist():
        seen.setdefault(int(part[token]), token)
    return torch.tensor(sorted(seen.values()), dtype=torch.int64)


def _per_pixel(values: Tensor, grid: PatchGrid) -> Tensor:
    """What each pixel's token says."""
    rows = (torch.arange(grid.image_height) + 0.5) * grid.input_height / (grid.image_height * grid.patch_size)
    columns = (torch.arange(grid.image_width) + 0.5) * grid.input_width / (grid.image_width * grid.patch_size)
    return values[rows.long().clamp(max=grid.height - 1)][:, columns.long().clamp(max=grid.width - 1)]
