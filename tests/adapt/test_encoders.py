import copy
import json
import shutil
from pathlib import Path

import pytest
import torch
from helpers.mobile_sam import published_state, shared_weights
from safetensors.torch import save_file
from torch import nn
from torch.testing import assert_close

from saot.adapt import load_encoder, read_encoder, save_encoder
from saot.adapt.encoders import Encoder
from saot.features.published import read_weights
from saot.features.tinyvit import PIXEL_DEVIATION, PIXEL_MEAN, TinyViT

transformers = pytest.importorskip("transformers")

SEGFORMER = {"depths": [1, 1, 2, 1], "hidden_sizes": [8, 16, 24, 32], "num_attention_heads": [1, 2, 3, 4]}
SEGFORMER |= {"drop_path_rate": 0.1, "initializer_range": 0.2}
RESNET = {"depths": [1, 2, 2, 2], "hidden_sizes": [16, 24, 32, 40], "embedding_size": 8}


@pytest.fixture(scope="module")
def folders(tmp_path_factory) -> dict[str, Path]:
    """A tiny Segformer, a tiny ResNet and two with what a published model has beside its encoder."""
    root = tmp_path_factory.mktemp("models")
    torch.manual_seed(0)
    segformer = transformers.SegformerConfig(**SEGFORMER)
    transformers.SegformerModel(segformer).save_pretrained(root / "mit")
    transformers.SegformerForSemanticSegmentation(segformer).save_pretrained(root / "with-head")
    for kind in ("bottleneck", "basic"):
        model = transformers.ResNetModel(transformers.ResNetConfig(layer_type=kind, **RESNET))
        for part in model.modules():
            if isinstance(part, nn.BatchNorm2d):
                part.running_mean.normal_(std=0.1)
                part.running_var.uniform_(0.5, 1.5)
        model.save_pretrained(root / kind)
    config = transformers.ViTConfig(hidden_size=8, num_hidden_layers=1, num_attention_heads=1, intermediate_size=8)
    transformers.ViTModel(config).save_pretrained(root / "vit")
    return {each.name: each for each in root.iterdir()}


def pictures(height: int = 64, width: int = 96) -> torch.Tensor:
    return 255 * torch.rand(2, 3, height, width, generator=torch.Generator().manual_seed(1))


def normalised(pixels: torch.Tensor) -> torch.Tensor:
    return (pixels - torch.tensor(PIXEL_MEAN).view(3, 1, 1)) / torch.tensor(PIXEL_DEVIATION).view(3, 1, 1)


def assert_near(found: torch.Tensor, wanted: torch.Tensor) -> None:
    """Equal up to float32's rounding, which differs with the alignment in memory and the order of sums."""
    assert_close(found, wanted, rtol=0, atol=1e-5 * wanted.abs().max().item())


def check_maps(encoder: Encoder, pixels: torch.Tensor) -> tuple[torch.Tensor, ...]:
    maps = encoder(pixels)
    height, width = pixels.shape[-2:]
    sizes = zip(encoder.widths, encoder.strides, strict=True)
    assert [tuple(each.shape) for each in maps] == [(2, d, height // s, width // s) for d, s in sizes]
    return maps


def test_mit_gives_the_maps_of_the_published_network(folders):
    encoder = load_encoder("mit-b0", folders["mit"])
    assert (encoder.widths, encoder.strides, encoder.multiple) == ((8, 16, 24, 32), (4, 8, 16, 32), 32)
    maps = check_maps(encoder, pictures())
    model = transformers.SegformerModel.from_pretrained(folders["mit"]).eval()
    wanted = model(normalised(pictures()), output_hidden_states=True).hidden_states
    for found, value in zip(maps, wanted, strict=True):
        assert_near(found, value)
    assert_near(maps[-1], model(normalised(pictures())).last_hidden_state)


def test_heads_of_published_models_are_passed_over(folders):
    encoder = load_encoder("somebody/segformer", folders["with-head"])
    check_maps(encoder, pictures())
    assert not any("decode_head" in name for name in encoder.state_dict())


def test_statistics_come_from_the_folder(folders, tmp_path):
    shutil.copytree(folders["mit"], tmp_path / "mit")
    values = {"image_mean": [0.5, 0.5, 0.5], "image_std": [0.25, 0.5, 1.0]}
    (tmp_path / "mit" / "preprocessor_config.json").write_text(json.dumps(values))
    encoder = load_encoder("mit-b0", tmp_path / "mit")
    assert encoder.pixel_deviation == (63.75, 127.5, 255.0)
    own = 127.5 + (normalised(pictures()) * torch.tensor([63.75, 127.5, 255.0]).view(3, 1, 1))
    published = load_encoder("mit-b0", folders["mit"])
    assert_close(encoder(own)[-1], published(pictures())[-1], rtol=1e-3, atol=1e-4)  # float32 pixels to 255 and back
    (tmp_path / "mit" / "preprocessor_config.json").write_text("{}")
    with pytest.raises(ValueError, match="is not JSON with image_mean and image_std; fetch it again or delete it"):
        load_encoder("mit-b0", tmp_path / "mit")


@pytest.mark.parametrize("kind", ["bottleneck", "basic"])
def test_dilated_resnet_is_the_published_one_between_its_cells(folders, kind):
    """Every second cell of stage 2 and every fourth of stage 3, of a network with the same weights and strides."""
    encoder = load_encoder("resnet-101", folders[kind])
    assert (encoder.widths, encoder.strides, encoder.multiple) == ((16, 24, 32, 40), (4, 8, 8, 8), 8)
    maps = check_maps(encoder, pictures())
    model = transformers.ResNetModel.from_pretrained(folders[kind]).eval()
    wanted = model(normalised(pictures()), output_hidden_states=True).hidden_states[1:]
    for found, value, step in zip(maps, wanted, (1, 1, 2, 4), strict=True):
        assert_close(found[..., ::step, ::step], value, rtol=1e-4, atol=1e-4)  # float32, convolutions in other orders
    reach = [
        conv.dilation[0] for conv in encoder.modules() if isinstance(conv, nn.Conv2d) and conv.kernel_size == (3, 3)
    ]
    blocks = 1 if kind == "bottleneck" else 2
    wanted_reach = [1] * 3 * blocks + [1, 2, 2, 4] if kind == "bottleneck" else [1] * 6 + [1, 2, 2, 2, 2, 4, 4, 4]
    assert reach == wanted_reach


def test_trainable_tinyvit_equals_the_frozen_one():
    encoder = load_encoder("mobile-sam", "random")
    network = encoder.model
    for part in network.modules():
        if hasattr(part, "positions"):
            nn.init.normal_(part.positions)
    pixels = pictures(80, 112)
    with torch.no_grad():
        frozen = encoder(pixels)
    trained = check_maps(encoder, pixels)
    for one, other in zip(frozen, trained, strict=True):
        assert_near(other, one)
    assert (encoder.widths, encoder.strides, encoder.multiple) == ((64, 128, 160, 320), (4, 8, 16, 16), 16)


def test_tinyvit_has_the_published_weights_without_the_neck(tmp_path):
    torch.save(published_state(), tmp_path / "sam.pt")
    encoder = load_encoder("mobile-sam", tmp_path / "sam.pt")
    whole = TinyViT()
    whole.load_published(published_state())
    with torch.no_grad():
        outputs = whole(normalised(pictures()).permute(0, 2, 3, 1))
        maps = encoder(pictures())
    for found, name in zip(maps, ("stem", "stage0", "stage1", "stage3"), strict=True):
        assert_close(found.permute(0, 2, 3, 1), outputs[name], rtol=1e-5, atol=1e-5)
    assert not any("neck" in name for name in encoder.state_dict())


def check_gradients(encoder: Encoder, pixels: torch.Tensor) -> None:
    weights = torch.Generator().manual_seed(3)
    loss = sum((each * torch.randn(each.shape, generator=weights)).sum() for each in encoder(pixels))
    loss.backward()
    still = [name for name, each in encoder.named_parameters() if each.grad is None or not each.grad.any()]
    # keys shift all scores of a query alike, so their bias has no gradient but rounding
    assert [name for name in still if not name.endswith("k_proj.bias")] == []
    assert all(torch.isfinite(each.grad).all() for each in encoder.parameters() if each.grad is not None)


@pytest.mark.parametrize(("name", "folder"), [("mit-b0", "mit"), ("resnet-101", "bottleneck"), ("mobile-sam", None)])
def test_every_weight_gets_a_gradient(folders, name, folder):
    encoder = load_encoder(name, folders[folder] if folder else "random").train()
    check_gradients(encoder, pictures())


def test_the_published_tinyvit_can_be_trained():
    encoder = load_encoder("mobile-sam", shared_weights("mobile_sam.pt"))
    check_gradients(encoder, pictures(80, 112))
    whole = TinyViT()
    whole.load_published(read_weights(shared_weights("mobile_sam.pt")))
    with torch.no_grad():
        wanted = whole(normalised(pictures(80, 112)).permute(0, 2, 3, 1))["stage3"]
    found = encoder(pictures(80, 112))[-1].permute(0, 2, 3, 1)
    assert_near(found, wanted)


def test_gradients_of_tinyvit_are_those_of_finite_differences():
    """A bias of positions and a weight of each kind of layer, in float64."""
    encoder = load_encoder("mobile-sam", "random").double()
    pixels = pictures(32, 48)[:1].double()
    weight = torch.randn(1, 320, 2, 3, dtype=torch.float64)

    def loss() -> torch.Tensor:
        return (encoder(pixels)[-1] * weight).sum()

    loss().backward()
    block, merge = encoder.model.stages[1][0], encoder.model.merges[0]
    layers = (block.attention.positions, block.attention.project_in.bias, block.narrow.weight, merge.widen.weight)
    for parameter in layers:
        flat, step = parameter.detach().view(-1), 1e-5
        with torch.no_grad():
            flat[1] += step
            above = loss()
            flat[1] -= 2 * step
            below = loss()
            flat[1] += step
        slope = ((above - below) / (2 * step)).item()
        assert_close(parameter.grad.view(-1)[1].item(), slope, rtol=1e-5, atol=1e-7)  # central, step 1e-5


@pytest.mark.parametrize(("name", "folder"), [("mit-b0", "mit"), ("resnet-101", "basic"), ("mobile-sam", None)])
def test_what_is_saved_is_read_again(folders, tmp_path, name, folder):
    encoder = load_encoder(name, folders[folder] if folder else "random", seed=5)
    with torch.no_grad():
        for parameter in encoder.parameters():  # so that nothing is as it was built
            parameter.add_(0.01 * torch.randn_like(parameter))
    save_encoder(tmp_path / "run" / "encoder.safetensors", encoder)
    state = torch.get_rng_state()
    again = read_encoder(tmp_path / "run" / "encoder.safetensors")
    assert torch.equal(torch.get_rng_state(), state)
    assert (again.name, again.widths, again.strides) == (name, encoder.widths, encoder.strides)
    assert again.settings() == encoder.settings()
    assert not again.training
    assert all(torch.equal(value, again.state_dict()[key]) for key, value in encoder.state_dict().items())
    with torch.no_grad():
        for one, other in zip(encoder(pictures()), again(pictures()), strict=True):
            assert_near(other, one)
    if name == "mobile-sam":
        assert sum(key.endswith("positions") for key in again.state_dict()) == 10


def test_drop_path_works_in_training_and_after_a_copy(folders):
    encoder = load_encoder("mit-b0", folders["mit"])
    assert_near(encoder(pictures())[-1], encoder(pictures())[-1])
    encoder.train()
    assert not torch.allclose(encoder(pictures())[-1], encoder(pictures())[-1])
    encoder.eval()
    rates = [part.drop_prob for part in encoder.modules() if type(part).__name__ == "SegformerDropPath"]
    assert rates == pytest.approx([0.025, 0.05, 0.075, 0.1])  # rising to the published 0.1; the first block has none
    twin = copy.deepcopy(encoder)
    assert len(twin(pictures())) == 4
    assert_near(twin(pictures())[0], encoder(pictures())[0])


@pytest.mark.parametrize(("name", "widths"), [("mit-b0", (32, 64, 160, 256)), ("mobile-sam", (64, 128, 160, 320))])
def test_random_weights_come_from_the_seed(name, widths):
    state = torch.get_rng_state()
    one, same, other = (load_encoder(name, "random", seed=seed) for seed in (1, 1, 2))
    assert torch.equal(torch.get_rng_state(), state)
    assert one.widths == widths
    first = {key: value for key, value in one.state_dict().items() if key.endswith("weight") and value.ndim > 1}
    assert all(torch.equal(value, same.state_dict()[key]) for key, value in first.items())
    assert not any(torch.equal(value, other.state_dict()[key]) for key, value in first.items())
    last = one(pictures(32, 32))[-1].detach()
    assert 0.01 < float(last.std(unbiased=False)) < 100


def test_sizes_that_do_not_fit(folders):
    encoder = load_encoder("mit-b0", folders["mit"])
    with pytest.raises(ValueError, match=r"multiples of 32, but the input is 64x80 .*; crop or resize it"):
        encoder(pictures(64, 80))


def broken(folder: Path, target: Path, change: dict[str, torch.Tensor | None]) -> Path:
    from safetensors.torch import load_file, save_file

    shutil.copytree(folder, target)
    state = load_file(target / "model.safetensors") | change
    state = {key: value for key, value in state.items() if value is not None}
    save_file(state, target / "model.safetensors", metadata={"format": "pt"})
    return target


def test_weights_that_are_missing_or_of_another_network(folders, tmp_path):
    cases = [
        ("vgg", None, "encoder 'vgg' is not known; use one of mit-b0"),
        (
            "mit-b5",
            tmp_path,
            "expected a folder with config.json and model.safetensors for mit-b5 at .*; pass the folder",
        ),
        ("mit-b5", folders["basic"], "mit-b5 needs a model of type segformer, but .* holds 'resnet'; pass another"),
        ("resnet-101", folders["mit"], "resnet-101 needs a model of type resnet, but .* holds 'segformer'"),
        ("a/b", folders["vit"], "a/b needs a model of type segformer or resnet, but .* holds 'vit'"),
        ("mobile-sam", None, "mobile-sam needs its weights; pass the path of the published mobile_sam.pt"),
        ("mobile-sam", tmp_path / "no.pt", "expected a weight file at .*no.pt, found none"),
        ("a/b", "random", "random weights need a name whose size is known, but a/b came"),
    ]
    norm = "encoder.layer_norm.0.weight"
    mixed = broken(folders["mit"], tmp_path / "shape", {norm: torch.zeros(3)})
    cases.append(("mit-b0", mixed, "the weights in .* cannot be read as mit-b0 .*; fetch"))
    lacking = broken(folders["mit"], tmp_path / "lacking", {norm: None})
    cases.append(("mit-b0", lacking, "are not those of mit-b0: .* is missing; pass the folder of that model"))
    more = broken(folders["mit"], tmp_path / "more", {"encoder.more": torch.zeros(3)})
    cases.append(("mit-b0", more, "are not those of mit-b0: .*more is unexpected"))
    for name, weights, message in cases:
        with pytest.raises(ValueError, match=message) as caught:
            load_encoder(name, weights)
        assert "\n" not in str(caught.value)


def test_configurations_that_cannot_be_read(folders, tmp_path):
    path = broken(folders["mit"], tmp_path / "config", {})
    (path / "config.json").write_text("{")
    with pytest.raises(ValueError, match=r"config\.json cannot be read by transformers; fetch it again"):
        load_encoder("mit-b0", path)


def test_the_hub_is_asked_by_the_published_name(folders, monkeypatch):
    import huggingface_hub

    asked = []

    def absent(repository: str, **options: object) -> str:
        asked.append(repository)
        raise OSError("no network\nat all")

    monkeypatch.setattr(huggingface_hub, "snapshot_download", absent)
    for name in ("mit-b5", "resnet-101", "somebody/net"):
        with pytest.raises(ValueError, match=r"could not get .* from the hub \(no network\); check the name"):
            load_encoder(name)
    assert asked == ["nvidia/mit-b5", "microsoft/resnet-101", "somebody/net"]
    monkeypatch.setattr(huggingface_hub, "snapshot_download", lambda *a, **options: str(folders["mit"]))
    assert load_encoder("mit-b5").widths == (8, 16, 24, 32)
    monkeypatch.setattr(huggingface_hub, "snapshot_download", lambda *a, **options: str(folders["mit"].parent))
    with pytest.raises(
        ValueError, match=r"has none of model.safetensors, pytorch_model.bin; pass the folder of a copy"
    ):
        load_encoder("mit-b5")


def test_transformers_is_named_if_it_is_absent(monkeypatch):
    monkeypatch.setattr("saot.features.published.find_spec", lambda name: None)
    with pytest.raises(
        ValueError, match=r"mit-b5 needs transformers, which is not installed; .* the extra 'vit' needs: "
    ):
        load_encoder("mit-b5")
    load_encoder("mobile-sam", "random")


def test_files_that_are_no_encoders(folders, tmp_path):
    from safetensors import safe_open
    from safetensors.torch import load_file, save_file

    path = tmp_path / "encoder.safetensors"
    with pytest.raises(ValueError, match=r"expected an encoder at .*, found no file"):
        read_encoder(path)
    path.write_bytes(b"\x00" * 4)
    with pytest.raises(ValueError, match=r"is not a whole safetensors file .*; write it again"):
        read_encoder(path)
    save_encoder(path, load_encoder("mit-b0", folders["mit"]))
    state = load_file(path)
    with safe_open(path, framework="pt") as file:
        told = json.loads(file.metadata()["saot"])
    for change in (json.dumps(told | {"format": "2"}), "{", json.dumps(told | {"config": {}})):
        save_file(state, path, metadata={"saot": change})
        with pytest.raises(
            ValueError, match=r"was not written by save_encoder .*; pass the encoder.safetensors of a run"
        ):
            read_encoder(path)
    save_file(state, path)
    with pytest.raises(ValueError, match="was not written by save_encoder"):
        read_encoder(path)
    name = sorted(state)[0]
    told.pop("check")  # as a file of an earlier version, or of somebody else
    for wrong in ({key: value for key, value in state.items() if key != name}, state | {name: torch.zeros(2)}):
        save_file(wrong, path, metadata={"saot": json.dumps(told)})
        with pytest.raises(
            ValueError, match=f"does not hold the weights of the mit-b0 it describes: {name} is missing"
        ):
            read_encoder(path)


def test_weights_of_another_published_size_are_refused(tmp_path):
    """A folder of mit-b0 under the name mit-b1 would train another network than was asked for."""
    config = transformers.SegformerConfig(depths=[2, 2, 2, 2], hidden_sizes=[32, 64, 160, 256])
    transformers.SegformerModel(config).save_pretrained(tmp_path)
    assert load_encoder("mit-b0", tmp_path).widths == (32, 64, 160, 256)
    with pytest.raises(ValueError, match=r"encoder mit-b1 was asked for, but .* holds mit-b0; pass its folder"):
        load_encoder("mit-b1", tmp_path)


def test_another_published_resnet_is_refused(tmp_path):
    small = {"hidden_sizes": [8, 8, 8, 8], "embedding_size": 8}
    config = transformers.ResNetConfig(depths=[3, 4, 6, 3], layer_type="bottleneck", **small)
    transformers.ResNetModel(config).save_pretrained(tmp_path)
    with pytest.raises(ValueError, match=r"encoder resnet-101 was asked for, but .* holds resnet-50"):
        load_encoder("resnet-101", tmp_path)


@pytest.mark.parametrize(
    "config",
    [
        {},
        {"family": "segformer", "network": 3, "pixel_mean": [1, 2, 3], "pixel_deviation": [1, 1, 1]},
        {"family": "none", "network": {}, "pixel_mean": [1, 2, 3], "pixel_deviation": [1, 1, 1]},
        {"family": "segformer", "network": {"depths": "x"}, "pixel_mean": [1, 2, 3], "pixel_deviation": [1, 1, 1]},
        {"family": "tinyvit", "pixel_mean": [1], "pixel_deviation": [1, 1, 1]},
        {"family": "tinyvit", "pixel_mean": 7, "pixel_deviation": [1, 1, 1]},
    ],
)
def test_an_encoder_that_describes_another_is_refused_in_a_sentence(tmp_path, config):
    told = {"format": "saot-encoder-1", "name": "mit-b0", "config": config}
    save_file({"w": torch.ones(2)}, tmp_path / "encoder.safetensors", {"saot": json.dumps(told)})
    with pytest.raises(ValueError, match=r"was not written by save_encoder|cannot be built"):
        read_encoder(tmp_path / "encoder.safetensors")
