import math
import sys
from types import ModuleType, SimpleNamespace

import numpy as np
import pytest
import torch
from torch.testing import assert_close

from saot.data.patches import PatchGrid
from saot.match import lift, lift_models
from saot.match.lift import Camera, depth_from_disparity, lift_depth, lift_file, lift_flat
from saot.match.lift_models import DepthModel, VggtModel

GRID = PatchGrid(60, 100, 84, 140, 14, 6, 10)  # a picture of 60 x 100 pixels, resized without padding
PADDED = PatchGrid(45, 100, 75, 168, 16, 5, 11)  # the last row and column of tokens reach into padding
CAMERA = Camera(80.0, 90.0, 47.0, 31.0)


def token_places(grid: PatchGrid) -> torch.Tensor:
    """(x, y) of the centre of each token, pixels of the picture, one by one."""
    across, down = grid.image_width / grid.input_width, grid.image_height / grid.input_height
    cells = [(column + 0.5, row + 0.5) for row in range(grid.height) for column in range(grid.width)]
    return torch.tensor(cells).double() * torch.tensor([grid.patch_size * across, grid.patch_size * down])


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


# ---- depth networks of transformers


def picture() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (60, 100, 3), dtype=np.uint8)


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """Tiny random depth networks, as `save_pretrained` writes them."""
    transformers = pytest.importorskip("transformers")
    root = tmp_path_factory.mktemp("depth")
    torch.manual_seed(0)
    layers = {"hidden_size": 32, "num_hidden_layers": 4, "num_attention_heads": 2, "initializer_range": 0.3}
    backbone = transformers.Dinov2Config(
        **layers, mlp_ratio=2, patch_size=14, image_size=70, out_indices=[1, 2, 3, 4], reshape_hidden_states=False
    )
    necks = {"neck_hidden_sizes": [8, 8, 16, 16], "fusion_hidden_size": 16}
    for kind in ("relative", "metric"):
        config = transformers.DepthAnythingConfig(
            **necks, backbone_config=backbone, reassemble_hidden_size=32, head_hidden_size=8, depth_estimation_type=kind
        )
        transformers.DepthAnythingForDepthEstimation(config).save_pretrained(root / kind)
    sizes = {"intermediate_size": 64, "image_size": 64, "patch_size": 16, "backbone_out_indices": [0, 1, 2, 3]}
    dpt = transformers.DPTConfig(**layers, **necks, **sizes, is_hybrid=False, use_auxiliary_head=False)
    transformers.DPTForDepthEstimation(dpt).save_pretrained(root / "dpt")
    for name, side in (("relative", 70), ("metric", 70), ("dpt", 64)):
        kept = {"keep_aspect_ratio": True, "ensure_multiple_of": 14} if name != "dpt" else {}  # that one is squashed
        processor = transformers.DPTImageProcessorPil(size={"height": side, "width": side}, **kept)
        processor.save_pretrained(root / name)
    return root


@pytest.mark.parametrize(("name", "predicts"), [("relative", "disparity"), ("metric", "depth"), ("dpt", "disparity")])
def test_a_depth_network_is_unprojected(folders, name, predicts):
    from transformers import AutoImageProcessor, AutoModelForDepthEstimation

    lifted = DepthModel(folders / name, predicts=predicts, field_of_view=50.0, far_over_near=4.0).lift(picture(), GRID)
    processor = AutoImageProcessor.from_pretrained(folders / name)
    network = AutoModelForDepthEstimation.from_pretrained(folders / name).eval()
    with torch.no_grad():
        found = network(**processor(images=picture(), return_tensors="pt")).predicted_depth
    assert (found.shape[-1] > found.shape[-2]) == (name != "dpt")
    found = torch.nn.functional.interpolate(found[:, None], (60, 100), mode="bicubic")[0, 0]
    assert found.max() > found.min()
    depth = depth_from_disparity(found, 4.0) if predicts == "disparity" else found
    wanted = lift_depth(depth, GRID, Camera.of_view(60, 100, 50.0))
    torch.testing.assert_close(lifted.points, wanted.points, rtol=1e-4, atol=1e-4)  # float32 through the network
    assert torch.equal(lifted.valid, wanted.valid) and lifted.source.endswith(f"{name} ({predicts})")
    if predicts == "disparity":
        assert lifted.points[:, 2].min() >= 1 and lifted.points[:, 2].max() <= 4.0001


class Focal:
    """In the place of an image processor whose network estimates the focal length, and wants to know the size."""

    def __call__(self, images, return_tensors):
        return SimpleNamespace(to=lambda device: {"size": images.size})

    def post_process_depth_estimation(self, outputs, source_sizes=None, target_sizes=None):
        assert source_sizes == target_sizes == [(60, 100)]
        return [{"predicted_depth": outputs, "focal_length": torch.tensor(130.0)}]


class Network(torch.nn.Module):
    config = SimpleNamespace(model_type="depth_pro")

    def forward(self, size):
        return torch.full(size[::-1], 3.0)


def test_the_networks_own_focal_length_counts_unless_a_view_is_given(monkeypatch):
    monkeypatch.setattr(lift_models, "_load_depth", lambda name: (Focal(), Network()))
    own = DepthModel("x/y", predicts="depth").lift(picture(), GRID)
    depth = torch.full((60, 100), 3.0)
    assert torch.equal(own.points, lift_depth(depth, GRID, Camera(130.0, 130.0, 50.0, 30.0)).points)
    given = DepthModel("x/y", predicts="depth", field_of_view=40.0).lift(picture(), GRID)
    assert torch.equal(given.points, lift_depth(depth, GRID, Camera.of_view(60, 100, 40.0)).points)
    with pytest.raises(ValueError, match='predicts depth; pass predicts="depth"'):
        DepthModel("x/y", predicts="disparity")


def test_depth_networks_that_cannot_be_used(folders, tmp_path, monkeypatch):
    import shutil

    from safetensors.torch import load_file, save_file

    for name, predicts in (("relative", "depth"), ("metric", "disparity")):
        with pytest.raises(ValueError, match="says that it predicts"):
            DepthModel(folders / name, predicts=predicts)
    with pytest.raises(ValueError, match="between 0 and 180"):
        DepthModel(folders / "dpt", predicts="disparity", field_of_view=0.0)
    with pytest.raises(ValueError, match="far_over_near"):
        DepthModel(folders / "dpt", predicts="disparity", far_over_near=1.0)
    with pytest.raises(ValueError, match=r"the grid is of a picture of \(45, 100\)"):
        DepthModel(folders / "dpt", predicts="disparity").lift(picture(), PADDED)
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match="cannot be read as a depth model") as caught:
        DepthModel(tmp_path / "empty", predicts="depth")
    assert "\n" not in str(caught.value)
    shutil.copytree(folders / "dpt", tmp_path / "short")
    state = load_file(folders / "dpt" / "model.safetensors")
    unused = {name for name in state if "fusion_stage.layers.0.residual_layer1" in name}  # as published
    assert unused
    for left_out in (unused, {"head.head.0.weight"}):
        kept = {name: value for name, value in state.items() if name not in left_out}
        save_file(kept, tmp_path / "short" / "model.safetensors", metadata={"format": "pt"})
        if left_out == unused:
            assert DepthModel(tmp_path / "short", predicts="disparity").lift(picture(), GRID).valid.all()
    with pytest.raises(ValueError, match=r"head\.head\.0\.weight is missing"):
        DepthModel(tmp_path / "short", predicts="disparity")
    monkeypatch.setattr(lift_models, "find_spec", lambda name: None)
    with pytest.raises(ValueError, match=r"needs transformers.*pip install 'saot\[vit\]'"):
        DepthModel(folders / "dpt", predicts="disparity")


# ---- VGGT, of which the package is not needed to know what it puts out


class StandIn(torch.nn.Module):
    """Depth that can be read off the picture, garbage in the padding, 50 degrees high and 70 degrees wide."""

    loaded: tuple[str, ...] = ()
    seen: torch.Tensor

    @classmethod
    def from_pretrained(cls, name):
        if name == "absent":
            raise OSError("no such repository\nmore text")
        StandIn.loaded += (name,)
        return cls()

    def forward(self, images):
        assert images.shape == (1, 3, 518, 518)
        StandIn.seen = images
        depth = 2 + images.mean(1)[None, ..., None]  # 3 in the white padding
        pose = torch.tensor([9.0, 8, 7, 0, 0, 0, 1, math.radians(50), math.radians(70)])
        y, x = torch.meshgrid(torch.arange(518.0), torch.arange(518.0), indexing="ij")
        points = torch.stack([x, y, x + y], -1)[None, None]
        return {"pose_enc": pose[None, None], "depth": depth, "world_points": points}


@pytest.fixture
def vggt(monkeypatch):
    for name in ("vggt", "vggt.models", "vggt.models.vggt"):
        monkeypatch.setitem(sys.modules, name, ModuleType(name))
    sys.modules["vggt.models.vggt"].VGGT = StandIn


@pytest.mark.parametrize(("height", "width", "inner"), [(60, 100, (308, 518)), (200, 90, (518, 238))])
def test_vggt_sees_the_picture_in_the_middle_of_a_white_square(vggt, height, width, inner):
    image = np.zeros((height, width, 3), np.uint8)
    image[: height // 2] = 255  # the upper half is at depth 3, the lower at 2
    grid = PatchGrid(height, width, height, width, 5, height // 5, width // 5)
    lifted = VggtModel().lift(image, grid)
    top, left = (518 - inner[0]) // 2, (518 - inner[1]) // 2
    seen = StandIn.seen[0]
    assert (seen[:, :top] == 1).all() and (seen[:, :, :left] == 1).all() and (seen[:, :, left + inner[1] :] == 1).all()
    assert (seen[:, top + inner[0] // 2 + 9 : top + inner[0], left : left + inner[1]] == 0).all()
    x, y = token_places(grid).T
    depth = torch.where(y < height / 2, 3.0, 2.0).double()
    # back to the square, whose middle is the principal point, with its two focal lengths
    u, v = left + x * inner[1] / width, top + y * inner[0] / height
    right, down = ((w - 259) / 259 * math.tan(math.radians(half)) for w, half in ((u, 35), (v, 25)))
    wanted = torch.stack([depth * right, depth * down, depth], -1)
    torch.testing.assert_close(lifted.points.double(), wanted, rtol=1e-4, atol=1e-4)  # the network's float32
    assert lifted.valid.all() and lifted.source == "VGGT depth" and StandIn.loaded[-1] == "facebook/VGGT-1B"
    points = VggtModel("here", points="world_points").lift(image, grid)
    wanted = torch.stack([u - 0.5, v - 0.5, u + v - 1], -1)
    torch.testing.assert_close(points.points.double(), wanted, rtol=1e-5, atol=1e-3)
    assert points.source == "VGGT world_points" and StandIn.loaded[-1] == "here"


def test_vggt_that_is_absent(vggt, monkeypatch):
    with pytest.raises(ValueError, match=r"from absent \(no such repository\)"):
        VggtModel("absent")
    with pytest.raises(ValueError, match="the grid is of a picture"):
        VggtModel().lift(picture(), PADDED)
    for name in ("vggt", "vggt.models", "vggt.models.vggt"):
        monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(ValueError, match=r"needs the package vggt .*lift_file") as caught:
        VggtModel()
    assert "\n" not in str(caught.value)


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
