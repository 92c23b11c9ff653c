from functools import cache
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from helpers.mobile_sam import published_state, shared_weights

from saot.features import Padded, extract, load_backbone
from saot.features.published import WeightReader, read_weights
from saot.features.tinyvit import TinyViT, _WindowAttention


@pytest.fixture(scope="module")
def weights(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("weights") / "mobile_sam.pt"
    torch.save(published_state(), path)
    return path


@cache
def distances(side: int) -> torch.Tensor:
    """Entry of the bias table for each pair of tokens of a window."""
    places = [(y, x) for y in range(side) for x in range(side)]
    return torch.tensor([[abs(y - v) * side + abs(x - u) for v, u in places] for y, x in places])


def plain_forward(state: dict[str, torch.Tensor], x: torch.Tensor) -> dict[str, torch.Tensor]:
    """The network once more, channels first, nothing folded, whole maps, one window at a time."""
    state = {name.removeprefix("image_encoder."): value for name, value in state.items()}

    def conv(name, x, stride=1):
        weight = state[f"{name}.c.weight"]
        x = F.conv2d(x, weight, None, stride, weight.shape[-1] // 2, groups=x.shape[1] // weight.shape[1])
        bn = [state[f"{name}.bn.{part}"] for part in ("running_mean", "running_var", "weight", "bias")]
        return F.batch_norm(x, *bn)

    def inverted(name, x, stride=1):
        hidden = F.gelu(conv(f"{name}.conv2", F.gelu(conv(f"{name}.conv1", x)), stride))
        return conv(f"{name}.conv3", hidden)

    def norm(name, x):
        return F.layer_norm(x, x.shape[-1:], state[f"{name}.weight"], state[f"{name}.bias"])

    def linear(name, x):
        return F.linear(x, state[f"{name}.weight"], state[f"{name}.bias"])

    def attention(name, tokens, heads, side):  # (side, side, width) -> the same
        table = state[f"{name}.attention_biases"]
        qkv = linear(f"{name}.qkv", norm(f"{name}.norm", tokens)).view(side * side, heads, 96)
        out = []
        for head in range(heads):
            query, key, value = qkv[:, head].split(32, 1)
            scores = query @ key.T / 32**0.5
            out.append((scores + table[head, distances(side)]).softmax(1) @ value)
        return linear(f"{name}.proj", torch.cat(out, 1)).view(side, side, -1)

    def block(name, x, heads, side):
        tokens = x[0].permute(1, 2, 0)
        height, width, _ = tokens.shape
        padded = F.pad(tokens, (0, 0, 0, -width % side, 0, -height % side))
        attended = torch.zeros_like(padded)
        for y in range(0, padded.shape[0], side):
            for u in range(0, padded.shape[1], side):
                window = padded[y : y + side, u : u + side]
                attended[y : y + side, u : u + side] = attention(f"{name}.attn", window, heads, side)
        x = conv(f"{name}.local_conv", (tokens + attended[:height, :width]).permute(2, 0, 1)[None])
        tokens = x[0].permute(1, 2, 0)
        hidden = F.gelu(linear(f"{name}.mlp.fc1", norm(f"{name}.mlp.norm", tokens)))
        return (tokens + linear(f"{name}.mlp.fc2", hidden)).permute(2, 0, 1)[None]

    x = conv("patch_embed.seq.2", F.gelu(conv("patch_embed.seq.0", x, 2)), 2)
    outputs = {}
    for stage, (depth, heads, side) in enumerate(((2, 2, 7), (2, 4, 7), (6, 5, 14), (2, 10, 7))):
        for number in range(depth):
            name = f"layers.{stage}.blocks.{number}"
            x = F.gelu(x + inverted(name, x)) if stage == 0 else block(name, x, heads, side)
        if stage < 3:
            x = inverted(f"layers.{stage}.downsample", x, (2, 2, 1)[stage])
        outputs[f"stage{stage}"] = x
    for number in (0, 2):
        weight = state[f"neck.{number}.weight"]
        x = F.conv2d(x, weight, padding=weight.shape[-1] // 2)
        mean, variance = x.mean(1, keepdim=True), x.var(1, keepdim=True, unbiased=False)
        gain, shift = (state[f"neck.{number + 1}.{part}"][:, None, None] for part in ("weight", "bias"))
        x = (x - mean) / (variance + 1e-6).sqrt() * gain + shift
    outputs["neck"] = x
    return outputs


@pytest.mark.parametrize("size", [(80, 112), (16, 16), (240, 16)])
def test_equals_the_network_written_plainly(size):
    state = published_state()
    network = TinyViT()
    network.load_published(state)
    x = torch.randn(1, 3, *size, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        outputs = network(x.permute(0, 2, 3, 1))
        wanted = plain_forward(state, x)
    for name, value in wanted.items():
        # float32, sums in another order through up to 30 layers; outputs are of order 1 to 10
        torch.testing.assert_close(outputs[name].permute(0, 3, 1, 2), value, rtol=1e-3, atol=1e-3)


def test_a_batch_equals_its_pictures():
    network = TinyViT()
    network.load_published(published_state())
    x = torch.randn(2, 64, 96, 3, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        both, one = network(x)["neck"], network(x[1:])["neck"]
    torch.testing.assert_close(both[1:], one, rtol=1e-4, atol=1e-4)  # other strips, other order of sums


@pytest.mark.parametrize("numbers", [1, 10**9])
def test_strips_do_not_change_the_answer(monkeypatch, numbers):
    network = TinyViT()
    network.load_published(published_state())
    x = torch.randn(1, 128, 96, 3, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        wanted = network(x)["neck"]
        monkeypatch.setattr("saot.features.tinyvit._STRIP_NUMBERS", numbers)
        torch.testing.assert_close(network(x)["neck"], wanted, rtol=1e-4, atol=1e-4)


def test_attention_biases_know_rows_from_columns():
    attention = _WindowAttention(32, 1, 3)
    state = {"a.norm.weight": torch.ones(32), "a.norm.bias": torch.zeros(32)}
    state |= {"a.qkv.weight": torch.zeros(96, 32), "a.qkv.bias": torch.zeros(96)}
    state |= {"a.proj.weight": torch.zeros(32, 32), "a.proj.bias": torch.zeros(32)}
    state |= {"a.attention_biases": torch.arange(9.0)[None]}  # |dy| * 3 + |dx|
    attention.read(WeightReader(state, "m", "r"), "a")
    assert attention.bias[0, 0].tolist() == [0, 1, 2, 3, 4, 5, 6, 7, 8]
    assert attention.bias[0, 5].tolist() == [5, 4, 3, 2, 1, 0, 5, 4, 3]  # token 5 is at row 1, column 2


def test_padding_is_dropped_and_seen(weights):
    image = np.random.default_rng(0).integers(0, 256, (48, 90, 3), dtype=np.uint8)
    padded = extract(load_backbone("mobile-sam", weights, size=96), image, "")
    assert padded.provenance.input_size == (51, 96)
    assert (padded.height, padded.width) == (4, 6)
    assert padded.provenance.pad
    asked = load_backbone("mobile-sam", weights, size=Padded(96), pad=False)
    assert asked.key == padded.provenance.key and torch.equal(extract(asked, image, "").tokens, padded.tokens)
    free = extract(load_backbone("mobile-sam", weights, size=96, pad=False), image, "")
    assert free.provenance.input_size == (48, 96)
    assert (free.height, free.width) == (3, 6)
    square = extract(load_backbone("mobile-sam", weights, size=(96, 96)), image, "")
    assert (square.height, square.width) == (6, 6)
    assert not square.provenance.pad


def test_padded_tokens_are_those_of_the_published_preprocessing(weights):
    image = np.random.default_rng(0).integers(0, 256, (51, 96, 3), dtype=np.uint8)
    features = extract(load_backbone("mobile-sam", weights, size=96, l2_norm=False), image, "")
    canvas = torch.zeros(1, 3, 96, 96)
    mean = torch.tensor([123.675, 116.28, 103.53]).view(3, 1, 1)
    deviation = torch.tensor([58.395, 57.12, 57.375]).view(3, 1, 1)
    canvas[0, :, :51] = (torch.from_numpy(image).permute(2, 0, 1) - mean) / deviation
    wanted = plain_forward(published_state(), canvas)["neck"][0, :, :4].permute(1, 2, 0).flatten(0, 1)
    torch.testing.assert_close(features.tokens, wanted, rtol=1e-3, atol=1e-3)


def test_layers_are_concatenated_on_the_grid_of_the_neck(weights):
    image = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    backbone = load_backbone("mobile-sam", weights, size=(64, 64), layers=["stage0", "neck"], l2_norm=False)
    features = extract(backbone, image, "")
    assert backbone.dim == 128 + 256
    assert features.tokens.shape == (16, 384)
    neck = extract(load_backbone("mobile-sam", weights, size=(64, 64), l2_norm=False), image, "").tokens
    torch.testing.assert_close(features.tokens[:, 128:], neck, rtol=0, atol=0)
    x = (torch.from_numpy(image).float() - torch.tensor([123.675, 116.28, 103.53])) / torch.tensor(
        [58.395, 57.12, 57.375]
    )
    stage = plain_forward(published_state(), x.permute(2, 0, 1)[None])["stage0"]  # 8 x 8
    wanted = F.avg_pool2d(stage, 2)[0].permute(1, 2, 0).flatten(0, 1)
    torch.testing.assert_close(features.tokens[:, :128], wanted, rtol=1e-3, atol=1e-3)
    assert not load_backbone("mobile-sam", weights, layers=["stage3"]).key.final_norm


def test_tokens_may_be_trained_on(weights):
    image = np.zeros((32, 32, 3), np.uint8)
    tokens = extract(load_backbone("mobile-sam", weights, size=(32, 32), l2_norm=False), image, "").tokens
    layer = torch.nn.Linear(256, 2)
    layer(tokens).sum().backward()
    assert layer.weight.grad is not None


def test_safetensors_and_bare_encoder_load_alike(weights, tmp_path):
    from safetensors.torch import save_file

    state = {
        name.removeprefix("image_encoder."): value
        for name, value in published_state().items()
        if name.startswith("image_encoder.")
    }
    save_file(state, tmp_path / "encoder.safetensors")
    image = np.random.default_rng(0).integers(0, 256, (32, 32, 3), dtype=np.uint8)
    first, second = (
        extract(load_backbone("mobile-sam", path, size=32), image, "").tokens
        for path in (weights, tmp_path / "encoder.safetensors")
    )
    torch.testing.assert_close(first, second, rtol=0, atol=1e-6)  # float32, other alignment in memory


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"image_encoder.neck.0.weight": None}, r"neck\.0\.weight is missing"),
        ({"image_encoder.neck.4.weight": torch.zeros(2)}, r"neck\.4\.weight is unexpected"),
        (
            {"image_encoder.neck.0.weight": torch.zeros(2)},
            r"neck\.0\.weight has shape \(2,\), expected \(256, 320, 1, 1\)",
        ),
    ],
)
def test_weights_of_another_model_are_named(tmp_path, change, message):
    state = {name: value for name, value in (published_state() | change).items() if value is not None}
    torch.save(state, tmp_path / "other.pt")
    with pytest.raises(ValueError, match=message):
        load_backbone("mobile-sam", tmp_path / "other.pt")


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"layers": ["stage4"]}, "choose among stage0"),
        ({"final_norm": False}, "leave the setting out"),
        ({"size": 1000}, "nearest valid size is 1008"),
    ],
)
def test_settings_that_do_not_fit(weights, settings, message):
    with pytest.raises(ValueError, match=message):
        load_backbone("mobile-sam", weights, **settings)
    with pytest.raises(ValueError, match="--weights"):
        load_backbone("mobile-sam")


def test_the_published_network_answers_as_its_authors_published():
    reference = read_weights(shared_weights("mobile_sam_reference.safetensors"))
    network = TinyViT()
    network.load_published(read_weights(shared_weights("mobile_sam.pt")))
    step = torch.arange(1, 1025, dtype=torch.float64)
    rows = torch.sin(0.01 * step[:, None] * torch.arange(1, 4)).T  # channel, row
    x = (rows[:, :, None] * torch.cos(0.013 * step)).float()
    # the input is of order 1 and was made in float32 by its authors
    torch.testing.assert_close(x[:, ::64, ::64], reference["input_slice"], rtol=0, atol=5e-6)
    with torch.no_grad():
        outputs = network(x.permute(1, 2, 0)[None])
    # float32 sums in another order: relative errors of some 1e-6 of the largest output, measured 3e-6; the
    # neck is stored in half precision, half a unit in the last place of its largest output (0.61) is 2.4e-4
    found = {"patch_embed_slice": outputs["stem"][0].permute(2, 0, 1)[:, ::16, ::16]}
    found |= {f"stage{i}_slice": outputs[f"stage{i}"][0].flatten(0, 1)[::61] for i in range(4)}
    for name, value in found.items():
        bound = 1e-5 * reference[name].abs().max().item()
        torch.testing.assert_close(value, reference[name], rtol=0, atol=bound, msg=lambda m, n=name: f"{n}: {m}")
    neck = outputs["neck"][0].permute(2, 0, 1)
    torch.testing.assert_close(neck, reference["neck"].float(), rtol=0, atol=3e-4)
