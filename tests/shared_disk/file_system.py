"""
A folder as a shared disk shows it: FUSE passes every operation on, unless the disk has a will.

    python -m tests.shared_disk.file_system FOLDER MOUNTPOINT SOCKET [late_seconds] [no_locks] [no_direct]

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
from collections.abc import Iterator
from contextlib import contextmanager
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
        no_direct: It refuses to open, read and write past the system's cache.
    """

    use_ns = True

    def __init__(
        self, root: Path, will: Will, late_seconds: float, no_locks: bool, no_direct: bool
    ) -> None:
        self._root, self._will = str(root), will
        self._no_locks, self._no_direct = no_locks, no_direct
        self._remembered = Remembered(late_seconds, will)

    @contextmanager
    def _at(self, operation: str, path: str) -> Iterator[str]:
        with self._will.asked(operation, path):
            yield self._root + path

    @contextmanager
    def _changing(self, path: str, operation: str = "change") -> Iterator[str]:
        with self._at(operation, path) as found:
            self._remembered.forget(path)
            yield found

    def _refuse_direct(self, flags: int) -> None:
        if self._no_direct and flags & os.O_DIRECT:
            self._will.note("no O_DIRECT", "refused")
            raise OSError(errno.EINVAL, "no O_DIRECT")

    def init_with_config(self, conn_info: Any, config_3: Any) -> None:
        config_3.entry_timeout = config_3.attr_timeout = config_3.negative_timeout = 0.0
        config_3.use_ino = config_3.hard_remove = 1

    def getattr(self, path: str, fi: Any = None) -> dict[str, Any]:
        with self._at("look", path) as found:
            if fi is not None:
                return self._attributes(os.fstat(fi.fh))
            if self._remembered.is_absent(path, os.path.lexists(found)):
                raise OSError(errno.ENOENT, "not seen yet")
            return self._attributes(os.lstat(found))

    @staticmethod
    def _attributes(found: os.stat_result) -> dict[str, Any]:
        return {name.removesuffix("_ns"): getattr(found, name) for name in ATTRIBUTES}

    def readdir(self, path: str, fh: int) -> list[tuple[str, dict[str, int], int]]:
        with self._at("look", path) as folder, os.scandir(folder) as found:
            now = {entry.name: entry.inode() for entry in found}
        names = {".": 1, "..": 1, **self._remembered.listing(path, now)}
        return [(name, {"st_ino": inode}, 0) for name, inode in names.items()]

    def readlink(self, path: str) -> str:
        with self._at("look", path) as found:
            return os.readlink(found)  # noqa: PTH115

    def statfs(self, path: str) -> dict[str, int]:
        with self._at("look", path) as place:
            found = os.statvfs(place)
        return {name: getattr(found, name) for name in SPACE}

    def open(self, path: str, fi: Any) -> int:
        self._refuse_direct(fi.flags)
        with self._at("look", path) as found:
            # What is read past the cache here is read past it there by nobody: FUSE has no file's pages.
            fi.fh = os.open(found, fi.flags & ~(os.O_DIRECT | os.O_APPEND))
        return 0

    def create(self, path: str, mode: int, fi: Any) -> int:
        self._refuse_direct(fi.flags)
        opened = None
        try:
            with self._changing(path, "create") as found:
                flags = fi.flags & ~(os.O_DIRECT | os.O_APPEND) | os.O_CREAT
                opened = fi.fh = os.open(found, flags, mode)
        except OSError:
            if opened is not None:  # it is there, and nobody was told
                os.close(opened)
            raise
        return 0

    def read(self, path: str, size: int, offset: int, fi: Any) -> bytes:
        self._refuse_direct(fi.flags)
        with self._at("read", path):
            return os.pread(fi.fh, size, offset)

    def write(self, path: str, data: bytes, offset: int, fi: Any) -> int:
        self._refuse_direct(fi.flags)
        with self._at("write", path):
            return os.pwrite(fi.fh, data, offset)

    def truncate(self, path: str, length: int, fi: Any = None) -> int:
        with self._at("write", path) as found:
            os.truncate(found if fi is None else fi.fh, length)
        return 0

    def flush(self, path: str, fi: Any) -> int:
        os.close(os.dup(fi.fh))
        return 0

    def release(self, path: str, fi: Any) -> int:
        os.close(fi.fh)
        return 0

    def fsync(self, path: str, datasync: int, fi: Any) -> int:
        with self._at("write", path):
            return 0  # nobody cuts the power below

    def fsyncdir(self, path: str, datasync: int, fh: int) -> int:
        with self._at("change", path):
            return 0

    def flock(self, path: str, fi: Any, op: int) -> int:
        if self._no_locks:
            self._will.note("no flock", "refused")
            raise OSError(errno.ENOSYS, "no flock")
        fcntl.flock(fi.fh, op)
        return 0

    def mkdir(self, path: str, mode: int) -> int:
        with self._changing(path, "create") as found:
            os.mkdir(found, mode)  # noqa: PTH102
        return 0

    def rmdir(self, path: str) -> int:
        with self._changing(path) as found:
            os.rmdir(found)  # noqa: PTH106
        return 0

    def unlink(self, path: str) -> int:
        with self._changing(path) as found:
            os.unlink(found)  # noqa: PTH108
        return 0

    def rename(self, old: str, new: str) -> int:
        self._remembered.forget(new)
        with self._changing(old) as found:
            os.rename(found, self._root + new)  # noqa: PTH104
        return 0

    def link(self, target: str, source: str) -> int:
        with self._changing(target, "create") as found:
            os.link(self._root + source, found)
        return 0

    def symlink(self, target: str, source: str) -> int:
        with self._changing(target, "create") as found:
            os.symlink(source, found)  # noqa: PTH211
        return 0

    def chmod(self, path: str, mode: int) -> int:
        with self._at("change", path) as found:
            os.chmod(found, mode)  # noqa: PTH101
        return 0

    def chown(self, path: str, uid: int, gid: int) -> int:
        with self._at("change", path) as found:
            os.lchown(found, uid, gid)
        return 0

    def utimens(self, path: str, times: tuple[int, int] | None = None) -> int:
        with self._at("change", path) as found:
            os.utime(found, ns=times, follow_symlinks=False)
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
    late = next((float(word) for word in words if not word.startswith("no_")), 0.0)
    server = socketserver.ThreadingUnixStreamServer(socket, Commands)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    lacks = ("no_locks" in words, "no_direct" in words)
    files = FileSystem(Path(folder), Commands.will, late, *lacks)
    os.umask(0)  # the caller's has been taken off already
    mfusepy.FUSE(files, mountpoint, raw_fi=True, foreground=True, default_permissions=True,
                 allow_other=True, fsname="shared-disk")  # fmt: skip


if __name__ == "__main__":
    main(*sys.argv[1:])
