"""Independent trainings side by side: small products gain little from a second core, a second training all of it."""

import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import TypeVar

import torch

T = TypeVar("T")
_own = threading.local()
_first_weights = threading.RLock()


class Stopped(RuntimeError):
    """Another of the trainings side by side has failed, or the user has stopped the run."""


@contextmanager
def first_weights(seed: int) -> Iterator[None]:
    """Torch's one generator, of which new layers draw their weights: seeded, for one thread at a time, then as it was.

    Layers whose weights are loaded next draw some all the same: they too are made inside, or they would take the draws
    of a network that is made beside them.

    Example:
        >>> with first_weights(1):
        ...     one = torch.rand(1)
        >>> with first_weights(1):
        ...     bool(torch.rand(1) == one)
        True
    """
    with _first_weights, torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        yield


def side_by_side(
    jobs: Sequence[Callable[[], T]], device: torch.device | str = "cpu", at_once: int | None = None
) -> list[T]:
    """What each job gives, in order; on a CPU they run at once, each in a thread with its share of torch's threads.

    A job must draw from generators of its own, or inside `first_weights`. Where one fails the others end at their next
    step or picture (`check_stopped`), and its error is raised.

    Args:
        jobs: Called once each.
        device: Where they compute; on an accelerator, or with one thread, one runs after the other.
        at_once: Most of them at a time, begun in their order; all unless given.

    Example:
        >>> side_by_side([lambda: 1, lambda: 2])
        [1, 2]
    """
    threads = torch.get_num_threads()
    if torch.device(device).type != "cpu" or threads < 2 or len(jobs) < 2:
        return [job() for job in jobs]
    stop, workers = threading.Event(), min(threads, len(jobs), at_once or len(jobs))

    def run(job: Callable[[], T]) -> T:
        torch.set_num_threads(threads // workers)  # holds for the thread that says so
        _own.stop = stop
        try:
            check_stopped()
            return job()
        except BaseException:
            stop.set()
            raise

    with ThreadPoolExecutor(workers, "training") as pool:
        futures = [pool.submit(run, job) for job in jobs]
        try:
            found = [future.exception() for future in futures]
        except BaseException:  # Ctrl-C
            stop.set()
            raise
        finally:
            torch.set_num_threads(threads)  # what threads yet to come begin with
    failed = [error for error in found if error is not None]
    if failed:
        raise next((error for error in failed if not isinstance(error, Stopped)), failed[0])
    return [future.result() for future in futures]


def check_stopped() -> None:
    """End this job if one beside it has failed.

    Raises:
        Stopped: If so.
    """
    stop = getattr(_own, "stop", None)
    if stop is not None and stop.is_set():
        raise Stopped("stopped beside a training that failed")
