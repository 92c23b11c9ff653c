"""Trainings side by side: what they give is what they give one by one, and one failure ends all."""

import threading
import time

import pytest
import torch
from helpers.decoder import SMALL, pictures, pool_of

from saot.decoder import Term, TokenDecoder, fit_decoder
from saot.runs import check_stopped, first_weights, side_by_side, train_steps

pytestmark = pytest.mark.training


def test_networks_are_those_of_trainings_one_by_one(two_threads):
    terms = [Term("source", pool_of(*pictures()))]

    def train(seed: int) -> list[torch.Tensor]:
        with first_weights(seed):
            decoder = TokenDecoder(6, 3, hidden=16, blocks=1, dropout=0.5)
        return [part.clone() for part in fit_decoder(decoder, terms, SMALL, seed=seed).decoder.parameters()]

    torch.set_num_threads(1)
    alone = [train(seed) for seed in (0, 1)]
    torch.set_num_threads(2)
    together = side_by_side([lambda: train(0), lambda: train(1)])
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


def test_as_many_run_at_once_as_asked_each_with_its_share_of_threads(two_threads):
    running, most = 0, 0
    lock = threading.Lock()

    def job() -> int:
        nonlocal running, most
        with lock:
            running += 1
            most = max(most, running)
        time.sleep(0.02)
        with lock:
            running -= 1
        return torch.get_num_threads()

    torch.set_num_threads(4)
    assert side_by_side([job] * 6, at_once=2) == [2] * 6
    assert most == 2


def test_jobs_that_wait_are_not_begun_when_one_has_failed(two_threads):
    begun: list[int] = []

    def failing() -> None:
        raise ValueError("no such class")

    def slow() -> None:
        for _ in range(2000):
            check_stopped()
            time.sleep(0.005)

    with pytest.raises(ValueError, match="no such class"):
        side_by_side([failing, slow, *[lambda: begun.append(1)] * 5], at_once=2)
    assert not begun


def test_first_weights_are_those_of_their_seed_whichever_thread_asks(two_threads):
    before = torch.random.get_rng_state()

    def draw(seed: int) -> torch.Tensor:
        with first_weights(seed):
            return torch.cat([torch.rand(1) for _ in range(200)])

    alone = [draw(seed) for seed in (3, 4)]
    together = side_by_side([lambda: draw(3), lambda: draw(4)])
    assert all(torch.equal(a, b) for a, b in zip(alone, together, strict=True))
    assert torch.equal(before, torch.random.get_rng_state())
