"""
How an attempt ends that has saved: who brings the run back, and what is told of it.

    result = conclude(Ran("stopped", 120), stop, world, reporter, control)

A person's stop or pause counts most: a warning that comes beside it brings nothing back.
"""

from __future__ import annotations

import signal
import time
from typing import NamedTuple

from instruct_core import ranks
from instruct_core.train.progress import Outcome
from jobs.causes import CANCELLED, LIMIT, cause_of_text
from jobs.control import Control
from jobs.events import Failed, Finished, Paused, Requeued, Stopped, Warned
from jobs.failures import write_outcome
from jobs.job_folder import job_folder
from jobs.reporter import Reporter
from jobs.survival.requeue import Answer, allows_fruitless_start, answer_to, too_many_warnings
from jobs.survival.stop_signal import StopSignal
from jobs.world import World


class Result(NamedTuple):
    """How a rank's training ended, and who brings the job back."""

    outcome: Outcome
    answer: Answer


class Ran(NamedTuple):
    """What the trainer did."""

    outcome: Outcome
    ended_at: int  # step


def conclude(
    ran: Ran, stop: StopSignal, world: World, reporter: Reporter, control: Control | None
) -> Result:
    """
    Decide, all ranks together, who brings the run back, and say how the attempt ended.

    Args:
        ran: What the trainer did.
        stop: Of this rank.
        world: This rank's place.
        reporter: Told of it.
        control: What people asked, on rank 0.
    """
    reporter.working("ending")
    received = [n and signal.Signals(n) for n in ranks.gather_from_ranks(stop.received)]
    is_warned = any(received)
    asked = control.ending if control is not None else None
    answer: Answer = "stop"
    if ran.outcome == "stopped":
        mine = None
        if world.rank == 0 and asked is None:
            mine = _decide(ran, received, reporter)
        answer = ranks.value_of_rank_0(mine) or "stop"  # Slurm is asked once
        if asked is not None:
            reporter.on_wish(asked.verb, ran.ended_at)
        names = sorted({signum.name for signum in received if signum is not None})
        since = stop.received_at_seconds
        seconds = round(time.monotonic() - since, 3) if since is not None else 0.0
        if names:
            reporter.note(Warned(ran.ended_at, " and ".join(names), seconds))
    if ran.outcome == "finished":
        reporter.ended(Finished(ran.ended_at), is_warned)
    elif asked is not None and asked.verb == "pause":
        reporter.ended(Paused(ran.ended_at), is_warned)
    else:
        end, cause = (Stopped, CANCELLED) if answer == "stop" else (Requeued, LIMIT)
        reporter.ended(end(ran.ended_at, *cause), is_warned)
    return Result(ran.outcome, answer)


def _decide(ran: Ran, received: list[signal.Signals | None], reporter: Reporter) -> Answer:
    """Return who brings this warned run back; nobody if it is warned over and over for nothing."""
    answer = answer_to(received)
    if answer == "stop" or allows_fruitless_start(job_folder(), ran.ended_at):
        return answer
    error = too_many_warnings("step")
    reporter.note(Failed(error, *cause_of_text(error)))
    reporter.notify("failed", f"has failed: {error}", step=ran.ended_at, error=error)
    write_outcome(job_folder(), error, "", retry=False)
    return "stop"
