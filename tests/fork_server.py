"""
The process that forks the warm processes of tests: it has loaded what they will need.

    python -m tests.fork_server LISTENER LIFE TREE      # started by tests/warm_processes.py

It forks from its top level and waits for what it forked: a fork begins and ends as any process. It ends
when the other end of LIFE is closed.
"""

from __future__ import annotations

import atexit
import importlib
import io
import json
import os
import runpy
import select
import socket
import sys
import threading
import time
from collections.abc import Sequence
from contextlib import suppress
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple

from tests.warm_processes import knows

CHDIR_TRIES = 50  # a tenth of a second apart
# What is imported where it is used, too.
LOADED = (
    "launch.training.start", "launch.arrays.shards", "launch.arrays.answers", "launch.runs.overview",
    "launch.runs.checkpoints", "launch.checkup.doctor", "launch.drills.drill",
    "launch.dialogue.dialogue", "launch.evaluation.measure", "jobs.attempt",
    "instruct_core.answers.writer", "tensorboard.summary.writer.record_writer", "fastokens",
    "tyro", "typeguard", "s3fs", "aiobotocore.session",
)  # fmt: skip
# What a process makes once.
MADE = (
    ("instruct_core.data.gpt2_tokenizer", "load_gpt2_tokenizer"),
    ("launch.training.fit", "cpu_flops"),
)  # fmt: skip
# Those that start a Python.
STARTERS = (
    "launch.cluster.local", "launch.runs.model", "launch.drills.trial", "launch.checkup.nodes",
)  # fmt: skip
LONGEST_REQUEST = 1 << 20  # bytes
MOST_FILES = 16


class Request(NamedTuple):
    """What a fork is to be."""

    argv: list[str]
    cwd: str
    env: dict[str, str]
    session: bool
    group: int | None


def serve(listener: socket.socket, life: int) -> Request | None:
    """Fork a process for every request, and return there what it is to be; None at the end."""
    running: dict[int, tuple[int, socket.socket]] = {}
    while True:
        ready, _, _ = select.select([life, listener, *running], [], [])
        if life in ready:
            return None
        for fd in set(ready) & set(running):
            pid, client = running.pop(fd)
            os.close(fd)
            _tell(client, os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))
            client.close()
        if listener in ready:
            client, _ = listener.accept()
            data, files, _, _ = socket.recv_fds(client, LONGEST_REQUEST, MOST_FILES)
            pid = os.fork()
            if pid == 0:
                _take(files)
                return Request(**json.loads(data))
            for file in files:
                os.close(file)
            running[os.pidfd_open(pid)] = pid, client
            _tell(client, pid)


def _tell(client: socket.socket, number: int) -> None:
    with suppress(OSError):  # who asked may be gone
        client.send(str(number).encode())


def _take(files: Sequence[int]) -> None:
    """Have these files open, the first three as one's streams, and no others."""
    for number, file in enumerate(files[:3]):
        os.dup2(file, number)
    kept = [2, *sorted(files[3:]), os.sysconf("SC_OPEN_MAX")]
    for low, high in pairwise(kept):
        os.closerange(low + 1, high)


def become(request: Request) -> None:
    """Do what `python ARGV` does."""
    os.environ.clear()
    os.environ.update(request.env)
    for left in reversed(
        range(CHDIR_TRIES)
    ):  # who types stands in it already, whatever its disk says
        try:
            os.chdir(request.cwd)
            break
        except OSError:
            if not left:
                raise
            time.sleep(0.1)
    if request.session:
        os.setsid()
    if request.group is not None:
        os.setpgid(0, request.group)
    words = request.argv
    is_unbuffered = words[0] == "-u"
    words = words[is_unbuffered:]
    how = {"encoding": sys.stdout.encoding}
    sys.stdin = io.TextIOWrapper(io.BufferedReader(io.FileIO(0, closefd=False)), **how)
    raw = io.FileIO(1, "w", closefd=False)
    out: Any = raw if is_unbuffered else io.BufferedWriter(raw)
    sys.stdout = io.TextIOWrapper(out, write_through=is_unbuffered, **how)
    err = io.BufferedWriter(io.FileIO(2, "w", closefd=False))
    sys.stderr = io.TextIOWrapper(err, errors="backslashreplace", line_buffering=True, **how)
    if words[0] == "-m":
        sys.argv = words[1:]
        runpy.run_module(words[1], run_name="__main__", alter_sys=True)
    else:
        sys.argv = words
        sys.path[0] = str(Path(words[0]).parent)
        runpy.run_path(words[0], run_name="__main__")


def main() -> None:
    listener, life = socket.socket(fileno=int(sys.argv[1])), int(sys.argv[2])
    sys.path[0] = sys.argv[3]
    with importlib.import_module(
        "jobs.environment"
    ).loading():  # a fork that collects would copy it all
        for name in LOADED:
            importlib.import_module(name)
        for module, function in MADE:
            getattr(importlib.import_module(module), function)()
    for name in STARTERS:
        importlib.import_module(name).subprocess = knows(listener.getsockname())  # type: ignore[attr-defined]
    request = serve(listener, life)
    if request is not None:
        listener.detach()
        try:
            become(request)
        except SystemExit as end:
            if isinstance(end.code, int):
                _end(end.code)
            raise


def _end(code: int) -> None:
    """End without taking apart all that is loaded, which takes longer than most launchers do."""
    threading._shutdown()  # type: ignore[attr-defined]
    atexit._run_exitfuncs()
    sys.stdout.flush()
    os._exit(code)


if __name__ == "__main__":
    main()
