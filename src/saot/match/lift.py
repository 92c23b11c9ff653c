"""A point in space for each token of a picture: from point maps, depth maps, networks that make them, or none.

Shape-of-You compares distances between points of one picture with distances between points of the other, each
divided by a scale of its own, so points need no metric unit. It lifts pictures with VGGT; whoever has another
model, or VGGT on another machine, saves its maps and uses `lift_file`.

Points are those of a camera at the origin: x to the right, y down, z forward. Where a map says nothing (sky), a
token gets the point of the farthest token that has one, and `valid` says so.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int64
from torch import Tensor

from saot.data import PatchGrid
from saot.features import OneSentence

DEFAULT_VIEW = 60.0  # degrees along the longer side, as of a phone or a 31 mm lens on film: an assumption
_TOLERANCE = 14  # pixels by which the aspect ratio of a map may be off: one patch of the network that made it


@dataclass(frozen=True, eq=False)
class LiftedTokens:
    """Where the tokens of one picture lie in space.

    Attributes:
        points: Finite points of n tokens, row by row; the unit is the source's.
        valid: False for a token whose point was filled in from the farthest valid one.
        source: What made the points, for reports.
    """

    points: Float[Tensor, "n 3"]
    valid: Bool[Tensor, " n"]
    source: str


@dataclass(frozen=True)
class Camera:
    """A pinhole camera without distortion, pixels of the picture.

    Attributes:
        focal_x, focal_y: Focal lengths.
        centre_x, centre_y: Principal point from the left and upper edge; the centre of the first pixel is at 0.5.

    Raises:
        ValueError: If a focal length is not positive or a number not finite.

    Example:
        >>> Camera.of_view(480, 640, 90.0)
        Camera(focal_x=320.0, focal_y=320.0, centre_x=320.0, centre_y=240.0)
    """

    focal_x: float
    focal_y: float
    centre_x: float
    centre_y: float

    def __post_init__(self) -> None:
        if not (self.focal_x > 0 and self.focal_y > 0 and all(map(math.isfinite, vars(self).values()))):
            raise ValueError(f"expected finite numbers and positive focal lengths (pixels), got {self}")

    @classmethod
    def of_view(cls, height: int, width: int, degrees: float = DEFAULT_VIEW) -> "Camera":
        """The camera whose picture's longer side spans an angle, 0 to 180 degrees, looking through its middle."""
        if not 0 < degrees < 180:
            raise ValueError(f"a field of view lies between 0 and 180 degrees; got {degrees:g}")
        focal = max(height, width) / 2 / math.tan(math.radians(degrees) / 2)
        return cls(round(focal, 9), round(focal, 9), width / 2, height / 2)


def lift_points(
    point_map: Float[Tensor, "H W 3"],
    grid: PatchGrid,
    *,
    inside: Bool[Tensor, "h w"] | None = None,
    source: str = "point map",
) -> LiftedTokens:
    """Points of a map at the centres of the tokens, bilinearly.

    A token centre beyond the picture's edge, in padding, takes the edge. Points that are not finite take no part:
    a token is valid where the finite ones hold at least half of the bilinear weight.

    Args:
        point_map: Points over the whole picture and nothing else (no padding), at any resolution.
        grid: How the picture lies under the tokens.
        inside: Pixels of the picture that count, such as the object's mask: at its edge depth jumps to what lies
            behind. A token without such a point then gets that of the nearest token that has one.
        source: What made the map, for reports.

    Raises:
        ValueError: If the map has another aspect ratio than the picture, or no token has a point.

    Example:
        >>> x = torch.tensor([[0.0, 1.0, 2.0, math.nan]]).expand(2, 4)
        >>> lifted = lift_points(torch.stack([x, x, x], dim=-1), PatchGrid(2, 4, 2, 4, 2, 1, 2))
        >>> lifted.points[:, 0], lifted.valid
        (tensor([0.5000, 2.0000]), tensor([True, True]))
    """
    _check_aspect(point_map.shape, grid)
    places = 2 * _centres(grid).view(1, grid.height, grid.width, 2) - 1  # -1 to 1 over the picture
    known = torch.isfinite(point_map).all(-1).cpu()
    if inside is not None:
        known &= _at_size(inside, *known.shape)
    maps = torch.cat([torch.where(known[..., None], point_map.cpu().double(), 0.0), known[..., None].double()], -1)
    maps = maps.permute(2, 0, 1)[None]
    sampled = F.grid_sample(maps, places, padding_mode="border", align_corners=False)[0].flatten(1)
    share = sampled[3]
    valid = share >= 0.5 - 1e-9  # rounding of token centres that lie half way between pixels
    if not bool(valid.any()):
        raise ValueError("no token has a finite point; check the map, or use the flat grid (lift_flat)")
    points = torch.where(valid, sampled[:3] / torch.where(valid, share, 1.0), 0.0).T
    points[~valid] = points[_stand_in(points, valid, grid, nearest=inside is not None)[~valid]]
    return LiftedTokens(points.float(), valid, source)


def _at_size(inside: Bool[Tensor, "h w"], height: int, width: int) -> Bool[Tensor, "H W"]:
    """The mask at the size of a map, by the pixel under the centre of each of the map's."""
    rows, columns = (
        (2 * torch.arange(to) + 1) * size // (2 * to) for to, size in zip((height, width), inside.shape, strict=True)
    )
    return inside.cpu()[rows[:, None], columns]


def _stand_in(
    points: Float[Tensor, "n 3"], valid: Bool[Tensor, " n"], grid: PatchGrid, nearest: bool
) -> Int64[Tensor, " n"]:
    """For each token the one whose point it takes where it has none: the farthest from the camera, or the nearest."""
    if not nearest:
        return torch.where(valid, points.norm(dim=1), -1.0).argmax().expand(len(points))
    places = torch.cartesian_prod(torch.arange(grid.height), torch.arange(grid.width)).reshape(-1, 2).float()
    return torch.nonzero(valid)[:, 0][torch.cdist(places, places[valid]).argmin(1)]


def lift_depth(
    depth: Float[Tensor, "H W"],
    grid: PatchGrid,
    camera: Camera | None = None,
    *,
    inside: Bool[Tensor, "h w"] | None = None,
    source: str = "depth map",
) -> LiftedTokens:
    """Points of a depth map, depth * (((x, y) - centre) / focal, 1), at the centres of the tokens, bilinearly.

    Args:
        depth: Along the viewing direction (z), any unit; zero, negative or not finite where it is not known.
            Over the whole picture and nothing else (no padding), at any resolution.
        grid: How the picture lies under the tokens.
        camera: Of the picture at its own size; None assumes a view of 60 degrees along the longer side.
        inside: As in `lift_points`.
        source: What made the map, for reports.

    Raises:
        ValueError: If the map has another aspect ratio than the picture, or no token has a point.

    Example:
        >>> lift_depth(torch.full((2, 2), 3.0), PatchGrid(2, 2, 2, 2, 1, 2, 2), Camera(1.0, 1.0, 1.0, 1.0)).points[0]
        tensor([-1.5000, -1.5000,  3.0000])
    """
    _check_aspect(depth.shape, grid)
    camera = camera or Camera.of_view(grid.image_height, grid.image_width)
    z = torch.where((depth > 0) & torch.isfinite(depth), depth.double(), math.nan)
    rows, columns = (torch.arange(size, dtype=torch.float64, device=depth.device) + 0.5 for size in depth.shape)
    x = (columns * (grid.image_width / depth.shape[1]) - camera.centre_x) / camera.focal_x
    y = (rows * (grid.image_height / depth.shape[0]) - camera.centre_y) / camera.focal_y
    return lift_points(torch.stack([z * x[None, :], z * y[:, None], z], dim=-1), grid, inside=inside, source=source)


def depth_from_disparity(disparity: Float[Tensor, "H W"], far_over_near: float = 10.0) -> Float[Tensor, "H W"]:
    """Depth from inverse depth of which scale and shift are not known.

    Both are assumed: the largest disparity is at depth 1 and the smallest at `far_over_near`.

    Args:
        disparity: Larger is nearer; NaN comes back where it is not finite.
        far_over_near: How much farther the farthest is than the nearest, greater than 1.

    Raises:
        ValueError: If the ratio is not greater than 1.

    Example:
        >>> depth_from_disparity(torch.tensor([[0.0, 5.0, 10.0]]), far_over_near=3.0)
        tensor([[3.0000, 1.5000, 1.0000]])
    """
    if not 1 < far_over_near < math.inf:
        raise ValueError(f"far_over_near must be greater than 1, but is {far_over_near:g}")
    known = torch.isfinite(disparity)
    low = torch.where(known, disparity, math.inf).min()
    spread = torch.where(known, disparity - low, 0).max()  # zero if nothing is nearer than anything else
    nearness = (disparity - low) / torch.where(spread > 0, spread, 1)
    return torch.where(known, 1 / (nearness * (1 - 1 / far_over_near) + 1 / far_over_near), math.nan)


def lift_flat(grid: PatchGrid) -> LiftedTokens:
    """The patch grid itself as structure: centres of the tokens, pixels of the picture, z = 0.

    Example:
        >>> lift_flat(PatchGrid(2, 4, 2, 4, 2, 1, 2)).points
        tensor([[1., 1., 0.],
                [3., 1., 0.]])
    """
    flat = _centres(grid) * torch.tensor([grid.image_width, grid.image_height])
    return LiftedTokens(F.pad(flat, (0, 1)).float(), torch.ones(grid.num_tokens, dtype=torch.bool), "grid")


def lift_file(
    path: str | Path, grid: PatchGrid, camera: Camera | None = None, *, inside: Bool[Tensor, "h w"] | None = None
) -> LiftedTokens:
    """Points from a `.npz` or `.safetensors` file that some other program wrote.

    The file holds `points` (H, W, 3) or `depth` (H, W), over the whole picture without padding and at any
    resolution; if both, `points` counts. With `depth` it may hold `intrinsics` (3, 3), pixels of that map.

    Args:
        path: The file.
        grid: How the picture lies under the tokens.
        camera: Of the picture at its own size, for `depth`; None takes the file's, or else the default view.
        inside: As in `lift_points`.

    Raises:
        ValueError: If the file is absent, damaged, or holds no such map, or the map does not fit the picture.
    """
    path = Path(path)
    arrays = read_arrays(path)
    name = next((name for name in ("points", "depth") if name in arrays), None)
    if name is None:
        raise ValueError(f"{path} must hold `points` (H, W, 3) or `depth` (H, W), but holds {sorted(arrays)}")
    for key, ndim, ending in (("points", 3, (3,)), ("depth", 2, ()), ("intrinsics", 2, (3, 3))):
        part = arrays.get(key)
        if part is not None and (part.ndim != ndim or part.shape[ndim - len(ending) :] != ending or 0 in part.shape):
            wanted = {"points": "(H, W, 3)", "depth": "(H, W)", "intrinsics": "(3, 3)"}[key]
            raise ValueError(f"`{key}` in {path} must have shape {wanted}, but has {tuple(part.shape)}")
    if name == "points":
        return lift_points(arrays[name], grid, inside=inside, source=path.name)
    if camera is None and "intrinsics" in arrays:
        down, across = grid.image_height / len(arrays[name]), grid.image_width / arrays[name].shape[1]
        scale = torch.tensor([across, down, across, down])
        camera = Camera(*(arrays["intrinsics"][[0, 1, 0, 1], [0, 1, 2, 2]] * scale).tolist())
    return lift_depth(arrays[name], grid, camera, inside=inside, source=path.name)


def _centres(grid: PatchGrid) -> Float[Tensor, "n 2"]:
    """(x, y) of the centres of the tokens, 0 to 1 over the picture and beyond 1 in padding."""
    rows = (torch.arange(grid.height, dtype=torch.float64) + 0.5) * grid.patch_size / grid.input_height
    columns = (torch.arange(grid.width, dtype=torch.float64) + 0.5) * grid.patch_size / grid.input_width
    return torch.cartesian_prod(rows, columns).flip(-1)


def _check_aspect(shape: torch.Size, grid: PatchGrid) -> None:
    """Raise unless a map of this shape may be the whole picture resized, some rounding allowed."""
    height, width = shape[:2]
    stretch = height * grid.image_width / max(1, width * grid.image_height)
    if not min(height, width) or abs(stretch - 1) > max(0.05, _TOLERANCE / min(height, width)):
        raise ValueError(
            f"the map has {height}x{width} pixels (height x width) but its picture {grid.image_height}x"
            f"{grid.image_width}, another aspect ratio; cut padding off, or resize the map to the picture"
        )


def read_arrays(path: Path) -> Mapping[str, Tensor]:
    """Arrays of a file by name, float64, without ever unpickling code."""
    if not path.is_file() or path.suffix not in (".npz", ".safetensors"):
        raise ValueError(f"expected a .npz or .safetensors file at {path}, found none")
    with OneSentence(f"{path} cannot be read as arrays by name", "write it again"):
        if path.suffix == ".npz":
            with np.load(path, allow_pickle=False) as arrays:
                wanted = {"points", "depth", "intrinsics", "features"} & set(arrays.files)
                return {name: torch.from_numpy(arrays[name].astype(np.float64)) for name in wanted}
        from safetensors.torch import load_file

        return {name: value.double() for name, value in load_file(path).items()}
