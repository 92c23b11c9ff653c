from functools import partial

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch.testing import assert_close

from saot.adapt import BACKBONES, load_encoder, read_encoder, save_encoder
from saot.data.files import sha256_file
from saot.features import Backbone, extract
from saot.features import load_backbone as load
from saot.features.base import library_versions

load_backbone = partial(load, others=BACKBONES)


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A run folder with an encoder that moved away from where it began."""
    folder = tmp_path_factory.mktemp("run")
    encoder = load_encoder("mobile-sam", "random")
    with torch.no_grad():
        for parameter in encoder.parameters():
            parameter.add_(0.01 * torch.randn_like(parameter))
    save_encoder(folder / "encoder.safetensors", encoder)
    return folder


def picture(height: int, width: int) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)


def test_tokens_are_the_last_map_of_the_encoder(run):
    image = picture(48, 96)
    backbone = load_backbone("adapted", run / "encoder.safetensors", size=(48, 96), l2_norm=False)
    assert isinstance(backbone, Backbone)
    assert (backbone.patch_size, backbone.dim) == (16, 320)
    features = extract(backbone, image, "")
    pixels = torch.from_numpy(image).permute(2, 0, 1).float()[None]
    with torch.no_grad():
        last = read_encoder(run / "encoder.safetensors")(pixels)[-1][0]
    wanted = torch.stack([last[:, row, column] for row in range(3) for column in range(6)])
    assert_close(features.tokens, wanted, rtol=0, atol=1e-4)  # float32, other alignment in memory; of order 1 to 10
    unit = extract(load_backbone("adapted", run / "encoder.safetensors", size=(48, 96)), image, "")
    assert_close(unit.tokens, F.normalize(wanted, dim=-1), rtol=0, atol=1e-6)


def test_the_key_says_which_encoder_it_was(run):
    key = load_backbone("adapted", run).key
    assert key.weights_sha256 == sha256_file(run / "encoder.safetensors")
    assert (key.backbone, key.layers, key.final_norm, key.pad) == ("adapted", ("stage3",), False, False)
    assert (key.size, key.resize) == ("long side 1024", "pillow-bilinear")
    assert key.pixel_mean == (123.675, 116.28, 103.53)


def test_sizes_are_rounded_and_never_padded(run):
    backbone = load_backbone("adapted", run, size=96)
    assert backbone.input_size(50, 90) == (48, 96)
    features = extract(backbone, picture(50, 90), "")
    assert (features.height, features.width) == (3, 6)
    assert load_backbone("adapted", run).input_size(1052, 1914) == (560, 1024)


def test_versions_name_what_takes_part():
    names = [name for name, _ in library_versions("adapted")]
    assert names[:2] == ["torch", "pillow"]
    assert [name for name, _ in library_versions("filterbank+mobile-sam")] == ["torch", "pillow"]


def test_versions_do_without_transformers(monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    assert [name for name, _ in library_versions("adapted")] == ["torch", "pillow"]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"layers": ["neck"]}, r"has the layer stage3 alone, not \('neck',\); leave layers out"),
        (
            {"final_norm": True},
            "final_norm=True does not fit mobile-sam, whose last map has no norm; leave the setting",
        ),
        ({"size": 1000}, "size 1000 is not a multiple of the patch size 16; the nearest valid size is 1008"),
    ],
)
def test_settings_that_do_not_fit(run, settings, message):
    with pytest.raises(ValueError, match=message):
        load_backbone("adapted", run, **settings)


def test_weights_that_are_not_there(tmp_path):
    with pytest.raises(ValueError, match=r"pass --weights PATH of an encoder.safetensors or its run folder"):
        load_backbone("adapted")
    with pytest.raises(ValueError, match=r"expected an encoder at .*encoder.safetensors, found no file"):
        load_backbone("adapted", tmp_path)


def test_an_adapted_mit_ends_in_a_norm(tmp_path):
    transformers = pytest.importorskip("transformers")
    config = transformers.SegformerConfig(
        depths=[1] * 4, hidden_sizes=[8, 16, 24, 32], num_attention_heads=[1, 2, 3, 4]
    )
    transformers.SegformerModel(config).save_pretrained(tmp_path / "mit")
    save_encoder(tmp_path / "encoder.safetensors", load_encoder("mit-b0", tmp_path / "mit"))
    backbone = load_backbone("adapted", tmp_path, size=64)
    assert (backbone.patch_size, backbone.dim, backbone.key.final_norm) == (32, 32, True)
    assert extract(backbone, picture(32, 64), "").tokens.shape == (2, 32)
    with pytest.raises(ValueError, match="whose last map ends in a norm"):
        load_backbone("adapted", tmp_path, final_norm=False)
