"""The pull loss as a term of stage 1: what it moves, what it is made of, and that it leaves nothing behind."""

from dataclasses import replace

import pytest
import torch
from torch.testing import assert_close

from saot.adapt import Pull
from saot.adapt import frozen_pull as bridge_file
from saot.adapt.frozen_pull import pull_step
from saot.decoder import Term, fit_decoder, make_decoder, token_pool
from saot.recipes import BridgeRecipe, DecoderRecipe
from saot.runs import Checkpoint

pytestmark = pytest.mark.training

DIM, CLASSES, SEED = 6, 3, 4
BRIDGE = BridgeRecipe(weight=0.5, queries=4, negatives=16, width=8)
TOKENS = DecoderRecipe(hidden=16, blocks=1, steps=30, batch=32, dropout=0.2)
FINE = replace(TOKENS, architecture="fine", subdivision=2, context=1)
WIDTH = {"residual": DIM, "mlp3": DIM, "fine": 6 * DIM}  # itself, four neighbours, one level


def data(width: int):
    """Source tokens, their translations (moved and noisy) and target tokens; classes lie apart."""
    generator = torch.Generator().manual_seed(1)
    labels = torch.arange(60) % CLASSES
    centres = torch.randn(CLASSES, width, generator=generator)
    noise = torch.randn(3, 60, width, generator=generator)
    source = centres[labels] + 0.3 * noise[0]
    return labels.to(torch.uint8), source, source + 0.7 + 0.3 * noise[1], centres[labels] + 0.7 + 0.3 * noise[2]


def made(config: DecoderRecipe, bridge: BridgeRecipe = BRIDGE):
    torch.manual_seed(0)
    width = WIDTH[config.architecture]
    labels, source, translated, target = data(width)
    pairs = torch.cat([source, translated], dim=-1)
    pull = Pull(
        token_pool([labels], CLASSES, lambda picture, tokens: pairs[tokens], 2 * width),
        token_pool([torch.zeros_like(labels)], 1, lambda picture, tokens: target[tokens], width),
        bridge,
    )
    pool = token_pool([labels], CLASSES, lambda picture, tokens: source[tokens], width)
    if config.architecture == "fine":
        pool = replace(pool, soft=lambda picture, tokens: labels[tokens].unsqueeze(1).expand(-1, 4))
    return make_decoder(DIM, CLASSES, config), [Term("source", pool)], pull


def weights_of(config, bridge=None, **given):
    decoder, terms, pull = made(config, bridge or BRIDGE)
    fit = fit_decoder(decoder, terms, config, seed=SEED, extra=pull if bridge else None, **given)
    return fit.decoder.state_dict(), fit.history


@pytest.mark.parametrize("architecture", ["residual", "mlp3", "fine"])
def test_it_moves_the_decoder_and_none_of_the_other_draws(architecture):
    config = replace(FINE, architecture=architecture, learning_rate=1e-2)  # so that 30 steps go far
    off, history = weights_of(config)
    unweighted, logged = weights_of(config, replace(BRIDGE, weight=0.0))
    on, pulled = weights_of(config, BRIDGE)
    assert all(torch.equal(unweighted[name], value) for name, value in off.items()), "same batches, same dropout"
    assert any(not torch.equal(on[name], value) for name, value in off.items())
    assert set(on) == set(off), "the projector is thrown away"
    assert "pull" not in history[0] and pulled[0]["pull"] == logged[0]["pull"] > 0
    without, last = (sum(record["pull"] for record in part[-5:]) for part in (logged, pulled))
    # on the same batches; 0.50, 0.53 and 0.61 of it under every kind of kernels
    assert last < 0.8 * without, "translations come closer to the prototypes"


@pytest.mark.parametrize("config", [TOKENS, FINE], ids=["residual", "fine"])
def test_the_gradient_reaches_the_body_through_the_translation_alone(config):
    decoder, _, pull = made(config)
    blind, tracked = [], pull.source.features

    def with_gradient(picture, tokens):
        blind.append(tracked(picture, tokens).requires_grad_(True))
        return blind[-1]

    projector, loss_of = pull_step(
        replace(pull, source=replace(pull.source, features=with_gradient)), config, 0, decoder
    )
    decoder.train()
    loss_of(0).backward()
    body = [parameter for name, parameter in decoder.named_parameters() if "head" not in name]
    assert all(parameter.grad is not None and bool(parameter.grad.any()) for parameter in body)
    assert decoder.head.weight.grad is None
    assert all(bool(parameter.grad.any()) for name, parameter in projector.named_parameters() if "weight" in name)
    original, translated = blind[0].grad.chunk(2, dim=-1)
    assert bool(translated.any()) and not bool(original.any())
    assert decoder.training


@pytest.mark.parametrize("config", [TOKENS, FINE], ids=["residual", "fine"])
def test_keys_are_the_networks_own_without_dropout_and_posteriors_are_means_over_cells(config, monkeypatch):
    seen, (decoder, _, pull) = [], made(config)
    whole = bridge_file.pull_loss
    monkeypatch.setattr(bridge_file, "pull_loss", lambda *given: seen.append(given) or whole(*given))
    projector, loss_of = pull_step(pull, config, 0, decoder.train())
    loss_of(2)
    batch, weights, settings, _ = seen[0]
    assert (settings.base_queries, settings.negatives) == (4, 16) and len(batch.labels) == config.batch
    _, source, translated, target = data(WIDTH[config.architecture])
    with torch.no_grad():
        decoder.eval()
        keys, others, answers = (projector(decoder.embed(each)) for each in (source, target, translated))
        cells = decoder(target).softmax(-1).reshape(60, -1, CLASSES).mean(1)
    places = (batch.source.unsqueeze(1) - keys).norm(dim=-1).argmin(1)
    assert_close(batch.source, keys[places])
    assert torch.equal(batch.labels, places % CLASSES)
    drawn = (batch.target.unsqueeze(1) - others).norm(dim=-1).argmin(1)
    assert_close(batch.target, others[drawn])
    assert_close(batch.confidence, cells[drawn].amax(-1))
    assert torch.equal(batch.pseudo_labels, cells[drawn].argmax(-1))
    assert not torch.allclose(batch.queries, answers[places]), "queries have dropout"
    assert_close(weights.sum(), torch.ones_like(weights[0]))
    without, (still, _, _) = replace(config, dropout=0.0, context_dropout=0.0), made(config)
    still = make_decoder(DIM, CLASSES, without)
    still.load_state_dict(decoder.state_dict())
    pull_step(pull, without, 0, still.train())[1](2)
    assert_close(seen[1][0].queries, answers[places])  # the same tokens, translated


def test_a_stopped_training_goes_on_with_its_projector(tmp_path):
    checkpoint = Checkpoint(tmp_path / "state.pt", every=7)

    def stop(done, steps):
        if done == 18:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        weights_of(FINE, BRIDGE, checkpoint=checkpoint, progress=stop)
    again, history = weights_of(FINE, BRIDGE, checkpoint=checkpoint)
    undisturbed, whole = weights_of(FINE, BRIDGE)
    assert history == whole and all(torch.equal(again[name], value) for name, value in undisturbed.items())


def test_a_decoder_that_looks_at_neighbours_is_refused():
    _, _, pull = made(TOKENS)
    with pytest.raises(ValueError, match=r"decoder\.architecture than conv"):
        pull_step(pull, TOKENS, 0, make_decoder(DIM, CLASSES, replace(TOKENS, architecture="conv")))
