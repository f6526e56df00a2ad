"""
A chat at a terminal of its own, for tests: typed into, read from, and stopped with Ctrl-C.

    terminal = Terminal(cwd, "--run=r")
    terminal.wait_for("> ")
    terminal.type("What is AI?\n")
"""

from __future__ import annotations

import os
import pty
import select
import subprocess
import sys
import time
from pathlib import Path

from tests.conftest import HANGS_SECONDS, REPO, environment


class Terminal:
    """A chat at a terminal of its own."""

    def __init__(self, cwd: Path, *arguments: str) -> None:
        self._fd, theirs = pty.openpty()
        command = [sys.executable, str(REPO / "launch" / "chat.py"), *arguments]
        self.process = subprocess.Popen(
            command, cwd=cwd, env=environment() | {"XDG_STATE_HOME": str(cwd / "state")},
            stdin=theirs, stdout=theirs, stderr=theirs, start_new_session=True,
            preexec_fn=_take_terminal,  # noqa: PLW1509  the test has one thread
        )  # fmt: skip
        os.close(theirs)
        self.seen = self.heard = ""  # what was not waited for yet, and all there was

    def wait_for(self, text: str) -> None:
        """Read until a text has come, and forget what came up to its end."""
        assert self._comes(text, HANGS_SECONDS), (
            f"{text!r} did not come; seen: {self.seen[-500:]!r}"
        )

    def press_ctrl_c(self, expected: str) -> None:
        """Press it again if nothing comes: CPython overlooks one just as it begins to wait."""
        for _ in range(10):
            self.type("\x03")
            if self._comes(expected, 6):
                return
        raise AssertionError(f"{expected!r} did not come; seen: {self.seen[-500:]!r}")

    def _comes(self, text: str, timeout_seconds: float) -> bool:
        deadline = time.monotonic() + timeout_seconds
        while text not in self.seen:
            ready, _, _ = select.select([self._fd], [], [], max(0.0, deadline - time.monotonic()))
            if not ready:
                return False
            part = os.read(self._fd, 4096).decode(errors="replace").replace("\r\n", "\n")
            self.seen, self.heard = self.seen + part, self.heard + part
        self.seen = self.seen.partition(text)[2]
        return True

    def type(self, text: str) -> None:
        os.write(self._fd, text.encode())

    def close(self) -> None:
        self.process.kill()
        self.process.wait()
        os.close(self._fd)


def _take_terminal() -> None:
    import fcntl
    import termios

    fcntl.ioctl(0, termios.TIOCSCTTY, 0)
