"""
Calls what a job is, in each of its tasks.

    call_job(folder)

As submitit does, whose handler of warnings requeues the job later. But submitit also keeps in a file what
is returned or raised, which nobody reads: a full disk made a failure of work that was done, and the job
began again.

Source: submitit/core/submission.py, process_job.
"""

from __future__ import annotations

import os
import time
from pathlib import Path

from submitit import JobEnvironment
from submitit.core.utils import DelayedSubmission

from instruct_core.storage.patience import on_a_disk

PICKLE_SECONDS = 60.0  # a launcher moves it to its place when it knows the job's number
POLL_SECONDS = 0.2


def call_job(folder: Path) -> None:
    """
    Call the function of the job whose folder this is.

    Raises:
        FileNotFoundError: There is none after a minute.
    """
    os.environ["SUBMITIT_FOLDER"] = str(folder)  # `paths` asks for it
    environment = JobEnvironment()
    pickle = environment.paths.submitted_pickle
    until = time.monotonic() + PICKLE_SECONDS
    while not on_a_disk(pickle, pickle.exists) and time.monotonic() < until:
        time.sleep(POLL_SECONDS)
    job = on_a_disk(pickle, lambda: DelayedSubmission.load(pickle))
    environment._handle_signals(environment.paths, job)
    job.result()
