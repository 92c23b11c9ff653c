"""Adapters on frozen backbones: their equation, their gradient, their training, and their merged weights."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers.mobile_sam import published_state
from helpers.opened_files import opened_below
from helpers.runs import make_folder
from safetensors.torch import load_file
from torch import Tensor, nn

from saot.adapt import LoraRecipe, LoraSettings, LowRank, add_adapters, lora_fit, merge_adapters, run_lora
from saot.adapt.low_rank import fill_adapters, packed_adapters, without_adapters
from saot.features import extract, load_backbone
from saot.recipes import CostRecipe, TransportRecipe, with_words
from saot.tables import ALL_WINGS
from saot.transfer import SemanticCost, TargetExample, pair_support, plan_loss, solve_pair

transformers = pytest.importorskip("transformers")
SMALL = {"hidden_size": 32, "num_hidden_layers": 3, "num_attention_heads": 2, "initializer_range": 0.3}
FAMILIES = {
    "dinov2-small": ("Dinov2", {"patch_size": 14, "image_size": 70, "mlp_ratio": 2}),
    "dinov3-small": ("DINOv3ViT", {"patch_size": 16, "intermediate_size": 64, "num_register_tokens": 4}),
    "vit-base": ("ViT", {"patch_size": 16, "image_size": 64, "intermediate_size": 64}),
}
NAMES = [*FAMILIES, "mobile-sam"]
SIZES = {"dinov2-small": (56, 84), "dinov3-small": (64, 96), "vit-base": (64, 96), "mobile-sam": (64, 96)}


@pytest.fixture(scope="module")
def weights(tmp_path_factory) -> dict[str, Path]:
    """A tiny random model of each family as `save_pretrained` writes it, and MobileSAM with random numbers."""
    root = tmp_path_factory.mktemp("models")
    for name, (family, settings) in FAMILIES.items():
        torch.manual_seed(0)
        model = getattr(transformers, f"{family}Model")(getattr(transformers, f"{family}Config")(**SMALL, **settings))
        with torch.no_grad():
            for parameter in model.parameters():
                if parameter.ndim != 2:
                    parameter.add_(0.1 * torch.randn_like(parameter))
        model.save_pretrained(root / name)
        statistics = {"image_mean": [0.4, 0.5, 0.6], "image_std": [0.2, 0.3, 0.2]}
        (root / name / "preprocessor_config.json").write_text(json.dumps(statistics))
    torch.save(published_state(), root / "mobile_sam.pt")
    return {**{name: root / name for name in FAMILIES}, "mobile-sam": root / "mobile_sam.pt"}


def picture(name: str, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (*SIZES[name], 3), dtype=np.uint8)


def opened(weights: dict[str, Path], name: str, folder: Path | None = None):
    return load_backbone(name, folder or weights[name], size=SIZES[name], l2_norm=False)


def shaken(adapters: nn.ModuleDict) -> None:
    """Every B away from zero, as a training leaves it."""
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for adapter in adapters.values():
            adapter.up.copy_(0.1 * torch.randn(adapter.up.shape, generator=generator))  # type: ignore[union-attr]


def test_the_change_of_a_weight_is_alpha_over_r_times_b_a():
    weight = torch.randn(6, 4, dtype=torch.float64)
    adapter = LowRank(weight, rank=2, alpha=3.0, parts=(0, 2), of=3, generator=torch.Generator().manual_seed(0))
    assert 0 < float(adapter.down.detach().abs().max()) <= 0.5  # within 1 / sqrt(4)
    assert torch.equal(adapter(weight), weight)
    with torch.no_grad():
        adapter.up.normal_()
    changed, (down, up) = adapter(weight), (adapter.down.detach().numpy(), adapter.up.detach().numpy())
    for rows, number in ((slice(0, 2), 0), (slice(4, 6), 1)):
        wanted = weight[rows].numpy() + 3.0 / 2 * up[number] @ down[number]
        torch.testing.assert_close(changed[rows].detach(), torch.from_numpy(wanted), rtol=1e-12, atol=0)
    assert torch.equal(changed[2:4], weight[2:4])  # the keys
    with pytest.raises(ValueError, match="rank of at most 2"):
        LowRank(weight, rank=3, alpha=1.0, of=3)


@pytest.mark.parametrize("name", NAMES)
def test_before_training_tokens_are_the_frozen_ones(weights, name):
    backbone = opened(weights, name)
    frozen = backbone.tokens(picture(name))
    adapters = add_adapters(backbone.network, backbone.attention_blocks[-2:], rank=2, alpha=4.0)
    assert torch.equal(backbone.tokens(picture(name)), frozen)
    moving = backbone.network_tokens(picture(name)[None])[0]
    torch.testing.assert_close(moving.detach(), frozen, rtol=1e-4, atol=1e-4)  # maps whole, not in strips: other sums
    assert moving.requires_grad and moving.grad_fn is not None
    shaken(adapters)
    assert float((backbone.tokens(picture(name)) - frozen).abs().max()) > 1e-3
    with without_adapters(adapters):
        assert torch.equal(backbone.tokens(picture(name)), frozen)
    assert float((backbone.tokens(picture(name)) - frozen).abs().max()) > 1e-3


@pytest.mark.parametrize("name", NAMES)
def test_adapters_stand_on_queries_and_values_of_the_last_blocks(weights, name):
    backbone = opened(weights, name)
    adapters = add_adapters(backbone.network, backbone.attention_blocks[-2:], rank=2, alpha=4.0)
    if name == "mobile-sam":
        assert list(adapters) == [f"stages/3/{block}/attention/project_in" for block in (0, 1)]
        assert adapters["stages/3/0/attention/project_in"].rows.tolist() == [*range(320), *range(640, 960)]
    else:
        assert sorted(key.split("/")[-1] for key in adapters) == ["q_proj", "q_proj", "v_proj", "v_proj"]
        assert {part for key in adapters for part in key.split("/") if part.isdecimal()} == {"1", "2"}
    trained = [parameter for parameter in backbone.network.parameters() if parameter.requires_grad]
    assert {id(one) for one in trained} == {id(one) for one in adapters.parameters()}
    every = opened(weights, name)
    count = len(add_adapters(every.network, every.attention_blocks[-2:], rank=2, alpha=4.0, layers="all"))
    assert count == (8 if name == "mobile-sam" else 12)


@pytest.mark.parametrize("layers", ["query-value", "all"])
@pytest.mark.parametrize("name", NAMES)
def test_merged_weights_give_the_tokens_of_the_adapted_network(weights, name, layers, tmp_path):
    backbone = opened(weights, name)
    frozen = backbone.tokens(picture(name))
    adapters = add_adapters(backbone.network, backbone.attention_blocks[-2:], 2, 4.0, layers)
    shaken(adapters)
    adapted = backbone.tokens(picture(name))
    merge_adapters(backbone.network)
    assert torch.equal(backbone.tokens(picture(name)), adapted)
    place = backbone.save(tmp_path / "backbone")
    again = opened(weights, name, place)
    # folding MobileSAM's normalisations into its biases rounds anew each time it is read
    torch.testing.assert_close(again.tokens(picture(name)), adapted, rtol=0, atol=1e-5 if name == "mobile-sam" else 0)
    assert float((adapted - frozen).abs().max()) > 1e-2
    assert again.key.pixel_mean == backbone.key.pixel_mean
    if name != "mobile-sam":
        assert place.is_dir() and (place / "preprocessor_config.json").exists()
        return
    before, after = published_state(), load_file(place)
    changed = {key for key in before if not torch.equal(before[key], after[key])}
    assert set(after) == set(before) and changed
    assert all(key.startswith("image_encoder.layers.3.blocks.") for key in changed)  # the mask decoder is as it was
    first = place.read_bytes()
    assert backbone.save(tmp_path / "backbone").read_bytes() == first


def test_what_is_packed_is_put_back(weights):
    made = [opened(weights, "dinov2-small") for _ in range(2)]
    first, second = (add_adapters(one.network, one.attention_blocks[-1:], 2, 4.0) for one in made)
    shaken(first)
    packed = packed_adapters(first)
    assert all("/" not in key for key in packed) and len(packed) == 4
    fill_adapters(second, packed)
    assert torch.equal(made[0].tokens(picture("dinov2-small")), made[1].tokens(picture("dinov2-small")))


@pytest.mark.parametrize("learned", [True, False])
def test_gradients_of_the_loss_agree_with_central_differences(weights, learned):
    """In float64, with a plan that has converged: dL/dB and dL/dA in random directions, and entries of dL/dB."""
    backbone = opened(weights, "dinov2-small")
    adapters = add_adapters(backbone.network, backbone.attention_blocks[-1:], rank=2, alpha=4.0)
    backbone.network.double()
    shaken(adapters)
    generator = torch.Generator().manual_seed(2)
    config = CostRecipe(dim=6, spectral_norm=False, temperature=1.0, prototype_scope="pair")
    transport = TransportRecipe(k=9, cover=1, epsilon=0.3, max_iter=5000, tol=1e-12)
    cost = SemanticCost(32, config).double() if learned else None
    labels = torch.randint(0, 3, (24,), generator=generator)
    points = torch.arange(0, 24, 3)
    wanted = torch.randint(0, 3, (8,), generator=generator)
    support = None

    def loss() -> Tensor:
        nonlocal support
        pair = [backbone.network_tokens(picture("dinov2-small", seed)[None])[0] for seed in (0, 1)]
        source, target = (nn.functional.normalize(tokens, dim=-1) for tokens in pair)
        if support is None:
            support = pair_support(source.detach(), target.detach(), transport, cost, labels)
        result = solve_pair(source, labels, target, cost, transport, support)
        return plan_loss(result, labels, TargetExample(target, points, wanted), 3, config)[0]

    if learned:  # its own prototypes carry no gradient, by Algorithm 1: fix them, so that differences have none either
        source = nn.functional.normalize(backbone.network_tokens(picture("dinov2-small", 0)[None])[0], dim=-1)
        fixed = cost._own_prototypes(source.detach(), labels)  # type: ignore[union-attr]
        cost.prototypes = lambda: fixed  # type: ignore[method-assign,union-attr]
    value = loss()
    value.backward()
    assert float(value.detach()) > 0.1
    for parameter in adapters.parameters():
        assert parameter.grad is not None and float(parameter.grad.norm()) > 1e-6
        direction = torch.randn(parameter.shape, generator=generator, dtype=torch.float64)
        entry = torch.zeros_like(parameter).flatten()
        entry[int(parameter.grad.abs().argmax())] = 1.0
        for along in (direction / direction.norm(), entry.view_as(parameter)):
            found = []
            for sign in (1, -1):
                with torch.no_grad():
                    parameter.add_(sign * 1e-5 * along)
                found.append(float(loss().detach()))
                with torch.no_grad():
                    parameter.sub_(sign * 1e-5 * along)
            slope = (found[0] - found[1]) / 2e-5
            # central differences of step 1e-5 are good to some 1e-9 of the loss's scale
            assert slope == pytest.approx(float((parameter.grad * along).sum()), rel=1e-4, abs=1e-7)


SIZE = "height=64,width=128"


def settings(
    weights: dict[str, Path], name: str = "dinov2-small", words: tuple[str, ...] = (), **changes
) -> LoraSettings:
    small = ["cost.dim=8", "cost.steps=6", "transport.k=12", "adapter.rank=2", "adapter.blocks=2", "cost.temperature=1"]
    asked = LoraSettings(
        source=f"scenes:game:train,count=3,{SIZE}",
        target=f"scenes:street:train,count=5,{SIZE}",
        points="4",
        backbone=name,
        weights=str(weights[name]),
        size="56x112" if name == "dinov2-small" else "64x128",
        recipe=with_words(LoraRecipe(), [*small, "adapter.learning_rate=0.01", *words]),
    )
    return replace(asked, **changes)


@pytest.mark.parametrize("words", [(), ("adapter.learn_cost=false",), ("transport.alpha=0.2",)])
@pytest.mark.parametrize("name", ["dinov2-small", "mobile-sam"])
def test_a_training_moves_the_adapters_and_the_cost_and_nothing_else(weights, name, words, tmp_path, monkeypatch):
    """The backbone's own weights are bit for bit those it had; A, B and the cost have moved."""
    seen = {}
    fit = lora_fit.fit_adapters

    def watched(adapters, cost, data, recipe, **options):
        network = data.source.domain.network.network
        own = {key: value.clone() for key, value in network.state_dict().items() if not key.endswith((".up", ".down"))}
        before = [value.detach().clone() for value in adapters.parameters()]
        costs = [] if cost is None else [value.detach().clone() for value in cost.parameters()]
        history = fit(adapters, cost, data, recipe, **options)
        assert all(torch.equal(value, network.state_dict()[key]) for key, value in own.items())
        assert not any(one.grad is not None for one in network.parameters() if not one.requires_grad)
        seen["adapters"] = [not torch.equal(a, b) for a, b in zip(before, adapters.parameters(), strict=True)]
        seen["cost"] = (
            [] if cost is None else [not torch.equal(a, b) for a, b in zip(costs, cost.parameters(), strict=True)]
        )
        return history

    monkeypatch.setattr("saot.adapt.lora.fit_adapters", watched)
    outcome = run_lora(settings(weights, name, words), tmp_path / "run", wings=ALL_WINGS)
    assert all(seen["adapters"]) and len(seen["adapters"]) == 2 * len(outcome.run["layers"])
    assert all(seen["cost"]) and len(seen["cost"]) == (0 if "adapter.learn_cost=false" in words else 2)
    records = [json.loads(line) for line in (tmp_path / "run" / "log.jsonl").read_text().splitlines()]
    assert len(records) == 6 and all(np.isfinite(record["loss"]) for record in records)


def test_the_loss_of_one_pair_falls(weights, tmp_path):
    words = ("cost.steps=40", "adapter.learn_cost=false", "transport.epsilon=0.05")
    asked = settings(weights, words=words, source=f"scenes:game:train,count=1,{SIZE}")
    run = run_lora(replace(asked, target=f"scenes:street:train,count=1,{SIZE}"), tmp_path / "run", wings=ALL_WINGS).run
    assert run["losses"]["last"]["points"] < 0.9 * run["losses"]["first"]["points"]


@pytest.mark.parametrize("name", ["dinov2-small", "mobile-sam"])
def test_a_stopped_training_ends_with_the_same_bytes(weights, name, tmp_path, monkeypatch):
    monkeypatch.setattr("saot.runs.folder.CHECKPOINT_EVERY", 2)
    asked, taken = settings(weights, name), []
    whole = run_lora(asked, tmp_path / "whole", wings=ALL_WINGS)

    def stop(stage: str, done: int, total: int) -> None:
        if stage == "adapter" and done == 5:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run_lora(asked, tmp_path / "stopped", wings=ALL_WINGS, progress=stop)
    assert not (tmp_path / "stopped" / "adapter.safetensors").exists()
    again = run_lora(asked, tmp_path / "stopped", wings=ALL_WINGS, progress=lambda *told: taken.append(told))
    taken = [told for told in taken if told[0] == "adapter"]
    assert [done for _, done, _ in taken] == [5, 6]  # from the checkpoint of step 4
    assert not again.resumed and run_lora(asked, tmp_path / "stopped", wings=ALL_WINGS).resumed
    parts = ["adapter.safetensors", "log.jsonl", "points.csv"]
    parts += (
        ["backbone.safetensors"] if name == "mobile-sam" else ["backbone/model.safetensors", "backbone/config.json"]
    )
    for part in parts:
        assert (tmp_path / "whole" / part).read_bytes() == (tmp_path / "stopped" / part).read_bytes(), part
    assert whole.run["losses"] == again.run["losses"]
    assert whole.run["held_out_accuracy"] == again.run["held_out_accuracy"]


def test_the_merged_backbone_has_the_trained_adapters(weights, tmp_path):
    outcome = run_lora(settings(weights), tmp_path / "run", wings=ALL_WINGS)
    assert outcome.weights == tmp_path / "run" / "backbone"
    backbone, merged = (opened(weights, "dinov2-small", folder) for folder in (None, outcome.weights))
    adapters = add_adapters(backbone.network, backbone.attention_blocks[-2:], 2, 16.0)
    kept = load_file(tmp_path / "run" / "adapter.safetensors")
    assert any(key.startswith("cost.") for key in kept)
    fill_adapters(adapters, kept)
    image = picture("dinov2-small")
    assert torch.equal(extract(backbone, image, "").tokens, extract(merged, image, "").tokens)
    assert outcome.run["parameters"] == sum(one.numel() for one in adapters.parameters())
    assert merged.key.weights_sha256 != outcome.run["frozen_weights_sha256"] == backbone.key.weights_sha256
    assert 0 <= outcome.run["held_out_accuracy"]["adapted"] <= 1 and outcome.run["held_out_points"] > 0
    assert outcome.run["stages"]["adapter"]["peak_memory_bytes"] > 0
    written = (outcome.weights / "model.safetensors").read_bytes()
    shutil.rmtree(outcome.weights)  # stopped between the training and the writing: what was trained is read again
    again = run_lora(settings(weights), tmp_path / "run", wings=ALL_WINGS)
    assert not again.resumed and (again.weights / "model.safetensors").read_bytes() == written


def _folders(root: Path) -> tuple[Path, Path]:
    for name, count in (("source", 2), ("target", 4)):
        make_folder(root / name, count)
    return root / "source", root / "target"


def test_masks_of_the_target_are_opened_for_the_declared_points_alone(weights, tmp_path, monkeypatch):
    """Never for no points or points of a file; to draw them, and not once more; no step sees more than the budget."""
    source, target = _folders(tmp_path)
    asked = settings(weights, source=f"folder:{source}", target=f"folder:{target}")
    with opened_below(target / "masks") as seen:
        none = run_lora(replace(asked, points="0"), tmp_path / "none", wings=ALL_WINGS)
    assert (
        seen == []
        and none.run["label_budget"] == 0
        and none.run["held_out_accuracy"] == {"frozen": None, "adapted": None}
    )

    examples, loss = [], lora_fit.plan_loss

    def watched(result, labels, example, *rest):
        examples.append(example)
        return loss(result, labels, example, *rest)

    monkeypatch.setattr(lora_fit, "plan_loss", watched)
    drawn = run_lora(replace(asked, points="2"), tmp_path / "drawn", wings=ALL_WINGS)
    declared = (tmp_path / "drawn" / "points.csv").read_text().splitlines()[1:]
    assert drawn.run["label_budget"] == len(declared) > 0
    most = max(sum(line.startswith(key) for line in declared) for key in {line.split(",")[0] for line in declared})
    assert len(examples) == 6 and all(0 < len(one.point_classes) <= most for one in examples)

    shutil.copy(tmp_path / "drawn" / "points.csv", tmp_path / "points.csv")
    with opened_below(target / "masks") as seen:
        read = run_lora(replace(asked, points=str(tmp_path / "points.csv")), tmp_path / "read", wings=ALL_WINGS)
    assert seen == []
    assert read.run["losses"] == drawn.run["losses"]
    shutil.rmtree(target / "masks")
    run_lora(replace(asked, points=str(tmp_path / "points.csv"), seed=1), tmp_path / "bare", wings=ALL_WINGS)


def test_held_out_points_are_not_trained_on(weights, tmp_path, monkeypatch):
    seen: list[set[int]] = []

    def watched(adapters, cost, data, recipe, **options):
        held = set(data.points.tokens.held().picture.tolist())
        assert held and data.source.domain.images is not data.target.images
        tokens = type(data.target).tokens
        monkeypatch.setattr(type(data.target), "tokens", lambda self, number: (
            seen.append({number} if self is data.target else set()), tokens(self, number))[1])  # fmt: skip
        history = lora_fit.fit_adapters(adapters, cost, data, recipe, **options)
        monkeypatch.setattr(type(data.target), "tokens", tokens)
        assert set().union(*seen).isdisjoint(held) and len(set().union(*seen)) > 1
        return history

    monkeypatch.setattr("saot.adapt.lora.fit_adapters", watched)
    run_lora(settings(weights, words=("adapter.held_out=0.4", "cost.steps=12")), tmp_path / "run", wings=ALL_WINGS)
    assert seen


def test_a_loss_that_is_not_finite_ends_the_training(weights, tmp_path, monkeypatch):
    def broken(*_):
        return torch.tensor(float("nan"), requires_grad=True), {}

    monkeypatch.setattr(lora_fit, "plan_loss", broken)
    with pytest.raises(FloatingPointError, match="the adapter; got nan at step 0"):
        run_lora(settings(weights), tmp_path / "run", wings=ALL_WINGS)


def test_prototypes_and_supports_that_do_not_move_along_are_refused():
    for word in ("cost.prototype_scope=dataset", "cost.support_refresh=5"):
        with pytest.raises(ValueError, match="features that move"):
            with_words(LoraRecipe(), [word])
