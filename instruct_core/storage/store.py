"""
One folder of files on anything that fsspec reaches: a path, s3://, gs://, az://, memory://.

    store = Store("checkpoints_instruct/my-run")
    digest = store.put("step-00000100/model.safetensors", [view])
    store.claim("step-00000100/manifest.json", data)          # whole or not at all, and only once

On a local or shared disk every file is flushed to the disk, and so is the folder that names it,
before a write returns; on an object store an object appears whole or not at all. Listings are
always asked anew: fsspec and NFS both keep old ones.
"""

from __future__ import annotations

import re
import uuid
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

import xxhash

from instruct_core.errors import ConfigError
from instruct_core.storage.backend import Free, ReadAt
from instruct_core.storage.disk import Disk
from instruct_core.storage.hashed_reading import read_pieces
from instruct_core.storage.names import without_tilde
from instruct_core.storage.patience import LOOK_AGAIN_SECONDS

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from instruct_core.storage.objects import Objects

SCRATCH_BYTES = 64 << 20  # held at a time by who only wants a hash


class Store:
    """
    The files below one URL; names inside it are relative and use `/`.

    Args:
        url: A path or any fsspec URL. It need not exist yet.
        patience_seconds: How long an operation goes on while the disk or the object store is not well;
            see patience.py. Jobs give more.

    Raises:
        ConfigError: No installed package speaks the URL's protocol, or it carries a password.
    """

    def __init__(self, url: str | Path, patience_seconds: float = LOOK_AGAIN_SECONDS) -> None:
        self.url = str(url).rstrip("/") or "/"
        self._patience = patience_seconds
        _refuse_password(self.url)
        self._files: Disk | Objects
        if "://" not in self.url or self.url.startswith(("file://", "local://")):
            self._files = Disk(without_tilde(self.url.split("://")[-1]), patience_seconds)
        else:
            from instruct_core.storage.objects import Objects  # here: on a disk nobody needs fsspec

            self._files = Objects(self.url, patience_seconds)
        self.is_local = isinstance(self._files, Disk)

    def __truediv__(self, name: str) -> Store:
        """Return the store of a folder inside this one."""
        return Store(f"{self.url}/{name}", self._patience)

    def where(self, name: str) -> str:
        """Return the full address of a file, for messages."""
        return f"{self.url}/{name}"

    def local_path(self, name: str) -> Path:
        """Return the file's path on this machine's disk; only for a local store."""
        assert isinstance(self._files, Disk), f"{self.url} is not on this machine"
        return self._files.root / name

    def names(self, folder: str = "") -> list[str]:
        """Return the names of files and folders directly inside, sorted; [] where there is none."""
        if isinstance(self._files, Disk):
            return sorted(self._files.names(folder))
        return sorted(self._files.entries(folder))

    def contents(self) -> list[str]:
        """Return what somebody has put directly inside: no hidden file, nor a disk's own lost+found."""
        return [name for name in self.names() if name[:1] != "." and name != "lost+found"]

    def sizes(self, folder: str = "") -> dict[str, int]:
        """Return the sizes in bytes of the files directly inside."""
        entries = sorted(self._files.entries(folder).items())
        return {name: size for name, size in entries if size is not None}

    def tree(self) -> dict[str, int | None]:
        """Return all files below by name, with sizes in bytes; on a disk, folders with None too."""
        return dict(sorted(self._files.tree().items()))

    def forget_listings(self) -> None:
        """Make sure that the next listing is the store's own, where this node keeps old ones."""
        self._files.forget_listings()

    def exists(self, name: str) -> bool:
        """Return True if a file or folder of that name is there now."""
        return self._files.exists(name)

    def size_bytes(self, name: str) -> int:
        """Return a file's size; raises FileNotFoundError."""
        return self._files.size_bytes(name)

    def read(self, name: str, at_most: int = 1 << 40) -> bytes:
        """Return a whole file, or its first bytes; raises FileNotFoundError."""
        return self._files.read(name, at_most)

    def read_hashed(self, name: str, buffer: NDArray[np.uint8]) -> str:
        """
        Fill ``buffer`` from the start of a file, with a few reads at a time; return its xxh3-128.

        Raises:
            FileNotFoundError: There is no such file.
            CorruptFileError: It is shorter than the buffer, or no file.
        """
        return self._again(name, lambda: self._read_hashed(name, buffer))

    def _read_hashed(self, name: str, buffer: NDArray[np.uint8]) -> str:
        hasher = xxhash.xxh3_128()
        with self._files.reader(name) as read_at:
            self._fill(read_at, memoryview(buffer.data), 0, hasher)
        return hasher.hexdigest()

    def digest(self, name: str) -> str:
        """Return xxh3-128 of a file's bytes as they lie on the disk; few are held at a time."""
        return self._again(name, lambda: self._digest(name))

    def _again(self, name: str, read: Callable[[], str]) -> str:
        """Read a whole file, from its beginning again where a disk fails on the way."""
        # An object store is asked again piece by piece; a file of a disk must be opened anew.
        return self._files.patiently(name, read) if isinstance(self._files, Disk) else read()

    def _digest(self, name: str) -> str:
        from instruct_core.storage.tensor_file import aligned_buffer  # here: nor numpy, to look

        size, hasher = self.size_bytes(name), xxhash.xxh3_128()
        scratch = memoryview(aligned_buffer(min(size, SCRATCH_BYTES)).data)
        with self._files.reader(name, past_cache=True) as read_at:
            for offset in range(0, size, SCRATCH_BYTES):
                self._fill(read_at, scratch[: size - offset], offset, hasher)
        return hasher.hexdigest()

    def _fill(
        self, read_at: ReadAt, view: memoryview, offset: int, hasher: xxhash.xxh3_128
    ) -> None:
        files = self._files
        read_pieces(read_at, view, offset, files.read_bytes, files.read_threads, hasher)

    def put(self, name: str, views: Sequence[memoryview]) -> str:
        """
        Write a new file durably; return xxh3-128 of its bytes, computed on the way.

        Raises:
            FileExistsError: There is a file of that name: nothing is ever overwritten.
        """
        return self._files.put(name, views)

    def replace(self, name: str, data: bytes | memoryview) -> None:
        """Write a small file so that a reader sees the old bytes or the new, never a part."""
        self._files.replace(name, data)

    def claim(self, name: str, data: bytes) -> bool:
        """
        Create a whole file that nobody else created; False if somebody did.

        Args:
            name: Of the file.
            data: Never empty, and like nobody else's, so that a repeated request knows its own.
        """
        assert data, "an empty claim cannot be told from one that was cut off"
        return self._files.claim(name, data)

    def remove(self, name: str) -> None:
        """Remove a file or a folder with all it holds; fine if it is gone already."""
        self._files.remove(name)

    def move(self, name: str, new_name: str) -> None:
        """Give a folder another name; on an object store that copies it."""
        self._files.move(name, new_name)

    def free(self) -> Free | None:
        """Return what is left on the disk; None where there is no end."""
        return self._files.free()

    def writable_by_others(self, folder: str) -> list[str]:
        """Return a folder's files that belong to another user and that others still may write."""
        return self._files.writable_by_others(folder)

    def try_out(self) -> bool:
        """
        Write, read and remove a small file; return whether the store keeps two writers apart.

        Raises:
            OSError: One of them does not work; says why.
        """
        if not isinstance(self._files, Disk):
            self._files.check_root()
        name = f".try-{uuid.uuid4().hex}"
        mine, other = f"{name} mine".encode(), f"{name} other".encode()
        try:
            self._files.claim(name, mine)
            if self.read(name) not in (mine, other):
                raise OSError(f"{self.where(name)} reads back other than it was written")
            return not self._files.claim(name, other)
        finally:
            self.remove(name)


def _refuse_password(url: str) -> None:
    """Refuse a URL with a password or a signature: it would end up in logs and settings."""
    if "://" not in url:
        return
    try:
        parts = urlsplit(url)
    except ValueError as error:
        raise ConfigError(f"Place {url} is no URL: {error}.") from None
    if parts.password is not None or re.search(r"(?i)sig|token|secret|key", parts.query):
        raise ConfigError(
            f"Place {parts.scheme}://... carries a password. Take it out: credentials come from the "
            "environment (AWS_ACCESS_KEY_ID, GOOGLE_APPLICATION_CREDENTIALS, AZURE_STORAGE_...)."
        )
