"""A file system in user space (FUSE) that passes everything on to a folder, and waits before each operation.

    python benchmarks/reliability/slow_disk.py FOLDER MOUNT 0.005 0

A network disk as its users see it: every look at a file has its price, and renames and syncs pass through another
program. `crowd.py` starts it for its part `fuse`. Needs mfusepy, libfuse and /dev/fuse.
"""

import errno
import os
import random
import sys
import time
from pathlib import Path
from typing import Any

import mfusepy


class SlowFolder(mfusepy.Operations):
    """What the kernel asks, answered from the folder behind, up to `slow` seconds later."""

    use_ns = True

    def __init__(self, root: Path, slow: float, seed: int) -> None:
        self.root, self.slow, self.random = root, slow, random.Random(seed)

    def __call__(self, operation: str, *words: Any) -> Any:
        time.sleep(self.random.random() * self.slow)
        try:
            return super().__call__(operation, *words)
        except mfusepy.FuseOSError:
            raise
        except OSError as error:
            raise mfusepy.FuseOSError(error.errno or errno.EIO) from error

    def _at(self, path: str) -> str:
        return str(self.root) + path

    def getattr(self, path: str, fh: int | None = None) -> dict[str, int]:
        found = os.lstat(self._at(path))
        names = ("st_mode", "st_nlink", "st_uid", "st_gid", "st_size", "st_ino", "st_dev")
        times = {name: getattr(found, f"{name}_ns") for name in ("st_atime", "st_mtime", "st_ctime")}
        return {name: getattr(found, name) for name in names} | times

    def readdir(self, path: str, fh: int) -> list[str]:
        return [".", "..", *os.listdir(self._at(path))]

    def readlink(self, path: str) -> str:
        return os.readlink(self._at(path))

    def statfs(self, path: str) -> dict[str, int]:
        found = os.statvfs(self._at(path))
        return {name: getattr(found, name) for name in dir(found) if name.startswith("f_") and name != "f_fsid"}

    def create(self, path: str, mode: int, fi: Any = None) -> int:
        return os.open(self._at(path), os.O_RDWR | os.O_CREAT | os.O_TRUNC, mode)

    def open(self, path: str, flags: int) -> int:
        return os.open(self._at(path), flags & ~os.O_APPEND)  # the kernel says where each write goes

    def read(self, path: str, size: int, offset: int, fh: int) -> bytes:
        return os.pread(fh, size, offset)

    def write(self, path: str, data: bytes, offset: int, fh: int) -> int:
        return os.pwrite(fh, data, offset)

    def truncate(self, path: str, length: int, fh: int | None = None) -> None:
        os.truncate(self._at(path) if fh is None else fh, length)

    def fsync(self, path: str, datasync: int, fh: int) -> None:
        os.fsync(fh)

    def release(self, path: str, fh: int) -> None:
        os.close(fh)

    def rename(self, old: str, new: str) -> None:
        os.rename(self._at(old), self._at(new))

    def unlink(self, path: str) -> None:
        os.unlink(self._at(path))

    def mkdir(self, path: str, mode: int) -> None:
        os.mkdir(self._at(path), mode)

    def rmdir(self, path: str) -> None:
        os.rmdir(self._at(path))

    def chmod(self, path: str, mode: int) -> None:
        os.chmod(self._at(path), mode)

    def utimens(self, path: str, times: tuple[int, int] | None = None) -> None:
        os.utime(self._at(path), ns=times)


if __name__ == "__main__":
    folder, mount, wait, seed = sys.argv[1:]
    mfusepy.FUSE(SlowFolder(Path(folder).absolute(), float(wait), int(seed)), mount, foreground=True)
