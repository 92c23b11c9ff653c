"""Writing files so that nobody ever sees half of one, and their check sums."""

import contextlib
import errno
import fcntl
import hashlib
import json
import os
import re
import secrets
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any, BinaryIO, Literal

SAID = {
    **dict.fromkeys(
        (errno.EACCES, errno.EPERM),
        "may not be read or written by this user: change its permissions, or choose another place",
    ),
    errno.EROFS: "lies on a disk that can only be read: choose another place",
    errno.ENOENT: "does not exist: check the path",
    errno.ENOTDIR: "has a file where a folder is expected: check the path",
    errno.EISDIR: "is a folder, and a file is expected: check the path",
    errno.EEXIST: "exists already, as something else than is expected: choose another place",
    errno.ENAMETOOLONG: "is too long a name for this disk: choose a shorter one",
    errno.ELOOP: "is a link that leads to itself: remove it",
    errno.EIO: "cannot be read from or written to its disk, which reports an error: copy it anew, or use another disk",
    errno.EMFILE: "cannot be opened, as too many files are open: raise the limit (ulimit -n)",
    errno.ENOSPC: "did not fit, since the disk is full: free some space and give the same command again",
    getattr(errno, "EDQUOT", errno.ENOSPC): "did not fit into your quota: free some space and give the command again",
    getattr(errno, "ESTALE", errno.EIO): "has vanished from its file server: give the same command again",
}  # what a command ends with, by the number of the error

LARGEST_RECORD = 1 << 28  # bytes; ours have some kB, those of a million pictures 150 MB
FULL = (errno.ENOSPC, getattr(errno, "EDQUOT", errno.ENOSPC))  # disk, quota
NO_LOCKS = (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP, errno.ENOTSUP)  # of a file system without locks
TAKEN = (errno.EWOULDBLOCK, errno.EAGAIN)  # another holds it; byte ranges may say EACCES as well

Lock = Literal["held", "taken", "none"]
_OWN: dict[int, str] = {}  # by process: a fork draws its own


def temporary_name(path: Path) -> Path:
    """Where this process, and in it this thread, writes a file before it is moved into place.

    Containers and machines that share a disk may have equal process numbers and host names, so each process draws a
    part of the name.
    """
    own = _OWN.setdefault(os.getpid(), secrets.token_hex(8))
    main = threading.current_thread() is threading.main_thread()
    return path.with_name(f"{path.name}.tmp-{os.getpid()}-{own}" + ("" if main else f"-{threading.get_ident()}"))


def lock_file(file: IO[Any], wait: bool = False) -> Lock:
    """Lock an open file against whoever else locks it; closing it lets go, and so does the end of the process.

    Args:
        file: Open.
        wait: Until the other lets go; else it is said that another holds it.

    Returns:
        "held"; "taken" by another; or "none", if the file system knows no locks (NFS without a lock service, Lustre
        mounted without flock, some FUSE).

    Raises:
        OSError: If the lock cannot be asked for, for any other reason.
    """
    try:
        fcntl.flock(file, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
    except OSError as error:
        return _no_lock(error, TAKEN)
    return "held"


def lock_byte(file: IO[Any], number: int) -> Lock:
    """As `lock_file`, one byte of the file, which need not be that long; processes have one each of different numbers.

    Closing any copy of the file in this process lets go of all its bytes; `unlock_byte` of one.
    """
    try:
        fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB, 1, number)
    except OSError as error:
        return _no_lock(error, (*TAKEN, errno.EACCES))
    return "held"


def unlock_byte(file: IO[Any], number: int) -> None:
    """Let go of what `lock_byte` holds."""
    fcntl.lockf(file, fcntl.LOCK_UN, 1, number)


def _no_lock(error: OSError, taken: tuple[int, ...]) -> Lock:
    if error.errno in NO_LOCKS:
        return "none"
    if error.errno in taken:
        return "taken"
    raise error


def is_marked(folder: Path, marker: str) -> bool:
    """Whether a folder is one that we began with a file of this name, or holds nothing but what a kill left of it.

    Example:
        >>> import tempfile
        >>> folder = Path(tempfile.mkdtemp())
        >>> is_marked(folder, "a.json"), bool((folder / "mine.txt").write_text("1")), is_marked(folder, "a.json")
        (True, True, False)
    """
    if not folder.is_dir():
        return False
    return (folder / marker).is_file() or all(one.match(f"{marker}.tmp-*") for one in folder.iterdir())


def write_atomic(path: str | Path, data: bytes) -> None:
    """Write `data` to `path` in one step: readers find the old file or the whole new one.

    The bytes go to `<path>.tmp-<process id>-<random>` first. Missing parent folders are made.

    Args:
        path: File to write.
        data: All of its content.

    Raises:
        OSError: If the file cannot be written; a full disk is told in one sentence.
    """
    with open_atomic(path) as file:
        file.write(data)


@contextmanager
def open_atomic(path: str | Path) -> Iterator[BinaryIO]:
    """A file to write to, which becomes `path` in one step at the end, and nothing if that is not reached.

    Raises:
        OSError: If the file cannot be written; a full disk is told in one sentence.
    """
    path = Path(path)
    temporary = temporary_name(path)
    size = 0
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with open(temporary, "wb") as file:
            try:
                yield file
            finally:
                size = file.tell()
            file.flush()
            os.fsync(file.fileno())  # network file systems report a full disk only here
        os.replace(temporary, path)
    except OSError as error:
        if error.errno in FULL and error.strerror is not None:
            raise full_disk_error(path, size, error.errno) from error
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
        if os.path.lexists(path) and not path.is_file():
            path.unlink()  # a pipe, or a link to a device, to nothing or to itself, has no bytes to keep
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


def address_of(path: str | Path) -> str | None:
    """The address of fsspec that a path stands for, as it was typed; None of a path.

    Example:
        >>> address_of(Path("s3://bucket/features")), address_of("/data/features"), address_of("a/b:/c")
        ('s3://bucket/features', None, None)
    """
    found = re.match(r"([a-z][a-z0-9+.-]+):/+", str(path))
    return None if found is None else f"{found[1]}://{str(path)[found.end() :]}"


def check_place(folder: str | Path) -> None:
    """Refuse a folder that cannot be made or written to, without making it.

    Raises:
        ValueError: If so; says what is in the way.
    """
    address, place = address_of(folder), Path(folder)
    if address is not None:
        raise ValueError(
            f"expected a folder; got the address {address}, and features alone may lie at one (the --out of saot "
            "extract, --store): choose a folder"
        )
    while not (place.exists() or place.is_symlink()) and place != place.parent:
        place = place.parent
    if not place.is_dir():
        raise ValueError(f"expected {folder} to be a folder, or none yet; {place} is a file: choose another --out")
    if not os.access(place, os.W_OK | os.X_OK):
        raise ValueError(
            f"expected a folder that may be written to; {place} is read-only for this user: choose another --out"
        )


def full_disk_error(path: str | Path, size: int, number: int | None = errno.ENOSPC) -> OSError:
    """The error to raise when `size` bytes for `path` did not fit: a sentence, with `errno` kept."""
    error = OSError(
        f"the disk is full: {size / 1e6:.1f} MB for {path} did not fit; free some space or choose another "
        "output folder, then give the same command again"
    )
    error.errno = number
    return error


def sentence_of(error: BaseException) -> str:
    """What went wrong in one sentence for whoever gave the command: no number of an error, no inner words.

    Example:
        >>> sentence_of(PermissionError(errno.EACCES, "Permission denied", "/data/masks"))
        '/data/masks may not be read or written by this user: change its permissions, or choose another place'
        >>> sentence_of(ValueError("expected a picture"))
        'expected a picture'
    """
    if isinstance(error, OSError) and error.errno is not None and error.strerror is not None:
        place = str(error.filename2 or error.filename or "a file")
        temporary = re.fullmatch(r"(.+)\.tmp-[^/\\]+", place)  # nobody asked for that one
        place = temporary[1] if temporary else place
        return f"{place} {SAID.get(error.errno, f'cannot be used ({error.strerror}): try again, or another place')}"
    return " ".join(str(error).split()) or type(error).__name__


def sha256_file(path: str | Path) -> str:
    """SHA-256 of the bytes of a file, as 64 hexadecimal digits.

    Raises:
        ValueError: If there is something else than a file, such as a pipe or a device, whose bytes may never end.
        OSError: If it cannot be read.
    """
    if os.path.exists(path) and not os.path.isfile(path):
        raise ValueError(f"expected a file at {path}; it is a folder, a pipe or a device: check the path")
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def read_record(path: str | Path, remedy: str) -> dict[str, Any]:
    """The JSON object in a file that saot wrote itself, such as run.json.

    Args:
        path: The file.
        remedy: What to do where it is not there or damaged.

    Raises:
        ValueError: If it is missing, no plain file, or holds no JSON object.
    """
    path = Path(path)
    if not path.is_file():
        raise ValueError(f"expected the file {path}; it is {'no file' if path.exists() else 'missing'}: {remedy}")
    with as_written(path, remedy):
        if path.stat().st_size > LARGEST_RECORD:
            raise TypeError(f"it has {path.stat().st_size:,} bytes")
        values = json.loads(path.read_bytes())
        if not isinstance(values, dict):
            raise TypeError(f"it holds a {type(values).__name__}, not an object")
    return values


def whole_record(path: str | Path) -> dict[str, Any] | None:
    """As `read_record`; None where it is missing or damaged, for what can be made again."""
    try:
        return read_record(path, "")
    except ValueError:
        return None


@contextlib.contextmanager
def as_written(path: str | Path, remedy: str) -> Iterator[None]:
    """Whatever goes wrong within because a file is not as it was written becomes one sentence that names the file.

    For what follows from the contents of a file of saot's own: a value that is missing or of another type, tensors of
    another shape. Errors that are sentences already (`ValueError`) pass, other than those of broken JSON and text.

    Args:
        path: The file.
        remedy: What to do.

    Raises:
        ValueError: In place of these errors.
    """
    try:
        yield
    except (json.JSONDecodeError, UnicodeDecodeError, RecursionError) as error:
        raise ValueError(f"{path} is damaged, it is no JSON: {remedy}") from error
    except (KeyError, IndexError) as error:
        raise ValueError(f"{path} is damaged or of another version, it lacks {error}: {remedy}") from error
    except (TypeError, AttributeError, RuntimeError, ArithmeticError) as error:
        if "out of memory" in str(error).lower():
            raise
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0][:160]
        raise ValueError(f"{path} is damaged or of another version ({reason}): {remedy}") from error
