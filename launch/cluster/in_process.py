"""
A job in the launcher's own process, where a debugger steps through it: `--cluster debug`.

    with only_task_of(folder):
        PreprocessJob(out="shards/mine", num_tasks=1)()

One task, or one rank. `breakpoint()` works in all of it, and an exception shows its traceback.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from jobs.job_folder import FOLDER, START


@contextmanager
def only_task_of(folder: Path) -> Iterator[None]:
    """Make this process the only task of a job, as far as the job can tell."""
    folder.mkdir(parents=True, exist_ok=True)
    before = dict(os.environ)
    os.environ |= {
        FOLDER: str(folder),
        START: "0000",
        "SUBMITIT_EXECUTOR": "local",
        "SUBMITIT_LOCAL_JOB_ID": str(os.getpid()),
        "SUBMITIT_LOCAL_JOB_NUM_NODES": "1",
        "SUBMITIT_LOCAL_NTASKS": "1",
        "SUBMITIT_LOCAL_NODEID": "0",
        "SUBMITIT_LOCAL_GLOBALID": "0",
        "SUBMITIT_LOCAL_LOCALID": "0",
    }
    try:
        yield
    finally:
        os.environ.clear()
        os.environ |= before
