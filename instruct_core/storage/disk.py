"""
A folder on a local or shared disk, with writes that survive a power cut.

    disk = Disk(Path("checkpoints_instruct/my-run"))
    digest = disk.put("step-00000100/model.safetensors", views)

Every new file is flushed to the disk, and so is every folder that got a new name: after fsync of a
file its name can still be lost. What must appear whole or not at all (a claim, a manifest) is
written aside and linked to its name, which is exclusive also on NFS, where O_EXCL and rename are not
both; see names.py.

Sources: open(2), link(2), fsync(2); nfs(5) on attribute caching.
"""

from __future__ import annotations

import contextlib
import errno
import os
import stat
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar

import xxhash

from instruct_core.errors import CorruptFileError
from instruct_core.storage.backend import Free, ReadAt
from instruct_core.storage.direct import (
    PAGE_BYTES,
    REFUSED,
    goes_straight,
    set_direct,
    write_straight,
)
from instruct_core.storage.looks import NOT_THERE, is_folder, is_there
from instruct_core.storage.names import (
    gone_if_it_fails,
    identity,
    link,
    nearest,
    remove,
    rename,
    scratch_of,
    sync_folder,
)
from instruct_core.storage.patience import naming, passes_on_a_disk, patiently
from instruct_core.storage.plain_file import opened

T = TypeVar("T")

# Of flock: Lustre without it, NFS without lockd.
NO_LOCKS = {errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP}


class Disk:
    """
    Files below a folder; names inside it are relative and use `/`.

    Args:
        root: The folder. It need not exist yet.
        patience_seconds: How long an operation goes on while the disk is not well.
    """

    write_bytes = 8 << 20  # hashed and written while it is in the cache
    read_bytes = 2 << 20  # a huge page: two threads that first touch one would both clear it
    read_threads = 3

    def __init__(self, root: Path, patience_seconds: float = 0.0) -> None:
        self.root, self._patience = root, patience_seconds

    def patiently(self, name: str, call: Callable[[], T]) -> T:
        """Call again what fails in passing, while our patience lasts; what is raised names the file."""
        with naming(self.root / name):
            return patiently(call, self._patience, passes_on_a_disk)

    def entries(self, folder: str) -> dict[str, int | None]:
        """Return names directly inside a folder and their sizes, None for a folder; {} for none."""
        return self.patiently(folder, lambda: self._list(folder))

    def names(self, folder: str) -> list[str]:
        """Return names directly inside a folder, of which no size is asked; [] for none."""
        try:
            return self.patiently(folder, lambda: os.listdir(self.root / folder))  # noqa: PTH208  faster
        except (FileNotFoundError, NotADirectoryError):
            return []

    def _list(self, folder: str) -> dict[str, int | None]:
        found: dict[str, int | None] = {}
        try:
            with os.scandir(self.root / folder) as listing:
                for entry in listing:
                    try:
                        found[entry.name] = None if entry.is_dir() else entry.stat().st_size
                    except OSError as error:
                        if error.errno not in NOT_THERE:
                            raise
                        continue  # removed meanwhile, or a link that leads nowhere, or in a circle
        except (FileNotFoundError, NotADirectoryError):
            return {}
        return found

    def tree(self) -> dict[str, int | None]:
        """Return all files below with their sizes, and all folders with None; not what links lead to."""
        found: dict[str, int | None] = {}
        folders = [""]
        for folder in folders:
            for entry, size in self.entries(folder).items():
                name = f"{folder}{entry}"
                found[name] = size
                if size is None and not self.patiently(name, (self.root / name).is_symlink):
                    folders.append(f"{name}/")
        return found

    def forget_listings(self) -> None:
        """Have NFS look at the folder anew: it remembers a listing until this node changes it."""
        scratch = scratch_of(self.root / "look")
        # Where nothing can be written the listing may be an old one; that must not keep us from reading.
        with contextlib.suppress(OSError):
            if self.patiently("", lambda: is_folder(self.root)):
                self.patiently("", scratch.touch)
                self.patiently("", lambda: scratch.unlink(missing_ok=True))

    def exists(self, name: str) -> bool:
        """Return True if a file or folder of that name is there."""
        return self.patiently(name, lambda: is_there(self.root / name))

    def size_bytes(self, name: str) -> int:
        """Return a file's size; raises FileNotFoundError."""
        return self.patiently(name, (self.root / name).stat).st_size

    def read(self, name: str, at_most: int) -> bytes:
        """Return a file's first bytes; raises FileNotFoundError."""
        return self.patiently(name, lambda: self._read(name, at_most))

    def _read(self, name: str, at_most: int) -> bytes:
        with opened(self.root / name) as descriptor:
            size = min(at_most, os.fstat(descriptor).st_size)
            with os.fdopen(descriptor, "rb", closefd=False) as file:
                return file.read(size)

    @contextmanager
    def reader(self, name: str, past_cache: bool = False) -> Iterator[ReadAt]:
        """
        Open a file for reading at offsets, from several threads.

        Args:
            name: Of the file.
            past_cache: Read what is on the disk, not what the system remembers of it; takes buffers
                that begin on a page.
        """
        path = self.root / name
        with opened(path) as cached, opened(path) as straight:
            if (
                past_cache
            ):  # and what is no whole page, or must not be read straight, comes anew too
                os.posix_fadvise(cached, 0, 0, os.POSIX_FADV_DONTNEED)
            past_cache = past_cache and set_direct(straight, True)

            def read_at(view: memoryview, offset: int) -> None:
                while view.nbytes:  # Linux reads at most 2 GiB at once
                    whole = view.nbytes % PAGE_BYTES == offset % PAGE_BYTES == 0
                    descriptor = straight if past_cache and whole else cached
                    try:
                        count = os.preadv(descriptor, [view], offset)
                    except OSError as error:
                        if error.errno not in REFUSED or descriptor == cached:
                            raise
                        count = os.preadv(cached, [view], offset)  # wants other alignments
                    if not count:
                        raise CorruptFileError(f"{path} ends after {offset} bytes.")
                    view, offset = view[count:], offset + count

            yield read_at

    def put(self, name: str, views: Sequence[memoryview]) -> str:
        """Write a new file durably, and return xxh3-128 of its bytes; raises FileExistsError."""
        path = self.root / name
        if not self._patience:  # whoever asks tries again as a whole, and removes what is left
            with naming(path):
                return self._put(self._in_new_folder(name), views)
        digest = self._put_whole(name, views)
        if digest is None:
            raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), str(path))
        return digest

    def _put(self, path: Path, views: Sequence[memoryview]) -> str:
        hasher = xxhash.xxh3_128()
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o666)
        try:
            direct = len(views) == 1 and goes_straight(descriptor, views[0])
            for view in views:
                for start in range(0, view.nbytes, self.write_bytes):
                    piece = view[start : start + self.write_bytes]
                    hasher.update(piece)
                    if direct:
                        piece = piece[write_straight(descriptor, piece) :]
                    while piece.nbytes:  # the system call may take less
                        piece = piece[os.write(descriptor, piece) :]
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
        sync_folder(path.parent)
        return hasher.hexdigest()

    def _put_whole(self, name: str, views: Sequence[memoryview]) -> str | None:
        """Write a file that is there whole or not at all; None where somebody else's is."""
        path = self.patiently(name, lambda: self._in_new_folder(name))
        scratch = scratch_of(path)
        digest = self.patiently(name, lambda: self._write_aside(scratch, views))
        try:
            is_ours = self.patiently(name, lambda: link(scratch, path))
        finally:
            with contextlib.suppress(OSError):  # it is in nobody's way
                self.patiently(name, lambda: scratch.unlink(missing_ok=True))
        self.patiently(name, lambda: sync_folder(path.parent))
        return digest if is_ours else None

    def replace(self, name: str, data: bytes | memoryview) -> None:
        """Write a small file so that a reader sees the old bytes or the new, never a part."""
        self.patiently(name, lambda: self._replace(name, memoryview(data)))

    def _replace(self, name: str, data: memoryview) -> None:
        path = self._in_new_folder(name)
        scratch = scratch_of(path)
        self._write_aside(scratch, [data])
        with gone_if_it_fails(scratch):
            rename(scratch, path, identity(scratch))

    def claim(self, name: str, data: bytes) -> bool:
        """Create a whole file that nobody else created; False if somebody did."""
        if self._put_whole(name, [memoryview(data)]) is not None:
            return True
        # A claim that failed after its name was there is ours all the same.
        return self.patiently(name, lambda: self._holds(name, data))

    def _holds(self, name: str, data: bytes) -> bool:
        try:
            return self._read(name, len(data) + 1) == data
        except FileNotFoundError:  # removed meanwhile
            return False

    def _write_aside(self, scratch: Path, views: Sequence[memoryview]) -> str:
        # Left by a try of ours, or by a process of the same number that was killed.
        scratch.unlink(missing_ok=True)
        with gone_if_it_fails(scratch):
            return self._put(scratch, views)

    def _in_new_folder(self, name: str) -> Path:
        """Return the path of a file whose folders are there and will still be after a power cut."""
        path = self.root / name
        missing = [folder for folder in (path.parent, *path.parent.parents) if not is_there(folder)]
        path.parent.mkdir(parents=True, exist_ok=True)
        for folder in missing:
            sync_folder(folder.parent)
        return path

    def remove(self, name: str) -> None:
        """Remove a file or a folder with all it holds; fine if it is gone already."""
        self.patiently(name, lambda: remove(self.root / name))

    def move(self, name: str, new_name: str) -> None:
        """Give a file or a folder another name, in a folder that need not be there yet."""
        source = self.root / name
        mine = self.patiently(name, lambda: identity(source))
        target = self.patiently(name, lambda: self._in_new_folder(new_name))
        self.patiently(name, lambda: rename(source, target, mine))

    def free(self) -> Free | None:
        """Return what is left on the disk for us; None where the file system does not tell."""
        folder = self.patiently("", lambda: nearest(self.root))
        found = self.patiently("", lambda: os.statvfs(folder))
        if not found.f_blocks:  # 0 of 0: many a FUSE
            return None
        # Some file systems have no table of inodes, and say 0 of 0 as well.
        inodes = found.f_favail if found.f_files else None
        return Free(found.f_bavail * found.f_frsize, inodes)

    def writable_by_others(self, folder: str) -> list[str]:
        """Return files that belong to another user whose group, or anybody, may write them."""
        names = []
        for name in ("", *sorted(self.entries(folder))):
            found = self.patiently(folder, (self.root / folder / name).stat)
            if found.st_uid != os.getuid() and found.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
                names.append(f"{folder}/{name}".rstrip("/"))
        return names
