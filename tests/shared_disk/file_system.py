"""
A folder as a shared disk shows it: FUSE passes every operation on, unless the disk has a will.

    python -m tests.shared_disk.file_system FOLDER MOUNTPOINT SOCKET [late_seconds] [no_locks]

What a program may rely on, it can: rename, link, exclusive creation, fsync, mmap, locks between two
mounts of one folder. Names that another mount has made show after `late_seconds`, as NFS remembers a
listing and what was not there until this node itself changes the folder, or the time is over. Faults
come through the socket, see mount.py. Needs libfuse, /dev/fuse and the right to mount.

Sources: fuse(4); nfs(5) on attribute caching.
"""

from __future__ import annotations

import errno
import fcntl
import json
import os
import socketserver
import sys
import threading
import time
from pathlib import Path
from typing import Any

import mfusepy

from tests.shared_disk.faults import Fault, Will

ATTRIBUTES = (
    "st_atime_ns", "st_ctime_ns", "st_mtime_ns", "st_gid", "st_ino", "st_mode", "st_nlink",
    "st_size", "st_uid", "st_blocks", "st_dev",
)  # fmt: skip
SPACE = (
    "f_bavail", "f_bfree", "f_blocks", "f_bsize", "f_favail", "f_ffree", "f_files", "f_flag",
    "f_frsize", "f_namemax",
)  # fmt: skip


class Remembered:
    """What this mount has seen of each folder, as long as it believes it."""

    def __init__(self, seconds: float, will: Will) -> None:
        self._seconds, self._will = seconds, will
        self._listings: dict[str, tuple[float, dict[str, int]]] = {}
        self._absent: dict[str, float] = {}

    def listing(self, path: str, now: dict[str, int]) -> dict[str, int]:
        """Return a folder's names and inodes as this mount knows them."""
        at, names = self._listings.get(path, (float("-inf"), now))
        if time.monotonic() - at >= self._seconds:
            self._listings[path] = (time.monotonic(), now)
            return now
        if names != now:
            self._will.note("late", "listings")
        return names

    def is_absent(self, path: str, is_there: bool) -> bool:
        """Return whether this mount takes a name for one that is not there."""
        at = self._absent.get(path, float("-inf"))
        if time.monotonic() - at < self._seconds:
            if is_there:
                self._will.note("late", "names")
            return True
        self._absent.pop(path, None)
        if not is_there and self._seconds:
            self._absent[path] = time.monotonic()
        return not is_there

    def forget(self, path: str) -> None:
        """Look anew at the folder of a name that this mount itself has made or removed."""
        folder = path.rpartition("/")[0] or "/"
        self._listings.pop(folder, None)
        for name in [name for name in self._absent if (name.rpartition("/")[0] or "/") == folder]:
            self._absent.pop(name, None)


class FileSystem(mfusepy.Operations):
    """
    Every operation on the same file of another folder.

    Args:
        root: That folder.
        will: Asked before each.
        late_seconds: How long other mounts' new names are not seen.
        no_locks: The file system has no flock.
    """

    use_ns = True

    def __init__(self, root: Path, will: Will, late_seconds: float, no_locks: bool) -> None:
        self._root, self._will, self._no_locks = str(root), will, no_locks
        self._remembered = Remembered(late_seconds, will)

    def _at(self, operation: str, path: str) -> str:
        self._will.meet(operation, path)
        return self._root + path

    def _changing(self, path: str, operation: str = "change") -> str:
        found = self._at(operation, path)
        self._remembered.forget(path)
        return found

    def init_with_config(self, conn_info: Any, config_3: Any) -> None:
        config_3.entry_timeout = config_3.attr_timeout = config_3.negative_timeout = 0.0
        config_3.use_ino = config_3.hard_remove = 1

    def getattr(self, path: str, fh: int | None = None) -> dict[str, Any]:
        found = self._at("look", path)
        if fh is not None:
            return self._attributes(os.fstat(fh))
        if self._remembered.is_absent(path, os.path.lexists(found)):
            raise OSError(errno.ENOENT, "not seen yet")
        return self._attributes(os.lstat(found))

    @staticmethod
    def _attributes(found: os.stat_result) -> dict[str, Any]:
        return {name.removesuffix("_ns"): getattr(found, name) for name in ATTRIBUTES}

    def readdir(self, path: str, fh: int) -> list[tuple[str, dict[str, int], int]]:
        with os.scandir(self._at("look", path)) as found:
            now = {entry.name: entry.inode() for entry in found}
        names = {".": 1, "..": 1, **self._remembered.listing(path, now)}
        return [(name, {"st_ino": inode}, 0) for name, inode in names.items()]

    def readlink(self, path: str) -> str:
        return os.readlink(self._at("look", path))  # noqa: PTH115

    def statfs(self, path: str) -> dict[str, int]:
        found = os.statvfs(self._at("look", path))
        return {name: getattr(found, name) for name in SPACE}

    def open(self, path: str, flags: int) -> int:
        # What is read past the cache here is read past it there by nobody: FUSE has no file's pages.
        return os.open(self._at("look", path), flags & ~(os.O_DIRECT | os.O_APPEND))

    def create(self, path: str, mode: int, flags: int) -> int:
        found = self._changing(path, "create")
        return os.open(found, flags & ~(os.O_DIRECT | os.O_APPEND) | os.O_CREAT, mode)

    def read(self, path: str, size: int, offset: int, fh: int) -> bytes:
        self._will.meet("read", path)
        return os.pread(fh, size, offset)

    def write(self, path: str, data: bytes, offset: int, fh: int) -> int:
        self._will.meet("write", path)
        return os.pwrite(fh, data, offset)

    def truncate(self, path: str, length: int, fh: int | None = None) -> int:
        found = self._at("write", path)
        os.truncate(found if fh is None else fh, length)
        return 0

    def flush(self, path: str, fh: int) -> int:
        os.close(os.dup(fh))
        return 0

    def release(self, path: str, fh: int) -> int:
        os.close(fh)
        return 0

    def fsync(self, path: str, datasync: int, fh: int) -> int:
        self._will.meet("write", path)
        os.fsync(fh)
        return 0

    def fsyncdir(self, path: str, datasync: int, fh: int) -> int:
        self._will.meet("change", path)
        return 0

    def flock(self, path: str, fh: int, op: int) -> int:
        if self._no_locks:
            self._will.note("no flock", "refused")
            raise OSError(errno.ENOSYS, "no flock")
        fcntl.flock(fh, op)
        return 0

    def mkdir(self, path: str, mode: int) -> int:
        os.mkdir(self._changing(path, "create"), mode)  # noqa: PTH102
        return 0

    def rmdir(self, path: str) -> int:
        os.rmdir(self._changing(path))  # noqa: PTH106
        return 0

    def unlink(self, path: str) -> int:
        os.unlink(self._changing(path))  # noqa: PTH108
        return 0

    def rename(self, old: str, new: str) -> int:
        os.rename(self._changing(old), self._changing(new))  # noqa: PTH104
        return 0

    def link(self, target: str, source: str) -> int:
        os.link(self._root + source, self._changing(target, "create"))
        return 0

    def symlink(self, target: str, source: str) -> int:
        os.symlink(source, self._changing(target, "create"))  # noqa: PTH211
        return 0

    def chmod(self, path: str, mode: int) -> int:
        os.chmod(self._at("change", path), mode)  # noqa: PTH101
        return 0

    def chown(self, path: str, uid: int, gid: int) -> int:
        os.lchown(self._at("change", path), uid, gid)
        return 0

    def utimens(self, path: str, times: tuple[int, int] | None = None) -> int:
        os.utime(self._at("change", path), ns=times, follow_symlinks=False)
        return 0


class Commands(socketserver.StreamRequestHandler):
    """One line of JSON in, one out."""

    will: Will

    def handle(self) -> None:
        asked = json.loads(self.rfile.readline())
        if "faults" in asked:
            faults = [Fault(**{**each, "operations": tuple(each["operations"])})
                      for each in asked["faults"]]  # fmt: skip
            self.will.plan(faults)
        if asked.get("heal"):
            self.will.heal()
        told = {"counts": self.will.counts(), "num_planned": self.will.num_planned}
        self.wfile.write(json.dumps(told).encode() + b"\n")


def main(folder: str, mountpoint: str, socket: str, *words: str) -> None:
    Commands.will = Will()
    late = next((float(word) for word in words if word != "no_locks"), 0.0)
    server = socketserver.ThreadingUnixStreamServer(socket, Commands)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    files = FileSystem(Path(folder), Commands.will, late, "no_locks" in words)
    os.umask(0)  # the caller's has been taken off already
    mfusepy.FUSE(files, mountpoint, foreground=True, default_permissions=True, allow_other=True,
                 fsname="shared-disk")  # fmt: skip


if __name__ == "__main__":
    main(*sys.argv[1:])
