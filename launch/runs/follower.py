"""
Follow a job: its events as lines, its steps as a bar; on this machine, Ctrl-C as a stop.

    exit_code = watch(job, run)

The first Ctrl-C (or TERM) asks the job to save and end, the second kills it. USR1 and USR2 are
passed on, so a warning can be tried: kill -USR2 the launcher, and the run saves, is requeued and
goes on. A job on another host is only watched.
"""

from __future__ import annotations

import signal
import time
from contextlib import suppress
from types import FrameType

from rich.progress import Progress, TaskID, TextColumn

from instruct_core.errors import SlurmError
from instruct_core.events import Event
from instruct_core.storage.patience import on_a_disk
from instruct_core.storage.store import Store
from jobs.events import Resumed
from jobs.failures import read_outcome
from jobs.job_folder import Progress as JobProgress
from jobs.job_folder import read_progress
from jobs.ledger import GrowingLedger
from jobs.process import put_back
from launch.cluster.local import LocalJob
from launch.cluster.slurm import NEVER_STARTS_HELP, SlurmJob
from launch.console.commands import as_typed
from launch.console.ctrl_c import EXIT_INTERRUPTED
from launch.console.display import console, progress_bar
from launch.console.lines import EXIT_FAILED, note, note_whole, say
from launch.runs.commands import run_command
from launch.runs.run import Run
from launch.runs.silence import silence_of
from launch.runs.waiting import waits_for

POLL_SECONDS = 0.2
SLURM_POLL_SECONDS = 1.0  # the files lie on a shared disk
TALK = "Talk to it: "
LINE_SECONDS = 10.0  # between step lines where there is no terminal to draw a bar on


def watch(job: LocalJob, run: Run) -> int:
    """Follow a job until it ends; return the launcher's exit code."""
    if not job.is_ours:
        return _only_watch(job, run, job.how_to_stop)
    follower = _Follower(job)
    before = {s: signal.signal(s, follower.on_signal) for s in follower.signals}
    try:
        follower.follow()
    finally:
        for signum, handler in before.items():
            put_back(signum, handler)
    return _conclude(job, run, follower.stopping or job.ended_well())


def watch_slurm(job: SlurmJob, run: Run) -> int:
    """Follow a job on Slurm until it ends; Ctrl-C only stops following. Return the exit code."""
    return _only_watch(job, run, job.cancel_command)


def _only_watch(job: LocalJob | SlurmJob, run: Run, how_to_stop: str) -> int:
    try:
        _Follower(job).follow()
    except KeyboardInterrupt:
        say(f"Stopped watching; the job goes on. Save and end it: {how_to_stop}")
        return 0
    return _conclude(job, run, stopping=False)


def _conclude(job: LocalJob | SlurmJob, run: Run, stopping: bool) -> int:
    progress = on_a_disk(job.folder, lambda: read_progress(job.folder))
    again = "Give the same command again to go on."
    if progress.state == "finished":
        say(f"{TALK}{run_command(run.store, 'chat')}")
        return 0
    outcome = on_a_disk(job.folder, lambda: read_outcome(job.folder))
    if progress.state == "paused":
        again = run_command(run.store, "control", "resume")
        say(f"Run {run.name} is paused. Have it go on: {again}")
        return EXIT_INTERRUPTED
    if progress.state == "stopped" or (stopping and outcome is None):
        at = "" if progress.committed is None else f" at step {progress.committed}"
        say(f"Run {run.name} is stopped{at}. {again}")
        return EXIT_INTERRUPTED
    reason = f"its processes were killed. {again}"
    if outcome is not None:
        reason = outcome.error
        if outcome.retry:
            note_whole(outcome.traceback.rstrip())
    elif isinstance(job, SlurmJob) and job.never_starts():
        reason = f"job {job.job_id} {NEVER_STARTS_HELP}."
    elif isinstance(job, SlurmJob):
        reason = f"its job has ended ({job.state() or 'Slurm has forgotten it'})."
    note(as_typed(f"error: run {run.name} failed: {reason} Log: {job.log_path()}"))
    return EXIT_FAILED


class _Follower:
    signals = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2)

    def __init__(self, job: LocalJob | SlurmJob) -> None:
        self._job, self._ledger = job, GrowingLedger(Store(job.ledger))
        self._line_at, self._line_step, self._seen_at = time.monotonic(), 0, 0.0
        self._noted: set[str] = set()
        self._told_wait, self._is_silent = "", False
        self.stopping = False

    def on_signal(self, signum: int, _frame: FrameType | None) -> None:
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
        self._ledger.news()  # what was told before it is followed
        numbers = TextColumn("{task.fields[numbers]}")
        with progress_bar("step", numbers) as bar:
            task = bar.add_task("", total=None, numbers="")
            while self._job.is_running() and not self._waits_for_ever():
                self._tell_wait()
                try:
                    self._show(bar, task)
                except OSError as error:  # the job may well go on: the next look may be answered
                    self._note_once(f"Note: how the run stands cannot be read now: {error}")
                time.sleep(POLL_SECONDS if isinstance(self._job, LocalJob) else SLURM_POLL_SECONDS)
            on_a_disk(self._job.folder, lambda: self._show(bar, task))

    def _tell_wait(self) -> None:
        """Say for what a job waits in the queue and until when, as often as that changes."""
        if isinstance(self._job, LocalJob):
            return
        with suppress(SlurmError):  # a controller that is away: the next look may be answered
            waits = waits_for(self._job.records())
            if waits and waits != self._told_wait:
                say(f"Job {self._job.job_id}: {waits}")
            self._told_wait = waits

    def _note_once(self, line: str) -> None:
        if line not in self._noted:
            self._noted.add(line)
            note(line)

    def _waits_for_ever(self) -> bool:
        return isinstance(self._job, SlurmJob) and self._job.never_starts()

    def _show(self, bar: Progress, task: TaskID) -> None:
        # First: a step that it names has been told by then, if there was anything to tell of it.
        progress = read_progress(self._job.folder)
        for entry in self._ledger.news():
            self._tell(entry.event)
        if progress.loss is None:
            return
        self._tell_silence(progress)
        numbers = f"loss {progress.loss:.4f}, {progress.tokens_per_second:,.0f} tokens/s"
        step, total = progress.global_step or 0, progress.max_steps
        bar.update(task, completed=step, total=total, numbers=numbers)
        is_news, self._seen_at = progress.updated_at != self._seen_at, progress.updated_at
        is_time = time.monotonic() - self._line_at > LINE_SECONDS
        if is_news and is_time and step > self._line_step and not console.is_terminal:
            self._line_at, self._line_step = time.monotonic(), step
            say(f"Step {step} of {total}: {numbers}")

    def _tell_silence(self, progress: JobProgress) -> None:
        """Say once that the run makes no steps, where its job is not back in the queue."""
        if not silence_of(progress, (), ()):  # by the clock alone, before its job is asked for
            self._is_silent = False
            return
        records = []
        if isinstance(self._job, SlurmJob):
            with suppress(SlurmError):
                records = self._job.records()
            if not any(record.is_running for record in records):
                return
        silence = silence_of(progress, self._ledger.entries(), records)
        if silence and not self._is_silent:
            say(f"Step {progress.global_step}: {silence}")
        self._is_silent = bool(silence)

    def _tell(self, event: Event) -> None:
        say(str(event))
        step = event.facts.get("step")
        if isinstance(event, Resumed):
            self._line_step = event.step
        elif isinstance(step, int):
            self._line_step = max(self._line_step, step)
