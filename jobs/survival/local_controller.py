"""
The scheduler of a machine without one: starts a job's tasks, warns them, and brings them back.

    python -m jobs.survival.local_controller FOLDER    # started by launch/cluster/local.py

submitit's own controller ends a run at the sixth requeue, dies of USR2 and orphans its tasks, and
waits for ever for ranks that wait for a dead one. This one passes USR1, USR2 and TERM on to the
tasks, ends the rest when one fails (srun's --kill-on-bad-exit), requeues when rank 0 asks for it,
restarts a crashed job as long as it makes progress, and takes the tasks with it when it is killed.

Sources: submitit/local/local.py (the environment and the requeue code); prctl(2); pidfd_open(2).
"""

from __future__ import annotations

import ctypes
import logging
import os
import select
import shlex
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import FrameType
from typing import Literal

from submitit.core.utils import JobPaths
from submitit.local.local import LOCAL_REQUEUE_RETURN_CODE

from jobs.job_folder import (
    FOLDER,
    READ_AGAIN_SECONDS,
    START,
    Progress,
    or_unknown,
    read_failures,
    read_progress,
    write_outcome,
)
from jobs.survival.requeue import (
    allows_fruitless_start,
    cause_of,
    judge_crash,
    too_many_warnings,
)

logger = logging.getLogger(__name__)

FAILURE_GRACE_SECONDS = 5.0  # for the other ranks to notice, and to say what they saw
START_TRIES = 240  # to start the tasks: an hour
REPEAT_SECONDS = 1.0  # a stop is repeated: a task that is still starting up ignores TERM
PR_SET_PDEATHSIG = 1
WARNING_DEATHS = (-signal.SIGUSR1, -signal.SIGUSR2)  # warned before it could listen

End = Literal["finished", "requeue", "warned", "crashed"]


class LocalController:
    """One job: its tasks, now and after every restart."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._num_tasks = int(os.environ["SUBMITIT_LOCAL_NTASKS"])
        self._command = shlex.split(os.environ["SUBMITIT_LOCAL_COMMAND"])
        self._tasks: list[subprocess.Popen[bytes]] = []
        self._stopping = False
        self._num_starts = 0
        for signum in (signal.SIGUSR1, signal.SIGUSR2, signal.SIGTERM):
            signal.signal(signum, self._pass_on)

    def _pass_on(self, signum: int, _frame: FrameType | None) -> None:
        self._stopping |= signum == signal.SIGTERM
        for task in self._tasks:
            task.send_signal(signum)  # nothing happens to one that has ended

    def run(self) -> int:
        """Run the job to its end; return the exit code: 0 finished or stopped, 1 failed."""
        while self._start_patiently():
            end = self._wait()
            self._kill_rest()
            codes = [task.returncode for task in self._tasks]
            if self._stopping or end == "finished":
                return 0
            if not self._comes_back(end):
                return 1
            logger.warning("Tasks ended with %s (%s); starting again", codes, end)
        return 0

    def _comes_back(self, end: End) -> bool:
        """Return whether a job that ended so starts again; leave its last word where it does not."""
        folder = self._folder
        progress = or_unknown(lambda: read_progress(folder), Progress())
        if end == "crashed":
            crash = cause_of(or_unknown(lambda: read_failures(folder), []))
            again, _ = judge_crash(crash, folder, progress)
            if again and crash.away:
                time.sleep(READ_AGAIN_SECONDS)  # as Slurm waits before the next start
            return again
        if end == "requeue" or allows_fruitless_start(folder, progress.committed or 0):
            return True
        write_outcome(folder, too_many_warnings("step"), "", retry=False)
        return False

    def _start_patiently(self) -> bool:
        """Start all tasks, again where the disk does not let us; False if a person stops it first."""
        for tries_left in reversed(range(START_TRIES)):
            if self._stopping:
                return False
            try:
                self._start()
            except OSError as error:
                self._kill_rest()
                if not tries_left:
                    raise
                logger.warning("The tasks could not be started: %s. Trying again.", error)
                time.sleep(READ_AGAIN_SECONDS)
            else:
                return True
        raise AssertionError("unreachable")

    def _start(self) -> None:
        # Left by a kill in the middle of a requeue, it would block every later one (utils.py:182).
        for leftover in self._folder.glob("*.save_tmp"):
            leftover.unlink()
        job_id = str(os.getpid())
        os.environ |= {FOLDER: str(self._folder), START: f"{self._num_starts:04d}"}
        self._num_starts += 1
        self._tasks = []
        for task in range(self._num_tasks):
            paths = JobPaths(self._folder, job_id, task)
            env = os.environ | {
                "SUBMITIT_LOCAL_JOB_ID": job_id,
                "SUBMITIT_LOCAL_LOCALID": str(task),
                "SUBMITIT_LOCAL_GLOBALID": str(task),
            }
            with paths.stdout.open("ab") as out, paths.stderr.open("ab") as err:
                self._tasks.append(
                    subprocess.Popen(
                        self._command,
                        env=env,
                        stdout=out,
                        stderr=err,
                        preexec_fn=_die_with_parent,  # noqa: PLW1509  the controller has one thread
                    )
                )

    def _wait(self) -> End:
        """Wait until all tasks ended, or one failed and the others had time to say why."""
        pidfds = {os.pidfd_open(task.pid): task for task in self._tasks}
        running = dict(pidfds)
        give_up_at = float("inf")
        while running and time.monotonic() < give_up_at:
            patience = min(give_up_at - time.monotonic(), REPEAT_SECONDS)
            ended, _, _ = select.select(list(running), [], [], max(0.0, patience))
            for fd in ended:
                task = running.pop(fd)
                if task.wait() != 0 and give_up_at == float("inf"):
                    give_up_at = time.monotonic() + FAILURE_GRACE_SECONDS
            if self._tasks[0].returncode == LOCAL_REQUEUE_RETURN_CODE:
                break  # the other ranks wait to be ended
            if self._stopping and not ended:
                self._pass_on(signal.SIGTERM, None)
        for fd in pidfds:
            os.close(fd)
        return self._judge()

    def _judge(self) -> End:
        codes = [task.returncode for task in self._tasks]
        if codes[0] == LOCAL_REQUEUE_RETURN_CODE:
            return "requeue"
        if any(code in WARNING_DEATHS for code in codes):
            return "warned"
        return "finished" if not any(codes) and None not in codes else "crashed"

    def _kill_rest(self) -> None:
        for task in self._tasks:
            if task.poll() is None:
                task.kill()
            task.wait()


def _die_with_parent() -> None:
    """Have the kernel kill this task when its controller dies: an orphan would be a second writer."""
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)


if __name__ == "__main__":
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    sys.exit(LocalController(Path(sys.argv[1])).run())
