"""An adapter as a file, its maps, and the adapter of the paper."""

from dataclasses import replace

import pytest
import torch
from helpers.runs import match_pictures
from PIL import Image
from safetensors.torch import save_file

from saot.features import load_backbone, map_widths
from saot.match import (
    Adapter,
    AdapterPair,
    AdapterSettings,
    MatchRequest,
    MatchSide,
    PseudoLabel,
    adapted,
    fit_adapter,
    load_adapter,
    save_adapter,
    token_maps,
)
from saot.runs import read_kept, write_kept


@pytest.fixture
def network():
    return load_backbone("filterbank", size=(56, 84))


def test_a_kept_adapter_refines_as_the_trained_one(tmp_path, network):
    adapter = Adapter((network.dim,), out=8).eval()
    path = tmp_path / "runs" / "adapter-1.safetensors"
    path.parent.mkdir()
    save_adapter(path, adapter, network.key)
    side = MatchSide.of(torch.nn.functional.normalize(torch.randn(6, network.dim), dim=-1), (2, 3))
    for place in (path, tmp_path):
        kept = load_adapter(place)
        kept.check(network.key, path)
        assert torch.equal(adapted(kept.adapter, side).tokens, adapted(adapter, side).tokens)
    assert torch.allclose(adapted(adapter, side).tokens.norm(dim=-1), torch.ones(6))
    kept.check(replace(network.key, size="28x42"), path)  # another input size
    with pytest.raises(ValueError, match=r"was trained on features with layers=.*; got layers=.'other',.: give it"):
        kept.check(replace(network.key, layers=("other",)), path)


def test_what_is_no_adapter_is_refused(tmp_path, network):
    with pytest.raises(ValueError, match="is missing"):
        load_adapter(tmp_path / "adapter-1.safetensors")
    with pytest.raises(ValueError, match=r"expected one adapter-.*found 0"):
        load_adapter(tmp_path)
    (tmp_path / "adapter-1.safetensors").write_bytes(b"no")
    with pytest.raises(ValueError, match="is damaged"):
        load_adapter(tmp_path)
    save_file({"a": torch.zeros(1)}, tmp_path / "adapter-1.safetensors")
    with pytest.raises(ValueError, match="no adapter with a word on its features"):
        load_adapter(tmp_path)
    save_adapter(tmp_path / "adapter-2.safetensors", Adapter((4,), out=8), network.key)
    with pytest.raises(ValueError, match=r"found 2: adapter-1.*name the file"):
        load_adapter(tmp_path)


def test_tokens_are_split_into_the_maps_they_are_joined_of():
    tokens = torch.arange(24.0).view(4, 6)
    first, second = token_maps(tokens, (2, 2), (2, 4))
    assert first.shape == (2, 2, 2) and second.shape == (4, 2, 2)
    assert torch.equal(torch.cat([first, second]).flatten(1).T, tokens)


def test_the_papers_adapter_has_its_weights_and_one_step_moves_every_share():
    """5.15M for s3, s4, s5 of Stable Diffusion and DINOv2; 0.63M for DINOv2 alone (FACTS S-11)."""
    adapter = Adapter((640, 1280, 1280, 768), out=768)
    assert round(sum(part.numel() for part in adapter.parameters()) / 1e6, 2) == 5.15
    assert round(sum(part.numel() for part in Adapter((768,), out=768).parameters()) / 1e6, 2) == 0.63
    widths = (6, 4, 5)
    small = Adapter(widths, out=8)
    before = {name: part.detach().clone() for name, part in small.named_parameters()}
    sides = [MatchSide.of(torch.nn.functional.normalize(torch.randn(12, 15), dim=-1), (3, 4)) for _ in range(2)]
    pair = AdapterPair(*sides, *(token_maps(side.tokens, (3, 4), widths) for side in sides))
    tokens = torch.arange(12)
    label = PseudoLabel(tokens, tokens.flip(0), torch.ones(12), (3, 4), (3, 4))
    fit_adapter(small, [pair], [label], AdapterSettings(steps=1))
    moved = {name for name, part in small.named_parameters() if not torch.equal(part, before[name])}
    assert "mixing" in moved and bool((small.mixing.detach() != 0).all())
    assert {name.split(".")[1] for name in moved if name.startswith("bottlenecks")} == {"0", "1", "2"}


def test_saot_match_uses_a_trained_adapter(tmp_path, network):
    for number in range(2):
        picture = (torch.rand(56, 84, 3, generator=torch.Generator().manual_seed(number)) * 255).byte().numpy()
        Image.fromarray(picture).save(tmp_path / f"{number}.png")
    torch.manual_seed(1)
    save_adapter(tmp_path / "adapter-x.safetensors", Adapter(map_widths(network), out=8), network.key)
    request = MatchRequest(tmp_path / "0.png", (tmp_path / "1.png",), size="56x84")
    plain = match_pictures(request, tmp_path / "plain")
    told = match_pictures(replace(request, adapter=str(tmp_path)), tmp_path / "adapted")
    assert told["adapter"] == str(tmp_path) and plain["adapter"] is None
    assert told["pairs"][0]["matches"] != plain["pairs"][0]["matches"]
    with pytest.raises(ValueError, match="leave one out"):
        match_pictures(replace(request, adapter=str(tmp_path), features="a,b"), tmp_path / "files")


@pytest.mark.parametrize(
    "about", [{"adapter": {}}, {"adapter": {"widths": [0], "out": 8, "hidden": 2}}, {"adapter": 3}, {"features": "[]"}]
)
def test_an_adapter_that_says_something_else_of_itself_is_refused(tmp_path, network, about):
    path = tmp_path / "adapter-1.safetensors"
    save_adapter(path, Adapter((network.dim,), out=8), network.key)
    kept = read_kept(path)
    write_kept(path, replace(kept, about={**kept.about, **about}))
    with pytest.raises(ValueError):
        load_adapter(path)
