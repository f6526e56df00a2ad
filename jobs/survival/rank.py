"""
A task of a job on Slurm: what srun starts.

    python -u -m jobs.patient jobs.survival.rank FOLDER

It is patient with the disk that the job's pickle and code lie on, and leaves word of why it could not
begin: what srun sees is an exit code, which says nothing of the disk.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

from jobs.failures import failure_report
from jobs.job_folder import job_folder
from jobs.patient import read_code
from jobs.survival.call import call_job


def main() -> None:
    """Run this task of the job whose folder is named."""
    folder = Path(sys.argv[1])
    os.environ["SUBMITIT_FOLDER"] = str(folder)  # `paths` asks for it
    with failure_report(job_folder(), int(os.environ["SLURM_PROCID"])):
        call_job(folder, read_code)  # with the job its modules are loaded
