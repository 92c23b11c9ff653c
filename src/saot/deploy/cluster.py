"""A Ray cluster that answers chunks of pictures: tasks, begun again where a worker or a machine dies."""

import contextlib
import logging
import os
import time
from collections.abc import Callable, Generator, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from saot.data import how_to_install
from saot.deploy.spread import Answer, Job, Order, ready, spread, standing, work

TRIES = 10  # times a chunk is begun again after its worker died, before it is taken to be the cause
WAIT = 5.0  # seconds after which a driver that waits looks at the cluster again
LOOK = 10.0  # seconds between two counts of what the cluster has
STORE = 80 << 20  # bytes of shared memory of a Ray that is started here: answers are small
READERS = 4  # CPUs that a worker with a GPU takes at most: so many threads read pictures ahead of it


@dataclass(frozen=True)
class Cluster:
    """Machines that do a job together.

    Attributes:
        ray: The library, connected.
        device: Where networks run there: "cpu", or "cuda", one GPU a worker.
        workers: So many chunks at once; None is two for each CPU or GPU, so that no worker waits for the next.
        say: Hears when machines come or go.
    """

    ray: Any
    device: str
    workers: int | None
    say: Callable[[str], None]

    def warm(self) -> None:
        """Have workers load what they need, while whoever gave the command lists its pictures."""
        slots = int(self.ray.cluster_resources().get("CPU" if self.device == "cpu" else "GPU", 0))
        task = self.ray.remote(ready).options(max_retries=0, **self.needs())
        for _ in range(min(slots, self.workers or slots)):
            task.remote()

    def needs(self) -> dict[str, float]:
        """What a worker takes of its machine."""
        if self.device == "cpu":
            return {"num_cpus": 1}
        there = self.ray.cluster_resources()
        each = int(there.get("CPU", 1) // max(there.get("GPU", 1), 1))
        return {"num_cpus": max(1, min(READERS, each)), "num_gpus": 1}

    def order(self, job: Job) -> Order:
        """A job for these machines."""
        return Order.of(job, self.device)

    def answers(
        self, order: Order, numbers: Sequence[int], chunk_of: Callable[[list[int]], Any]
    ) -> Generator[tuple[list[int], Any], None, None]:
        """Chunks of numbers and what the job gives for each; see `saot.deploy.spread.spread`."""
        with standing(order):
            yield from spread(_Tasks(self, order), numbers, chunk_of)


@contextlib.contextmanager
def connected(address: str | None, workers: int | None, device: str, say: Callable[[str], None]) -> Iterator[Cluster]:
    """A Ray cluster as long as it is needed.

    Args:
        address: Of its head, such as 10.0.0.1:6379, or "local" for a new one of this machine alone. None: RAY_ADDRESS,
            else one that runs on this machine, else a new one.
        workers: See `Cluster`.
        device: auto (GPUs where the cluster has any), cpu or cuda.
        say: Hears when machines come or go.

    Raises:
        ValueError: If Ray is not installed, there is no cluster, or it has no such device.
    """
    if workers is not None and workers < 1:
        raise ValueError(f"expected --workers of at least 1; got {workers}")
    if device not in ("auto", "cpu", "cuda"):
        raise ValueError(f"expected --device auto, cpu or cuda with --engine ray, which gives out GPUs; got {device}")
    ray = library()
    ours = not ray.is_initialized()
    # Ray prints what happens to its workers on standard output, where a result is expected; its logs have it, too
    with open(os.devnull, "w") as nowhere, contextlib.redirect_stdout(nowhere):
        if ours:
            _connect(ray, address)
        try:
            cluster = Cluster(ray, _device(ray, device), workers, say)
            cluster.warm()
            yield cluster
        finally:
            if ours:
                ray.shutdown()


def library() -> Any:
    """Ray; it does not report home.

    Raises:
        ValueError: If it is not installed.
    """
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    try:
        import ray
    except ImportError as error:
        raise ValueError(f"--engine ray needs Ray, which is not installed; {how_to_install('ray')}") from error
    return ray


def _connect(ray: Any, address: str | None) -> None:
    quiet = {"log_to_driver": False, "logging_level": logging.ERROR}
    alone = {"address": "local", "include_dashboard": False, "object_store_memory": STORE}
    asked = address or os.environ.get("RAY_ADDRESS")
    try:
        if asked == "local":
            ray.init(**alone, **quiet)
            return
        try:
            ray.init(address=asked or "auto", **quiet)
        except ConnectionError:
            if asked:
                raise
            ray.init(**alone, **quiet)
    except (ConnectionError, ValueError, RuntimeError, ImportError, OSError) as error:
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise ValueError(
            f"expected a Ray cluster at {asked or 'this machine'}; none answers ({reason}): start it with `ray start "
            "--head`, and give the address that this prints as --address or RAY_ADDRESS"
        ) from error


def _device(ray: Any, asked: str) -> str:
    gpus = ray.cluster_resources().get("GPU", 0)
    if asked == "cuda" and not gpus:
        raise ValueError("expected a Ray cluster with GPUs for --device cuda; this one has none: take --device cpu")
    return "cuda" if gpus and asked != "cpu" else "cpu"


@dataclass
class _Tasks:
    """Chunks as tasks of Ray; see `saot.deploy.spread.Pool`.

    Attributes:
        cluster: Where they run.
        order: What they do.
    """

    cluster: Cluster
    order: Order
    _task: Any = None
    _sent: Any = None
    _slots: int = 1
    _machines: int = 0
    _looked: float = field(default=-LOOK)

    def room(self) -> int:
        """So many chunks may be under way."""
        if time.monotonic() - self._looked >= LOOK:
            self._look()
        return self.cluster.workers or max(1, 2 * self._slots)

    def begin(self, chunk: Any) -> Any:
        """A task."""
        ray = self.cluster.ray
        if self._task is None:
            self._task = ray.remote(work).options(max_retries=TRIES, **self.cluster.needs())
            self._sent = ray.put(self.order)
        return self._task.remote(self._sent, chunk)

    def ended(self, under_way: list[Any]) -> list[Any]:
        """Those tasks that have ended."""
        return self.cluster.ray.wait(under_way, num_returns=1, timeout=WAIT)[0]

    def answer(self, name: Any) -> Answer:
        """What a task returned."""
        errors = self.cluster.ray.exceptions
        try:
            return self.cluster.ray.get(name)
        except errors.RayTaskError as error:
            if "No module named" in str(error):
                missing = str(error).strip().splitlines()[-1]
                raise ValueError(
                    f"expected saot and its libraries on all machines of the cluster ({missing}): install them there"
                ) from error
            raise
        except errors.RayError as error:
            reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
            raise ValueError(
                f"a chunk of pictures ended with its worker {TRIES + 1} times ({reason}): look for the cause in Ray's "
                "logs, such as too little memory; the same command goes on from here"
            ) from error

    def stop(self, under_way: list[Any]) -> None:
        """Cancel tasks."""
        for task in under_way:
            with contextlib.suppress(Exception):
                self.cluster.ray.cancel(task)

    def _look(self) -> None:
        """Count machines and what they have."""
        self._looked = time.monotonic()
        kind = "CPU" if self.cluster.device == "cpu" else "GPU"
        alive = [node for node in self.cluster.ray.nodes() if node["Alive"]]
        slots, machines = int(sum(node["Resources"].get(kind, 0) for node in alive)), len(alive)
        if self._machines and machines != self._machines:
            self.cluster.say(f"the Ray cluster has {machines} machines now, and had {self._machines}")
        if not slots and self._slots:
            self.cluster.say(f"no machine of the Ray cluster has a {kind}; its work waits until one joins")
        self._slots, self._machines = slots, machines
