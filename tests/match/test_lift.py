import math

import numpy as np
import pytest
import torch
from helpers.lift import CAMERA, GRID, PADDED, token_places
from torch.testing import assert_close

from saot.data.patches import PatchGrid
from saot.match import lift
from saot.match.lift import Camera, depth_from_disparity, lift_depth, lift_file, lift_flat


def pixel_centres(height: int, width: int, grid: PatchGrid) -> tuple[torch.Tensor, torch.Tensor]:
    """x and y of each pixel of a map over the picture, pixels of the picture."""
    y = (torch.arange(height, dtype=torch.float64) + 0.5) * grid.image_height / height
    x = (torch.arange(width, dtype=torch.float64) + 0.5) * grid.image_width / width
    y, x = torch.meshgrid(y, x, indexing="ij")
    return x, y


# ---- maps


@pytest.mark.parametrize("grid", [GRID, PADDED])
@pytest.mark.parametrize("scale", [1, 2])
def test_a_plane_before_the_camera_is_unprojected_to_its_closed_form(grid, scale):
    lifted = lift_depth(torch.full((scale * grid.image_height, scale * grid.image_width), 7.0), grid, CAMERA)
    x, y = token_places(grid).T
    edge = 0.5 / scale  # the map ends at the centres of its outermost pixels
    x, y = x.clamp(edge, grid.image_width - edge), y.clamp(edge, grid.image_height - edge)
    wanted = torch.stack([7 * (x - 47) / 80, 7 * (y - 31) / 90, torch.full_like(x, 7)], -1)
    torch.testing.assert_close(lifted.points.double(), wanted, rtol=1e-6, atol=1e-6)  # rounded to float32
    assert lifted.valid.all() and lifted.points.dtype == torch.float32


def test_tokens_of_a_slanted_plane_lie_on_it():
    normal, offset = torch.tensor([0.2, -0.3, 1.0], dtype=torch.float64), 5.0
    x, y = pixel_centres(42, 70, GRID)  # another resolution than the picture's
    rays = torch.stack([(x - 47) / 80, (y - 31) / 90, torch.ones_like(x)], -1)
    lifted = lift_depth(offset / (rays @ normal), GRID, CAMERA)
    torch.testing.assert_close(lifted.points.double() @ normal, torch.full((60,), 5.0).double(), rtol=1e-6, atol=0)
    assert lifted.points[:, 2].std() > 0.1


def test_points_are_interpolated_between_pixels():
    x, y = pixel_centres(60, 100, GRID)
    lifted = lift.lift_points(torch.stack([x, y, x + 2 * y], -1), GRID, source="mine")
    places = token_places(GRID)
    torch.testing.assert_close(lifted.points[:, :2].double(), places, rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(lifted.points[:, 2].double(), places @ places.new_tensor([1, 2]), rtol=1e-6, atol=0)
    assert lifted.source == "mine"


def test_no_camera_is_a_view_of_sixty_degrees():
    depth = torch.rand(60, 100) + 1
    focal = 50 / math.tan(math.pi / 6)
    torch.testing.assert_close(
        lift_depth(depth, GRID).points, lift_depth(depth, GRID, Camera(focal, focal, 50.0, 30.0)).points
    )
    tall = Camera.of_view(100, 60, 90)
    assert (tall.focal_x, tall.focal_y, tall.centre_x, tall.centre_y) == (50, 50, 30, 50)


def test_unknown_depth_takes_the_farthest_point_and_is_told():
    depth = torch.full((60, 100), 2.0)
    depth[30:, 90:] = 9.0  # the farthest there is
    depth[:20] = math.inf  # sky
    depth[20:25, :10] = 0.0
    depth[25:28, :10] = -3.0
    depth[28:30, :10] = math.nan
    lifted = lift_depth(depth, GRID, CAMERA)
    assert lifted.valid.view(6, 10)[:, 1:].tolist() == [[row > 1] * 9 for row in range(6)]
    assert lifted.valid.view(6, 10)[:, 0].tolist() == [False] * 3 + [True] * 3
    assert torch.isfinite(lifted.points).all()
    farthest = lifted.points[lifted.valid].norm(dim=1).argmax()
    assert torch.equal(lifted.points[~lifted.valid], lifted.points[lifted.valid][farthest].expand(21, 3))
    assert lifted.points[~lifted.valid][0, 2] == 9
    torch.testing.assert_close(lifted.points[33, 2], torch.tensor(2.0), rtol=1e-6, atol=0)


def test_points_beside_a_hole_are_those_of_the_known_side():
    grid = PatchGrid(4, 4, 4, 4, 2, 2, 2)  # a token's centre lies between four pixels
    x, y = pixel_centres(4, 4, grid)
    points = torch.stack([x, y, torch.ones_like(x)], -1)
    points[:2, 0] = math.nan  # half of the first token
    points[2:, 2:] = math.inf
    points[3, 3] = 1.0  # a quarter of the last
    lifted = lift.lift_points(points, grid)
    assert lifted.valid.tolist() == [True, True, True, False]
    torch.testing.assert_close(lifted.points[0], torch.tensor([1.5, 1.0, 1.0]))
    assert torch.equal(lifted.points[3], lifted.points[1])  # (3, 1, 1) is as far as (1, 3, 1), and comes first


def test_maps_that_do_not_fit_or_say_nothing():
    for shape in ((518, 518), (60, 50), (0, 0)):
        with pytest.raises(ValueError, match=r"another aspect ratio; cut padding off"):
            lift_depth(torch.ones(shape), GRID)
    for shape in ((308, 518), (1, 2), (6, 10), (120, 200)):  # rounded to patches, tiny, or larger
        assert lift_depth(torch.ones(shape), GRID).valid.all()
    with pytest.raises(ValueError, match="no token has a finite point"):
        lift_depth(torch.full((60, 100), math.inf), GRID)


@pytest.mark.parametrize(
    "numbers", [(0.0, 1.0, 1.0, 1.0), (1.0, -1.0, 1.0, 1.0), (1.0, 1.0, math.nan, 1.0), (math.inf, 1.0, 1.0, 1.0)]
)
def test_cameras_that_cannot_be(numbers):
    with pytest.raises(ValueError, match="positive focal lengths"):
        Camera(*numbers)
    for degrees in (0.0, 180.0, -5.0, math.nan):
        with pytest.raises(ValueError, match="between 0 and 180"):
            Camera.of_view(4, 4, degrees)


def test_disparity_without_scale_and_shift():
    disparity = torch.tensor([[0.0, 2.0, math.nan], [8.0, 4.0, 8.0]])
    depth = depth_from_disparity(disparity, 5.0)
    assert depth[0, 0] == 5 and depth[1, 0] == 1 and torch.isnan(depth[0, 2])
    torch.testing.assert_close(1 / depth[0, 1], torch.tensor(0.2 + 0.8 / 4))
    other = depth_from_disparity(3.0 * disparity - 7.0, 5.0)  # whatever scale and shift
    torch.testing.assert_close(other, depth, equal_nan=True)
    assert torch.equal(depth_from_disparity(torch.full((2, 2), 3.0)), torch.full((2, 2), 10.0))
    assert torch.isnan(depth_from_disparity(torch.full((2, 2), math.nan))).all()
    for ratio in (1.0, 0.5, math.inf, math.nan):
        with pytest.raises(ValueError, match="far_over_near"):
            depth_from_disparity(disparity, ratio)


@pytest.mark.parametrize("grid", [GRID, PADDED, PatchGrid(30, 90, 64, 64, 16, 4, 4)])
def test_the_flat_grid_has_the_shape_of_the_picture(grid):
    lifted = lift_flat(grid)
    torch.testing.assert_close(lifted.points[:, :2].double(), token_places(grid), rtol=1e-6, atol=0)
    assert not lifted.points[:, 2].any() and lifted.valid.all() and lifted.source == "grid"


# ---- files


def test_files_of_points_and_depth(tmp_path):
    from safetensors.torch import save_file

    x, y = pixel_centres(30, 50, GRID)
    depth = 1 + x / 100 + y / 50
    points = torch.stack([x, y, depth], -1)
    matrix = torch.tensor([[40.0, 0, 23.5], [0, 45, 15.5], [0, 0, 1]])  # CAMERA at half its size
    np.savez(tmp_path / "a.npz", points=points.numpy(), depth=depth.numpy(), mask=np.ones((30, 50), bool))
    np.savez(tmp_path / "b.npz", depth=depth.numpy().astype(np.float32), intrinsics=matrix.numpy())
    save_file({"depth": depth.float(), "intrinsics": matrix}, tmp_path / "c.safetensors")
    np.savez(tmp_path / "d.npz", depth=depth.numpy())
    assert torch.equal(lift_file(tmp_path / "a.npz", GRID).points, lift.lift_points(points, GRID).points)
    for name in ("b.npz", "c.safetensors"):
        lifted = lift_file(tmp_path / name, GRID)
        torch.testing.assert_close(lifted.points, lift_depth(depth, GRID, CAMERA).points)
        assert lifted.source == name
    torch.testing.assert_close(lift_file(tmp_path / "d.npz", GRID).points, lift_depth(depth, GRID).points)
    for name in ("b.npz", "d.npz"):  # what the caller says comes first
        wide = Camera(30.0, 30.0, 50.0, 30.0)
        torch.testing.assert_close(lift_file(tmp_path / name, GRID, wide).points, lift_depth(depth, GRID, wide).points)


class Malicious:
    def __reduce__(self):
        return (open, ("pickle-was-run", "w"))


def test_files_that_hold_something_else(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    ones = np.ones((60, 100, 3))
    np.savez("names.npz", xyz=ones)
    np.savez("flat.npz", points=ones[..., 0])
    np.savez("four.npz", points=np.ones((60, 100, 4)))
    np.savez("deep.npz", depth=ones)
    np.savez("camera.npz", depth=ones[..., 0], intrinsics=np.ones((3, 4)))
    np.savez("none.npz", depth=np.ones((0, 100)))
    np.savez("evil.npz", depth=np.array([Malicious()], dtype=object))
    with open("short.npz", "wb") as file:
        file.write(b"PK\x03\x04 cut")
    with open("short.safetensors", "wb") as file:
        file.write(b"\x00" * 4)
    np.save("array.npy", ones)
    for name, message in (
        ("names.npz", "must hold `points`"),
        ("flat.npz", r"must have shape \(H, W, 3\), but has \(60, 100\)"),
        ("four.npz", r"must have shape \(H, W, 3\)"),
        ("deep.npz", r"must have shape \(H, W\)"),
        ("camera.npz", r"`intrinsics` in camera.npz must have shape \(3, 3\)"),
        ("none.npz", r"must have shape \(H, W\)"),
        ("evil.npz", "cannot be read"),
        ("short.npz", "cannot be read"),
        ("short.safetensors", "cannot be read"),
        ("array.npy", "found none"),
        ("absent.npz", "found none"),
    ):
        with pytest.raises(ValueError, match=message) as caught:
            lift_file(name, GRID)
        assert "\n" not in str(caught.value)
    assert not (tmp_path / "pickle-was-run").exists()


def test_points_behind_the_object_do_not_count():
    inside = torch.zeros(8, 8, dtype=torch.bool)
    inside[:, :3] = True
    depth = torch.where(inside, 2.0, 50.0)
    grid = PatchGrid(8, 8, 8, 8, 2, 4, 4)
    plain, held = lift_depth(depth, grid), lift_depth(depth, grid, inside=inside)
    assert_close(held.points.view(4, 4, 3)[:, :2, 2], torch.full((4, 2), 2.0))
    assert float(plain.points.view(4, 4, 3)[:, 1, 2].max()) > 2  # the edge runs through the second column
    assert held.valid.view(4, 4)[:, 2:].any().item() is False
    assert_close(held.points.view(4, 4, 3)[:, 3], held.points.view(4, 4, 3)[:, 1])  # the nearest that has a point
