"""Where pictures are worked on: in this process, or by the machines of a Ray cluster."""

import contextlib
from collections.abc import Callable, Iterator
from typing import Any, Literal

from saot.cli.shell import use_workers

Engine = Literal["local", "ray"]


@contextlib.contextmanager
def machines(
    engine: Engine, address: str | None, workers: int | None, device: str, say: Callable[[str], None]
) -> Iterator[Any]:
    """The `saot.deploy.Cluster` that does the work; None where this process does it.

    Args:
        engine: Which.
        address: Of a Ray cluster.
        workers: At once, here or there.
        device: Of the workers of a cluster.
        say: Hears when machines come or go.

    Raises:
        ValueError: If options do not fit together, or there is no cluster.
    """
    if engine == "ray":
        from saot.deploy import connected

        with connected(address, workers, device, say) as cluster:
            yield cluster
        return
    if address is not None:
        raise ValueError(f"--address is for --engine ray; got {address} without it: give both, or neither")
    use_workers(workers)
    yield None
