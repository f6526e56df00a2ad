"""
What a job leaves in its folder for those who wait for it: how far it is, and why it failed.

    write_progress(folder, state="running", global_step=12, committed=10)
    with failure_report(folder, rank): ...

`committed` counts what a restart would not have to do again: it decides whether a crashed job
made progress. A failure file is written before the exception goes on its way; the one with the
earliest time is the cause, the others are ranks that lost their peer.
"""

from __future__ import annotations

import json
import os
import time
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from instruct_core.errors import InstructError

PROGRESS = "progress.json"


def job_folder() -> Path:
    """Return the folder of the job that this process belongs to."""
    return Path(os.environ["SUBMITIT_FOLDER"])


def write_progress(folder: Path, **facts: Any) -> None:
    """Replace the job's progress; a reader sees the old or the new one, never a part."""
    scratch = folder / f".{PROGRESS}.{os.getpid()}"
    scratch.write_text(json.dumps({"updated_at": time.time(), **facts}))
    scratch.replace(folder / PROGRESS)


def read_progress(folder: Path) -> dict[str, Any]:
    """Return the job's progress; {} before the first report."""
    try:
        progress: dict[str, Any] = json.loads((folder / PROGRESS).read_text())
    except FileNotFoundError:
        return {}
    return progress


def peak_bytes(pid: int) -> int:
    """Return the most memory a process has held so far; 0 where it is gone. Source: proc(5)."""
    try:
        status = Path(f"/proc/{pid}/status").read_text()
    except OSError:
        return 0
    # Not getrusage's maximum: a child inherits its parent's there.
    peaks = [int(line.split()[1]) for line in status.splitlines() if line.startswith("VmHWM")]
    return 1024 * max(peaks, default=0)


@contextmanager
def failure_report(folder: Path, rank: int) -> Iterator[None]:
    """Write down an exception that passes, and let it pass."""
    try:
        yield
    except Exception as error:
        known = isinstance(error, InstructError)
        report = {
            "utc_seconds": time.time(),
            "rank": rank,
            "error": str(error) if known else f"{type(error).__name__}: {error}",
            "traceback": traceback.format_exc(),
            "retry": not known,  # what a person has to mend would fail the same way again
        }
        scratch = folder / f".failure-{rank}.{os.getpid()}"
        scratch.write_text(json.dumps(report))
        scratch.replace(folder / f"failure-{rank}.json")
        raise


def read_failures(folder: Path) -> list[dict[str, Any]]:
    """Return the failure reports of a job, the first one first."""
    reports = [json.loads(path.read_text()) for path in sorted(folder.glob("failure-*.json"))]
    return sorted(reports, key=lambda report: float(report["utc_seconds"]))


def clear_failures(folder: Path) -> None:
    """Forget the failures of an earlier start."""
    for path in folder.glob("failure-*.json"):
        path.unlink()
