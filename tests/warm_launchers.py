"""
Launchers for tests, without the seconds that imports take: forks of a process that has them.

    launchers = WarmLaunchers()
    result = launchers.run("status", ["r"], cwd, environment, timeout_seconds=60.0)

The first launch of every command in a session is a cold one, as a person's is, with all that it starts:
one that leans on what another command has loaded fails there. So is one whose environment Python reads
when it starts, and so are all where nobody notes what was launched.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from tests.warm_processes import ForkServer, WarmProcess

REPO = Path(__file__).resolve().parent.parent
Launcher = subprocess.Popen[Any] | WarmProcess
READ_AT_START = ("PYTHON", "LC_", "LANG", "OMP_", "LD_", "TZ")


class WarmLaunchers:
    """Launchers, forked from a process that is started when it is first needed."""

    def __init__(self) -> None:
        self.notes: Path | None = None  # where all workers of a session note what has been launched
        self._server: ForkServer | None = None

    def run(
        self,
        verb: str,
        arguments: Sequence[str],
        cwd: Path,
        env: Mapping[str, str],
        timeout_seconds: float,
        typed: str = "",
    ) -> subprocess.CompletedProcess[str]:
        """Run a launcher to its end, as a person does who types at it, or a program."""
        with ExitStack() as stack:
            keys, out, err = (stack.enter_context(tempfile.TemporaryFile()) for _ in range(3))
            keys.write(typed.encode())
            keys.seek(0)
            process = self.start(
                verb, arguments, cwd=cwd, env=env, stdin=keys, stdout=out, stderr=err
            )
            try:
                code = process.wait(timeout_seconds)
            except subprocess.TimeoutExpired:
                process.kill()
                raise
            said = [_text(file.seek(0) or file.read()) for file in (out, err)]
        return subprocess.CompletedProcess(process.args, code, *said)

    def start(
        self, verb: str, arguments: Sequence[str], env: Mapping[str, str], **settings: Any
    ) -> Launcher:
        """Start a launcher, with settings as of subprocess.Popen."""
        command = [sys.executable, str(REPO / "launch" / f"{verb}.py"), *arguments]
        if _read_at_start(env) != _read_at_start(os.environ) or self._is_first(verb):
            return subprocess.Popen(command, env=env, **settings)
        if self._server is None:
            self._server = ForkServer(REPO, os.environ)
        return self._server.start(command, env=env, **settings)

    def _is_first(self, verb: str) -> bool:
        if self.notes is None:
            return True
        try:
            (self.notes / f"launched-{verb}").touch(exist_ok=False)
        except FileExistsError:
            return False
        return True

    def close(self) -> None:
        """End the process that forks them."""
        if self._server is not None:
            self._server.close()


def _read_at_start(env: Mapping[str, str]) -> dict[str, str]:
    return {name: value for name, value in env.items() if name.startswith(READ_AT_START)}


def _text(data: bytes) -> str:
    return data.decode().replace("\r\n", "\n")
