import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from saot.features import FeatureKey, Padded, extract, load_backbone
from saot.features.base import library_versions

diffusers = pytest.importorskip("diffusers")
transformers = pytest.importorskip("transformers")

WIDTHS = (8, 16, 24, 32)  # of the UNet, from the latent's size down


def picture(height: int, width: int) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)


def save_pipeline(folder: Path, **unet_settings) -> None:
    """A tiny random pipeline in the layout of the published ones; its VAE halves the picture once."""
    torch.manual_seed(0)
    diffusers.AutoencoderKL(
        block_out_channels=(8, 8),
        down_block_types=("DownEncoderBlock2D",) * 2,
        up_block_types=("UpDecoderBlock2D",) * 2,
        latent_channels=4,
        norm_num_groups=4,
        scaling_factor=0.5,
    ).save_pretrained(folder / "vae")
    settings = {"in_channels": 4, "block_out_channels": WIDTHS, "cross_attention_dim": 16} | unet_settings
    diffusers.UNet2DConditionModel(
        down_block_types=("CrossAttnDownBlock2D",) * 3 + ("DownBlock2D",),
        up_block_types=("UpBlock2D",) + ("CrossAttnUpBlock2D",) * 3,
        attention_head_dim=2,
        norm_num_groups=4,
        **settings,
    ).save_pretrained(folder / "unet")
    text = transformers.CLIPTextConfig(
        vocab_size=3, hidden_size=16, intermediate_size=16, num_hidden_layers=2, num_attention_heads=2, eos_token_id=1
    )
    transformers.CLIPTextModel(text).save_pretrained(folder / "text_encoder")
    schedule = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear"}
    diffusers.PNDMScheduler(**schedule, skip_prk_steps=True).save_pretrained(folder / "scheduler")
    tokenizer = folder / "tokenizer"
    tokenizer.mkdir()
    (tokenizer / "vocab.json").write_text(json.dumps({"<|startoftext|>": 0, "<|endoftext|>": 1, "a</w>": 2}))
    (tokenizer / "merges.txt").write_text("#version: 0.2\n")
    (tokenizer / "tokenizer_config.json").write_text('{"tokenizer_class": "CLIPTokenizer", "model_max_length": 77}')
    (folder / "model_index.json").write_text('{"_class_name": "StableDiffusionPipeline"}')


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("models") / "pipeline"
    save_pipeline(folder)
    return folder


@pytest.fixture
def copied(folder, tmp_path) -> Path:
    return Path(shutil.copytree(folder, tmp_path / "copy"))


@torch.no_grad()
def plain_maps(folder: Path, image: np.ndarray, step: int = 100) -> dict[str, torch.Tensor]:
    """Every layer of one whole pass, written out once more."""
    vae = diffusers.AutoencoderKL.from_pretrained(folder / "vae").eval()
    unet = diffusers.UNet2DConditionModel.from_pretrained(folder / "unet").eval()
    text = transformers.CLIPTextModel.from_pretrained(folder / "text_encoder").eval()
    prompt = text(torch.tensor([[0] + [1] * 76])).last_hidden_state  # begin, end, and the padding, which is "end"
    pixels = 2 * torch.from_numpy(image).float().permute(2, 0, 1)[None] / 255 - 1
    latent = 0.5 * vae.encode(pixels).latent_dist.mode()
    betas = torch.linspace(0.00085**0.5, 0.012**0.5, 1000, dtype=torch.float64) ** 2
    kept = float((1 - betas).cumprod(0)[step])
    noise = torch.randn(latent.shape, generator=torch.Generator().manual_seed(42))
    maps = {}
    for number, block in enumerate(unet.up_blocks):
        block.register_forward_hook(lambda m, i, output, name=f"up{number}": maps.update({name: output[0]}))

        def before(module, inputs, number=number):  # the last residual block gets (map, skip) joined
            maps[f"s{5 - number}"] = inputs[0][0, : WIDTHS[3 - number]]

        block.resnets[-1].register_forward_pre_hook(before)
    unet(kept**0.5 * latent + (1 - kept) ** 0.5 * noise, step, encoder_hidden_states=prompt)
    return maps


def test_tokens_are_the_maps_of_the_unet(folder):
    image = picture(64, 96)
    maps = plain_maps(folder, image)
    sides = {"up0": 8, "up1": 4, "up2": 2, "up3": 2, "s5": 16, "s4": 8, "s3": 4, "s2": 2}
    for layer, patch in sides.items():
        backbone = load_backbone("stable-diffusion", folder, size=(64, 96), layers=[layer], l2_norm=False)
        features = extract(backbone, image, "")
        assert (backbone.patch_size, features.height, features.width) == (patch, 64 // patch, 96 // patch)
        assert maps[layer].shape == (backbone.dim, features.height, features.width)
        wanted = maps[layer].flatten(1).T
        torch.testing.assert_close(features.tokens, wanted, rtol=1e-4, atol=1e-4)  # float32, scaled otherwise
        assert features.tokens.std() > 0.1  # the tolerance is small beside it


def test_default_is_the_layer_of_dift_at_the_size_of_sd_dino(folder):
    backbone = load_backbone("stable-diffusion", folder)
    key = backbone.key
    assert (key.layers, key.size, key.dim, key.patch_size) == (("up1@100",), "long side 960", 24, 4)
    assert backbone.input_size(500, 1000) == (480, 960)
    assert key.pixel_mean == key.pixel_deviation == (127.5,) * 3
    assert not key.final_norm and not key.pad and key.l2_norm
    assert FeatureKey.from_json(key.to_json()) == key


def test_patch_size_of_the_published_configurations(copied):
    """SD 1.5's numbers: 8 pixels a latent number, 320 to 1280 wide. No weights are read."""
    for part, widths in (("vae", [128, 256, 512, 512]), ("unet", [320, 640, 1280, 1280])):
        path = copied / part / "config.json"
        path.write_text(json.dumps(json.loads(path.read_text()) | {"block_out_channels": widths}))

    def layer(name):
        backbone = load_backbone("stable-diffusion", copied, layers=[name])
        return backbone.patch_size, backbone.dim, backbone.key.size

    assert layer("up1") == (16, 1280, "long side 960")
    assert [layer(name)[:2] for name in ("up0", "up2", "up3")] == [(32, 1280), (8, 640), (8, 320)]
    assert [layer(name)[:2] for name in ("s5", "s4", "s3", "s2")] == [(64, 1280), (32, 1280), (16, 640), (8, 320)]
    with pytest.raises(ValueError, match=r"size 1000 is not a multiple of the patch size 16; the nearest .* 1008"):
        load_backbone("stable-diffusion", copied, size=1000)


def test_the_same_picture_gives_the_same_tokens(folder):
    image = picture(40, 72)
    backbone = load_backbone("stable-diffusion", folder, size=72)
    first = extract(backbone, image, "").tokens
    torch.manual_seed(7)
    extract(backbone, picture(8, 8), "")
    again = extract(backbone, image, "").tokens
    torch.testing.assert_close(again, first, rtol=0, atol=0)
    other = extract(load_backbone("stable-diffusion", folder, size=72), image, "").tokens
    torch.testing.assert_close(other, first, rtol=0, atol=0)
    torch.testing.assert_close(first.norm(dim=1), torch.ones(10 * 18))


def test_several_layers_lie_on_the_finest_grid(folder):
    image = picture(32, 48)
    maps = plain_maps(folder, image)
    backbone = load_backbone("stable-diffusion", folder, size=(32, 48), layers=["s5", "s4", "s3"], l2_norm=False)
    assert backbone.key.layers == ("s5@100", "s4@100", "s3@100")
    assert (backbone.patch_size, backbone.dim) == (4, 32 + 24 + 16)
    tokens = extract(backbone, image, "").tokens
    wanted = [
        F.interpolate(maps[name][None], size=(8, 12), mode="bilinear", align_corners=False)[0]
        for name in ("s5", "s4", "s3")
    ]
    torch.testing.assert_close(tokens, torch.cat(wanted).flatten(1).T, rtol=1e-4, atol=1e-4)


def test_timestep_is_part_of_the_layer(folder):
    image = picture(32, 32)
    backbone = load_backbone("stable-diffusion", folder, size=32, layers=["up1@261"], l2_norm=False)
    assert backbone.key.layers == ("up1@261",)
    wanted = plain_maps(folder, image, 261)["up1"].flatten(1).T
    torch.testing.assert_close(extract(backbone, image, "").tokens, wanted, rtol=1e-4, atol=1e-4)
    again = load_backbone("stable-diffusion", folder, size=32, layers=backbone.key.layers, l2_norm=False)
    assert again.key == backbone.key  # a key's layers can be asked for


@pytest.mark.parametrize("size", [(4, 4), (12, 36), (20, 8)])
def test_sides_that_halve_unevenly(folder, size):
    """One, three and five tokens: the latent is no multiple of 8, and the UNet rounds up on its way down."""
    backbone = load_backbone("stable-diffusion", folder, size=size, layers=["s5", "up0", "up1"])
    with pytest.raises(ValueError, match="multiple of the patch size 4"):
        load_backbone("stable-diffusion", folder, size=(size[0] + 2, size[1]))
    features = extract(backbone, picture(50, 50), "")
    assert (features.height, features.width) == (size[0] // 4, size[1] // 4)
    assert torch.isfinite(features.tokens).all()


def test_nothing_runs_behind_the_last_chosen_layer(folder):
    backbone = load_backbone("stable-diffusion", folder, size=32)
    backbone.tokens(picture(32, 32))
    unet = backbone._network.unet  # type: ignore[attr-defined]
    unet.up_blocks[2].forward = None  # would be called
    backbone.tokens(picture(32, 32))
    assert not any(module._forward_hooks for module in unet.modules())
    assert not any(parameter.requires_grad for parameter in unet.parameters())


@pytest.mark.parametrize(
    ("layers", "message"),
    [
        (["up4"], "no layer 'up4'; choose among up0, up1, up2, up3, s5, s4, s3, s2"),
        (["-1"], "no layer '-1'"),
        (["up1@1000"], "from 0 to 999"),
        (["up1@"], "from 0 to 999"),
        (["up1@-5"], "from 0 to 999"),
        (["up1@50", "up2"], "ask for several timesteps"),
    ],
)
def test_layers_that_do_not_exist(folder, layers, message):
    with pytest.raises(ValueError, match=message):
        load_backbone("stable-diffusion", folder, layers=layers)


def test_there_is_no_final_norm(folder):
    with pytest.raises(ValueError, match="no final norm"):
        load_backbone("stable-diffusion", folder, final_norm=True)


def test_weights_are_read_at_the_first_picture(copied):
    (copied / "unet" / "diffusion_pytorch_model.safetensors").write_bytes(b"not weights")
    backbone = load_backbone("stable-diffusion", copied, size=32)
    with pytest.raises(ValueError, match="unet cannot be read") as caught:
        extract(backbone, picture(32, 32), "")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("part", ["unet", "vae", "text_encoder"])
def test_every_weight_counts(folder, copied, part):
    from safetensors.torch import load_file, save_file

    (path,) = (copied / part).glob("*.safetensors")
    state = load_file(path)
    name = next(iter(state))
    save_file(state | {name: state[name] + 1}, path, metadata={"format": "pt"})
    one, other = (load_backbone("stable-diffusion", place, size=32).key for place in (folder, copied))
    assert one.differences(other) == ("weights_sha256",)
    name = next(name for name in state if "encoder" in name or "up_blocks" in name)
    save_file({key: value for key, value in state.items() if key != name}, path, metadata={"format": "pt"})
    with pytest.raises(ValueError, match=f"{part} (are not whole|cannot be read)"):
        extract(load_backbone("stable-diffusion", copied, size=32), picture(32, 32), "")
    path.unlink()
    with pytest.raises(ValueError, match="found no weights"):
        load_backbone("stable-diffusion", copied)


def test_folders_that_are_no_pipeline(copied, tmp_path):
    with pytest.raises(ValueError, match=r"expected model_index\.json in .* pass the folder of a whole"):
        load_backbone("stable-diffusion", copied / "unet")
    with pytest.raises(ValueError, match="expected a folder with model_index"):
        load_backbone("stable-diffusion", tmp_path / "nothing")
    with pytest.raises(ValueError, match="expected a folder with model_index"):
        load_backbone("stable-diffusion", "dinov2-base")  # no name of a pipeline on the hub
    (copied / "scheduler" / "scheduler_config.json").write_text("[")
    with pytest.raises(ValueError, match="is no JSON"):
        load_backbone("stable-diffusion", copied)
    (copied / "scheduler" / "scheduler_config.json").write_text("{}")
    with pytest.raises(ValueError, match="lack 'num_train_timesteps'"):
        load_backbone("stable-diffusion", copied)
    shutil.rmtree(copied / "vae")
    with pytest.raises(ValueError, match=r"expected vae/config\.json"):
        load_backbone("stable-diffusion", copied)


def test_pipelines_with_other_inputs(tmp_path):
    save_pipeline(tmp_path / "inpainting", in_channels=9)
    with pytest.raises(ValueError, match="wants other inputs"):
        load_backbone("stable-diffusion", tmp_path / "inpainting")


def test_tokenizer_that_is_absent(copied):
    shutil.rmtree(copied / "tokenizer")
    with pytest.raises(ValueError, match="tokenizer or the scheduler"):
        extract(load_backbone("stable-diffusion", copied, size=32), picture(32, 32), "")


def test_hub(folder, monkeypatch):
    asked = {}

    def download(repository, allow_patterns):
        asked[repository] = allow_patterns
        return str(folder)

    monkeypatch.setattr("huggingface_hub.snapshot_download", download)
    key = load_backbone("stable-diffusion").key
    assert key == load_backbone("stable-diffusion", folder).key == load_backbone("stable-diffusion", "me/mine").key
    assert list(asked) == ["stable-diffusion-v1-5/stable-diffusion-v1-5", "me/mine"]
    assert not any(pattern.endswith(("bin", "*", "pt", "ckpt")) for pattern in asked["me/mine"])

    def unreachable(*arguments, **settings):
        raise ConnectionError("no route\nto host")

    monkeypatch.setattr("huggingface_hub.snapshot_download", unreachable)
    with pytest.raises(ValueError, match=r"no folder stable-diffusion-v1-5/.* \(no route\)") as caught:
        load_backbone("stable-diffusion")
    assert "--weights FOLDER" in str(caught.value)


@pytest.mark.parametrize("library", ["diffusers", "transformers"])
def test_missing_library(folder, monkeypatch, library):
    monkeypatch.setattr("saot.features.published.find_spec", lambda name: None if name == library else object())
    with pytest.raises(ValueError, match=rf"needs {library}, which is not installed; .* the extra 'diffusion' needs: "):
        load_backbone("stable-diffusion", folder)


def test_libraries_are_written_down(folder):
    provenance = extract(load_backbone("stable-diffusion", folder, size=32), picture(32, 32), "").provenance
    assert dict(provenance.versions)["diffusers"] == diffusers.__version__
    assert "diffusers" not in dict(library_versions("dinov2-base+filterbank"))


def test_fused_with_another_backbone(folder):
    image = picture(60, 60)
    fused = load_backbone("filterbank+stable-diffusion", folder, size=56)
    features = extract(fused, image, "")
    assert (features.height, features.width, fused.patch_size) == (4, 4, 14)
    assert "stable-diffusion(size=long side 56, layers=up1@100, " in fused.key.layers[1]
    assert fused.dim == load_backbone("filterbank").dim + 24


def test_a_padded_square_is_the_unets_own_answer_without_the_black(folder):
    image, layers = picture(40, 64), ["s4", "s3"]
    padded = load_backbone("stable-diffusion", folder, size=Padded(64), layers=layers)
    features = extract(padded, image, "")
    square = np.zeros((64, 64, 3), np.uint8)
    square[:40] = image
    whole = extract(load_backbone("stable-diffusion", folder, size=(64, 64), layers=layers), square, "")
    assert (features.height, features.width) == (10, 16) and padded.key.pad
    torch.testing.assert_close(features.tokens, whole.tokens[: 10 * 16], rtol=1e-5, atol=1e-5)
