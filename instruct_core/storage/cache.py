"""
Files of an object store on this node's disk, each fetched once however many ranks ask for it.

    path = local_copy(store, "train/00003.safetensors", bytes, xxh3)

A file that lies on a local or shared disk is used where it is. The cache is the folder that
INSTRUCT_CACHE names, else `instruct-cluster` below the temporary folder; a file's name in it is
its hash, so nothing in it can be stale, and a damaged one is fetched again. A folder that somebody
else can write is not used: one below it is, or one of the process's own while it lives.
"""

from __future__ import annotations

import atexit
import contextlib
import fcntl
import functools
import os
import shutil
import stat
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import xxhash

from instruct_core.errors import CorruptFileError
from instruct_core.storage.disk import NO_LOCKS
from instruct_core.storage.names import gone_if_it_fails, real_path
from instruct_core.storage.patience import naming
from instruct_core.storage.store import Store


def cache_folder() -> Path:
    """Return where this node keeps fetched files: a folder that nobody else can write."""
    place = Path(tempfile.gettempdir())
    if named := os.environ.get("INSTRUCT_CACHE"):
        place = real_path(named)
        place.mkdir(parents=True, exist_ok=True, mode=0o700)
        if _is_ours_alone(place):
            return place
    return own_folder(place)


def own_folder(place: Path) -> Path:
    """Return a folder below a place that all may write, which nobody else can write."""
    folder = place / f"instruct-cluster-{os.getuid()}"
    with contextlib.suppress(FileExistsError):  # perhaps as a link or a file
        folder.mkdir(mode=0o700)
    return folder if _is_ours_alone(folder) else _private_folder(place)


def _is_ours_alone(folder: Path) -> bool:
    # Not what a link points at: who has made the link can have it point elsewhere later.
    found = folder.lstat()
    others_write = found.st_mode & (stat.S_IWGRP | stat.S_IWOTH)
    return stat.S_ISDIR(found.st_mode) and found.st_uid == os.getuid() and not others_write


@functools.cache
def _private_folder(place: Path) -> Path:
    """Return a folder of this process, removed when it ends: the usual one is somebody else's."""
    folder = tempfile.mkdtemp(prefix="instruct-cluster-", dir=place)
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return Path(folder)


def local_copy(store: Store, name: str, size_bytes: int, xxh3: str) -> Path:
    """
    Return a path on this machine that holds the file; the caller checks a local store's bytes.

    Raises:
        CorruptFileError: What the object store returned has another hash.
    """
    if store.is_local:
        return store.local_path(name)
    path = cache_folder() / xxh3
    with _locked(path.with_name(f"{xxh3}.lock")) as is_alone:
        if not _holds(path, size_bytes, xxh3):
            data = store.read(name)
            if xxhash.xxh3_128_hexdigest(data) != xxh3:
                data = store.read(name)  # one look is no verdict
            if xxhash.xxh3_128_hexdigest(data) != xxh3:
                raise CorruptFileError(
                    f"Shard {store.where(name)} is corrupt: xxh3 differs from the manifest. "
                    "Give the command again that made it."
                )
            if is_alone:
                for left in path.parent.glob(f"{xxh3}.*.tmp"):  # by ranks that were killed
                    left.unlink()
            _write_aside(path, data).replace(path)
    return path


@contextmanager
def _locked(path: Path) -> Iterator[bool]:
    """Wait for the other ranks of this node, and yield True; False where there are no locks."""
    flags = os.O_WRONLY | os.O_CREAT | os.O_NOFOLLOW
    with os.fdopen(os.open(path, flags, 0o600), "w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX)  # freed on death
        except OSError as error:
            if error.errno not in NO_LOCKS:
                raise
            yield False  # each rank then fetches for itself, which costs time only
        else:
            yield True


def _write_aside(path: Path, data: bytes) -> Path:
    descriptor, scratch = tempfile.mkstemp(".tmp", f"{path.name}.", path.parent)
    with gone_if_it_fails(Path(scratch)), naming(path), os.fdopen(descriptor, "wb") as file:
        file.write(data)
    return Path(scratch)


def _holds(path: Path, size_bytes: int, xxh3: str) -> bool:
    if not path.exists() or path.stat().st_size != size_bytes:
        return False
    return bool(xxhash.xxh3_128_hexdigest(path.read_bytes()) == xxh3)
