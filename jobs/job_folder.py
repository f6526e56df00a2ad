"""
What a job leaves in its folder for those who wait for it: how far it is, and why it failed.

    write_progress(folder, state="running", global_step=12, committed=10)
    with failure_report(folder, rank): ...

`committed` counts what a restart would not have to do again: it decides whether a crashed job
made progress. A failure file is written before the exception goes on its way; the one with the
earliest time is the cause, the others are ranks that lost their peer.

Every start of a job has files of its own (`INSTRUCT_START`, which grows): processes of an earlier
start that still live on a lost node cannot be taken for the present one.
"""

from __future__ import annotations

import json
import os
import socket
import time
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from instruct_core.errors import InstructError, SlurmError

LOG = "INSTRUCT_LOG"  # what the batch script and rank 0 write
SCRIPT = "INSTRUCT_SCRIPT"  # the batch script itself
JOB_IDS = "job_ids"  # ids of this script's jobs, in the order of their submission

START = "INSTRUCT_START"  # number of this start, set by the batch script or the local controller
FOLDER = "INSTRUCT_JOB"  # folder of the job, or of one task of an array


def job_folder() -> Path:
    """Return the folder of the job, or of the array task, that this process belongs to."""
    return Path(os.environ[FOLDER])


def this_start() -> str:
    """Return the number of this start of the job; later ones sort after it."""
    return os.environ[START]


def write_progress(folder: Path, **facts: Any) -> None:
    """Replace this start's progress; a reader sees the old or the new one, never a part."""
    document = {"start": this_start(), "updated_at": time.time(), **facts}
    replace_json(folder / f"progress-{this_start()}.json", document)


def read_progress(folder: Path) -> dict[str, Any]:
    """Return the progress of the newest start of a job; {} before the first report."""
    for path in sorted(folder.glob("progress-*.json"), reverse=True):
        return read_json(path)
    return {}


def read_json(path: Path) -> dict[str, Any]:
    """Return what `replace_json` wrote; {} where there is nothing, or a lost node left half of it."""
    try:
        document = json.loads(path.read_text())
    except (FileNotFoundError, ValueError):
        return {}
    return document if isinstance(document, dict) else {}


def replace_json(path: Path, document: dict[str, Any]) -> None:
    """Write a document so that a reader sees the old one or the new one, never a part."""
    path.parent.mkdir(parents=True, exist_ok=True)
    scratch = path.with_name(f".{path.name}.{socket.gethostname()}.{os.getpid()}")
    scratch.write_text(json.dumps(document))
    scratch.replace(path)


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
        write_failure(
            folder,
            rank,
            error=str(error) if isinstance(error, InstructError) else describe_error(error),
            trace=traceback.format_exc(),
            retry=not isinstance(error, InstructError) or isinstance(error, SlurmError),
        )
        raise


def describe_error(error: BaseException) -> str:
    """Return an exception as one line."""
    return f"{type(error).__name__}: {error}"


def write_failure(
    folder: Path, rank: int, error: str, trace: str, retry: bool, node: str | None = None
) -> None:
    """
    Write down why a rank fails.

    Args:
        folder: Of the job.
        rank: Who fails.
        error: One line.
        trace: Where it was.
        retry: False for what a person has to mend first.
        node: What is to blame, if not this node.
    """
    report = {
        "utc_seconds": time.time(),
        "rank": rank,
        "node": os.environ.get("SLURMD_NODENAME", "") if node is None else node,
        "error": error,
        "traceback": trace,
        "retry": retry,
    }
    replace_json(folder / f"failure-{this_start()}-{rank}.json", report)


def read_failures(folder: Path) -> list[dict[str, Any]]:
    """Return the failure reports of this start, the first one first."""
    paths = sorted(folder.glob(f"failure-{this_start()}-*.json"))
    reports = [json.loads(path.read_text()) for path in paths]
    return sorted(reports, key=lambda report: float(report["utc_seconds"]))


def write_outcome(folder: Path, error: str, trace: str, retry: bool = True) -> None:
    """Write down that the job has failed for good, and why; ``retry`` as in a failure report."""
    outcome = {"start": this_start(), "error": error, "traceback": trace, "retry": retry}
    replace_json(folder / "failed.json", outcome)


def read_outcome(folder: Path) -> dict[str, Any] | None:
    """Return why the job has failed for good; None where it has not."""
    return read_json(folder / "failed.json") or None
