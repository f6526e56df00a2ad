"""
Follow a job: its events as lines, its steps as a bar; on this machine, Ctrl-C as a stop.

    exit_code = watch(job, "my-run")

The first Ctrl-C (or TERM) asks the job to save and end, the second kills it. USR1 and USR2 are
passed on, so a warning can be tried: kill -USR2 the launcher, and the run saves, is requeued and
goes on.
"""

from __future__ import annotations

import signal
import sys
import time
from types import FrameType
from typing import Any

from rich.progress import Progress, TaskID, TextColumn

from instruct_core.storage.store import Store
from jobs.job_folder import read_outcome, read_progress
from jobs.ledger import read_ledger
from launch.cluster.local import LocalJob
from launch.cluster.slurm import SlurmJob
from launch.console.display import console, progress_bar
from launch.console.lines import EXIT_FAILED, EXIT_INTERRUPTED, say

POLL_SECONDS = 0.2
SLURM_POLL_SECONDS = 1.0  # the files lie on a shared disk
LINE_SECONDS = 10.0  # between step lines where there is no terminal to draw a bar on
SHOWN = {
    "started": "Attempt {attempt} started: {world_size} ranks on {device}",
    "resumed": "Going on from step {step}",
    "damaged": "{message}",
    "foreign": "Note: {message}",
    "evaluated": "Step {step}: validation loss {val_loss:.4f}",
    "saved": "Step {step}: saved in {seconds:.2f} s",
    "untold_save": "Step {step}: saved by attempt {attempt}, which was killed before it could say so",
    "save_failed": "Step {step}: not saved: {error}. Tried again in {retry_seconds:.0f} s; training "
    "goes on",
    "made_room": "The disk is nearly full: older checkpoints were removed, of steps {steps}",
    "not_removed": "An older checkpoint could not be removed: {problem}",
    "warned": "Step {step}: warned by {signal}, all ranks saved",
    "requeued": "Requeued: the next attempt goes on from step {step}",
    "stopped": "Step {step}: stopped",
    "short_lead": "Slurm's warning comes {lead_seconds:.0f} s before the end, and a step and a save "
    "need {needed_seconds:.0f} s: the run will stop by itself in time",
    "failed": "Failed: {error}",
    "crashed": "Crashed: {error}",
    "finished": "Step {step}: finished",
}


def watch(job: LocalJob, run: str) -> int:
    """Follow a job until it ends; return the launcher's exit code."""
    follower = _Follower(job)
    before = {s: signal.signal(s, follower.on_signal) for s in follower.signals}
    try:
        follower.follow()
    finally:
        for signum, handler in before.items():
            signal.signal(signum, handler)
    return _conclude(job, run, follower.stopping)


def watch_slurm(job: SlurmJob, run: str) -> int:
    """Follow a job on Slurm until it ends; Ctrl-C only stops following. Return the exit code."""
    try:
        _Follower(job).follow()
    except KeyboardInterrupt:
        say(f"Stopped watching; the job goes on. Save and end it: scancel {job.job_id}")
        return 0
    return _conclude(job, run, stopping=False)


def _conclude(job: LocalJob | SlurmJob, run: str, stopping: bool) -> int:
    progress = read_progress(job.folder)
    again = "Give the same command again to go on."
    if progress.get("state") == "finished":
        say(f"Talk to it: python launch/chat.py --run {run}")
        return 0
    outcome = read_outcome(job.folder)
    if progress.get("state") == "stopped" or (stopping and outcome is None):
        at = f" at step {progress['committed']}" if "committed" in progress else ""
        say(f"Run {run} is stopped{at}. {again}")
        return EXIT_INTERRUPTED
    reason = "its processes were killed."
    if outcome is not None:
        reason = outcome["error"]
        if outcome["retry"]:
            print(outcome["traceback"].rstrip(), file=sys.stderr)
    elif isinstance(job, SlurmJob):
        reason = f"its job has ended ({job.state() or 'Slurm has forgotten it'})."
    print(f"error: run {run} failed: {reason} Log: {job.log_path()}", file=sys.stderr, flush=True)
    return EXIT_FAILED


def _sentence(event: dict[str, Any]) -> str:
    untold = event["event"] == "saved" and "seconds" not in event
    return SHOWN["untold_save" if untold else event["event"]].format(**event)


class _Follower:
    signals = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2)

    def __init__(self, job: LocalJob | SlurmJob) -> None:
        self._job, self._ledger = job, Store(job.ledger)
        self._num_events = len(read_ledger(self._ledger))
        self._line_at = time.monotonic()
        self.stopping = False

    def on_signal(self, signum: int, frame: FrameType | None) -> None:
        """Pass a warning on; turn Ctrl-C into a stop, and the second one into a kill."""
        assert isinstance(self._job, LocalJob)
        if signum in (signal.SIGUSR1, signal.SIGUSR2):
            self._job.warn(signal.Signals(signum))
        elif self.stopping:
            self._job.warn(signal.SIGKILL)
        else:
            self.stopping = True
            self._job.warn(signal.SIGTERM)
            say("Stopping: all ranks save at the next step (Ctrl-C again kills the run)")

    def follow(self) -> None:
        numbers = TextColumn("{task.fields[numbers]}")
        with progress_bar("step", numbers) as bar:
            task = bar.add_task("", total=None, numbers="")
            while self._job.is_running():
                self._show(bar, task)
                time.sleep(POLL_SECONDS if isinstance(self._job, LocalJob) else SLURM_POLL_SECONDS)
            self._show(bar, task)

    def _show(self, bar: Progress, task: TaskID) -> None:
        events = read_ledger(self._ledger)
        for event in events[self._num_events :]:
            say(_sentence(event))
        self._num_events = len(events)
        progress = read_progress(self._job.folder)
        if "loss" not in progress:
            return
        numbers = f"loss {progress['loss']:.4f}, {progress['tokens_per_second']:,.0f} tokens/s"
        step, total = progress["global_step"], progress["max_steps"]
        bar.update(task, completed=step, total=total, numbers=numbers)
        if not console.is_terminal and time.monotonic() - self._line_at > LINE_SECONDS:
            self._line_at = time.monotonic()
            say(f"Step {step} of {total}: {numbers}")
