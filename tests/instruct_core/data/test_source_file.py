"""A source whose disk or server fails in passing is read on where it failed; a cut off body is no end."""

from __future__ import annotations

import errno
import json
import os
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from fsspec.implementations.local import LocalFileOpener

from instruct_core.data.ranges import stat_files
from instruct_core.data.records import read_records
from instruct_core.data.source_file import BUFFER_BYTES
from instruct_core.data.sources import resolve_source
from instruct_core.errors import ConfigError
from instruct_core.storage import patience
from instruct_core.storage.store import Store
from tests.slow_clock import Clock

ROWS = [{"instruction": f"Say {n}.", "output": "word " * 400} for n in range(3000)]
DATA = "".join(json.dumps(row) + "\n" for row in ROWS).encode()


@pytest.fixture(autouse=True)
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(patience, "time", clock)
    return clock


@pytest.mark.parametrize("number", [errno.EIO, errno.ESTALE])
@pytest.mark.parametrize("what", ["open", "readinto"])
def test_disk_that_fails_in_passing_is_read_on_where_it_failed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int, what: str
) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_bytes(DATA)
    assert len(DATA) > 4 * BUFFER_BYTES
    left = [0, 2, 0, 0, 3, 0, 1]  # failures before each call is answered

    def sick(*_: Any) -> None:
        if left and left[0]:
            left[0] -= 1
            raise OSError(number, os.strerror(number))
        del left[:1]

    class Sick(LocalFileOpener):
        def _open(self) -> None:
            if what == "open":
                sick()
            super()._open()

        def readinto(self, buffer: Any) -> int:
            if what == "readinto":
                sick()
            return int(self.f.readinto(buffer))

    monkeypatch.setattr("fsspec.implementations.local.LocalFileOpener", Sick)

    for _ in range(3 if what == "open" else 1):
        assert [record.value for record in read_records(str(path))] == ROWS

    assert left == ([0, 3, 0, 1] if what == "open" else [])


def test_disk_that_stays_sick_is_named_with_the_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, clock: Clock
) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_bytes(DATA)

    def sick(*_: Any) -> None:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    monkeypatch.setattr(LocalFileOpener, "readinto", sick, raising=False)
    began_at = clock.now

    with pytest.raises(OSError, match="Input/output error") as caught:
        list(read_records(str(path)))

    assert caught.value.filename == str(path)
    assert clock.now > began_at + 50


class Server(ThreadingHTTPServer):
    """Has DATA at every path; the path says what is wrong with its answers."""

    daemon_threads = True
    num_requests = 0

    def handle_error(self, request: Any, client_address: Any) -> None:
        if not isinstance(sys.exception(), ConnectionError):  # of a client that has seen enough
            super().handle_error(request, client_address)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"


class _Handler(BaseHTTPRequestHandler):
    server: Server

    def do_GET(self) -> None:
        begin, end = 0, len(DATA)
        if asked := self.headers.get("Range"):
            first, last = asked.removeprefix("bytes=").split("-")
            begin, end = int(first), min(end, int(last) + 1)
        has_ranges = asked and "whole" not in self.path
        data = DATA[begin:end] if has_ranges else DATA
        if self.command == "GET":
            self.server.num_requests += 1
        is_bad = self.server.num_requests in (1, 3) and self.command == "GET"
        self.send_response(206 if has_ranges else 200)
        if "endless" not in self.path:
            self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        if self.command == "GET":
            is_cut = "cut" in self.path and is_bad
            self.wfile.write(data[: len(data) // 2] if is_cut else data)

    do_HEAD = do_GET  # noqa: N815  http.server's name

    def log_message(self, *_: object) -> None:
        """Say nothing."""


@pytest.fixture
def server() -> Iterator[Server]:
    with Server(("127.0.0.1", 0), _Handler) as server:
        serving = threading.Thread(target=server.serve_forever, args=(0.01,))
        serving.start()
        yield server
        server.shutdown()
        serving.join(60)


def test_body_that_is_cut_off_is_asked_for_again(server: Server, tmp_path: Path) -> None:
    source = resolve_source(f"{server.url}/cut/rows.jsonl", Store(tmp_path))

    rows = [record.value for url in source.files for record in read_records(url)]

    assert rows == ROWS


def test_server_without_ranges_is_refused_in_one_line(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("instruct_core.data.source_file.BLOCK_BYTES", 1 << 20)
    url = f"{server.url}/whole/rows.jsonl"

    said = rf"Source {url} cannot be read from any row on: .*range requests.* Fetch it, and give"
    with pytest.raises(ConfigError, match=said):
        list(read_records(url))


def test_server_that_does_not_say_how_long_a_file_is_is_refused_in_one_line(server: Server) -> None:
    url = f"{server.url}/endless/rows.jsonl"

    with pytest.raises(
        ConfigError, match="cannot be read from any row on: its server does not say"
    ):
        stat_files([url])
