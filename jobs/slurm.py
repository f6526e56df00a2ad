"""
Ask Slurm about a job, or ask it to run one again; every question has a time limit.

    record = show_job("1234")          # None where Slurm has forgotten it
    record.state, record.num_restarts

Everything comes from `scontrol`, which every cluster has: `sacct` needs accounting, and many
clusters run without. Sources: scontrol(1); slurm.schedmd.com/job_state_codes.html.
"""

from __future__ import annotations

import os
import re
import subprocess
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import NamedTuple

from instruct_core.errors import SlurmError
from jobs.environment import CACHE, NOTIFY, number_in

CLIENT_TIMEOUT_SECONDS = 30.0
SUBMIT_TIMEOUT_SECONDS = 300.0  # sbatch itself tries again for minutes where Slurm is busy
# States of a job whose processes live, or would if they were not stopped for a while.
RUNNING = {"RUNNING", "SUSPENDED", "STOPPED", "SIGNALING", "RESIZING"}
# States of a job that does nothing more. All others are alive, those that a later Slurm may bring too:
# who takes a dead job for alive waits, who takes a living one for dead queues a second. A job that is
# REVOKED runs on another cluster of its federation; one that failed to launch is requeued or held.
ENDED = {
    "BOOT_FAIL", "CANCELLED", "COMPLETED", "DEADLINE", "FAILED", "NODE_FAIL", "OUT_OF_MEMORY",
    "PREEMPTED", "TIMEOUT",
}  # fmt: skip

# What Slurm says where it will say the same tomorrow.
REFUSALS = re.compile(r"(?i)permission denied|presently disabled|not supported|not permitted")
# What a client says whose question may have been heard, and that has no answer.
NO_ANSWER = re.compile(r"(?i)timed out|zero bytes|(?:receive|recv|send) failure|connection reset")
SCRIPT_WAS_KILLED = re.compile(r"JobLaunchFailure$|RaisedSignal:")  # the second from 26.05 on
TOKEN = "SLURM_JWT"  # by which a person is known to Slurm where there is no munge


class RefusedError(SlurmError):
    """A client is not here, or Slurm refuses in a way that asking again does not change."""


class UnansweredError(SlurmError):
    """Slurm has not answered: what it was asked for may be done all the same, also later."""


class JobRecord(NamedTuple):
    """What Slurm says about a job, or about one task of an array."""

    job_id: str  # of an array task: 12_3; of tasks that wait together: 12_[3-9]
    state: str
    reason: str
    num_restarts: int
    may_requeue: bool
    start: str  # expected, while it waits
    end: str  # local time, 2026-11-23T06:57:46, or Unknown
    nodes: str
    excluded_nodes: str
    has_lost_its_script: bool = False  # killed, by nobody who wants the job to end
    has_lost_a_node: bool = False  # and Slurm, which may not requeue it, does not bring it back
    line: str = ""  # all that scontrol says

    @property
    def is_running(self) -> bool:
        """Return True unless the job is being taken down, waits, or has ended."""
        return self.state in RUNNING

    @property
    def is_active(self) -> bool:
        """Return True as long as the job waits, runs or is being taken down."""
        return self.state not in ENDED

    def is_of(self, folder: str) -> bool:
        """
        Return False for somebody's job that has the number of one of this folder's.

        A controller that was set up anew, or has lost its last seconds, counts from an earlier number on.
        """
        ours = (f" Command={folder}/", f" WorkDir={folder} ")
        return " Command=/" not in self.line or any(place in f"{self.line} " for place in ours)


def run_client(
    command: Sequence[str],
    env: Mapping[str, str] | None = None,
    stdin: str = "",
    timeout_seconds: float | None = None,
    inherits: Sequence[int] = (),
) -> str:
    """
    Run one of Slurm's clients and return what it prints.

    Args:
        command, stdin: Its words; what it reads.
        env: Environment, if not this process's.
        timeout_seconds: How long it may take, if not as long as jobs wait.
        inherits: Open files that stay open as long as it lives.

    Raises:
        RefusedError: It is not here, or refuses for good.
        UnansweredError: It does not answer, or not in time.
        SlurmError: It refuses; says what it said.
    """
    usual = SUBMIT_TIMEOUT_SECONDS if command[0] == "sbatch" else CLIENT_TIMEOUT_SECONDS
    timeout = timeout_seconds or usual
    # Long lists of array tasks are cut otherwise, times may be told in another form, and partitions
    # may be hidden.
    settings = {"SLURM_BITSTR_LEN": "0", "SLURM_TIME_FORMAT": "standard", "SCONTROL_ALL": "1"}
    try:
        done = subprocess.run(
            command,
            env={**(os.environ if env is None else env), **settings},
            input=stdin,
            capture_output=True,
            timeout=timeout,
            pass_fds=inherits,
            check=False,
            encoding="utf-8",
            errors="replace",  # the reason of a node is whatever its administrator typed
        )
    except FileNotFoundError:
        raise RefusedError(f"{command[0]} is not on this machine's PATH.") from None
    except PermissionError:
        raise RefusedError(f"{command[0]} may not be run on this machine.") from None
    except subprocess.TimeoutExpired:
        raise UnansweredError(f"{command[0]} did not answer within {timeout:.0f} s.") from None
    except OSError as error:  # no process can be made, or the client's own disk does not answer
        raise SlurmError(f"{command[0]} could not be run: {error}.") from None
    if done.returncode != 0:
        raise _failure(command, done)
    return done.stdout or done.stderr  # `sbatch --test-only` speaks on the second


def _failure(command: Sequence[str], done: subprocess.CompletedProcess[str]) -> SlurmError:
    said = " ".join((done.stderr or done.stdout).split())
    kind: type[SlurmError] = RefusedError if REFUSALS.search(said) else SlurmError
    if done.returncode < 0 or NO_ANSWER.search(said):  # killed, or not heard
        kind = UnansweredError
    return kind(f"{' '.join(command[:3])} failed: {said}")


def on_cluster(name: str) -> dict[str, str] | None:
    """Return the environment in which Slurm's clients ask a cluster; None for the one they ask anyway."""
    return os.environ | {"SLURM_CLUSTERS": name} if name else None


def show_jobs(
    job_id: str, timeout_seconds: float | None = None, cluster: str = ""
) -> list[JobRecord]:
    """
    Return the records of a job: one, or one a task of an array; [] where Slurm knows none.

    Args:
        job_id: Of a job or an array.
        timeout_seconds: How long Slurm may take.
        cluster: That it was queued on, if there are several.

    Raises:
        SlurmError: It does not answer, or not in time; as `run_client`.
    """
    try:
        text = run_client(
            ["scontrol", "-o", "show", "job", job_id], on_cluster(cluster), "", timeout_seconds
        )
    except SlurmError as error:
        if "Invalid job id" in str(error):
            return []
        raise
    return records_in([line for line in text.splitlines() if "JobId=" in line])


def lines_by_job(timeout_seconds: float | None = None, cluster: str = "") -> dict[str, list[str]]:
    """
    Return what scontrol says of every job, asked once; an array's tasks stand under its number.

    Arguments and errors as `show_jobs`.
    """
    text = run_client(["scontrol", "-o", "show", "job"], on_cluster(cluster), "", timeout_seconds)
    lines: dict[str, list[str]] = {}
    for line in text.splitlines():
        if found := re.match(r"JobId=(\d+)(?: ArrayJobId=(\d+))?", line):
            lines.setdefault(found[2] or found[1], []).append(line)
    return lines


def records_in(lines: Sequence[str]) -> list[JobRecord]:
    """Return the records in lines of scontrol; raises SlurmError."""
    try:
        return [_parse_job(line) for line in lines]
    except (KeyError, ValueError):
        raise SlurmError(f"scontrol told of a job in a way that cannot be read: {lines}") from None


def show_job(job_id: str, timeout_seconds: float | None = None) -> JobRecord | None:
    """
    Return the record of a job that is no array, or of one task; None where Slurm knows none.

    Arguments and errors as `show_jobs`.
    """
    records = show_jobs(job_id, timeout_seconds)
    return records[0] if records else None


def _parse_job(line: str) -> JobRecord:
    facts = fields_of(line)
    job_id = facts["JobId"]
    if "ArrayTaskId" in facts:
        tasks = facts["ArrayTaskId"].split("%")[0]
        job_id = f"{facts['ArrayJobId']}_{tasks if tasks.isdigit() else f'[{tasks}]'}"
    return JobRecord(
        job_id=job_id,
        state=facts["JobState"],
        reason=facts.get("Reason", ""),
        num_restarts=int(facts.get("Restarts", 0)),
        may_requeue=facts.get("Requeue") != "0",
        start=facts.get("StartTime", "Unknown"),
        end=facts.get("EndTime", "Unknown"),
        nodes=facts.get("NodeList", "").replace("(null)", ""),
        excluded_nodes=facts.get("ExcNodeList", "").replace("(null)", ""),
        # After scancel there is no reason, and after its KILL no other exit code either.
        has_lost_its_script=bool(SCRIPT_WAS_KILLED.match(facts.get("Reason", "")))
        and bool(re.fullmatch(r"0:[1-9]\d*", facts.get("ExitCode", ""))),
        has_lost_a_node=facts.get("Reason") == "NodeDown" and facts.get("Requeue") == "0",
        line=line,
    )


def fields_of(line: str) -> dict[str, str]:
    """Return the KEY=VALUE words of a line that scontrol prints; the first of a key counts."""
    facts: dict[str, str] = {}
    for key, value in re.findall(r"(\S+?)=(\S*)", line):
        facts.setdefault(key, value)
    return facts


def start_of(record: JobRecord) -> str:
    """Return the number of a job's present start, as its batch script gives it to its ranks."""
    return f"{int(record.job_id.partition('_')[0]):010d}-{record.num_restarts:04d}"


def tasks_of(job_id: str) -> list[int]:
    """Return the array tasks that a record stands for: 12_[1-3,7] is 1, 2, 3 and 7."""
    _, _, tasks = job_id.partition("_")
    numbers: list[int] = []
    for part in filter(None, tasks.strip("[]").split(",")):
        low, _, high = part.partition("-")
        numbers += range(int(low), int(high or low) + 1)
    return numbers


def clean_environment() -> dict[str, str]:
    """
    Return this environment without what an enclosing job, or a person's habits, have put into it.

    A job submitted from inside another would take over that one's memory and task layout, and
    `SBATCH_*` counts more than what stands in a batch script.
    """
    ours = ("SLURM_", "SBATCH_", "SUBMITIT_", "INSTRUCT_")
    persons = ("SLURM_CONF", TOKEN, NOTIFY, CACHE)
    return {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(ours) or name in persons
    }


def controller_seconds(timeout_seconds: float | None = None) -> float:
    """
    Return the time on the controller's clock, in UTC seconds: a node's may be minutes away.

    Args:
        timeout_seconds: How long it may take to tell.

    Raises:
        SlurmError: It does not answer, or in another form.
    """
    command = ["scontrol", "show", "config"]
    said = run_client(command, timeout_seconds=timeout_seconds).partition("\n")[0]
    try:  # Configuration data as of 2026-11-28T06:07:14
        return datetime.fromisoformat(said.rpartition(" ")[2]).timestamp()
    except ValueError:
        raise SlurmError(f"scontrol does not tell the controller's time: {said}") from None


def own_job_id() -> str:
    """Return the id that `scontrol requeue` takes for the job this process belongs to."""
    if "SLURM_ARRAY_TASK_ID" in os.environ:
        return f"{os.environ['SLURM_ARRAY_JOB_ID']}_{os.environ['SLURM_ARRAY_TASK_ID']}"
    return os.environ["SLURM_JOB_ID"]


def own_restarts() -> int:
    """Return how often this job had been started before this time."""
    return number_in("SLURM_RESTART_COUNT", 0)  # unset at the first start
