"""
The faults of a drill: a run whose folder holds a schedule is hit as it says, each fault once.

    write_schedule(runs, [Fault("usr2", step=5), Fault("kill", step=11, rank=1)])
    hits = Hits(runs, read_schedule(runs), attempt, world, lambda: stop.noted)
    hits.look(step)             # on every rank, when it reads the samples of a step

A rank does it from inside, so that the step is met however fast steps are and however late a shared
disk shows them. A warning still goes the way of a real one, through scancel or the local controller,
and the rank waits until it has arrived.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, Literal, get_args

from instruct_core.converter import structure
from instruct_core.errors import DrillError
from instruct_core.storage.documents import dump_document, load_document
from instruct_core.storage.store import Store
from jobs.slurm import clean_environment, own_job_id, run_client

if TYPE_CHECKING:
    from jobs.world import World

SCHEDULE = "drill.json"
SUSPENDED_SECONDS = 5
ARRIVAL_SECONDS = 120.0  # within which a warning must have arrived

# How a fault is typed. usr1, usr2: a time limit's or a preemption's warning; term: a person's stop;
# kill: SIGKILL of one rank; save: the same, amid the data of the next save; requeue: Slurm takes the job
# back; stop: one rank is suspended a while.
Kind = Literal["usr1", "usr2", "term", "kill", "save", "requeue", "stop"]
KINDS: tuple[Kind, ...] = get_args(Kind)


@dataclass(frozen=True)
class Fault:
    """One fault: what happens, after how many steps, and which rank is hit or brings it about."""

    kind: Kind
    step: int
    rank: int = 0

    def __str__(self) -> str:
        return f"{self.kind}@{self.step}"


@dataclass(frozen=True)
class Hit:
    """That a fault came: when, after how many steps, in which attempt."""

    utc_seconds: float
    step: int
    attempt: int


@dataclass(frozen=True)
class _Schedule:
    faults: list[Fault]


def write_schedule(runs: Store, faults: Sequence[Fault]) -> None:
    """Have the run whose ledger is in ``runs`` be hit."""
    runs.replace(SCHEDULE, dump_document(asdict(_Schedule(list(faults)))))


def read_schedule(runs: Store) -> list[Fault]:
    """Return the faults that hit a run, on all ranks; one of them asks, for most runs have none."""
    from instruct_core import ranks  # here: with it comes torch, which who starts a drill needs not

    document: dict[str, Any] = {"faults": []}
    if ranks.rank() == 0:
        with contextlib.suppress(FileNotFoundError):
            document = load_document(runs, SCHEDULE)
    document = ranks.value_of_rank_0(document)
    return structure(document, _Schedule, runs.where(SCHEDULE)).faults


def read_hits(runs: Store, faults: Sequence[Fault]) -> list[Hit | None]:
    """Return when each fault came; None for one that has not."""
    return [_read_hit(runs, number) for number in range(len(faults))]


def _read_hit(runs: Store, number: int) -> Hit | None:
    try:
        return structure(load_document(runs, _hit_name(number)), Hit, _hit_name(number))
    except FileNotFoundError:
        return None


def _hit_name(number: int) -> str:
    return f"drill-hit-{number:03d}.json"


class Hits:
    """
    The faults that one rank brings about in one attempt.

    Args:
        runs: The run's folder.
        faults: Of all ranks.
        attempt: Its number.
        world: This rank's place.
        warned: Whether a warning has arrived at this rank.
    """

    def __init__(
        self,
        runs: Store,
        faults: Sequence[Fault],
        attempt: int,
        world: World,
        warned: Callable[[], bool],
    ) -> None:
        self._runs, self._attempt, self._world, self._warned = runs, attempt, world, warned
        self._due = {
            number: fault
            for number, fault in enumerate(faults)
            if fault.rank == world.rank and not runs.exists(_hit_name(number))
        }

    def look(self, step: int) -> None:
        """
        Bring about the next fault that is due when a step's samples are read.

        Raises:
            DrillError: A warning was sent, and has not arrived.
        """
        self._hit(step, in_save=False)

    def look_amid_save(self, step: int) -> None:
        """Bring about the next fault that is due in a save, of which a part is written."""
        self._hit(step, in_save=True)

    def _hit(self, step: int, in_save: bool) -> None:
        due = [
            number
            for number, fault in sorted(self._due.items())
            if fault.step <= step and (fault.kind == "save") == in_save
        ]
        if not due or self._warned():  # one at a time: the next one hits the next attempt
            return
        fault = self._due.pop(due[0])
        hit = Hit(time.time(), step, self._attempt)
        self._runs.replace(_hit_name(due[0]), dump_document(asdict(hit)))
        self._bring_about(fault)  # and last: it may be the end

    def _bring_about(self, fault: Fault) -> None:
        if fault.kind in ("kill", "save"):
            os.kill(os.getpid(), signal.SIGKILL)
        elif fault.kind == "stop":
            again = f"sleep {SUSPENDED_SECONDS}; kill -CONT {os.getpid()}"
            subprocess.Popen(["sh", "-c", again], start_new_session=True)
            os.kill(os.getpid(), signal.SIGSTOP)
        else:
            self._warn(fault)

    def _warn(self, fault: Fault) -> None:
        if "SLURM_JOB_ID" in os.environ:
            run_client([*_COMMANDS[fault.kind], own_job_id()], clean_environment())
        else:
            os.kill(int(self._world.job_id), signal.Signals[f"SIG{fault.kind.upper()}"])
        give_up_at = time.monotonic() + ARRIVAL_SECONDS
        while not self._warned():
            if time.monotonic() > give_up_at:
                raise DrillError(
                    f"{fault} was sent to job {self._world.job_id} and has not arrived at rank "
                    f"{self._world.rank} within {ARRIVAL_SECONDS:.0f} s: warnings do not reach the "
                    "ranks here."
                )
            time.sleep(0.01)  # a signal arrives at the watcher's thread, which has no event for it


_COMMANDS = {
    "usr1": ["scancel", "--signal=USR1"],
    "usr2": ["scancel", "--signal=USR2"],
    "term": ["scancel"],
    "requeue": ["scontrol", "requeue"],
}
