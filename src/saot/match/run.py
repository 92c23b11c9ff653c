"""`saot match`: one picture against one or several others, from files to matches.json and matches.png."""

import dataclasses
import io
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, UInt8
from PIL import Image
from torch import Tensor

from saot.data import IGNORE_INDEX, PatchGrid, read_image, soft_patch_labels, write_atomic
from saot.evaluate import predict_mask
from saot.features import Backbone, part_widths
from saot.label import NO_WINGS, Wings, parse_size
from saot.match.drawing import DrawnMatch, draw_pages
from saot.match.gwot import GWOT_SPAIR, GWOT_TSS
from saot.match.inputs import MatchRequest, Picture, Progress, key_points, prepare, read_labels
from saot.match.matching import Matching, MatchSettings, match_sides
from saot.match.propagate import PropagationSettings, propagate_labels
from saot.match.readout import from_pixels, to_pixels
from saot.match.reduction import Basis, as_it_is, pair_basis, read_dims
from saot.recipes import as_dict
from saot.runs import check_device

FORMAT = 1
BESIDE = 1.5  # tokens beyond the mask from which a key point's answer counts for nothing
LINES = 40  # shown where no key points are given


def match_pictures(
    request: MatchRequest, out: Path, progress: Progress | None = None, wings: Wings = NO_WINGS
) -> dict[str, Any]:
    """Match the source to each target; writes matches.json and matches.png to `out` and returns the former.

    Raises:
        ValueError: If a picture, mask, key point or network is not as it should be.
    """
    tell = progress or (lambda stage, done, total: None)
    check_device(request.device)
    if not request.targets:
        raise ValueError("expected at least one picture to match to; got none")
    shaped = request.settings.method == "shape-of-you"
    if request.structure != "grid" and not shaped:
        raise ValueError(
            f"--structure {request.structure} is for the method shape-of-you; {request.settings.method} uses the patch "
            "grid alone: leave it out, or pass --method shape-of-you"
        )
    if shaped and request.structure == "grid":
        request = dataclasses.replace(request, settings=_flat(request.settings))
    images = [read_image(path) for path in request.pictures]
    names, points = key_points(request.points, images[0])
    labels = None if request.labels is None else read_labels(request.labels, images[0], request.source)
    out.mkdir(parents=True, exist_ok=True)
    network = None
    if request.features is None:
        size = parse_size(request.size)
        layers = None if request.layers is None else [part.strip() for part in request.layers.split(",")]
        network = wings.backbone(request.backbone, request.weights, size=size, layers=layers, device=request.device)
    basis = _reducer(request, network)
    pictures = prepare(request, images, network, tell)
    first, found, drawn = pictures[0], [], []
    shares = None if labels is None else _token_shares(request, first, labels)
    for number, picture in enumerate(pictures[1:]):
        reduced = basis(first.side, picture.side)
        matching = match_sides(reduced(first.side), reduced(picture.side), request.settings)
        found.append(_record(first, picture, matching, names, points))
        drawn.append(_drawn(first, picture, matching, points, names))
        tell("matches", number + 1, len(request.targets))
    steps = PropagationSettings(_for_labels(request.settings))
    carried = [] if shares is None else _carry_labels(shares, steps, pictures, out, tell)
    result = {
        "format": FORMAT,
        "method": request.settings.method,
        "settings": _used(request.settings),
        "backbone": {"files": request.features} if network is None else json.loads(network.key.to_json()),
        "adapter": request.adapter,
        **{name: value for name in ("pca", "remove_position") if (value := getattr(request, name)) is not None},
        "masks": "the whole picture" if request.masks == "all" else request.masks,
        "structure": first.structure if shaped or request.settings.method == "gwot" else "not used",
        "source": _described(first),
        "pairs": found,
        "labels": carried,
        "label_settings": None if shares is None else {**as_dict(steps), "match": _used(steps.match)},
    }
    write_atomic(out / "matches.json", (json.dumps(result, indent=1) + "\n").encode())
    for old in out.glob("matches-*.png"):  # pages of an earlier request with more targets
        old.unlink()
    for name, picture in draw_pages(drawn, request.settings.method):
        write_atomic(out / name, picture)
    return result


def _reducer(request: MatchRequest, network: Backbone | None) -> Basis:
    """From a pair to what reduces its sides: one PCA of both where it is asked for.

    Raises:
        ValueError: If the request does not fit the backbone's maps, or is made together with one that knows no pair.
    """
    if request.pca is None:
        return as_it_is
    for option, given in (("adapter", request.adapter), ("labels", request.labels)):
        if given is not None:
            raise ValueError(f"--pca is of the backbone's own features, pair by pair; leave it or --{option} out")
    if network is None:
        raise ValueError("expected --backbone with --pca, whose maps it reduces; got --features: leave one out")
    widths = part_widths(network)
    dims = read_dims(request.pca, widths)
    return lambda source, target: pair_basis(source, target, widths, dims).reduced


def _token_shares(request: MatchRequest, first: Picture, labels: UInt8[np.ndarray, "h w"]) -> Float[Tensor, "n k"]:
    """The share of each class in each token of the source."""
    classes = int(labels[labels != IGNORE_INDEX].max()) + 1
    shares, _ = soft_patch_labels(labels, first.grid, num_classes=classes)
    if not bool((shares.sum(-1) > 0)[first.side.mask.cpu()].any()):
        raise ValueError(f"no label of {request.labels} lies within the source's mask; leave --masks out, or mark both")
    return shares.to(request.device)


def _carry_labels(
    shares: Float[Tensor, "n k"],
    settings: PropagationSettings,
    pictures: Sequence[Picture],
    out: Path,
    tell: Progress,
) -> list[dict[str, Any]]:
    """The source's labels carried along the targets: a mask and a picture of confidence (0 to 255) for each."""
    steps = propagate_labels((picture.side for picture in pictures), shares, settings)
    found = []
    for number, (picture, carried) in enumerate(zip(pictures, steps, strict=True)):
        tell("labels", number + 1, len(pictures))
        if number == 0:
            continue
        labels = predict_mask(carried.probs.cpu(), picture.grid).numpy()
        bare = _per_pixel((carried.probs.sum(-1) == 0).cpu().view(*picture.side.shape, 1), picture.grid)[..., 0].numpy()
        labels[bare] = IGNORE_INDEX
        sure = _per_pixel(carried.confidence.cpu().view(*picture.side.shape, 1), picture.grid)[..., 0].numpy()
        names = [f"{number:03d}-{picture.path.stem}.png", f"{number:03d}-{picture.path.stem}-confidence.png"]
        for name, values in zip(names, (labels, np.round(255 * sure).astype(np.uint8)), strict=True):
            write_atomic(out / name, _png(values))
        mean = float(carried.confidence[picture.side.mask].mean())
        found.append({"image": str(picture.path), "mask": names[0], "confidence": names[1], "mean": round(mean, 4)})
    return found


def _png(values: UInt8[np.ndarray, "h w"]) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(values).save(buffer, format="PNG")
    return buffer.getvalue()


def _used(settings: MatchSettings) -> dict[str, Any]:
    """The settings that the method reads."""
    own = settings.method.replace("-", "_")
    return {name: value for name, value in as_dict(settings).items() if name in ("readout", own)}


def _for_labels(settings: MatchSettings) -> MatchSettings:
    """GWOT with its weights of SPair-71k, which kept more of thin things in sequences that were looked at."""
    if settings.method != "gwot" or settings.gwot != GWOT_TSS:
        return settings
    return dataclasses.replace(settings, gwot=dataclasses.replace(GWOT_SPAIR, symmetry=0.0))


def _flat(settings: MatchSettings) -> MatchSettings:
    return dataclasses.replace(settings, shape_of_you=dataclasses.replace(settings.shape_of_you, structure="grid2d"))


def _carried(
    first: Picture, picture: Picture, matching: Matching, points: Float[Tensor, "k 2"]
) -> tuple[Float[Tensor, "k 2"], Float[Tensor, " k"]]:
    """Where key points go, pixels (x, y) of the target, and how sure: what the nearest token of the mask says.

    A point farther than `BESIDE` tokens from all of the mask has confidence 0: nobody was asked near it.
    """
    tokens = torch.nonzero(first.side.mask)[:, 0].cpu()
    centres = torch.stack([tokens // first.grid.width, tokens % first.grid.width], -1).float()
    asked = from_pixels(points.flip(-1).float(), first.grid)
    away, nearest = torch.cdist(asked, centres).min(-1) if len(asked) else (torch.zeros(0), torch.zeros(0).long())
    token = tokens[nearest]
    positions = matching.positions.cpu()[token]
    sure = torch.where(away <= BESIDE, matching.confidence.cpu()[token], 0.0)
    return to_pixels(positions, picture.grid).flip(-1), sure


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


def _drawn(
    first: Picture, picture: Picture, matching: Matching, points: Float[Tensor, "k 2"], names: Sequence[str]
) -> DrawnMatch:
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
        tuple(names),
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
