"""
Launchers for tests, without the second that a command's imports take: forks of a process that has them.

    launchers = WarmLaunchers()
    result = launchers.run("status", ["r"], cwd, environment, timeout_seconds=60.0)

The first launch of every command is a cold one, as a person's is: one that leans on what another
command has loaded fails there. So is one whose environment Python reads when it starts.
"""

from __future__ import annotations

import importlib
import json
import os
import runpy
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

REPO = Path(__file__).resolve().parent.parent
READ_AT_START = ("PYTHON", "LC_", "LANG", "OMP_", "LD_", "TZ")
LOADED = (
    "launch.training.start", "launch.arrays.shards", "launch.arrays.answers", "launch.runs.overview",
    "launch.runs.checkpoints", "launch.checkup.doctor", "launch.drills.drill",
    "launch.dialogue.dialogue", "launch.evaluation.measure", "jobs.attempt",
)  # fmt: skip


class WarmLaunchers:
    """A process that forks launchers, started when it is first needed."""

    def __init__(self) -> None:
        self._server: tuple[socket.socket, subprocess.Popen[bytes]] | None = None
        self._launched: set[str] = set()

    def run(
        self,
        verb: str,
        arguments: Sequence[str],
        cwd: Path,
        env: Mapping[str, str],
        timeout_seconds: float,
    ) -> subprocess.CompletedProcess[str]:
        """Run a launcher to its end, as a person does."""
        argv = [str(REPO / "launch" / f"{verb}.py"), *arguments]
        if verb not in self._launched or _read_at_start(env) != _read_at_start(os.environ):
            self._launched.add(verb)
            return subprocess.run(
                [sys.executable, *argv], cwd=cwd, env=env, capture_output=True, text=True,
                timeout=timeout_seconds, check=False,
            )  # fmt: skip
        request = json.dumps({"argv": argv, "cwd": str(cwd), "env": dict(env)}).encode()
        with tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as err:
            server = self._connection()
            socket.send_fds(server, [request], [out.fileno(), err.fileno()])
            code = _end_of(server, argv, timeout_seconds)
            said = [_text(file.seek(0) or file.read()) for file in (out, err)]
        return subprocess.CompletedProcess(argv, code, *said)

    def _connection(self) -> socket.socket:
        if self._server is None:
            ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
            command = [sys.executable, "-m", "tests.warm_launchers", str(theirs.fileno())]
            with theirs:
                process = subprocess.Popen(
                    command, cwd=REPO, stdin=subprocess.DEVNULL, pass_fds=[theirs.fileno()]
                )
            self._server = ours, process
        return self._server[0]

    def close(self) -> None:
        """End the process."""
        if self._server is not None:
            connection, process = self._server
            connection.close()
            process.wait()


def _read_at_start(env: Mapping[str, str]) -> dict[str, str]:
    return {name: value for name, value in env.items() if name.startswith(READ_AT_START)}


def _text(data: bytes) -> str:
    return data.decode().replace("\r\n", "\n")


def _end_of(server: socket.socket, argv: list[str], timeout_seconds: float) -> int:
    pid = int(server.recv(100))
    server.settimeout(timeout_seconds)
    try:
        return int(server.recv(100))
    except TimeoutError as error:
        os.kill(pid, signal.SIGKILL)
        raise subprocess.TimeoutExpired(argv, timeout_seconds) from error
    finally:
        server.settimeout(None)


def serve(connection: socket.socket) -> dict[str, Any] | None:
    """Fork a launcher for every request, and return there what it is to run; None at the end."""
    while True:
        data, files, _, _ = socket.recv_fds(connection, 1 << 20, 2)
        if not data:
            return None
        pid = os.fork()
        if pid == 0:
            connection.close()
            for number, file in enumerate(files, 1):
                os.dup2(file, number)
                os.close(file)
            request: dict[str, Any] = json.loads(data)
            return request
        for file in files:
            os.close(file)
        connection.send(str(pid).encode())
        _, status = os.waitpid(pid, 0)
        connection.send(str(os.waitstatus_to_exitcode(status)).encode())


def main() -> None:
    for name in LOADED:
        importlib.import_module(name)
    request = serve(socket.socket(fileno=int(sys.argv[1])))
    if request is None:
        return
    os.environ.clear()
    os.environ.update(request["env"])
    os.chdir(request["cwd"])
    sys.argv = request["argv"]
    sys.path[0] = str(Path(sys.argv[0]).parent)
    runpy.run_path(sys.argv[0], run_name="__main__")


if __name__ == "__main__":
    main()
