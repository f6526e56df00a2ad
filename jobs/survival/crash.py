"""
Why a start of a job ended, as far as its ranks and srun can tell.

    crash = cause_of(read_failures(folder), said_by_srun)
    crash.error, crash.node, crash.retry
"""

from __future__ import annotations

import os
import re
import signal
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import NamedTuple

from instruct_core.storage.patience import PASSING
from instruct_core.storage.plain_file import text_of
from jobs.causes import LOST_PEER, PEER_IS_GONE, Cause, cause_of_text
from jobs.failures import Failure
from jobs.job_folder import LOG, SETUP_ENDED, or_unknown, this_start

LOG_OF_RANK_0 = "_0_log.out"  # where the script writes too; a rank's last word stands in its own


class Crash(NamedTuple):
    """Why a start of a job ended, as far as it can be told."""

    error: str
    traceback: str
    node: str  # "" where nobody knows
    retry: bool
    away: bool = False  # a store did not answer, or Slurm started nothing: no crash of the job
    said: str = ""  # of srun and Slurm, beside it: why a process was killed

    @property
    def cause(self) -> Cause:
        """The class of this end, and what to do."""
        return cause_of_text(self.error, self.traceback, self.said)

    @property
    def message(self) -> str:
        """What a person reads: the error, and what to do where it does not say so itself."""
        return f"{self.error} ({'; '.join(self.cause)})" if self.retry else self.error


# srun: error: node2: task 3: Killed       srun: error: node[1-2]: tasks 0-1: Exited with ...
SRUN_SAYS = re.compile(r"srun: error: (?P<node>\S+): tasks? (?P<rank>\d+)[\d,-]*: (?P<what>.+)")
# srun: error: Task launch for StepId=7.0 failed on node n7: Communication connection failure
NOT_LAUNCHED = re.compile(
    r"srun: error: Task launch for \S+ failed on node (?P<node>[^\s:]+): (?P<what>.+)"
)
# srun: error: task 0 launch failed: Slurmd could not connect IO
NOT_BEGUN = re.compile(r"srun: error: task (?P<rank>\d+) launch failed: (?P<what>.+)")
NO_LOG = re.compile(r"\bI/?O\b")  # in that: the disk did not let Slurm open it
# srun: error: Unable to create step for job 2: Invalid generic resource (gres) specification
NO_STEP = re.compile(
    r"srun: error: Unable to (?:create step|confirm allocation|allocate resources)[^:\n]*: (?P<what>.+)"
)
# Of ranks that a warning killed. TERM is one where nobody had told srun to end the ranks.
WARNED = re.compile(r"User defined signal|Terminated")
# Of a job that is held to the memory it asked for, by cgroups or by Slurm's own watch over processes.
# slurmstepd: error: Detected 1 oom_kill event in StepId=3.0. Some of the step tasks have been OOM Killed.
OUT_OF_MEMORY = re.compile(
    r"(?i)oom[-_. ]kill\w*|out of memory|Exceeded job memory limit|memory limit at some point"
)
MEMORY = "SLURM_MEM_PER_NODE"  # MB
# Lines of ours, of srun's and of Slurm's; those of Python's ranks begin with the time.
KNOWN = re.compile(r"===|srun:|slurmstepd|submitit|\[?\d{4}-\d\d-\d\d")
# What Python says where the disk fails that its code lies on: a folder that cannot be looked at is none.
_NUMBERS = "|".join(str(number) for number in sorted(PASSING))
OF_THE_DISK = re.compile(
    rf"OSError: \[Errno (?:{_NUMBERS})\]|No module named '?(?:jobs|instruct_core)\b"
)
BUS_ERROR = "Bus error"  # a page of a mapped file that the disk did not give
COLOUR = re.compile(r"\x1b\[[\d;]*m")
LONGEST_WORD = 200  # letters
NOTHING_WRITTEN = "why could not be written: the disk of its folder fails"
ENDED_BY_SRUN = "Terminating StepId"  # srun's word before it ends the ranks that are left, by TERM
FORCED_BY_SRUN = "Force Terminated StepId"  # and once they have ended, or were killed


def cause_of(
    failures: Sequence[Failure], said: str = "", killed: tuple[int, int] | None = None
) -> Crash:
    """
    Return why the ranks ended: the report of the first that failed, else what srun saw first.

    A rank that was killed leaves no report, and its peers report that they have lost it: then
    the word of whoever started it, which comes first, counts more.

    Args:
        failures: Those of this start, the first one first.
        said: What the batch script's standard error says about this start.
        killed: On this machine the first rank that a signal has ended, and the signal.
    """
    crash = _first_cause(failures, said, killed)
    hints = " ".join(match[0] for match in OUT_OF_MEMORY.finditer(said))
    return crash._replace(said=hints) if crash.retry else crash


def _first_cause(
    failures: Sequence[Failure], said: str, killed_here: tuple[int, int] | None
) -> Crash:
    final = [failure for failure in failures if not failure.retry]
    seen = _seen_first(said)
    reported = {failure.rank for failure in failures}
    killed = [
        match
        for match in seen
        if "Exited with" not in match["what"] and int(match["rank"]) not in reported
    ]
    if not final and (unbegun := _rank_that_never_began(failures, said)):
        return unbegun  # the others have waited for it
    if not final and (killed or (seen and not failures)):
        return _killed(killed or seen, said)
    if not final and killed_here is not None and killed_here[0] not in reported:
        rank, signum = killed_here
        error = f"rank {rank}: {signal.strsignal(signum)}."
        return Crash(error, "", "", True, away=signum == signal.SIGBUS)
    if failures:
        first_one = (final or failures)[0]
        away = not final and first_one.away
        # What befalls several nodes at once is nobody's, and a peer that is gone not the survivor's.
        nodes = {failure.node for failure in failures if failure.error == first_one.error}
        is_own = len(nodes) == 1 and not PEER_IS_GONE.search(first_one.error)
        node = first_one.node if is_own else ""
        crash = Crash(first_one.error, first_one.traceback, node, not final, away)
        late = _killed_late(said, reported) if LOST_PEER.search(crash.error) else []
        return _killed(late, said) if len(late) == 1 else crash
    return Crash("its processes were killed.", "", "", True)


def _rank_that_never_began(failures: Sequence[Failure], said: str) -> Crash | None:
    if lost := NOT_LAUNCHED.search(said):
        error = f"no rank could be started on {lost['node']}: {lost['what']}."
        return Crash(error, "", lost["node"], True)
    if unbegun := NOT_BEGUN.search(said):
        error = f"rank {unbegun['rank']} could not be started: {unbegun['what'].rstrip('.')}."
        return Crash(error, "", "", True, away=bool(NO_LOG.search(error)))
    if not failures and (refused := NO_STEP.search(said)):
        # Slurm can give a job nodes while one of them fails, and then know nothing of what it gave:
        # no rank has begun, and the next allocation is another one.
        error = f"no rank could be started: Slurm made no step, {refused['what'].rstrip('.')}."
        return Crash(error, "", "", True, away=True)
    return None


def nobody_has_a_word(said: str) -> Crash:
    """
    Return why a start ended of which neither its ranks nor srun could leave a word.

    srun says of any rank that fails that it has: the disk does not take what is written.

    Args:
        said: What the batch script's standard error says about this start.
    """
    error = f"its ranks ended, and {NOTHING_WRITTEN}.{_last_word(said)}"
    return Crash(error, "", "", True, away=True)


def _killed(seen: Sequence[re.Match[str]], said: str) -> Crash:
    """Return what a rank died of that could not say it itself."""
    first = seen[0]
    who = f"rank {first['rank']} on {first['node']}"
    if OUT_OF_MEMORY.search(said):
        told = os.environ.get(MEMORY, "")
        memory = f"{int(told) / 1024:.1f} GB of memory" if told.isdigit() else "memory"
        error = f"{who} was killed: the job's {memory} on a node are used up. Raise --mem."
        return Crash(error, "", "", True)  # no fault of the node
    before = _last_word(said[: first.start()]) if first["what"].startswith("Exited") else ""
    if BUS_ERROR in first["what"] or OF_THE_DISK.search(before):
        return Crash(f"{who}: {first['what']}.{before}", "", "", True, away=True)
    return Crash(f"{who}: {first['what']}.{before}", "", first["node"], True)


def _last_word(said: str) -> str:
    """Return a sentence on the last line that nobody we know has said: what starts Python did."""
    lines = [COLOUR.sub("", line).strip() for line in said.splitlines()]
    words = [line for line in lines if line and not KNOWN.match(line)]
    return f" The last that was said before: {words[-1][:LONGEST_WORD]}" if words else ""


def _seen_first(said: str) -> list[re.Match[str]]:
    """Return which ranks ended by themselves, or by another hand than srun's."""
    return list(SRUN_SAYS.finditer(said.partition(ENDED_BY_SRUN)[0]))


def _killed_late(said: str, reported: Collection[int]) -> list[re.Match[str]]:
    """
    Return which ranks were killed and left no report, as srun has heard after it began to end the others.

    A rank that is killed has peers on other nodes who notice at once; their nodes may tell srun first.
    """
    words = SRUN_SAYS.finditer(said.partition(FORCED_BY_SRUN)[0])
    late = [
        match
        for match in words
        # Several at once are ended by Slurm.
        if (
            BUS_ERROR in match["what"]
            or (match["what"].startswith("Killed") and "tasks" not in match[0])
        )
        and int(match["rank"]) not in reported
    ]
    # A bus error is no way to end the others.
    return [match for match in late if BUS_ERROR in match["what"]][:1] or late


def was_warned_too_early(said: str) -> bool:
    """Return True if a rank died of a warning, because it came before it could listen."""
    return any(WARNED.search(match["what"]) for match in _seen_first(said))


def setup_that_failed(said: str) -> str:
    """Return a sentence on the lines of --setup that did not end well; "" if all did."""
    lines = [line for line in said.splitlines() if line.startswith(SETUP_ENDED)]
    return (
        f"Before that a line of --setup ended with{lines[0].removeprefix(SETUP_ENDED)}."
        if lines
        else ""
    )


def exit_codes_in(said: str) -> set[str]:
    """Return what ranks ended with by themselves, as srun says; its own code is of those it killed."""
    return {match["what"].rpartition("Exited with exit code ")[2] for match in _seen_first(said)}


def said_in_this_start() -> str:
    """Return what the log has of this start: the batch script writes a line at each."""
    log = os.environ[LOG]
    said = _after_this_start(Path(log))
    ended = SRUN_SAYS.search(said)
    if ended is None or ended["rank"] == "0" or not ended["what"].startswith("Exited"):
        return said
    own = Path(f"{log.removesuffix(LOG_OF_RANK_0)}_{ended['rank']}_log.out")
    words = or_unknown(lambda: _after_this_start(own), "").splitlines()
    return f"{said[: ended.start()]}{''.join(words[-1:])}\n{said[ended.start() :]}"


def _after_this_start(log: Path) -> str:
    text = text_of(log, "replace")
    _, found, said = text.rpartition(f"start {this_start()}")
    # The disk may have been full; earlier starts do not count.
    return said.partition("\n")[2] if found else ""
