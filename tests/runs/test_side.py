"""Trainings side by side: what they give is what they give one by one, and one failure ends all."""

import threading
import time

import pytest
import torch
from helpers.decoder import SMALL, pictures, pool_of

from saot.decoder import Term, TokenDecoder, fit_decoder
from saot.runs import side_by_side, train_steps

pytestmark = pytest.mark.training


@pytest.fixture
def two_threads():
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)


def test_networks_are_those_of_trainings_one_by_one(two_threads):
    terms = [Term("source", pool_of(*pictures()))]

    def train(seed: int) -> list[torch.Tensor]:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            decoder = TokenDecoder(6, 3, hidden=16, blocks=1, dropout=0.5)
        return [part.clone() for part in fit_decoder(decoder, terms, SMALL, seed=seed).decoder.parameters()]

    torch.set_num_threads(1)
    alone = [train(seed) for seed in (0, 1)]
    torch.set_num_threads(2)
    lock = threading.Lock()  # first weights come from torch's one generator

    def job(seed: int) -> list[torch.Tensor]:
        with lock, torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            decoder = TokenDecoder(6, 3, hidden=16, blocks=1, dropout=0.5)
        return [part.clone() for part in fit_decoder(decoder, terms, SMALL, seed=seed).decoder.parameters()]

    together = side_by_side([lambda: job(0), lambda: job(1)])
    for first, second in zip(alone, together, strict=True):
        assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))
    assert not torch.equal(alone[0][0], alone[1][0])
    assert torch.get_num_threads() == 2


def test_one_that_fails_ends_the_others_and_its_error_is_raised(two_threads):
    taken: list[int] = []

    def endless() -> None:
        def step(number: int) -> dict[str, float]:
            taken.append(number)
            time.sleep(0.002)
            return {}

        train_steps(step, 100_000, {})

    def failing() -> None:
        time.sleep(0.05)
        raise FloatingPointError("no finite loss")

    with pytest.raises(FloatingPointError, match="no finite loss"):
        side_by_side([endless, failing])
    assert 0 < len(taken) < 10_000
    train_steps(lambda number: {}, 3, {})  # whoever comes next is not stopped
    assert side_by_side([lambda: train_steps(lambda number: {}, 3, {}), lambda: []]) == [[{}] * 3, []]


def test_they_run_at_once_on_a_cpu_of_two_threads_and_one_by_one_elsewhere(two_threads):
    barrier = threading.Barrier(2, timeout=20)
    assert sorted(side_by_side([barrier.wait, barrier.wait])) == [0, 1]
    torch.set_num_threads(1)
    order: list[int] = []
    side_by_side([lambda: order.append(0), lambda: order.append(1)])
    side_by_side([lambda: order.append(2), lambda: order.append(3)], "meta")
    assert order == [0, 1, 2, 3]
