"""A scheduler and its clock, for jobs that look at their time limit."""

from __future__ import annotations

import time
from datetime import datetime, timedelta

import pytest

from jobs.slurm import JobRecord
from jobs.survival import deadline as deadline_module
from tests.fakes import record


class Scheduler:
    """Stands in for Slurm: gives the same record until told otherwise, and notes requeues."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.job: JobRecord | None = record()
        self.requeued: list[list[str]] = []
        self.warned: list[int] = []
        monkeypatch.setenv("SLURM_JOB_ID", "7")
        monkeypatch.delenv("SLURM_RESTART_COUNT", raising=False)
        monkeypatch.setattr(deadline_module, "show_job", lambda job_id, timeout=None: self.job)
        monkeypatch.setattr(deadline_module, "run_client", self.requeued.append)
        self.now = time.time()
        monkeypatch.setattr(deadline_module, "utc_seconds", lambda: self.now)
        self.ahead = 0.0  # of the node's clock
        self.was_set = 0.0  # seconds by which somebody set it while the job ran
        monkeypatch.setattr(deadline_module, "monotonic", lambda: self.now - self.was_set)
        monkeypatch.setattr(
            deadline_module, "controller_seconds", lambda timeout: int(self.now - self.ahead)
        )

    def set_clock(self, seconds: float) -> None:
        self.now += seconds
        self.ahead += seconds
        self.was_set += seconds

    def ends_in(self, seconds: float, **facts: object) -> None:
        end = datetime.fromtimestamp(self.now - self.ahead) + timedelta(seconds=seconds)
        self.job = record(end=end.isoformat(timespec="milliseconds"), **facts)  # type: ignore[arg-type]
