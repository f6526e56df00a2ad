"""A store that does not answer is not an empty one, and no URL brings a password in."""

from __future__ import annotations

import resource
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import fsspec
import pytest
from fsspec.implementations.memory import MemoryFileSystem
from fsspec.registry import _registry
from fsspec.spec import AbstractFileSystem

from instruct_core.errors import ConfigError
from instruct_core.storage import disk
from instruct_core.storage.plain_errors import without_secrets
from instruct_core.storage.store import Store
from tests.power import Power


def interrupted(*_: Any) -> Any:
    """Stand in for what Ctrl-C breaks off."""
    raise KeyboardInterrupt


class Away(MemoryFileSystem):
    """A store whose client has fsspec's own find and exists, and that does not answer."""

    protocol = "away"
    find = AbstractFileSystem.find
    answers_after = 10**9
    asked = 0

    def _ask(self) -> None:
        type(self).asked += 1
        if self.asked <= self.answers_after:
            raise TimeoutError("no answer")

    def ls(self, *args: Any, **options: Any) -> Any:
        self._ask()
        return super().ls(*args, **options)

    def info(self, *args: Any, **options: Any) -> Any:
        self._ask()
        return super().info(*args, **options)

    def pipe_file(self, *args: Any, **options: Any) -> Any:
        self._ask()
        return super().pipe_file(*args, **options)


@pytest.fixture(autouse=True)
def away(monkeypatch: pytest.MonkeyPatch) -> None:
    fsspec.register_implementation("away", Away, clobber=True)
    monkeypatch.setattr(Away, "asked", 0)


@pytest.mark.parametrize("ask", ["names", "tree", "exists", "size_bytes"])
def test_store_that_does_not_answer_is_no_empty_one(ask: str) -> None:
    store = Store("away://run", patience_seconds=0)

    with pytest.raises(OSError, match="no answer"):
        getattr(store, ask)(*(() if ask in ("names", "tree") else ("manifest.json",)))


def test_store_that_answers_again_in_time_was_only_waited_for(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(Away, "answers_after", 2)

    assert Store("away://run", patience_seconds=30).names() == []


def test_small_file_is_written_to_a_store_that_answers_again_in_time(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(Away, "answers_after", 2)
    store = Store("away://run", patience_seconds=30)

    store.replace("attempt-0000.jsonl", b"finished")

    assert store.read("attempt-0000.jsonl") == b"finished"


def test_tree_has_every_file_with_its_size() -> None:
    for url in ("memory://tree-test",):
        store = Store(url)
        store.put("a/b.json", [memoryview(b"12345")])
        store.put("c.json", [memoryview(b"1")])

        assert store.tree() == {"a/b.json": 5, "c.json": 1}
        assert Store(f"{url}/nothing-here").tree() == {}


@pytest.mark.timeout(60)
def test_links_that_lead_in_circles_are_not_followed(tmp_path: Path) -> None:
    store = Store(tmp_path)
    store.put("a/b.json", [memoryview(b"12345")])
    (tmp_path / "a" / "itself").symlink_to("itself")
    for name in ("up", "again"):
        (tmp_path / "a" / name).symlink_to("..")

    assert store.sizes("a") == {"b.json": 5}
    assert store.tree() == {"a": None, "a/again": None, "a/b.json": 5, "a/up": None}


@pytest.mark.parametrize(
    "url",
    ["s3://key:secret@bucket/a", "az://x/y?sig=abc", "https://host/f?X-Amz-Signature=1", "s3://[x"],
)
def test_url_with_a_password_is_refused_without_repeating_it(url: str) -> None:
    with pytest.raises(ConfigError) as caught:
        Store(url)

    assert "secret" not in str(caught.value)
    assert "abc" not in str(caught.value)


@pytest.mark.parametrize(
    ("url", "client", "extra"),
    [("az://container@account/x", "adlfs", "azure"), ("gs://bucket/x", "gcsfs", "gcs")],
)
def test_place_whose_client_is_not_installed_names_the_extra(
    monkeypatch: pytest.MonkeyPatch, url: str, client: str, extra: str
) -> None:
    """And an account in a URL of Azure is no password."""
    monkeypatch.delitem(_registry, url.partition("://")[0], raising=False)
    monkeypatch.setitem(sys.modules, client, None)

    with pytest.raises(ConfigError, match=rf"pip install -c constraints.txt -e '.\[{extra}\]'"):
        Store(url)


def test_place_whose_client_wants_an_account_is_not_told_to_install_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    class WithoutAccount(MemoryFileSystem):
        def __init__(self, *_: Any, **__: Any) -> None:
            raise ValueError("Must provide either a connection_string or account_name!!")

    monkeypatch.setitem(_registry, "az", WithoutAccount)

    with pytest.raises(ConfigError, match=r"account_name\. Check the URL, and the credentials in"):
        Store("az://container/x")


def test_secrets_of_the_environment_do_not_reach_a_message(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "very-secret-value")

    assert without_secrets("denied: very-secret-value!") == "denied: $AWS_SECRET_ACCESS_KEY!"


@pytest.mark.parametrize("write", ["replace", "claim"])
def test_disk_that_is_full_keeps_no_half_of_a_file(write: str, tmp_path: Path) -> None:
    store, limits = Store(tmp_path), resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (2, limits[1]))

    try:
        with pytest.raises(OSError, match="File too large"):
            getattr(store, write)("folder/file", b"longer than that")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)

    assert store.names("folder") == []


@pytest.mark.parametrize("patience", [0.0, 60.0])
@pytest.mark.parametrize("write", ["put", "replace", "claim", "move"])
def test_what_is_written_is_there_when_the_power_has_gone(
    write: str, patience: float, tmp_path: Path
) -> None:
    store, left = Store(tmp_path / "here", patience), tmp_path / "left"
    store.replace("old/file", b"bytes")

    with Power(tmp_path / "here") as power:
        if write == "move":
            store.move("old", "a/new")
        elif write == "put":
            store.put("a/new/file", [memoryview(b"bytes")])
        else:
            getattr(store, write)("a/new/file", b"bytes")
        power.goes(left)

    assert Store(left).read("a/new/file") == b"bytes"


def test_two_threads_that_write_one_file_at_once_do_not_meet(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store, real = Store(tmp_path, patience_seconds=0), disk.rename
    other = threading.Thread(target=store.replace, args=("file", b"other"))

    def rename(*arguments: Any) -> None:
        if threading.current_thread() is not other:
            other.start()
            other.join(60)
        real(*arguments)

    monkeypatch.setattr(disk, "rename", rename)

    store.replace("file", b"ours")

    assert store.read("file") == b"ours"
    assert store.names() == ["file"]


@pytest.mark.parametrize(
    ("at", "write"),
    [
        ("sync_folder", lambda store: store.put("big", [memoryview(b"data")])),
        ("link", lambda store: store.put("big", [memoryview(b"data")])),
        ("sync_folder", lambda store: store.replace("big", b"data")),
        ("rename", lambda store: store.replace("big", b"data")),
    ],
)
def test_write_that_ctrl_c_breaks_off_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, at: str, write: Callable[[Store], Any]
) -> None:
    """The hidden half of a large file is in an export for good: nobody else removes it."""
    monkeypatch.setattr(disk, at, interrupted)

    with pytest.raises(KeyboardInterrupt):
        write(Store(tmp_path))

    assert not list(tmp_path.iterdir())
