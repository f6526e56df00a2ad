"""
One folder of files on anything that fsspec reaches: a path, s3://, gs://, az://, memory://.

    store = Store("checkpoints_instruct/my-run")
    store.write("run.json", data)
    with store.create("step-00000100/model.safetensors") as sink:
        sink.write(part)

On a local or shared disk every file is flushed to the disk, and so is the folder that names it,
before a write returns; on an object store an object appears whole or not at all. Listings are
always asked anew: fsspec and NFS both keep old ones.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import fsspec
from fsspec.implementations.local import LocalFileSystem

from instruct_core.errors import ConfigError


class Store:
    """
    The files below one URL; names inside it are relative and use `/`.

    Args:
        url: A path or any fsspec URL. It need not exist yet.

    Raises:
        ConfigError: No installed package speaks the URL's protocol.
    """

    def __init__(self, url: str | Path) -> None:
        self.url = str(url).rstrip("/") or "/"
        try:
            self._fs, self._root = fsspec.core.url_to_fs(self.url)
        except (ImportError, ValueError) as error:
            raise ConfigError(f"Place {self.url} cannot be used: {error}") from error
        self.is_local = isinstance(self._fs, LocalFileSystem)

    def __truediv__(self, name: str) -> Store:
        """Return the store of a folder inside this one."""
        return Store(f"{self.url}/{name}")

    def where(self, name: str) -> str:
        """Return the full address of a file, for messages."""
        return f"{self.url}/{name}"

    def local_path(self, name: str) -> Path:
        """Return the file's path on this machine's disk; only for a local store."""
        assert self.is_local, f"{self.url} is not on this machine"
        return Path(self._root) / name

    def _path(self, name: str) -> str:
        return f"{self._root}/{name}" if name else self._root

    def names(self, folder: str = "") -> list[str]:
        """Return the names of files and folders directly inside, sorted; [] where there is none."""
        self._fs.invalidate_cache()
        try:
            listed = self._fs.ls(self._path(folder), detail=False)
        except (FileNotFoundError, NotADirectoryError):
            return []
        return sorted({path.rstrip("/").rsplit("/", 1)[-1] for path in listed})

    def exists(self, name: str) -> bool:
        """Return True if a file or folder of that name is there now."""
        self._fs.invalidate_cache()
        return bool(self._fs.exists(self._path(name)))

    def size_bytes(self, name: str) -> int:
        """Return a file's size; raises FileNotFoundError."""
        return int(self._fs.size(self._path(name)))

    def read(self, name: str) -> bytes:
        """Return a whole file; raises FileNotFoundError."""
        return bytes(self._fs.cat_file(self._path(name)))

    def read_into(self, name: str, buffer: Any) -> int:
        """Fill ``buffer`` from the start of a file with as few copies as the store allows."""
        if not self.is_local:
            data = self._fs.cat_file(self._path(name), end=len(buffer))
            memoryview(buffer)[: len(data)] = data
            return len(data)
        view, filled = memoryview(buffer).cast("B"), 0
        with self.local_path(name).open("rb", buffering=0) as file:
            while count := file.readinto(view[filled:]):  # Linux reads at most 2 GiB at once
                filled += count
        return filled

    @contextmanager
    def create(self, name: str) -> Iterator[Any]:
        """Open a new file for writing; it is durable when the block ends without an error."""
        if not self.is_local:
            with self._fs.open(self._path(name), "wb") as file:
                yield file
            return
        path = self.local_path(name)
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("wb", buffering=0) as file:
            yield _WholeWrites(file)
            os.fsync(file.fileno())
        sync_folder(path.parent)

    def write(self, name: str, data: bytes) -> None:
        """Write a small file durably, in place."""
        with self.create(name) as sink:
            sink.write(data)

    def replace(self, name: str, data: bytes) -> None:
        """Write a small file so that a reader sees the old bytes or the new, never a part."""
        if not self.is_local:
            self._fs.pipe_file(self._path(name), data)
            return
        path = self.local_path(name)
        scratch = path.with_name(f".{path.name}.{os.getpid()}.tmp")
        path.parent.mkdir(parents=True, exist_ok=True)
        with scratch.open("wb", buffering=0) as file:
            _WholeWrites(file).write(data)
            os.fsync(file.fileno())
        scratch.replace(path)
        sync_folder(path.parent)

    def claim(self, name: str, data: bytes) -> bool:
        """Create a file that nobody else created; False if somebody did. The data is never empty."""
        if not self.is_local:
            if self._fs.exists(self._path(name)):
                return False
            self._fs.pipe_file(self._path(name), data)
            return True
        path = self.local_path(name)
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o666)
        except FileExistsError:
            return False
        with os.fdopen(descriptor, "wb", buffering=0) as file:
            file.write(data)
            os.fsync(file.fileno())
        sync_folder(path.parent)
        return True

    def remove(self, name: str) -> None:
        """Remove a file or a folder with all it holds; fine if it is gone already."""
        if self.exists(name):
            self._fs.rm(self._path(name), recursive=True)

    def move(self, name: str, new_name: str) -> None:
        """Give a folder another name; on an object store that copies it."""
        self._fs.mv(self._path(name), self._path(new_name), recursive=True)


class _WholeWrites:
    """An unbuffered file whose write takes all of its bytes: the system call may take fewer."""

    def __init__(self, file: Any) -> None:
        self._file = file

    def write(self, data: Any) -> int:
        view, written = memoryview(data).cast("B"), 0
        while written < view.nbytes:
            written += self._file.write(view[written:])
        return written


def sync_folder(path: Path) -> None:
    """Make the names in a folder durable: after fsync of a file, its name can still be lost."""
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
