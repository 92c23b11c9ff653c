import math
import time
from dataclasses import replace
from itertools import pairwise

import pytest
import torch
from helpers.decoder import SMALL, pictures, pool_of
from torch.testing import assert_close

from saot.decoder import Decoder, TargetTokens, Term, TokenDecoder, fit_decoder, refine_decoder, token_pool
from saot.decoder.distill import confidence_weighted_kl
from saot.decoder.network import Dropout
from saot.decoder.pool import BlockReader, point_pool
from saot.decoder.refine import teacher_labels, update_teacher
from saot.recipes import RefineRecipe
from saot.runs import Checkpoint, generator_for

pytestmark = pytest.mark.training

TEACH = RefineRecipe(steps=12, batch=32, ema_decay=0.9, regenerate=4)


def test_the_decoder_has_the_papers_size():
    assert sum(p.numel() for p in TokenDecoder(1024, 19).parameters()) == 5_273_619


def test_a_pool_reads_what_it_draws_and_leaves_out_ignored_tokens():
    features, labels = pictures()
    pool = pool_of(features, labels)
    assert len(pool) == 4 * 29
    positions = pool.draw(200, torch.Generator().manual_seed(1))
    read, classes = pool.read(positions)
    for k in range(200):
        picture, token = int(pool.picture[positions[k]]), int(pool.token[positions[k]])
        assert_close(read[k].float(), features[picture][token], rtol=0, atol=1e-3)  # half precision
        assert int(classes[k]) == int(labels[picture][token])


def test_classes_are_drawn_uniformly_and_by_frequency_with_power_one():
    pool = pool_of(*pictures(count=10))
    even = pool.label[pool.draw(6000, torch.Generator().manual_seed(0))]
    shares = torch.bincount(even.long(), minlength=3) / 6000
    assert_close(shares, torch.full((3,), 1 / 3), rtol=0, atol=0.03)  # three deviations are 0.018
    natural = pool.label[pool.draw(6000, torch.Generator().manual_seed(0), class_power=1.0)]
    assert float((natural == 2).float().mean()) < 0.06  # one token in 29 has it


def test_clusters_are_of_one_class_and_picture_and_leave_every_token_its_chance():
    pool = pool_of(*pictures(count=6, tokens=9))
    together = pool.draw(40, torch.Generator().manual_seed(0), cluster=40)
    assert len(set(pool.picture[together].tolist())) == len(set(pool.label[together].tolist())) == 1
    often = [torch.zeros(len(pool)), torch.zeros(len(pool))]
    for seed in range(1500):
        for found, cluster in zip(often, (1, 8), strict=True):
            drawn = pool.draw(64, torch.Generator().manual_seed(seed), 0.5, cluster)
            found += torch.bincount(drawn, minlength=len(pool))
    assert_close(often[1], often[0], rtol=0.2, atol=0)  # clusters of 8 spread a token's count by 3 % of its mean
    starts = pool.segments.tolist()
    assert starts[0] == 0 and starts[-1] == len(pool)
    for begin, end in pairwise(starts):
        assert len(set(pool.picture[begin:end].tolist())) == len(set(pool.label[begin:end].tolist())) == 1


def test_of_very_many_pictures_few_are_opened_for_a_block(monkeypatch):
    monkeypatch.setattr("saot.decoder.pool.BLOCK_PICTURES", 8)
    monkeypatch.setattr("saot.decoder.pool.BLOCK_BYTES", 32 * 6 * 2 * 4)  # four steps a block, 128 draws
    features, labels = pictures(count=60)
    read: list[int] = []

    def rows(picture: int, tokens: torch.Tensor) -> torch.Tensor:
        read.append(picture)
        return features[picture][tokens].half()

    reader = BlockReader(token_pool(labels, 3, rows, 6), 32, 0.0, lambda block: generator_for(0, "block", block))
    reader(0)
    assert len(read) <= 8


def test_an_empty_pool_is_an_error():
    with pytest.raises(ValueError, match="at least one labelled token"):
        token_pool([torch.full((4,), 255, dtype=torch.uint8)], 3, lambda p, t: torch.zeros(len(t), 6), 6)


def test_points_may_share_a_token():
    features, _ = pictures()
    pool = point_pool(
        torch.tensor([1, 1]), torch.tensor([5, 5]), torch.tensor([0, 2]), 3, lambda p, t: features[p][t], 6
    )
    _, classes = pool.read(torch.tensor([0, 1]))
    assert classes.tolist() == [0, 2]


def test_batches_are_the_same_wherever_reading_starts(monkeypatch):
    monkeypatch.setattr("saot.decoder.pool.BLOCK_BYTES", 32 * 6 * 2 * 3)  # three steps a block
    pool = pool_of(*pictures())

    def reader() -> BlockReader:
        return BlockReader(pool, 32, 0.0, lambda block: generator_for(0, "block", block))

    first = reader()
    whole = [first(step).features.clone() for step in range(8)]
    assert torch.equal(reader()(7).features, whole[7])
    assert not torch.equal(whole[0], whole[1])


def test_a_batch_holds_each_token_once_with_the_weight_of_its_draws():
    reader = BlockReader(pool_of(*pictures(count=1)), 64, 0.0, lambda block: generator_for(0, "block", block))
    batch = reader(0)
    features, classes = reader.draws(0)
    assert len(batch.features) < 64 == len(features)
    assert_close(batch.weights.sum(), torch.tensor(1.0))
    assert_close((batch.weights[:, None] * batch.features).sum(0), features.mean(0))
    for label in range(3):
        assert_close(batch.weights[batch.targets == label].sum(), (classes == label).float().mean())


def test_reading_ahead_changes_no_batch_and_stops_at_the_last(monkeypatch):
    monkeypatch.setattr("saot.decoder.pool.BLOCK_BYTES", 32 * 6 * 2 * 3)  # three steps a block
    pool = pool_of(*pictures(count=20))
    asked: list[int] = []

    def generator(block: int) -> torch.Generator:
        asked.append(block)
        return generator_for(0, "block", block)

    ahead = BlockReader(pool, 32, 0.0, generator, steps=8)
    found, until = [ahead(0)], time.monotonic() + 20
    while len(asked) < 2 and time.monotonic() < until:
        time.sleep(0.01)
    assert asked == [0, 1], "the second block is read while the first is trained on"
    found += [ahead(step) for step in range(1, 8)]
    assert asked == [0, 1, 2], "each block once, none beyond the last step"
    plain = BlockReader(pool, 32, 0.0, generator)
    for step, batch in enumerate(found):
        assert torch.equal(batch.features, plain(step).features)


def test_a_small_pool_is_read_once(monkeypatch):
    monkeypatch.setattr("saot.decoder.pool.BLOCK_BYTES", 32 * 6 * 2 * 4)  # four steps a block
    features, labels = pictures(count=4)
    read: list[int] = []

    def rows(picture: int, tokens: torch.Tensor) -> torch.Tensor:
        read.append(picture)
        return features[picture][tokens].half()

    reader = BlockReader(token_pool(labels, 3, rows, 6), 32, 0.0, lambda block: generator_for(0, "block", block))
    batches = [reader(step).features.sum() for step in range(12)]
    assert read == [0, 1, 2, 3]
    assert len(set(map(float, batches))) == 12, "each step has draws of its own"


@pytest.mark.parametrize("rate", [0.1, 0.5])
def test_dropout_leaves_the_mean_and_drops_its_share(rate):
    layer, ones = Dropout(rate), torch.ones(401, 997, requires_grad=True)
    dropped = layer(ones)
    share = float((dropped == 0).float().mean())
    assert abs(share - rate) < 4 * math.sqrt(rate * (1 - rate) / ones.numel()) + 2**-16
    assert_close(dropped.max(), torch.tensor(1 / (1 - rate)))
    dropped.sum().backward()
    assert torch.equal(ones.grad, dropped.detach()), "what is dropped has no gradient"
    assert abs(float((dropped[:, 1:] * dropped[:, :-1] == 0).float().mean()) - (1 - (1 - rate) ** 2)) < 4e-3
    assert torch.equal(layer.eval()(ones), ones)


def test_weighted_kl_by_hand():
    soft = torch.tensor([[0.75, 0.25]])
    logits = torch.zeros(1, 2)
    divergence = 0.75 * math.log(0.75 / 0.5) + 0.25 * math.log(0.25 / 0.5)
    assert_close(confidence_weighted_kl(logits, soft), torch.tensor(0.75 * divergence))
    assert_close(confidence_weighted_kl(soft.log(), soft), torch.tensor(0.0), rtol=0, atol=1e-6)


def test_stage_1_learns_from_classes_and_from_soft_labels():
    features, labels = pictures(count=8)

    def soft(picture: int, tokens: torch.Tensor) -> torch.Tensor:
        return torch.eye(3)[labels[picture][tokens].long()]

    hard_pool = pool_of(features, labels)
    soft_pool = token_pool(labels, 3, hard_pool.features, 6, soft)
    for pool in (hard_pool, soft_pool):
        torch.manual_seed(0)
        fit = fit_decoder(TokenDecoder(6, 3, 16, 1), [Term("only", pool)], SMALL)
        tokens, classes = hard_pool.read(torch.arange(len(hard_pool)))
        accuracy = (fit.decoder(tokens.float()).argmax(-1) == classes).float().mean()
        assert float(accuracy) > 0.9
        assert not fit.decoder.training


def test_no_term_is_an_error():
    with pytest.raises(ValueError, match="at least one training term"):
        fit_decoder(TokenDecoder(6, 3, 16, 1), [], SMALL)


def test_a_killed_stage_1_ends_with_the_same_weights(tmp_path):
    pool = pool_of(*pictures())

    def train(checkpoint: Checkpoint | None, stop: int | None = None) -> Decoder:
        def interrupt(done: int, total: int) -> None:
            if done == stop:
                raise KeyboardInterrupt

        torch.manual_seed(3)
        decoder = TokenDecoder(6, 3, 16, 1)
        config = replace(SMALL, steps=11)
        return fit_decoder(decoder, [Term("a", pool)], config, checkpoint=checkpoint, progress=interrupt).decoder

    whole, checkpoint = train(None), Checkpoint(tmp_path / "d.pt", every=3)
    with pytest.raises(KeyboardInterrupt):
        train(checkpoint, stop=7)
    again = train(checkpoint)
    for mine, theirs in zip(whole.parameters(), again.parameters(), strict=True):
        assert torch.equal(mine, theirs)


def target_tokens(features: list[torch.Tensor]) -> TargetTokens:
    return TargetTokens(len(features), lambda p: features[p], lambda p, t: features[p][t].half(), 6)


def test_the_threshold_is_the_smaller_of_the_cap_and_a_share_of_the_median():
    features, _ = pictures(count=2)
    logits = torch.zeros(30, 3)
    logits[:, 0] = torch.linspace(0, 4, 30)

    class Fixed(torch.nn.Module):
        def forward(self, tokens: torch.Tensor) -> torch.Tensor:
            return logits

    labels = teacher_labels(Fixed(), target_tokens(features), TEACH)
    confidence = torch.softmax(logits / TEACH.sharpen, -1).amax(-1)
    threshold = min(0.8 * float(confidence.half().float().repeat(2).median()), 0.5)
    assert torch.equal(labels[0] != 255, confidence.half() >= threshold)
    assert 0 < int((labels[0] == 255).sum()) < 30


def test_the_teacher_follows_by_the_decay():
    teacher, student = torch.nn.Linear(2, 2), torch.nn.Linear(2, 2)
    expected = 0.75 * teacher.weight.detach() + 0.25 * student.weight.detach()
    update_teacher(teacher, student, 0.75)
    assert_close(teacher.weight.detach(), expected)


def test_stage_2_returns_the_teacher_leaves_its_input_and_survives_a_kill(tmp_path):
    features, labels = pictures(count=4)
    torch.manual_seed(0)
    start = fit_decoder(TokenDecoder(6, 3, 16, 1), [Term("s", pool_of(features, labels))], SMALL).decoder
    before = [p.clone() for p in start.parameters()]
    target = target_tokens(pictures(count=4, seed=5)[0])

    def refine(checkpoint: Checkpoint | None, stop: int | None = None) -> Decoder:
        def interrupt(done: int, total: int) -> None:
            if done == stop:
                raise KeyboardInterrupt

        terms = [Term("s", pool_of(features, labels))]
        return refine_decoder(start, target, TEACH, terms=terms, checkpoint=checkpoint, progress=interrupt).decoder

    whole, checkpoint = refine(None), Checkpoint(tmp_path / "r.pt", every=3)
    assert all(torch.equal(a, b) for a, b in zip(before, start.parameters(), strict=True))
    assert any(not torch.equal(a, b) for a, b in zip(before, whole.parameters(), strict=True))
    with pytest.raises(KeyboardInterrupt):
        refine(checkpoint, stop=6)  # between two makings of pseudo-labels
    again = refine(checkpoint)
    for mine, theirs in zip(whole.parameters(), again.parameters(), strict=True):
        assert torch.equal(mine, theirs)
