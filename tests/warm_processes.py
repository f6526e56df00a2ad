"""
Python processes for tests, without the seconds that their imports take: forks of one that has them.

    with ForkServer(REPO, env) as server:
        process = server.start([sys.executable, "launch/status.py", "r"], stdout=subprocess.PIPE)
        said, _ = process.communicate()

What a forked launcher starts in its turn, the controller of a job above all, is such a fork too.
"""

from __future__ import annotations

import json
import os
import select
import signal
import socket
import subprocess
import sys
from collections.abc import Mapping, Sequence
from contextlib import ExitStack, suppress
from pathlib import Path
from threading import Thread
from types import SimpleNamespace
from typing import IO, Any, Self


class WarmProcess:
    """A fork of a server, with what is asked of a subprocess.Popen."""

    def __init__(
        self,
        address: bytes,
        command: Sequence[str],
        *,
        cwd: Path | None = None,
        env: Mapping[str, str] | None = None,
        stdin: Any = None,
        stdout: Any = None,
        stderr: Any = None,
        encoding: str | None = None,
        start_new_session: bool = False,
        process_group: int | None = None,
        pass_fds: Sequence[int] = (),
    ) -> None:
        self.args, self._said = command, dict[str, Any]()
        self.returncode: int | None = None
        self._connection = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._connection.connect(address)
        with ExitStack() as stack:
            first, _ = _stream(stdin, 0, encoding, stack)
            second, self.stdout = _stream(stdout, 1, encoding, stack)
            third, self.stderr = _stream(stderr, 2, encoding, stack)
            request = {
                "argv": command[1:],
                "cwd": str(cwd or Path.cwd()),
                "env": dict(os.environ if env is None else env),
                "session": start_new_session,
                "group": process_group,
            }
            files = [first, second, third, *pass_fds]
            socket.send_fds(self._connection, [json.dumps(request).encode()], files)
            self.pid = int(self._connection.recv(100))

    def poll(self) -> int | None:
        """Return how it ended; None if it has not."""
        with suppress(BlockingIOError):
            self._end(socket.MSG_DONTWAIT)
        return self.returncode

    def wait(self, timeout: float | None = None) -> int:
        """Wait until it has ended, and return how."""
        if self.returncode is None and not select.select([self._connection], [], [], timeout)[0]:
            raise subprocess.TimeoutExpired(self.args, timeout or 0.0)
        return self._end(0)

    def _end(self, flags: int) -> int:
        if self.returncode is None:
            self.returncode = int(self._connection.recv(100, flags))
            self._connection.close()
        return self.returncode

    def communicate(self, timeout: float | None = None) -> tuple[Any, Any]:
        """Return what it said, once it has ended."""
        streams = {name: getattr(self, name) for name in ("stdout", "stderr")}
        threads = [
            Thread(target=self._read, args=(name, stream), daemon=True)
            for name, stream in streams.items()
            if stream is not None and not stream.closed
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(timeout)
        if any(thread.is_alive() for thread in threads):
            raise subprocess.TimeoutExpired(self.args, timeout or 0.0)
        self.wait(timeout)
        return self._said.get("stdout"), self._said.get("stderr")

    def _read(self, name: str, stream: IO[Any]) -> None:
        with stream:
            self._said[name] = stream.read()

    def send_signal(self, signum: int) -> None:
        """Send a signal; nothing happens to one that has ended."""
        if self.poll() is None:
            os.kill(self.pid, signum)

    def terminate(self) -> None:
        """Tell it to end."""
        self.send_signal(signal.SIGTERM)

    def kill(self) -> None:
        """Kill it."""
        self.send_signal(signal.SIGKILL)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc_info: object) -> None:
        for stream in (self.stdout, self.stderr):
            if stream is not None:
                stream.close()
        self.wait()


def _stream(
    what: Any, number: int, encoding: str | None, stack: ExitStack
) -> tuple[int, IO[Any] | None]:
    """Return what a process gets as one of its streams, and our end of it."""
    if what is None:
        return number, None
    if what == subprocess.DEVNULL:
        nothing = os.open(os.devnull, os.O_RDWR)
        stack.callback(os.close, nothing)
        return nothing, None
    if what == subprocess.PIPE:
        ours, theirs = os.pipe()
        stack.callback(os.close, theirs)
        return theirs, os.fdopen(ours, "r" if encoding else "rb", encoding=encoding)
    return what.fileno(), None


class ForkServer:
    """
    A process that forks others.

    Args:
        tree: The project whose code is loaded.
        env: What Python reads when it starts.
    """

    def __init__(self, tree: Path, env: Mapping[str, str]) -> None:
        listener = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._life, theirs = socket.socketpair()
        with listener, theirs:
            listener.bind(f"\0warm-{os.getpid()}-{self._life.fileno()}")
            listener.listen(100)
            self.address = listener.getsockname()
            fds = [listener.fileno(), theirs.fileno()]
            words = [*map(str, fds), str(tree)]
            self._process = subprocess.Popen(
                [sys.executable, "-m", "tests.fork_server", *words],
                cwd=Path(__file__).parent.parent, env={**env, "PYTHONPATH": str(tree)},
                stdin=subprocess.DEVNULL, pass_fds=fds,
            )  # fmt: skip

    def start(self, command: Sequence[str], **settings: Any) -> WarmProcess:
        """Start a script or a module: [sys.executable, ...], with settings as of subprocess.Popen."""
        return WarmProcess(self.address, command, **settings)

    def close(self) -> None:
        """End it; what it forked lives on."""
        self._life.close()
        self._process.wait()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()


def knows(address: bytes) -> SimpleNamespace:
    """
    Return a `subprocess` for a module whose processes are to be forks of a server.

    It has what such modules use. Another function of it would start a cold process, unseen.
    """

    def popen(command: Sequence[str], **settings: Any) -> WarmProcess:
        return WarmProcess(address, command, **settings)

    def run(
        command: Sequence[str], *, check: bool, **settings: Any
    ) -> subprocess.CompletedProcess[bytes]:
        assert not check
        with popen(command, **settings) as process:
            try:
                said = process.stdout.read() if process.stdout else None
            except BaseException:
                process.kill()
                raise
        assert process.returncode is not None
        return subprocess.CompletedProcess(command, process.returncode, said)

    same = {name: getattr(subprocess, name) for name in ("PIPE", "DEVNULL")}
    return SimpleNamespace(**same, Popen=popen, run=run)
