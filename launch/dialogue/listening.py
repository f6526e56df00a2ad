"""
A server at its port, from the start to Ctrl-C.

    exit_code = serve(flags)
"""

from __future__ import annotations

import asyncio
import errno
import ipaddress
import os
import signal
import socket
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any

import h11
import uvicorn
from uvicorn.protocols.http.h11_impl import H11Protocol

from instruct_core.errors import ConfigError
from launch.console.ctrl_c import EXIT_INTERRUPTED
from launch.console.lines import note, say, term_as_interrupt
from launch.dialogue.guard import OWN, Guard
from launch.dialogue.in_turn import thread_to_answer
from launch.dialogue.request import Defaults
from launch.dialogue.server import Server
from launch.dialogue.speaker import Speaker, load_speaker
from launch.flags.run import ModelFlags
from launch.flags.serve import KEY, Serve

LARGEST_PORT = 65_535
PATIENCE_SECONDS = 5.0
HEADERS = [
    (
        "content-security-policy",
        "default-src 'none'; style-src 'self'; script-src 'self'; connect-src 'self'; img-src data:; "
        "base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    ),
    ("x-content-type-options", "nosniff"),
    ("referrer-policy", "no-referrer"),
]


def serve(flags: Serve) -> int:
    """
    Load a model and answer until Ctrl-C or TERM; return the exit code.

    Raises:
        ConfigError: The port cannot be had, or anybody could ask; nothing was loaded then.
        MissingError: There is no such model.
    """
    key = _key()
    with listener_at(flags, key) as listener, term_as_interrupt():
        answering = thread_to_answer()
        speaker = loaded(flags.model, answering)
        names = _names(flags.model, speaker)
        defaults = Defaults(flags.sampling, flags.max_new_tokens)
        server = Server(speaker, names, defaults, answering)
        app = Guard(server.app, key, {*OWN, flags.host.lower()})
        place = address_of(listener)
        who = names[0] if speaker.run is None else f"{names[0]}, {Path(speaker.place).name},"
        say(f"{who} answers at {place}/v1, and on a page at {place}. Ctrl-C ends.")
        if not key:
            note(
                f"Whoever is on this machine may ask. Set {KEY} to a secret to answer those who have it."
            )
        try:
            HttpServer(app, server).run(sockets=[listener])
        except KeyboardInterrupt:
            note("Stopped.")
    return 0


def loaded(flags: ModelFlags, answering: ThreadPoolExecutor) -> Speaker:
    """Return the model, loaded by the thread that will answer; raises as `load_speaker` does."""
    try:
        return answering.submit(load_speaker, flags).result()
    except KeyboardInterrupt:
        os._exit(EXIT_INTERRUPTED)  # nothing is to undo, and the thread would be waited for


class Connection(H11Protocol):
    """A client's connection, which is let go where a request takes a minute to come in whole."""

    seconds = 60.0

    def __init__(self, *args: Any, **settings: Any) -> None:
        super().__init__(*args, **settings)
        self._too_late: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """See asyncio.Protocol."""
        super().connection_made(transport)
        self._limit()

    def data_received(self, data: bytes) -> None:
        """See asyncio.Protocol."""
        super().data_received(data)
        self._limit()

    def connection_lost(self, exc: Exception | None) -> None:
        """See asyncio.Protocol."""
        super().connection_lost(exc)
        self._forget()

    def _limit(self) -> None:
        if self.conn.their_state not in (h11.IDLE, h11.SEND_BODY):
            self._forget()
        elif self._too_late is None:
            self._too_late = self.loop.call_later(self.seconds, self.transport.abort)

    def _forget(self) -> None:
        if self._too_late is not None:
            self._too_late.cancel()
            self._too_late = None


class HttpServer(uvicorn.Server):
    """
    One that no client keeps: a signal lets no answer grow by another token, and soon ends all.

    Args:
        app: What a request is given to.
        server: What answers behind it.
        patience_seconds: At the end, for who has not read or sent all yet.
    """

    def __init__(
        self, app: Guard, server: Server, patience_seconds: float = PATIENCE_SECONDS
    ) -> None:
        super().__init__(
            uvicorn.Config(
                app, loop="asyncio", http=Connection, ws="none", lifespan="off", access_log=False,
                log_config=None, log_level="error", headers=HEADERS, server_header=False,
            )
        )  # fmt: skip
        self._server, self._patience_seconds = server, patience_seconds

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """See uvicorn.Server."""
        self._server.in_turn.is_over = True
        super().handle_exit(sig, frame)

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        """See uvicorn.Server; who ignores Ctrl-C, as a job in the background, goes on ignoring it."""
        before = signal.getsignal(signal.SIGINT)
        with super().capture_signals():
            if before == signal.SIG_IGN:
                signal.signal(signal.SIGINT, before)
            yield

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """See uvicorn.Server."""
        last = asyncio.get_running_loop().call_later(self._patience_seconds, self._let_all_go)
        await super().shutdown(sockets)
        last.cancel()

    def _let_all_go(self) -> None:
        for connection in list(self.server_state.connections):
            connection.transport.abort()


def _key() -> str:
    key = os.environ.get(KEY, "")
    if key and not (key.isascii() and key.isprintable() and " " not in key):
        raise ConfigError(f"{KEY} must be letters, digits and signs of ASCII without blanks.")
    return key


def listener_at(flags: Serve, key: str) -> socket.socket:
    """
    Return a socket that listens at the port: one that is only bound, another command can have too.

    Raises:
        ConfigError: The port cannot be had, or anybody could ask.
    """
    host, port = flags.host, flags.port
    if not 0 <= port <= LARGEST_PORT:
        raise ConfigError(f"--port must be from 0 to {LARGEST_PORT}, got {port}.")
    try:
        family, kind, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
    except (OSError, UnicodeError):
        raise ConfigError(f"--host must be an address of this machine, got {host!r}.") from None
    if not key and not ipaddress.ip_address(str(address[0]).partition("%")[0]).is_loopback:
        raise ConfigError(
            f"--host {host} lets others than this machine ask, so a key is needed: set {KEY} to a secret."
        )
    listener = socket.socket(family, kind)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind(address)
        listener.listen()
    except OSError as error:
        listener.close()
        raise ConfigError(_why_not(host, port, error)) from None
    return listener


def address_of(listener: socket.socket) -> str:
    """Return where a browser finds what listens there; by this machine's name where it is everywhere."""
    host, port = listener.getsockname()[:2]
    if ipaddress.ip_address(host.partition("%")[0]).is_unspecified:
        host = socket.gethostname()
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


def _why_not(host: str, port: int, error: OSError) -> str:
    if error.errno == errno.EADDRINUSE:
        return (
            f"--port {port} is taken on {host}. Give another one, or --port 0 for any that is free."
        )
    if error.errno == errno.EACCES:
        return f"--port {port} is not yours to take. Give one of 1024 or more."
    return f"--host must be an address of this machine, got {host!r}: {error.strerror}."


def _names(flags: ModelFlags, speaker: Speaker) -> tuple[str, ...]:
    """Return the names that the model is asked by: of its run, or of its place as it was typed."""
    if speaker.run is not None:
        return (speaker.run.name,)
    typed = (flags.checkpoint or speaker.place).rstrip("/")
    return tuple(dict.fromkeys([typed.rsplit("/", 1)[-1], typed]))
