import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers.vit import FAMILIES, SMALL, save_families

from saot.data import point_tokens
from saot.features import FeatureKey, Padded, extract, load_backbone, patch_grid, resize_image
from saot.features.vit import hub_name, resize_positions

transformers = pytest.importorskip("transformers")


@pytest.fixture(scope="module")
def folders(tmp_path_factory) -> dict[str, Path]:
    """One tiny random model of each family."""
    return save_families(tmp_path_factory.mktemp("models"))


def picture(height: int, width: int) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)


def pixels(image: np.ndarray, mean=(0.485, 0.456, 0.406), deviation=(0.229, 0.224, 0.225)) -> torch.Tensor:
    x = torch.from_numpy(image).float() / 255
    return ((x - torch.tensor(mean)) / torch.tensor(deviation)).permute(2, 0, 1)[None]


def direct(folder: Path, name: str):
    return getattr(transformers, f"{FAMILIES[name][0]}Model").from_pretrained(folder, local_files_only=True).eval()


@pytest.mark.parametrize("name", FAMILIES)
def test_tokens_are_the_patch_tokens_of_the_network(folders, name):
    patch = FAMILIES[name][1]["patch_size"]
    size = (70, 70) if patch == 14 else (64, 64)  # the trained grid: nobody resizes positions
    image = picture(*size)
    backbone = load_backbone(name, folders[name], size=size, l2_norm=False)
    features = extract(backbone, image, "")
    mean = (0.5, 0.5, 0.5) if name == "vit-base" else (0.485, 0.456, 0.406)
    deviation = (0.5, 0.5, 0.5) if name == "vit-base" else (0.229, 0.224, 0.225)
    with torch.no_grad():
        outputs = direct(folders[name], name)(pixels(image, mean, deviation))
    wanted = outputs.last_hidden_state[0, -((size[0] // patch) ** 2) :]
    assert features.tokens.shape == wanted.shape
    torch.testing.assert_close(features.tokens, wanted, rtol=1e-4, atol=1e-4)  # float32, another order of sums
    assert (backbone.patch_size, backbone.dim) == (patch, 32)
    assert features.provenance.final_norm


@pytest.mark.parametrize("name", FAMILIES)
def test_layers_and_final_norm(folders, name):
    patch = FAMILIES[name][1]["patch_size"]
    image = picture(4 * patch, 4 * patch)
    size = image.shape[:2]
    model = direct(folders[name], name)
    blocks = {
        "dinov2-small": lambda: model.encoder.layer,
        "dinov2-small-reg": lambda: model.encoder.layer,
        "dinov3-small": lambda: model.model.layer,
        "vit-base": lambda: model.layers,
    }[name]()
    seen = []
    for block in blocks:
        block.register_forward_hook(
            lambda module, inputs, output: seen.append(output[0] if isinstance(output, tuple) else output)
        )
    backbone = load_backbone(name, folders[name], size=size, layers=[0, -1], final_norm=False, l2_norm=False)
    assert backbone.key.layers == ("0", "2")
    backbone._model = model  # type: ignore[attr-defined]  # the same network, with hooks
    tokens = extract(backbone, image, "").tokens
    wanted = torch.cat([seen[0][0, -16:], seen[2][0, -16:]], 1)
    torch.testing.assert_close(tokens, wanted, rtol=0, atol=0)
    assert backbone.dim == 64
    normed = load_backbone(name, folders[name], size=size, layers=[0, -1], l2_norm=False)
    norm = model.norm if name == "dinov3-small" else model.layernorm
    if name != "dinov2-small":  # whose positions are resized otherwise without the replacement
        with torch.no_grad():
            wanted = torch.cat([norm(seen[0])[0, -16:], norm(seen[2])[0, -16:]], 1)
        torch.testing.assert_close(extract(normed, image, "").tokens, wanted, rtol=1e-4, atol=1e-4)


def test_dinov2_resizes_positions_as_its_authors_do(folders):
    """Bicubic by the factor (side + 0.1) / 5, spelt out by hand, on a grid that is not square."""
    image = picture(42, 98)  # 3 x 7 patches
    model = direct(folders["dinov2-small"], "dinov2-small")
    table = model.embeddings.position_embeddings.detach()
    patches = table[0, 1:].view(5, 5, 32)

    def cubic(x: float, a: float = -0.75) -> float:
        x = abs(x)
        if x <= 1:
            return (a + 2) * x**3 - (a + 3) * x**2 + 1
        return a * (x**3 - 5 * x**2 + 8 * x - 4) if x < 2 else 0.0

    def weights(count: int) -> torch.Tensor:
        matrix = torch.zeros(count, 5)
        for i in range(count):
            centre = (i + 0.5) * 5 / (count + 0.1) - 0.5
            for j in range(int(np.floor(centre)) - 1, int(np.floor(centre)) + 3):
                matrix[i, min(max(j, 0), 4)] += cubic(centre - j)
        return matrix

    wanted = torch.einsum("yj,xk,jkd->yxd", weights(3), weights(7), patches).flatten(0, 1)
    resized = resize_positions(table, 3, 7, trained=(5, 5))
    torch.testing.assert_close(resized[0, 1:], wanted, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(resized[:, 0], table[:, 0], rtol=0, atol=0)
    assert resize_positions(table, 5, 5, trained=(5, 5)) is table

    backbone = load_backbone("dinov2-small", folders["dinov2-small"], size=(42, 98), l2_norm=False)
    tokens = extract(backbone, image, "").tokens
    with torch.no_grad():
        theirs = model(pixels(image)).last_hidden_state[0, 1:]
        model.embeddings.interpolate_pos_encoding = lambda *_: torch.cat([table[:, :1], wanted[None]], 1)
        ours = model(pixels(image)).last_hidden_state[0, 1:]
    torch.testing.assert_close(tokens, ours, rtol=1e-3, atol=1e-3)
    assert (tokens - theirs).abs().max() > 0.01  # transformers departs from the authors here


def test_registers_resize_with_antialias_and_without_offset(folders):
    name = "dinov2-small-reg"
    image = picture(42, 98)
    model = direct(folders[name], name)
    table = model.embeddings.position_embeddings.detach()
    grid = table[:, 1:].view(1, 5, 5, 32).permute(0, 3, 1, 2)
    grid = torch.nn.functional.interpolate(grid, size=(3, 7), mode="bicubic", antialias=True)
    wanted = torch.cat([table[:, :1], grid.permute(0, 2, 3, 1).flatten(1, 2)], 1)
    model.embeddings.interpolate_pos_encoding = lambda *_: wanted
    with torch.no_grad():
        ours = model(pixels(image)).last_hidden_state[0, 5:]
    tokens = extract(load_backbone(name, folders[name], size=(42, 98), l2_norm=False), image, "").tokens
    torch.testing.assert_close(tokens, ours, rtol=1e-4, atol=1e-4)


WITH_TABLE = [name for name in FAMILIES if name != "dinov3-small"]


@pytest.fixture(scope="module", params=[(4, 9), (4, 6)], ids=["4x9", "4x6"])
def rectangles(request, tmp_path_factory) -> tuple[tuple[int, int], dict[str, Path]]:
    """Models with a table of positions that is no square, one of as many positions as 6 x 6 has, and their folders."""
    (rows, columns), root = request.param, tmp_path_factory.mktemp("rectangles")
    for name in WITH_TABLE:
        family, settings = FAMILIES[name]
        patch = settings["patch_size"]
        size = {"image_size": [rows * patch, columns * patch]}
        model = getattr(transformers, f"{family}Model")(
            getattr(transformers, f"{family}Config")(**SMALL, **settings | size)
        )
        with torch.no_grad():
            model.embeddings.position_embeddings.normal_()
        model.save_pretrained(root / name)
    return request.param, {name: root / name for name in WITH_TABLE}


@pytest.mark.parametrize("name", WITH_TABLE)
def test_positions_of_a_rectangle_stay_where_they_were_trained(rectangles, name):
    """At the trained grid the table is used as it is; at other sizes each axis is resized by its own factor."""
    (rows, columns), folders = rectangles
    patch, folder = FAMILIES[name][1]["patch_size"], folders[name]
    model = direct(folder, name)
    table = model.embeddings.position_embeddings.detach()
    extra = 1 + FAMILIES[name][1].get("num_register_tokens", 0)
    statistics = ((0.5,) * 3, (0.5,) * 3) if name == "vit-base" else ()
    more = {"interpolate_pos_encoding": True} if name == "vit-base" else {}
    for height, width in ((rows, columns), (6, 5)):
        positions = table
        if (height, width) != (rows, columns):
            grid = table[:, 1:].view(1, rows, columns, 32).permute(0, 3, 1, 2)
            options = {"size": (height, width), "antialias": name == "dinov2-small-reg"}
            if name == "dinov2-small":
                options = {"scale_factor": ((height + 0.1) / rows, (width + 0.1) / columns)}
            grid = torch.nn.functional.interpolate(grid, mode="bicubic", **options)
            positions = torch.cat([table[:, :1], grid.permute(0, 2, 3, 1).flatten(1, 2)], 1)
        model.embeddings.interpolate_pos_encoding = lambda *_, wanted=positions: wanted
        size = height * patch, width * patch
        image = picture(*size)
        with torch.no_grad():
            wanted = model(pixels(image, *statistics), **more).last_hidden_state[0, extra:]
        tokens = extract(load_backbone(name, folder, size=size, l2_norm=False), image, "").tokens
        torch.testing.assert_close(tokens, wanted, rtol=1e-4, atol=1e-4)  # float32, another order of sums


def test_the_sides_of_a_rectangle_belong_to_the_weights(rectangles, tmp_path):
    """4 x 9 and 9 x 4 have equal weight files; their features are others, and so are those read as a square."""
    folder = shutil.copytree(rectangles[1]["vit-base"], tmp_path / "turned")
    keys = [load_backbone("vit-base", folder).key]
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"image_size": config["image_size"][::-1]}))
    keys.append(load_backbone("vit-base", folder).key)
    assert keys[0].differences(keys[1]) == ("weights_sha256",)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"patch_size": [16, 8]}, "expected square patches; .* has patch_size 16 x 8"),
        ({"image_size": [64, 64, 3]}, r"expected image_size .* two, height and width; got \[64, 64, 3\]"),
        ({"image_size": 8}, "at least a patch of 16 pixels; .* has 8 x 8"),
        ({"image_size": [64, 96]}, "cannot be read as vit-base"),  # the table in the file is of 4 x 4
    ],
)
def test_a_configuration_with_sides_that_cannot_be(folders, tmp_path, change, said):
    folder = shutil.copytree(folders["vit-base"], tmp_path / "vit")
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | change))
    with pytest.raises(ValueError, match=said):
        extract(load_backbone("vit-base", folder, size=32), picture(32, 32), "")


def test_a_patch_of_two_equal_sides_is_square(folders, tmp_path):
    folder = shutil.copytree(folders["vit-base"], tmp_path / "vit")
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"patch_size": [16, 16]}))
    one, other = (load_backbone("vit-base", each, size=32) for each in (folder, folders["vit-base"]))
    assert torch.equal(extract(one, picture(32, 48), "").tokens, extract(other, picture(32, 48), "").tokens)


@pytest.mark.parametrize("name", FAMILIES)
def test_any_picture_at_the_default_size(folders, name):
    patch = FAMILIES[name][1]["patch_size"]
    long_side = 1008 if patch == 14 else 1024
    backbone = load_backbone(name, folders[name])
    assert backbone.key.size == f"long side {long_side}"
    assert backbone.input_size(1024, 2048) == (long_side // 2, long_side)
    small = load_backbone(name, folders[name], size=5 * patch)
    features = extract(small, picture(50, 31), "")
    assert (features.height, features.width) == (5, 3)
    torch.testing.assert_close(features.tokens.norm(dim=1), torch.ones(15))


def test_pixel_statistics_come_from_the_folder(folders, tmp_path):
    folder = tmp_path / "vit"
    shutil.copytree(folders["vit-base"], folder)
    statistics = {"image_mean": [0.1, 0.2, 0.3], "image_std": [0.4, 0.5, 0.6]}
    (folder / "preprocessor_config.json").write_text(json.dumps(statistics))
    key = load_backbone("vit-base", folder).key
    assert key.pixel_mean == pytest.approx((25.5, 51, 76.5))
    assert key.pixel_deviation == pytest.approx((102, 127.5, 153))
    (folder / "preprocessor_config.json").write_text("[")
    with pytest.raises(ValueError, match="image_mean"):
        load_backbone("vit-base", folder)


def test_weights_are_read_at_the_first_picture(folders, tmp_path):
    folder = tmp_path / "lazy"
    shutil.copytree(folders["dinov2-small"], folder)
    (folder / "model.safetensors").write_bytes(b"not weights")
    backbone = load_backbone("dinov2-small", folder, size=28)
    with pytest.raises(ValueError, match="cannot be read") as caught:
        extract(backbone, picture(28, 28), "")
    assert "\n" not in str(caught.value)


def test_other_weights_have_another_hash(folders):
    hashes = {load_backbone(name, folder).key.weights_sha256 for name, folder in folders.items()}
    assert len(hashes) == len(folders)


def test_model_of_another_family(folders):
    with pytest.raises(ValueError, match=r"needs a model of type dinov2, but .* holds 'vit'"):
        load_backbone("dinov2-base", folders["vit-base"])


@pytest.mark.parametrize("change", ["missing", "unexpected", "shape"])
def test_weights_of_another_model_are_named(folders, tmp_path, change):
    from safetensors.torch import load_file, save_file

    folder = tmp_path / "other"
    shutil.copytree(folders["dinov2-small"], folder)
    state = load_file(folder / "model.safetensors")
    if change == "missing":
        del state["layernorm.weight"]
    elif change == "unexpected":
        state["neck.weight"] = torch.zeros(3)
    else:
        state["layernorm.weight"] = torch.zeros(3)
    save_file(state, folder / "model.safetensors", metadata={"format": "pt"})
    message = {
        "missing": r"layernorm\.weight is missing",
        "unexpected": r"neck\.weight is unexpected",
        "shape": "read",
    }
    with pytest.raises(ValueError, match=message[change]):
        extract(load_backbone("dinov2-small", folder, size=28), picture(28, 28), "")


class Malicious:
    def __reduce__(self):
        return (Path.touch, (Path("pickle-was-run"),))


def test_pickles_are_never_run(folders, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    folder = tmp_path / "evil"
    folder.mkdir()
    shutil.copy(folders["dinov2-small"] / "config.json", folder)
    torch.save({"layernorm.weight": Malicious()}, folder / "pytorch_model.bin")
    with pytest.raises(ValueError, match="no weights"):  # only safetensors are looked for
        extract(load_backbone("dinov2-small", folder, size=28), picture(28, 28), "")
    assert not Path("pickle-was-run").exists()


@pytest.mark.parametrize("layer", ["3", "-4", "neck", ""])
def test_layers_that_do_not_exist(folders, layer):
    with pytest.raises(ValueError, match="blocks 0 to 2"):
        load_backbone("dinov2-small", folders["dinov2-small"], layers=[layer])


def test_folder_without_a_model(tmp_path, folders):
    with pytest.raises(ValueError, match=r"config\.json"):
        load_backbone("dinov2-small", tmp_path)
    shutil.copy(folders["dinov2-small"] / "config.json", tmp_path)
    with pytest.raises(ValueError, match=r"expected model\.safetensors"):
        load_backbone("dinov2-small", tmp_path)
    (tmp_path / "config.json").write_text("{")
    with pytest.raises(ValueError, match="fetch it again"):
        load_backbone("dinov2-small", tmp_path)


def test_hub_that_cannot_be_reached(monkeypatch):
    def unreachable(*arguments, **settings):
        raise ConnectionError("no route\nto host")

    monkeypatch.setattr("huggingface_hub.snapshot_download", unreachable)
    with pytest.raises(ValueError, match="could not get facebook/dinov2-large from the hub") as caught:
        load_backbone("dinov2-large")
    assert "--weights FOLDER" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_hub_downloads_no_pickles(monkeypatch, folders):
    asked = {}

    def download(repository, allow_patterns):
        asked[repository] = allow_patterns
        return str(folders["dinov2-small"])

    monkeypatch.setattr("huggingface_hub.snapshot_download", download)
    assert load_backbone("facebook/dinov2-base").key.backbone == "facebook/dinov2-base"
    assert not any(pattern.endswith(("bin", "*", "pt", "pth")) for pattern in asked["facebook/dinov2-base"])


def test_names():
    assert hub_name("dinov2-giant-reg") == "facebook/dinov2-with-registers-giant"
    assert hub_name("dinov3-large") == "facebook/dinov3-vitl16-pretrain-lvd1689m"
    assert hub_name("vit-base") == "google/vit-base-patch16-224-in21k"
    assert hub_name("me/mine") == "me/mine"
    assert hub_name("a/b/c") is None


@pytest.mark.parametrize("name", FAMILIES)
@pytest.mark.parametrize("shape", [(41, 90), (90, 41), (60, 60), (3, 90)])
def test_a_padded_square_is_the_networks_own_answer_without_the_black(folders, name, shape):
    patch = FAMILIES[name][1]["patch_size"]
    side, image = 5 * patch, picture(*shape)
    options = {"l2_norm": False}
    backbone = load_backbone(name, folders[name], size=Padded(side), **options)
    features = extract(backbone, image, "")
    height, width = backbone.input_size(*shape)
    assert max(height, width) == side and abs(height * shape[1] - width * shape[0]) <= max(shape)  # half a pixel
    square = np.zeros((side, side, 3), np.uint8)
    square[:height, :width] = resize_image(image, (height, width), "pillow-bicubic")
    rows, columns = -(-height // patch), -(-width // patch)
    stretched = load_backbone(name, folders[name], size=(side, side), **options)
    wanted = stretched.tokens(square).unflatten(0, (5, 5))[:rows, :columns].flatten(0, 1)
    assert (features.height, features.width) == (rows, columns)
    torch.testing.assert_close(features.tokens, wanted, atol=1e-5, rtol=1e-5)
    if shape[0] != shape[1]:
        assert features.tokens.shape[0] < 25
    batch = np.stack([resize_image(image, (height, width), "pillow-bicubic")] * 2)
    torch.testing.assert_close(backbone.batch_tokens(batch)[1], wanted, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("shape", [(41, 90), (90, 41), (37, 37), (100, 33), (840, 639)])
def test_key_points_of_a_padded_square_meet_their_tokens(folders, shape):
    """Every pixel's token by a loop over the square: the corners of the picture, and all else."""
    backbone = load_backbone("dinov2-small", folders["dinov2-small"], size=Padded(70))
    grid = patch_grid(backbone, *shape)
    assert grid == extract(backbone, picture(*shape), "").grid
    height, width = shape
    scale = 70 / max(shape)
    corners = [(x, y) for x in (0, width - 1) for y in (0, height - 1)]
    rows, columns = -(-grid.input_height // 14), -(-grid.input_width // 14)
    ends = {(0, 0): (0, 0), (1, 0): (0, columns - 1), (0, 1): (rows - 1, 0), (1, 1): (rows - 1, columns - 1)}
    for x, y in corners:
        token = int(point_tokens(torch.tensor([x]), torch.tensor([y]), grid))
        assert (token // columns, token % columns) == ends[x > 0, y > 0]
    x, y = (part.flatten() for part in torch.meshgrid(torch.arange(width), torch.arange(height), indexing="xy"))
    tokens = point_tokens(x, y, grid)
    exact = [grid.input_width / width, grid.input_height / height]  # the scale up to half a pixel of input
    assert abs(exact[0] - scale) <= 0.5 / width + 1e-9 and abs(exact[1] - scale) <= 0.5 / height + 1e-9
    places = ((x + 0.5) * exact[0] / 14).floor().long(), ((y + 0.5) * exact[1] / 14).floor().long()
    assert torch.equal(tokens, places[1] * columns + places[0])


def test_padded_features_have_a_key_of_their_own_and_others_refuse_it(folders):
    name, where = "dinov2-small", folders["dinov2-small"]
    keys = [load_backbone(name, where, size=size).key for size in (Padded(70), 70, (70, 70))]
    assert keys[0].differences(keys[1]) == keys[0].differences(keys[2]) == ("size", "pad")
    assert keys[0].size == "padded to 70" and keys[0].pad and not keys[1].pad
    assert FeatureKey.from_json(keys[0].to_json()) == keys[0]
    with pytest.raises(ValueError, match="71 is not a multiple of the patch size 14; the nearest valid size is 70"):
        load_backbone(name, where, size=Padded(71))
    with pytest.raises(ValueError, match="pad:70 is for mobile-sam"):
        load_backbone("filterbank", size=Padded(70))
    joined = load_backbone(f"{name}+vit-base", f"{where}+{folders['vit-base']}", size=Padded(70))
    assert extract(joined, picture(30, 90), "").tokens.shape == (2 * 5, 64)
    assert "pad=True" in joined.key.layers[1] and "padded to 1024" in joined.key.layers[1]
