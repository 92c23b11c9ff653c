import pytest
import torch
import torch.nn.functional as F
from torch.testing import assert_close

from saot.match.adapter import Adapter, Bottleneck, token_map
from saot.match.sides import MatchSide


def parameters_by_formula(widths: tuple[int, ...], out: int, hidden: int) -> int:
    """1x1, 3x3, 1x1 and perhaps a 1x1 shortcut without biases; two numbers a channel and norm; shares, temperature."""
    total = len(widths) + 1
    for width in widths:
        total += width * hidden + 9 * hidden**2 + hidden * out + 2 * (hidden + hidden + out)
        total += 0 if width == out else width * out + 2 * out
    return total


@pytest.mark.parametrize(
    ("widths", "out", "hidden", "millions"),
    [((640, 1280, 1280, 768), 768, 192, "5.15"), ((768,), 768, 192, "0.63"), ((256, 66), 48, 12, None)],
)
def test_number_of_parameters(widths, out, hidden, millions):
    with torch.device("meta"):
        adapter = Adapter(widths, out)
    count = sum(part.numel() for part in adapter.parameters())
    assert count == parameters_by_formula(widths, out, hidden)
    assert millions is None or f"{count / 1e6:.2f}" == millions


@pytest.mark.parametrize(("width", "out"), [(12, 12), (10, 12)])
def test_a_bottleneck_by_hand(width, out):
    layer, x = Bottleneck(width, 6, out, groups=3), torch.randn(2, width, 4, 5)
    weights = {name: value.detach() for name, value in layer.named_parameters()}

    def block(name, x, padding=0):
        x = F.conv2d(x, weights[f"{name}.0.weight"], padding=padding)
        return F.group_norm(x, 3, weights[f"{name}.1.weight"], weights[f"{name}.1.bias"])

    inner = block("expand", F.relu(block("mix", F.relu(block("reduce", x)), padding=1)))
    expected = F.relu(inner + (x if width == out else block("shortcut", x)))
    assert_close(layer(x), expected)
    assert not any(".0.bias" in name for name in weights)
    assert ("shortcut.0.weight" in weights) == (width != out)


def test_inputs_are_resized_and_added_by_their_shares():
    adapter = Adapter((6, 4), out=8)
    with torch.no_grad():
        adapter.mixing.copy_(torch.tensor([1.0, -0.5]))
    maps = [torch.randn(2, 6, 3, 5), torch.randn(2, 4, 2, 2)]
    fine = F.interpolate(maps[1], (3, 5), mode="bilinear", align_corners=False)
    shares = torch.softmax(torch.tensor([1.0, -0.5]), 0)
    expected = shares[0] * adapter.bottlenecks[0](maps[0]) + shares[1] * adapter.bottlenecks[1](fine)
    assert_close(adapter(maps, (3, 5)), expected)


def test_temperature_is_learned_by_its_logarithm():
    adapter = Adapter((4,), out=8)
    assert_close(adapter.scale, torch.tensor(1 / 0.07))
    adapter.scale.backward()
    assert_close(adapter.log_scale.grad, torch.tensor(1 / 0.07))


def test_tokens_make_a_side():
    adapter = Adapter((4,), out=8, groups=32)
    maps = [torch.randn(4, 3, 5)]
    tokens = adapter.tokens(maps, (3, 5)).detach()
    assert_close(tokens.norm(dim=1), torch.ones(15))
    whole = adapter([maps[0][None]], (3, 5))[0]
    assert_close(tokens[8], F.normalize(whole[:, 1, 3].detach(), dim=0))  # row 1, column 3
    assert MatchSide.of(tokens, (3, 5)).shape == (3, 5)


def test_members_of_a_batch_do_not_meet():
    adapter, maps = Adapter((4,), out=8), torch.randn(3, 4, 3, 5)
    assert_close(adapter([maps], (3, 5))[1:2], adapter([maps[1:2]], (3, 5)))


@pytest.mark.parametrize("shape", [(1, 1), (1, 7), (2, 3)])
def test_small_grids_and_odd_widths(shape):
    adapter = Adapter((7, 256), out=10, hidden=5)
    maps = [torch.randn(7, *shape), torch.randn(256, *shape)]
    assert bool(torch.isfinite(adapter.tokens(maps, shape)).all())


def test_tokens_as_a_map():
    tokens = torch.randn(6, 4)
    assert_close(token_map(tokens, (2, 3))[:, 1, 2], tokens[5])


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: Adapter(()), "at least 1"),
        (lambda: Adapter((4,), out=0), "at least 1"),
        (lambda: Adapter((4,), temperature=0.0), "temperature"),
        (lambda: Adapter((4,), out=8)([torch.zeros(1, 5, 2, 2)], (2, 2)), r"\(5,\)"),
        (lambda: Adapter((4, 4), out=8)([torch.zeros(1, 4, 2, 2)], (2, 2)), r"\(4, 4\)"),
        (lambda: token_map(torch.zeros(5, 2), (2, 3)), "6 tokens"),
    ],
)
def test_what_is_refused(call, words):
    with pytest.raises(ValueError, match=words):
        call()
