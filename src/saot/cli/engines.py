"""Where pictures are worked on: in this process, or by the machines of a Ray cluster."""

import contextlib
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Literal

from saot.cli.shell import use_workers

if TYPE_CHECKING:
    from saot.deploy import Cluster

Engine = Literal["local", "ray"]


@contextlib.contextmanager
def machines(
    engine: Engine, address: str | None, workers: int | None, device: str, say: Callable[[str], None]
) -> Iterator["Cluster | None"]:
    """The machines that do the work; None is this process.

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
