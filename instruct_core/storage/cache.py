"""
Files of an object store on this node's disk, each fetched once however many ranks ask for it.

    path = local_copy(store, "train/00003.safetensors", bytes, xxh3)

A file that lies on a local or shared disk is used where it is. The cache is the folder that
INSTRUCT_CACHE names, else `instruct-cluster` below the temporary folder; a file's name in it is
its hash, so nothing in it can be stale, and a damaged one is fetched again.
"""

from __future__ import annotations

import fcntl
import os
import tempfile
from pathlib import Path

import xxhash

from instruct_core.errors import CorruptFileError
from instruct_core.storage.store import Store


def cache_folder() -> Path:
    """Return where this node keeps fetched files."""
    default = Path(tempfile.gettempdir()) / f"instruct-cluster-{os.getuid()}"
    return Path(os.environ.get("INSTRUCT_CACHE") or default)


def local_copy(store: Store, name: str, size_bytes: int, xxh3: str) -> Path:
    """
    Return a path on this machine that holds the file; the caller checks a local store's bytes.

    Raises:
        CorruptFileError: What the object store returned has another hash.
    """
    if store.is_local:
        return store.local_path(name)
    folder = cache_folder()
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    path = folder / xxh3
    with (folder / f"{xxh3}.lock").open("w", encoding="utf-8") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # ranks of one node wait for the first; freed on death
        if not _holds(path, size_bytes, xxh3):
            data = store.read(name)
            if xxhash.xxh3_128_hexdigest(data) != xxh3:
                raise CorruptFileError(
                    f"Shard {store.where(name)} is corrupt: xxh3 differs from the manifest. "
                    "Give the command again that made it."
                )
            scratch = folder / f"{xxh3}.{os.getpid()}.tmp"
            scratch.write_bytes(data)
            scratch.replace(path)
    return path


def _holds(path: Path, size_bytes: int, xxh3: str) -> bool:
    if not path.exists() or path.stat().st_size != size_bytes:
        return False
    return bool(xxhash.xxh3_128_hexdigest(path.read_bytes()) == xxh3)
