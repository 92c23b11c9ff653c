"""The processes of one launch: whether all are there, and how they wait for the first.

They wait by a file, so that no library's timeout ends a long count.
"""

import logging
import os
import secrets
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any

_NUMBERS = {  # what launchers call them; Accelerate reads the same
    "rank": ("RANK", "PMI_RANK", "OMPI_COMM_WORLD_RANK", "MV2_COMM_WORLD_RANK"),
    "world": ("WORLD_SIZE", "PMI_SIZE", "OMPI_COMM_WORLD_SIZE", "MV2_COMM_WORLD_SIZE"),
    "local": ("LOCAL_RANK", "MPI_LOCALRANKID", "OMPI_COMM_WORLD_LOCAL_RANK", "MV2_COMM_WORLD_LOCAL_RANK"),
    "locals": ("LOCAL_WORLD_SIZE", "MPI_LOCALNRANKS", "OMPI_COMM_WORLD_LOCAL_SIZE", "MV2_COMM_WORLD_LOCAL_SIZE"),
}
TOGETHER = 120.0  # seconds within which the processes of a launch have all come
_met: dict[str, Any] = {}  # the stores in which this process has met others; the first one's holds the others' words

SIGN_EVERY = 5.0  # seconds between two signs of life
PATIENCE = 300.0  # seconds without a sign of life, after which the first process counts as lost
_READY, _FAILED = "ready", "failed"


def meet_launch(patience: float = TOGETHER) -> bool:
    """Whether this process is one of several that a launcher has started; they are all there when it returns.

    The variables of a launcher alone do not tell: a shell may have inherited them from another launch. Without an
    address at which to meet, this process works alone, and says so.

    Args:
        patience: Seconds to wait for the others.

    Raises:
        ValueError: If the others do not come.
    """
    rank, world = _number("rank"), _number("world")
    if world is None or world < 2:
        return False
    place = f"{os.environ.get('MASTER_ADDR', '')}:{os.environ.get('MASTER_PORT', '')}"
    if rank is None or not rank < world or not all(place.partition(":")[::2]):
        logging.getLogger(__name__).warning(
            "note: the environment speaks of %d processes, but not of where they meet (RANK, MASTER_ADDR, MASTER_PORT):"
            " this one works alone",
            world,
        )
        return False
    launch = f"{place}:{rank}:{world}"
    if launch not in _met:
        _met[launch] = _meet(rank, world, timedelta(seconds=patience))
    return True


def _meet(rank: int, world: int, patience: timedelta) -> Any:
    """The store in which all have said that they are there, as often as this one has."""
    from torch.distributed.distributed_c10d import PrefixStore
    from torch.distributed.rendezvous import rendezvous

    try:
        if rank or os.environ.get("TORCHELASTIC_USE_AGENT_STORE") == "True":  # else this process listens there
            _knock(os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"]), patience.total_seconds())
        store, _, _ = next(iter(rendezvous(f"env://?rank={rank}&world_size={world}", timeout=patience)))
        words = PrefixStore(f"saot/{os.environ.get('TORCHELASTIC_RESTART_COUNT', '0')}", store)
        times = words.add(f"{rank}/times", 1)
        words.set(f"{rank}/{times}", "here")
        words.wait([f"{other}/{times}" for other in range(world)], patience)
    except (RuntimeError, ValueError, OSError) as error:
        raise ValueError(
            f"RANK and WORLD_SIZE say that this is process {rank} of {world}, counted from 0, but it has not met the "
            f"others within {patience.total_seconds():g} seconds: start all of them, as `accelerate launch` does, "
            "or, if this shell is inside another launch, unset RANK, WORLD_SIZE and LOCAL_RANK"
        ) from error
    return store


def _knock(host: str, port: int, patience: float) -> None:
    """Until somebody listens there; torch would print its inner trace for each time that nobody does.

    Raises:
        OSError: If nobody does.
    """
    end = time.monotonic() + patience
    while True:
        try:
            socket.create_connection((host, port), timeout=max(0.1, end - time.monotonic())).close()
            return
        except OSError:
            if time.monotonic() >= end:
                raise
        time.sleep(0.1)


@contextmanager
def alone() -> Iterator[None]:
    """While this is open no library takes this process for one of several."""
    names = [name for names in _NUMBERS.values() for name in names]
    kept = {name: os.environ.pop(name) for name in names if name in os.environ}
    try:
        yield
    finally:
        os.environ.update(kept)


def local_processes() -> int:
    """How many processes of this launch share this machine; 1 if no launcher says."""
    return _number("locals") or 1


def _number(what: str) -> int | None:
    found = (os.environ.get(name, "") for name in _NUMBERS[what])
    return next((int(said) for said in found if said.isdecimal()), None)


class Meeting:
    """The processes of one launch, of which the first has something to prepare while the others wait.

    A barrier of `torch.distributed` ends in an error after half an hour at most; 50,000 files may take longer.

    Args:
        out: The run folder, on a disk that all processes see; the file lies beside it while they wait.
        accelerator: Accelerate's view of the processes; all of them make a meeting at the same time.
    """

    def __init__(self, out: Path, accelerator: Any) -> None:
        self.accelerator, self.alone = accelerator, accelerator.num_processes < 2
        self.file = Path(out).with_name(f".{Path(out).name}-meeting-{'' if self.alone else _token(accelerator)}")

    @contextmanager
    def preparing(self) -> Iterator[None]:
        """While the first process prepares; after it, all of them go on together."""
        if self.alone:
            yield
            return
        done = threading.Event()
        signs = threading.Thread(target=self._signs, args=(done,), daemon=True)
        self._say("0")
        signs.start()
        end = _FAILED
        try:
            yield
            end = _READY
        finally:
            done.set()
            signs.join()
            self._say(end)
        self.accelerator.wait_for_everyone()  # short: whoever waited has seen the file
        self.file.unlink(missing_ok=True)

    def wait(self, patience: float = PATIENCE) -> None:
        """In the processes beside the first: until it has prepared everything.

        Raises:
            RuntimeError: If it has failed or gives no sign of life.
        """
        said, since = "", time.monotonic()
        while said not in (_READY, _FAILED):
            now = self.file.read_text() if self.file.exists() else ""
            if now != said:
                said, since = now, time.monotonic()
            elif time.monotonic() - since > patience:
                raise RuntimeError(
                    f"the first process has given no sign of life for {patience:.0f} seconds; see what it printed, and "
                    f"that all processes see the folder {self.file.parent}"
                )
            time.sleep(0.1)
        if said == _FAILED:
            self.file.unlink(missing_ok=True)
            raise RuntimeError("the first process has ended with an error; see what it printed")
        self.accelerator.wait_for_everyone()

    def _signs(self, done: threading.Event) -> None:
        count = 0
        while not done.wait(SIGN_EVERY):
            count += 1
            self._say(str(count))

    def _say(self, word: str) -> None:
        self.file.parent.mkdir(parents=True, exist_ok=True)
        self.file.write_text(word)  # cut short it is another word, which says as much


def _token(accelerator: Any) -> str:
    """A name for this launch, the same in all its processes."""
    from accelerate.utils import broadcast_object_list

    return broadcast_object_list([secrets.token_hex(8)], from_process=0)[0]
