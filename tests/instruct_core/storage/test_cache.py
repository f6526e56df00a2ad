"""The folder of fetched shards: nobody else on the node can have it overwrite anything."""

from __future__ import annotations

import errno
import fcntl
import os
import resource
from pathlib import Path
from typing import Any

import pytest
import xxhash

from instruct_core.storage import cache
from instruct_core.storage.cache import cache_folder, local_copy
from instruct_core.storage.store import Store

DATA = b"tokens of a shard"
HASH = xxhash.xxh3_128_hexdigest(DATA)


@pytest.fixture(autouse=True)
def temporary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """This node's temporary folder."""
    monkeypatch.delenv("INSTRUCT_CACHE", raising=False)
    monkeypatch.setattr(cache.tempfile, "tempdir", str(tmp_path))
    cache._private_folder.cache_clear()
    return tmp_path


@pytest.fixture
def store(tmp_path: Path) -> Store:
    store = Store(f"memory://{tmp_path.name}")
    store.replace("0.safetensors", DATA)
    return store


def fetch(store: Store) -> Path:
    path = local_copy(store, "0.safetensors", len(DATA), HASH)
    assert path.read_bytes() == DATA
    return path


def usual(place: Path) -> Path:
    return place / f"instruct-cluster-{os.getuid()}"


def test_file_is_fetched_once_into_a_folder_of_ours(store: Store, temporary: Path) -> None:
    first = fetch(store)
    store.remove("0.safetensors")

    assert fetch(store) == first
    assert first.parent == usual(temporary)
    assert first.parent.stat().st_mode & 0o777 == 0o700


def test_copy_that_is_damaged_is_fetched_anew(store: Store, temporary: Path) -> None:
    path = fetch(store)
    path.write_bytes(DATA[:-1] + bytes([DATA[-1] ^ 1]))

    assert fetch(store) == path


def test_links_in_a_folder_that_others_may_write_are_not_followed(
    store: Store, temporary: Path
) -> None:
    victim = temporary / "thesis.txt"
    victim.write_text("years of work")
    folder = usual(temporary)
    folder.mkdir()
    folder.chmod(0o777)
    for name in (f"{HASH}.lock", f"{HASH}.{os.getpid()}.tmp"):
        (folder / name).symlink_to(victim)

    path = fetch(store)

    assert victim.read_text() == "years of work"
    assert path.parent != folder
    assert path.parent.stat().st_mode & 0o777 == 0o700
    assert fetch(store) == path


@pytest.mark.parametrize("kind", ["link", "file", "another's"])
def test_folder_that_is_not_ours_is_not_used(
    store: Store, temporary: Path, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = usual(temporary)
    (temporary / "elsewhere").mkdir()
    if kind == "link":
        folder.symlink_to(temporary / "elsewhere")
    elif kind == "file":
        folder.write_text("")
    else:
        folder.mkdir()
        monkeypatch.setattr(cache, "os", Os(getuid=lambda: os.getuid() + 1))
        usual(temporary).rename(temporary / f"instruct-cluster-{os.getuid() + 1}")

    path = fetch(store)

    assert path.parent.parent == temporary
    assert path.parent.name.startswith("instruct-cluster-")
    assert not path.parent.name.endswith((f"-{os.getuid()}", f"-{os.getuid() + 1}"))
    assert list((temporary / "elsewhere").iterdir()) == []


class Os:
    """The module's `os`, of which some functions are others."""

    def __init__(self, **functions: Any) -> None:
        vars(self).update(functions)

    def __getattr__(self, name: str) -> Any:
        return getattr(os, name)


def test_folder_of_a_group_that_was_named_gets_one_of_ours_below_it(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shared = tmp_path / "scratch"
    shared.mkdir()
    shared.chmod(0o2775)
    (tmp_path / "link").symlink_to(shared)
    monkeypatch.setenv("INSTRUCT_CACHE", str(tmp_path / "link"))

    assert fetch(store).parent == usual(shared)
    monkeypatch.setenv("INSTRUCT_CACHE", str(tmp_path / "own/cache"))
    assert cache_folder() == tmp_path / "own/cache"


def test_what_killed_ranks_have_left_is_removed(store: Store) -> None:
    folder = cache_folder()
    for name in (f"{HASH}.1.tmp", f"{HASH}.2.tmp", "0123.1.tmp"):
        (folder / name).write_bytes(b"half")

    fetch(store)

    assert sorted(path.name for path in folder.glob("*.tmp")) == ["0123.1.tmp"]


@pytest.mark.parametrize("number", [errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP])
def test_disk_without_locks_serves_too(
    store: Store, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    class NoLocks:
        LOCK_EX = fcntl.LOCK_EX

        def flock(self, *_arguments: object) -> None:
            raise OSError(number, os.strerror(number))

    monkeypatch.setattr(cache, "fcntl", NoLocks())

    assert fetch(store).parent == cache_folder()


def test_folder_without_room_is_named_and_keeps_no_part_of_a_file(
    store: Store, temporary: Path
) -> None:
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (2, limits[1]))
    try:
        with pytest.raises(OSError, match=f"File too large: '{usual(temporary)}"):
            fetch(store)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)

    assert [path.name for path in usual(temporary).iterdir()] == [f"{HASH}.lock"]
    fetch(store)
