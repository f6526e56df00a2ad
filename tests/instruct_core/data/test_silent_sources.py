"""A store or a server that does not answer, or not now, is told from one that has no such file."""

from __future__ import annotations

import socket
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from fsspec.implementations.memory import MemoryFileSystem

from instruct_core.data.sources import resolve_source
from instruct_core.errors import ConfigError
from instruct_core.storage.store import Store


def test_store_that_does_not_answer_is_not_taken_for_a_missing_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise OSError("no answer")

    monkeypatch.setattr(MemoryFileSystem, "info", refuse)

    with pytest.raises(ConfigError, match=r"memory://rows.jsonl cannot be read: no answer"):
        resolve_source("memory://rows.jsonl", Store(tmp_path))


class _AskedTooOften(BaseHTTPRequestHandler):
    """Answers as a server that wants to be left alone for a while."""

    def do_GET(self) -> None:
        self.send_response(429)
        self.end_headers()

    do_HEAD = do_GET  # noqa: N815  http.server's name

    def log_message(self, *_: object) -> None:
        """Say nothing."""


def test_server_that_was_asked_too_often_is_not_taken_for_one_without_the_file(
    tmp_path: Path,
) -> None:
    with ThreadingHTTPServer(("127.0.0.1", 0), _AskedTooOften) as server:
        url = f"http://127.0.0.1:{server.server_port}/rows.jsonl"
        serving = threading.Thread(target=server.serve_forever, args=(0.01,))
        serving.start()

        with pytest.raises(ConfigError) as caught:
            resolve_source(url, Store(tmp_path))

        server.shutdown()
        serving.join(60)
    assert str(caught.value) == (
        f"Source {url} cannot be read: the server takes no more requests for now (HTTP 429). Try "
        "again in some minutes."
    )


def test_server_that_does_not_answer_is_not_taken_for_one_without_the_file(tmp_path: Path) -> None:
    with socket.socket() as nobody:
        nobody.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{nobody.getsockname()[1]}/rows.jsonl"

        with pytest.raises(ConfigError, match=f"{url} cannot be read: Cannot connect"):
            resolve_source(url, Store(tmp_path))
