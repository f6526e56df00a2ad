"""
The scheduler of a machine without one: starts a job's tasks, warns them, and brings them back.

    python -m jobs.patient jobs.survival.local_controller FOLDER [MODULE ...]

submitit's own controller ends a run at the sixth requeue, dies of USR2 and orphans its tasks, and
waits for ever for ranks that wait for a dead one. This one passes USR1, USR2 and TERM on to the
tasks, ends the rest when one fails (srun's --kill-on-bad-exit), requeues when rank 0 asks for it,
restarts a crashed job as long as it makes progress, and takes the tasks with it when it is killed.
It loads the modules, and forks the tasks from itself at every start. Where the disk breaks off what
cannot be loaded twice, torch above all, it begins anew as the same process: all its forks would have a
part of it.

Source: submitit/local/local.py (the environment and the requeue code).
"""

from __future__ import annotations

import logging
import os
import select
import signal
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from types import FrameType
from typing import Literal, NoReturn

from submitit.core.utils import JobPaths
from submitit.local.local import LOCAL_REQUEUE_RETURN_CODE

from instruct_core.storage.looks import entries_in
from instruct_core.storage.patience import MAX_PAUSE_SECONDS, on_a_disk, patiently
from jobs.environment import loading
from jobs.failures import failure_report, read_failures, write_outcome
from jobs.job_folder import ASKS_BACK, FOLDER, START, Progress, or_unknown, read_progress
from jobs.notify import tell_failure
from jobs.patient import ReadInPartError, load
from jobs.process import age_seconds, start_ticks
from jobs.survival.call import call_job
from jobs.survival.crash import cause_of
from jobs.survival.requeue import allows_fruitless_start, judge_crash, too_many_warnings
from jobs.survival.stop_signal import WARNINGS
from jobs.survival.task import InTask, Task, become_task, fork
from jobs.timesheet import LOADED_SINCE

logger = logging.getLogger(__name__)

FAILURE_GRACE_SECONDS = 5.0  # for the other ranks to notice, and to say what they saw
START_SECONDS = 3600.0  # for the disk to let us start the tasks
REPEAT_SECONDS = 1.0  # a stop is repeated: a task that is still starting up ignores TERM
REQUEUES = (LOCAL_REQUEUE_RETURN_CODE, ASKS_BACK)
WARNING_DEATHS = (-signal.SIGUSR1, -signal.SIGUSR2)  # warned before it could listen

End = Literal["finished", "requeue", "warned", "crashed"]


class LocalController:
    """One job: its tasks, now and after every restart."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._num_tasks = int(os.environ["SUBMITIT_LOCAL_NTASKS"])
        self._tasks: list[Task] = []
        self._stopping = False
        self._num_starts = 0
        self._all_run = False
        self._untold = 0  # a warning that came while not all tasks ran
        self._killed: tuple[int, int] | None = None  # first task that a signal has ended, and which
        for signum in WARNINGS:
            signal.signal(signum, self._pass_on)
        # As the launcher has started us, until `run`: what comes meanwhile waits, also for a process that
        # begins anew. No thread that a module starts can take it, as each begins with them blocked.
        signal.pthread_sigmask(signal.SIG_BLOCK, WARNINGS)

    def _pass_on(self, signum: int, _frame: FrameType | None) -> None:
        self._stopping |= signum == signal.SIGTERM
        if not self._all_run:
            self._untold = signum
        for task in self._tasks:
            task.send_signal(signum)

    def run(self) -> int:
        """
        Run the job to its end; return the exit code: 0 finished or stopped, 1 failed.

        Raises:
            InTask: In a task.
        """
        signal.pthread_sigmask(signal.SIG_UNBLOCK, WARNINGS)
        while self._start_patiently():
            end = self._wait()
            self._kill_rest()
            codes = [task.returncode for task in self._tasks]
            if self._stopping or end == "finished":
                return 0
            if not self._comes_back(end):
                tell_failure(self._folder)
                return 1
            logger.warning("Tasks ended with %s (%s); starting again", codes, end)
        return 0

    def begin_anew(self) -> NoReturn:
        """
        Be executed once more, as the same process: a warning that came meanwhile waits for `run`.

        Raises:
            OSError: The disk does not give us our own Python.
        """
        command = [sys.executable, *sys.orig_argv[1:]]
        on_a_disk(Path(sys.executable), lambda: os.execv(sys.executable, command))

    def _comes_back(self, end: End) -> bool:
        """Return whether a job that ended so starts again; leave its last word where it does not."""
        folder = self._folder
        progress = or_unknown(lambda: read_progress(folder), Progress())
        if end == "crashed":
            crash = cause_of(or_unknown(lambda: read_failures(folder), []), killed=self._killed)
            again, _ = judge_crash(crash, folder, progress)
            if again and crash.away:
                time.sleep(MAX_PAUSE_SECONDS)  # as Slurm waits before the next start
            return again
        if end == "requeue" or allows_fruitless_start(folder, progress.committed or 0):
            return True
        write_outcome(folder, too_many_warnings("step"), "", retry=False)
        return False

    def _start_patiently(self) -> bool:
        """Start all tasks, again where the disk does not let us; False if a person stops it first."""
        return patiently(self._start_unless_stopped, START_SECONDS, lambda _: True)

    def _start_unless_stopped(self) -> bool:
        if self._stopping:
            return False
        try:
            self._start()
        except OSError as error:
            self._kill_rest()
            logger.warning("The tasks could not be started: %s. Trying again.", error)
            raise
        return True

    def _start(self) -> None:
        # Left by a kill in the middle of a requeue, it would block every later one (utils.py:182).
        for leftover in entries_in(self._folder, "*.save_tmp"):
            leftover.unlink()
        job_id = str(os.getpid())
        os.environ |= {FOLDER: str(self._folder), START: f"{self._num_starts:04d}"}
        is_first = self._num_starts == 0
        self._num_starts += 1
        self._tasks, self._killed = [], None
        for task in range(self._num_tasks):
            paths = JobPaths(self._folder, job_id, task)
            env = {
                "SUBMITIT_LOCAL_JOB_ID": job_id,
                "SUBMITIT_LOCAL_LOCALID": str(task),
                "SUBMITIT_LOCAL_GLOBALID": str(task),
            }
            if is_first:
                env[LOADED_SINCE] = str(start_ticks(os.getpid()))
            with paths.stdout.open("ab") as log:
                self._tasks.append(fork(env, log.fileno()))
        self._all_run = True
        if self._untold:
            self._pass_on(self._untold, None)
            self._untold = 0

    def _wait(self) -> End:
        """Wait until all tasks ended, or one failed and the others had time to say why."""
        running = {task.fd: task for task in self._tasks}
        give_up_at = float("inf")
        while running and time.monotonic() < give_up_at:
            patience = min(give_up_at - time.monotonic(), REPEAT_SECONDS)
            ended, _, _ = select.select(list(running), [], [], max(0.0, patience))
            for fd in ended:
                task = running.pop(fd)
                if (code := task.wait()) != 0 and give_up_at == float("inf"):
                    give_up_at = time.monotonic() + FAILURE_GRACE_SECONDS
                if code < 0 and self._killed is None:
                    self._killed = self._tasks.index(task), -code
            if self._tasks[0].returncode in REQUEUES:
                break  # the other ranks wait to be ended
            if self._stopping and not ended:
                self._pass_on(signal.SIGTERM, None)
        return self._judge()

    def _judge(self) -> End:
        codes = [task.returncode for task in self._tasks]
        if codes[0] in REQUEUES:
            return "requeue"
        if any(code in WARNING_DEATHS for code in codes):
            return "warned"
        return "finished" if not any(codes) and None not in codes else "crashed"

    def _kill_rest(self) -> None:
        self._all_run = False
        for task in self._tasks:
            if task.poll() is None:
                task.send_signal(signal.SIGKILL)
            task.wait()


def load_all(modules: Sequence[str]) -> None:
    """
    Import what the tasks will need; what cannot be imported is theirs to complain about.

    Raises:
        ReadInPartError: Another process may read what was broken off in this one.
    """
    for name in modules:
        try:
            load(name)
        except Exception as error:
            if isinstance(error, ReadInPartError) and _is_worth_another(error):
                raise
            logger.exception("%s could not be loaded before the tasks", name)


def _is_worth_another(error: ReadInPartError) -> bool:
    """Return True as long as a process that has the same number would still wait for the disk."""
    return age_seconds(os.getpid()) < error.patience_seconds


def run_job(folder: Path, modules: Sequence[str]) -> int:
    """Be the controller of a job, and in its forks a task; return the exit code of either."""
    controller = LocalController(folder)
    try:
        with loading():  # a collection in a task would also write to, and so copy, every page of it
            load_all(modules)
    except ReadInPartError as error:
        logger.warning("Beginning anew: %s", error)
        controller.begin_anew()
    try:
        return controller.run()
    except InTask:
        become_task()
    # Also of what is read before our own function begins.
    with failure_report(folder, int(os.environ["SUBMITIT_LOCAL_GLOBALID"])):
        call_job(folder)
    return 0


def main() -> int:
    """Be what the command line says."""
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    return run_job(Path(sys.argv[1]), sys.argv[2:])
