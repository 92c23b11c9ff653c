"""Networks that lift a picture, on tiny ones and stand-ins."""

import json
import math
import shutil
import sys
from types import ModuleType, SimpleNamespace

import numpy as np
import pytest
import torch
from helpers.lift import GRID, PADDED, token_places

from saot.data.patches import PatchGrid
from saot.match import lift_models
from saot.match.lift import Camera, depth_from_disparity, lift_depth
from saot.match.lift_models import DepthModel, VggtModel

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


def test_networks_tell_their_weights_and_settings_apart(folders):
    def identity(name="relative", **more):
        return DepthModel(folders / name, **{"predicts": "disparity", **more}).identity

    known = [
        identity(),
        identity(field_of_view=50.0),
        identity(far_over_near=4.0),
        identity("metric", predicts="depth"),
    ]
    assert len(set(known)) == 4 and identity() == known[0]
    model = DepthModel(folders / "relative", predicts="disparity")
    next(iter(model._model.parameters())).flatten()[0].add_(1)
    assert model.identity != known[0]


class Focal:
    """In the place of an image processor whose network estimates the focal length, and wants to know the size."""

    def __call__(self, images, return_tensors):
        return SimpleNamespace(to=lambda device: {"size": images.size})

    def post_process_depth_estimation(self, outputs, source_sizes=None, target_sizes=None):
        assert source_sizes == target_sizes == [(60, 100)]
        return [{"predicted_depth": outputs, "focal_length": torch.tensor(130.0)}]


@pytest.mark.parametrize("name", ["relative", "dpt"])
def test_a_network_trained_on_a_rectangle_is_refused(folders, tmp_path, name):
    """transformers reads its 4 x 9 positions as 6 x 6."""
    from transformers import AutoModelForDepthEstimation

    config = AutoModelForDepthEstimation.from_pretrained(folders / name).config
    part, patch = (config, 16) if name == "dpt" else (config.backbone_config, 14)
    part.image_size = [4 * patch, 9 * patch]
    shutil.copytree(folders / name, tmp_path / name)
    AutoModelForDepthEstimation.from_config(config).save_pretrained(tmp_path / name)
    with pytest.raises(ValueError, match=rf"trained on squares; .* has image_size {4 * patch} x {9 * patch}, whose"):
        DepthModel(tmp_path / name, predicts="disparity")


def test_an_input_that_is_no_square_is_refused_where_tokens_come_back_as_one(folders, tmp_path):
    """4 x 9 tokens would come back as 6 x 6."""
    shutil.copytree(folders / "dpt", tmp_path / "dpt")
    said = json.loads((tmp_path / "dpt" / "preprocessor_config.json").read_text())
    (tmp_path / "dpt" / "preprocessor_config.json").write_text(
        json.dumps(said | {"keep_aspect_ratio": True, "ensure_multiple_of": 16})
    )
    with pytest.raises(ValueError, match=r"to make squares; it makes 64 x \d+, .* keep_aspect_ratio"):
        DepthModel(tmp_path / "dpt", predicts="disparity").lift(picture(), GRID)


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
    monkeypatch.setattr("saot.features.published.find_spec", lambda name: None)
    with pytest.raises(ValueError, match=r"needs transformers.*the extra 'vit' needs: "):
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
