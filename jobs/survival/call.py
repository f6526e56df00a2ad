"""
Calls what a job is, in each of its tasks.

    call_job(folder)

As submitit does, whose handler of warnings requeues the job later. But a full disk is no failure of it:
submitit also keeps in a file what is returned or raised, which nobody reads, and writes the job anew
before it requeues it, which need not be. A task that could not requeue its job says so by its exit code.

Source: submitit/core/submission.py, process_job.
"""

from __future__ import annotations

import logging
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from types import FrameType
from typing import Any

from submitit import JobEnvironment
from submitit.core.utils import DelayedSubmission

from instruct_core.storage.patience import on_a_disk
from jobs.job_folder import ASKS_BACK

logger = logging.getLogger(__name__)

PICKLE_SECONDS = 60.0  # a launcher moves it to its place when it knows the job's number
POLL_SECONDS = 0.2

Read = Callable[[Callable[[], DelayedSubmission]], DelayedSubmission]


def call_job(folder: Path, read: Read | None = None) -> None:
    """
    Call the function of the job whose folder this is.

    Args:
        folder: Of the job.
        read: Calls what reads the job until the disk lets it; None is patient as with any file.

    Raises:
        FileNotFoundError: There is none after a minute.
    """
    os.environ["SUBMITIT_FOLDER"] = str(folder)  # `paths` asks for it
    environment = JobEnvironment()
    pickle = environment.paths.submitted_pickle
    read = read or (lambda load: on_a_disk(pickle, load))
    job = read(lambda: _load(pickle))
    environment._handle_signals(environment.paths, job)
    signum = environment._usr_sig()
    signal.signal(signum, _or_asks_back(signal.getsignal(signum)))
    job.result()


def _load(pickle: Path) -> DelayedSubmission:
    until = time.monotonic() + PICKLE_SECONDS
    while not pickle.exists() and time.monotonic() < until:
        time.sleep(POLL_SECONDS)
    return DelayedSubmission.load(pickle)


def _or_asks_back(requeue: Any) -> Callable[[int, FrameType | None], None]:
    """Return a handler that has the batch script, or the controller, requeue the job where it cannot."""

    def handle(signum: int, frame: FrameType | None) -> None:
        try:
            requeue(signum, frame)
        except (subprocess.SubprocessError, OSError) as error:  # Slurm refuses, or the disk is full
            logger.warning("The job was not requeued: %s", error)
            sys.exit(ASKS_BACK)

    return handle
