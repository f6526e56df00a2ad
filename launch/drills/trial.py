"""
One of a drill's two runs, made with the command that a person would type.

    trial = Trial("hit", folder, arguments)
    trial.run(faults)
    trial.entries()             # its ledger
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterable, Sequence
from pathlib import Path

from instruct_core.errors import DrillError
from instruct_core.storage.store import Store
from jobs.bad_nodes import BAD_NODES
from jobs.drill import Fault, Hit, read_hits, write_schedule
from jobs.environment import NOTIFY
from jobs.ledger import Entry, read_ledger
from jobs.receipt import Receipt
from launch.cluster.local import LocalJob
from launch.cluster.slurm import SlurmJob
from launch.console.commands import command
from launch.console.ctrl_c import EXIT_INTERRUPTED
from launch.console.lines import EXIT_BAD_INPUT, say
from launch.runs.follower import TALK
from launch.runs.run import Run
from launch.runs.status import RunStatus

LAUNCH = Path(__file__).resolve().parent.parent  # where the commands are
POLL_SECONDS = 1.0


class RefusedError(Exception):
    """The command refused what it was given, and has said why."""


class Trial:
    """
    A run of a drill.

    Args:
        name: Of the run.
        folder: Of the drill.
        arguments: Of launch/finetune.py, but for the run's name and places.
    """

    def __init__(self, name: str, folder: Path, arguments: Sequence[str]) -> None:
        checkpoints, runs = folder / "checkpoints", folder / "runs"
        self._run = Run(name, Store(checkpoints) / name, str(runs))
        self._command = [
            "finetune", f"--run={name}", f"--checkpoints={checkpoints}", f"--runs={runs}", "--follow",
            *arguments,
        ]  # fmt: skip
        self._faults: Sequence[Fault] = ()

    @property
    def checkpoints(self) -> Store:
        """Its checkpoints."""
        return self._run.store

    @property
    def ledger(self) -> Store:
        """Its ledger, and the samples it read."""
        return self._run.ledger

    def run(self, faults: Sequence[Fault] = ()) -> None:
        """
        Train to the end, hit by faults; after a person's stop the same command is given again.

        Raises:
            RefusedError: It cannot be begun as the person wants it.
            DrillError: The run ended before its last step, or nobody stopped it and it stopped.
        """
        self._faults = faults
        if faults:
            write_schedule(self.ledger, faults)
        stops = sum(fault.kind == "term" for fault in faults)
        try:
            while (code := type_command(self._command)) == EXIT_INTERRUPTED and stops:
                stops -= 1
        except KeyboardInterrupt:
            self._end_job()
            raise
        if code == EXIT_BAD_INPUT:
            raise RefusedError
        if code != 0:
            outcome = RunStatus.of(self._run).outcome()
            why = f": {outcome.error}" if outcome is not None else ""
            raise DrillError(f"the run {self._run.name} ended with exit code {code}{why}")

    def hits(self) -> list[Hit | None]:
        """Return when each fault came; None for one that did not."""
        return read_hits(self.ledger, self._faults)

    def entries(self) -> list[Entry]:
        """Return its ledger."""
        return read_ledger(self.ledger)

    def receipt(self) -> Receipt:
        """Return where its seconds went."""
        return RunStatus.of(self._run).receipt()

    def _end_job(self) -> None:
        """End a job that did not end with its command: on Slurm, or where that did not watch it yet."""
        here = LocalJob.found(self._run.lock)
        if here is not None:
            here.warn(signal.SIGKILL)
        job = here or SlurmJob.found(self._run.slurm_note)
        if isinstance(job, SlurmJob) and job.is_running():
            job.cancel()
        while job is not None and job.is_running():
            time.sleep(POLL_SECONDS)  # nobody tells


def type_command(words: Iterable[str]) -> int:
    """Run one of the commands, show what it prints, and return its exit code."""
    verb, *arguments = words
    say(f"$ {command(verb, *arguments)}")
    typed = [sys.executable, str(LAUNCH / f"{verb}.py"), *arguments]
    quiet = {name: value for name, value in os.environ.items() if name != NOTIFY}  # nobody is told
    quiet[BAD_NODES] = ""  # and no node is blamed for what the drill does
    with subprocess.Popen(typed, env=quiet, stdout=subprocess.PIPE, encoding="utf-8") as process:
        assert process.stdout is not None
        try:
            for line in process.stdout:
                if not line.startswith(TALK):  # its run is soon gone
                    say(f"  {line.rstrip()}")
        except KeyboardInterrupt:
            process.terminate()  # and its job with it, before its folder goes
            process.wait()
            raise
    return process.returncode
