import json
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from helpers.mobile_sam import published_state

from saot.features import FeatureKey, FeatureStore, Provenance, extract, load_backbone, map_widths
from saot.features.base import resample_tokens, resize_image

transformers = pytest.importorskip("transformers")


@pytest.fixture(scope="module")
def vit(tmp_path_factory) -> Path:
    """A tiny random DINOv2."""
    torch.manual_seed(0)
    config = transformers.Dinov2Config(
        hidden_size=32, num_hidden_layers=2, num_attention_heads=2, patch_size=14, image_size=70, mlp_ratio=2
    )
    folder = tmp_path_factory.mktemp("models") / "dinov2"
    transformers.Dinov2Model(config).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def sam(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("weights") / "mobile_sam.pt"
    torch.save(published_state(), path)
    return path


def picture(height: int, width: int) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)


def test_parts_on_one_grid_are_put_side_by_side(vit):
    image = picture(50, 90)
    joined = load_backbone("dinov2-small+filterbank", vit, size=(42, 84))
    features = extract(joined, image, "")
    parts = [load_backbone("dinov2-small", vit, size=(42, 84)), load_backbone("filterbank", size=(42, 84))]
    seen = resize_image(image, (42, 84), "pillow-bicubic")
    first, second = (extract(part, seen, "").tokens for part in parts)
    torch.testing.assert_close(features.tokens, torch.cat([first, second], 1) / 2**0.5)
    assert joined.dim == features.tokens.shape[1] == 32 + parts[1].dim
    assert (features.height, features.width, joined.patch_size) == (3, 6, 14)
    cosines = first @ first.T + second @ second.T  # a joined cosine is the mean of the parts'
    torch.testing.assert_close(features.tokens @ features.tokens.T, cosines / 2, rtol=1e-4, atol=1e-5)


def test_parts_have_layers_of_their_own_and_say_how_wide_each_is(vit, sam):
    image = picture(64, 64)
    joined = load_backbone("mobile-sam+dinov2-small", f"{sam}+{vit}", size=64, layers=["stage3", "neck+0", "1"])
    assert map_widths(joined) == (320, 256, 32, 32) and joined.dim == sum(map_widths(joined))
    assert [part.partition("(")[0] for part in joined.key.layers] == ["mobile-sam", "dinov2-small"]
    assert "layers=stage3/neck" in joined.key.layers[0] and "layers=0/1" in joined.key.layers[1]
    plain = load_backbone("mobile-sam+dinov2-small", f"{sam}+{vit}", size=64, layers=["+0", "1"], final_norm=False)
    assert map_widths(plain) == (256, 32, 32)
    assert "final_norm=False" in plain.key.layers[1] and "final_norm=True" in joined.key.layers[1]
    assert extract(plain, image, "").tokens.shape[1] == 320


def test_other_grids_are_resampled_to_the_first(vit, sam):
    """mobile-sam at its own size: an ordinary bilinear resize, as the picture ends with both grids."""
    image = picture(64, 64)
    joined = load_backbone("dinov2-small+mobile-sam", f"{vit}+{sam}", size=70)
    parts = [load_backbone("dinov2-small", vit, size=70), load_backbone("mobile-sam", sam)]
    seen = resize_image(image, (70, 70), "pillow-bicubic")
    first, second = (extract(part, seen, "") for part in parts)
    assert second.tokens.shape == (64 * 64, 256)
    grid = second.tokens.T.view(1, 256, 64, 64)
    grid = F.interpolate(grid, size=(5, 5), mode="bilinear", align_corners=False)[0].flatten(1).T
    wanted = F.normalize(torch.cat([first.tokens, grid], 1), dim=1)
    torch.testing.assert_close(extract(joined, image, "").tokens, wanted, rtol=1e-4, atol=1e-5)


def test_a_size_that_fits_another_part_is_taken_by_it(sam):
    def sizes(size):
        key = load_backbone("filterbank+mobile-sam", sam, size=size).key
        return key.size, [layer.split("size=")[1].split(",")[0] for layer in key.layers]

    assert sizes(112) == ("long side 112", ["long side 112", "long side 112"])
    assert sizes((112, 224)) == ("112x224", ["112x224", "112x224"])
    assert sizes(84) == ("long side 84", ["long side 84", "long side 1024"])
    assert sizes(None) == ("long side 1008", ["long side 1008", "long side 1024"])
    with pytest.raises(ValueError, match="patch size 14"):
        sizes(64)


def test_padding_of_the_first_part(sam):
    """76 of 80 rows hold picture: five rows of tokens, the others see the picture without the padding."""
    image = picture(76, 128)
    joined = load_backbone("mobile-sam+filterbank", f"{sam}+", size=128)
    features = extract(joined, image, "")
    assert (features.height, features.width, features.grid.input_height) == (5, 8, 76)
    lone = extract(load_backbone("mobile-sam", sam, size=128), image, "")
    assert features.grid == lone.grid == features.provenance.patch_grid
    block = F.normalize(features.tokens[:, :256], dim=1)
    torch.testing.assert_close(block, lone.tokens, rtol=1e-4, atol=1e-5)
    other = load_backbone("filterbank")
    size = other.input_size(76, 128)
    second = extract(other, resize_image(image, (76, 128), "pillow-bilinear"), "").tokens
    wanted = torch.cat([lone.tokens, resample_tokens(second, size, 14, (76, 128), 16)], 1)
    torch.testing.assert_close(features.tokens, F.normalize(wanted, dim=1), rtol=1e-4, atol=1e-5)
    assert joined.key.pad
    assert not load_backbone("mobile-sam+filterbank", f"{sam}+", size=128, pad=False).key.pad


def test_key_says_everything(vit, sam, tmp_path):
    name = "dinov2-small+mobile-sam+filterbank"
    joined = load_backbone(name, f"{vit}+{sam}+", size=112)
    key, parts = joined.key, joined._parts  # type: ignore[attr-defined]
    assert key.backbone == name
    assert key.weights_sha256 == "+".join(part.key.weights_sha256 for part in parts)
    assert key.dim == sum(part.dim for part in parts)
    assert [layer.split("(")[0] for layer in key.layers] == name.split("+")
    for part, layer in zip(parts, key.layers, strict=True):
        assert f"layers={'/'.join(part.key.layers)}" in layer and f"dim={part.dim}" in layer
    assert FeatureKey.from_json(key.to_json()) == key
    provenance = extract(joined, picture(60, 60), "x").provenance
    assert Provenance.from_json(provenance.to_json()).key == key
    store = FeatureStore(tmp_path, key)
    store.write("a", extract(joined, picture(60, 60), "x"))
    assert FeatureStore(tmp_path).read("a").provenance == provenance


def test_keys_differ_where_tokens_do(vit, sam, tmp_path):
    def key(name, weights, **settings):
        return load_backbone(name, weights, **settings).key

    one = key("mobile-sam+filterbank", f"{sam}+")
    assert one == key("mobile-sam+filterbank", sam)
    assert one.differences(key("filterbank+mobile-sam", sam)) != ()
    other = tmp_path / "other.pt"
    torch.save(published_state(1), other)
    assert one.differences(key("mobile-sam+filterbank", other)) == ("weights_sha256",)
    assert key("filterbank+mobile-sam", sam).differences(key("filterbank+mobile-sam", sam, pad=False)) == ("layers",)
    assert key("filterbank+mobile-sam", sam, size=1008).differences(key("filterbank+mobile-sam", sam)) == ("layers",)


def test_one_string_of_weights_goes_where_it_is_needed(vit, sam):
    assert load_backbone("dinov2-small+filterbank", vit).dim > 32
    with pytest.raises(ValueError, match="not clear which part") as caught:
        load_backbone("dinov2-small+vit-base", vit)
    assert f"'{vit}+'" in str(caught.value)
    with pytest.raises(ValueError, match="not clear which part"):
        load_backbone("dinov2-base+vit-base+filterbank", vit)
    with pytest.raises(ValueError, match="3 pieces between its"):
        load_backbone("dinov2-small+mobile-sam", f"{vit}+{sam}+")
    with pytest.raises(ValueError, match="filterbank has no weights"):
        load_backbone("dinov2-small+filterbank", f"{vit}+{vit}")
    with pytest.raises(ValueError, match="mobile-sam needs its weights"):
        load_backbone("filterbank+mobile-sam")


@pytest.mark.parametrize(
    ("name", "settings", "message"),
    [
        ("filterbank+vgg", {}, "'vgg' is not known; use one of filterbank"),
        ("vgg+filterbank", {}, "'vgg' is not known"),
        ("filterbank+filterbank", {}, "names filterbank twice"),
        ("filterbank+", {}, "joined by +"),
        ("+", {}, "joined by +"),
        ("filterbank+mobile-sam", {"layers": ["neck"]}, "expected 2 pieces between +"),
        ("filterbank+mobile-sam", {"l2_norm": False}, "made of unit tokens"),
    ],
)
def test_requests_that_make_no_sense(name, settings, message):
    with pytest.raises(ValueError, match=message.replace("+", r"\+")) as caught:
        load_backbone(name, **settings)
    assert "\n" not in str(caught.value)


def test_key_is_plain_json(sam):
    values = json.loads(load_backbone("filterbank+mobile-sam", sam, size=112).key.to_json())
    assert values["layers"][1].startswith("mobile-sam(size=long side 112, layers=neck, final_norm=True, ")
