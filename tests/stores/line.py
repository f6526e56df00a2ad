"""
A line to a store's server that can be cut: every request goes through it, is counted, and may go wrong.

    with Line(server.port) as line:
        line.plan(lambda request: Fault.KILL_BEFORE if request.number == 7 else None)

It speaks HTTP, and knows nothing of S3, Google or Azure: what works on it works with any client.
"""

from __future__ import annotations

import http.client
import os
import signal
import socket
import sys
import threading
from collections.abc import Callable
from contextlib import closing
from enum import Enum, auto
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, NamedTuple, Self

from tests.conftest import HANGS_SECONDS

HOP_BY_HOP = {"connection", "keep-alive", "transfer-encoding", "content-length"}


class Request(NamedTuple):
    """What a client asks for."""

    number: int  # from 1, since the last plan
    method: str
    path: str
    num_bytes: int


class Fault(Enum):
    """What happens to a request."""

    REFUSED = auto()  # 503, and the server never sees it
    FAILED = auto()  # 500, though the server has done it
    FORBIDDEN = auto()  # 403, and the server never sees it
    CUT_BEFORE = auto()  # no answer, and the server never sees it
    CUT_AFTER = auto()  # no answer, though the server has done it
    KILL = auto()  # the process that asked is dead before the server sees it


class Answer(NamedTuple):
    """What the server says."""

    status: int
    headers: dict[str, str]
    data: bytes


STATUS_OF = {Fault.REFUSED: 503, Fault.FORBIDDEN: 403}
Plan = Callable[[Request], Fault | None]


class Line:
    """
    A proxy on a free port of loopback.

    Args:
        port: Of the server behind it.
    """

    def __init__(self, port: int) -> None:
        self._behind = port
        self._lock = threading.Lock()
        self._plan: Plan = lambda request: None
        self.count = 0
        self.victim = 0  # process id of who is killed
        self._server = _Server(("127.0.0.1", 0), partial(_Handler, self))
        self.port = int(self._server.server_address[1])

    def __enter__(self) -> Self:
        threading.Thread(target=self._server.serve_forever, daemon=True).start()
        return self

    def __exit__(self, *exc_info: object) -> None:
        self._server.shutdown()
        self._server.server_close()

    def plan(self, plan: Plan) -> None:
        """Count anew, and treat requests like this from now on."""
        with self._lock:
            self.count, self._plan = 0, plan

    def clear(self) -> None:
        """Let everything through from now on."""
        self.plan(lambda request: None)

    def fault(self, method: str, path: str, num_bytes: int) -> Fault | None:
        """Count a request, and say what happens to it."""
        with self._lock:
            self.count += 1
            return self._plan(Request(self.count, method, path, num_bytes))

    def forward(self, asked: BaseHTTPRequestHandler, body: bytes) -> Answer:
        """Have the server do it."""
        headers = {
            name: value for name, value in asked.headers.items() if name.lower() not in HOP_BY_HOP
        }
        has_body = body or "Content-Length" in asked.headers
        if has_body:
            headers["Content-Length"] = str(len(body))
        connection = http.client.HTTPConnection("127.0.0.1", self._behind, timeout=HANGS_SECONDS)
        with closing(connection):  # also where the server goes away before it has answered
            connection.request(asked.command, asked.path, body if has_body else None, headers)
            answer = connection.getresponse()
            data = answer.read()
        kept = {
            name: value for name, value in answer.getheaders() if name.lower() not in HOP_BY_HOP
        }
        if asked.command == "HEAD":  # the length of what it would be
            kept["Content-Length"] = answer.getheader("Content-Length", "0")
        return Answer(answer.status, kept, data)


class _Server(ThreadingHTTPServer):
    daemon_threads = True

    def handle_error(self, request: Any, client_address: Any) -> None:
        if not isinstance(sys.exception(), ConnectionError):  # a client that was killed, or cut off
            super().handle_error(request, client_address)


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def __init__(self, line: Line, *args: Any) -> None:
        self._line = line
        super().__init__(*args)

    def answer(self) -> None:
        body = _body_of(self)
        fault = self._line.fault(self.command, self.path, len(body))
        if fault is Fault.KILL:
            os.kill(self._line.victim, signal.SIGKILL)
        if fault in STATUS_OF:
            self._send(Answer(STATUS_OF[fault], {}, b""))
        elif fault in (Fault.KILL, Fault.CUT_BEFORE):
            self._cut()
        else:
            answer = self._line.forward(self, body)
            if fault is Fault.CUT_AFTER:
                self._cut()
            else:
                self._send(Answer(500, {}, b"") if fault is Fault.FAILED else answer)

    do_GET = do_PUT = do_POST = do_DELETE = do_PATCH = do_HEAD = answer  # noqa: N815

    def _send(self, answer: Answer) -> None:
        self.send_response_only(answer.status)
        for name, value in answer.headers.items():
            self.send_header(name, value)
        if "Content-Length" not in answer.headers:
            self.send_header("Content-Length", str(len(answer.data)))
        self.end_headers()
        self.wfile.write(answer.data)

    def _cut(self) -> None:
        self.close_connection = True
        self.connection.shutdown(socket.SHUT_RDWR)

    def log_message(self, *args: object) -> None:
        pass


def _body_of(asked: BaseHTTPRequestHandler) -> bytes:
    if asked.headers.get("Transfer-Encoding", "").lower() != "chunked":
        return asked.rfile.read(int(asked.headers.get("Content-Length") or 0))
    body = b""
    while size := int(asked.rfile.readline().split(b";")[0], 16):
        body += asked.rfile.read(size)
        asked.rfile.readline()
    asked.rfile.readline()
    return body
