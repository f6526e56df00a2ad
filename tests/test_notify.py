"""A run that tells a real server how it goes, whose address is in none of its files."""

from __future__ import annotations

import os
import signal
from pathlib import Path

from tests.conftest import HANGS_SECONDS, launch, rank_pids, start, wait_for
from tests.jobs.test_notify import SECRET, Server, server
from tests.tiny_runs import arguments, count, run_of
from tests.warm_launchers import Launcher

__all__ = ["server"]  # a fixture


def test_run_tells_that_it_was_warned_goes_on_and_ends_and_keeps_the_address_to_itself(
    tmp_path: Path, light_shards: Path, server: Server,
    killed_after_test: list[Launcher],
) -> None:  # fmt: skip
    words = [*arguments(light_shards, 1), f"--notify={server.url}"]
    launcher = start("finetune", *words, cwd=tmp_path)
    killed_after_test.append(launcher)
    wait_for(lambda: count(tmp_path, "resumed") or launcher.poll() is not None, "the first step")
    os.kill(rank_pids(run_of(tmp_path))[0], signal.SIGUSR2)
    said, errors = launcher.communicate(timeout=HANGS_SECONDS)
    assert launcher.returncode == 0, errors

    events = [letter["event"] for letter in server.letters]
    assert events == ["preempted", "resumed", "finished"]
    leaks = [
        str(p) for p in tmp_path.rglob("*") if p.is_file() and SECRET.encode() in p.read_bytes()
    ]
    assert leaks == []
    assert SECRET not in said + errors
    again = launch("finetune", "--run=r", f"--notify=x{server.url}", cwd=tmp_path)
    assert again.returncode == 2
    assert SECRET not in again.stderr.replace(f"x{server.url}", "")
