"""Writing files so that nobody ever sees half of one, and their check sums."""

import contextlib
import errno
import hashlib
import os
import threading
from pathlib import Path

FULL = (errno.ENOSPC, getattr(errno, "EDQUOT", errno.ENOSPC))  # disk, quota


def temporary_name(path: Path) -> Path:
    """Where this process, and in it this thread, writes a file before it is moved into place."""
    main = threading.current_thread() is threading.main_thread()
    return path.with_name(f"{path.name}.tmp-{os.getpid()}" + ("" if main else f"-{threading.get_ident()}"))


def write_atomic(path: str | Path, data: bytes) -> None:
    """Write `data` to `path` in one step: readers find the old file or the whole new one.

    The bytes go to `<path>.tmp-<process id>` first. Missing parent folders are made.

    Args:
        path: File to write.
        data: All of its content.

    Raises:
        OSError: If the file cannot be written; a full disk is told in one sentence.
    """
    path = Path(path)
    temporary = temporary_name(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with open(temporary, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())  # network file systems report a full disk only here
        os.replace(temporary, path)
    except OSError as error:
        if error.errno in FULL:
            raise full_disk_error(path, len(data), error.errno) from error
        raise
    finally:
        with contextlib.suppress(OSError):  # gone when all went well
            temporary.unlink()


def write_tail(path: str | Path, start: int, data: bytes) -> None:
    """Make `data` all that a file holds from byte `start` on; what stands before stays as it is.

    Not atomic: after a kill any part of `data` may be there. Whoever reads keeps elsewhere how many bytes count.

    Args:
        path: File to write; made, with its parent folders, if missing.
        start: How many bytes are kept; the file must not be shorter.
        data: What follows them.

    Raises:
        OSError: If the file cannot be written; a full disk is told in one sentence.
    """
    path = Path(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with open(path, "r+b" if path.exists() else "wb") as file:
            file.truncate(start)
            file.seek(start)
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
    except OSError as error:
        if error.errno in FULL:
            raise full_disk_error(path, len(data), error.errno) from error
        raise


def full_disk_error(path: str | Path, size: int, number: int | None = errno.ENOSPC) -> OSError:
    """The error to raise when `size` bytes for `path` did not fit: a sentence, with `errno` kept."""
    error = OSError(
        f"the disk is full: {size / 1e6:.1f} MB for {path} did not fit; free some space or choose another "
        "output folder, then give the same command again"
    )
    error.errno = number
    return error


def sha256_file(path: str | Path) -> str:
    """SHA-256 of the bytes of a file, as 64 hexadecimal digits."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
