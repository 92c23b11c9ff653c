"""Where the processes of one launch wait for the first: by a file, so that no library's timeout ends a long count."""

import secrets
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

SIGN_EVERY = 5.0  # seconds between two signs of life
PATIENCE = 300.0  # seconds without a sign of life, after which the first process counts as lost
_READY, _FAILED = "ready", "failed"


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
